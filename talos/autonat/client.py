"""One question to one server: can you dial me there?"""

from __future__ import annotations

import enum
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from talos import addr as addresses
from talos.abc import Role
from talos.autonat.wire import (
    DIAL_REQUEST,
    MAX_BACK_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_V1_BYTES,
    V1,
    DialBack,
    DialBackResponse,
    DialData,
    DialDataRequest,
    DialRequest,
    DialResponse,
    DialStatus,
    Message,
    ResponseStatus,
    V1Request,
    V1Response,
    V1Status,
    decode,
    decode_back,
    decode_v1,
    encode,
    encode_back_response,
    encode_v1,
)
from talos.errors import RemoteProtocolError, StreamCode
from talos.wire.message_stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiaddr import Multiaddr

    from talos.abc import Connection, Host, Stream

__all__ = ["Answer", "DialBacks", "probe", "probe_v1"]

LEAST_DATA, MOST_DATA = 30_000, 100_000
CHUNK_BYTES = 4000
"""Of data that costs us something; a message of it stays below 4096 bytes."""
BACK_SECONDS = 5.0


class Answer(enum.Enum):
    """What a server says of an address."""

    REACHED = "reached"
    NOT_REACHED = "not reached"
    NOTHING = "nothing"
    """It refused, or its own part failed."""


class DialBacks:
    """Who is expected to call back, by nonce."""

    def __init__(self, at_once: int = 16) -> None:
        self._at_once = at_once
        self._expected: dict[int, tuple[tuple[str, ...], trio.Event]] = {}

    @contextmanager
    def expecting(self, nonce: int, addr: Multiaddr) -> Iterator[trio.Event]:
        """Set when the nonce comes back over a connection of the same kind as `addr`."""
        came = trio.Event()
        self._expected[nonce] = (addresses.names_of(addr), came)
        try:
            yield came
        finally:
            del self._expected[nonce]

    async def take(self, stream: Stream) -> None:
        """Answers a server that calls back; who it says it is does not matter, the nonce does."""
        line = MessageStream[DialBack, DialBackResponse](
            stream, decode=decode_back, encode=encode_back_response, max_size=MAX_BACK_BYTES
        )
        with trio.fail_after(BACK_SECONDS):
            message = await line.receive()
            expected = self._expected.get(message.nonce)
            if expected is None or not _arrived(stream.connection, expected[0]):
                stream.reset(StreamCode.NONE)
                return
            expected[1].set()
            await line.send(DialBackResponse())


def _arrived(connection: Connection, kind: tuple[str, ...]) -> bool:
    """Whether somebody dialled us directly, over such a transport."""
    if connection.role is not Role.LISTENER or connection.limited:
        return False
    return addresses.names_of(connection.local_addr)[1:] == kind[1:]


async def probe(host: Host, server: Connection, addr: Multiaddr, backs: DialBacks) -> Answer:
    """Asks by version 2 about one address.

    Raises what the stream raises, and RemoteProtocolError. A dial that came back counts, whatever is said of it.
    """
    nonce = secrets.randbits(64)
    with backs.expecting(nonce, addr) as came:
        async with await host.open_stream(server, DIAL_REQUEST) as stream:
            line = MessageStream[Message, Message](stream, decode=decode, encode=encode, max_size=MAX_MESSAGE_BYTES)
            await line.send(DialRequest((addr.to_bytes(),), nonce))
            response = await line.receive()
            if isinstance(response, DialDataRequest):
                await _pay(line, response)
                response = await line.receive()
            if not isinstance(response, DialResponse) or response.index != 0:
                raise RemoteProtocolError("autonat server answers what was not asked")
        if response.status == ResponseStatus.OK and response.dial_status == DialStatus.OK:
            with trio.move_on_after(BACK_SECONDS):
                await came.wait()
        if came.is_set():
            return Answer.REACHED
        failed = response.status == ResponseStatus.OK and response.dial_status == DialStatus.DIAL_ERROR
        return Answer.NOT_REACHED if failed else Answer.NOTHING


async def _pay(line: MessageStream[Message, Message], asked: DialDataRequest) -> None:
    """The data that a server wants before it dials where we are not seen."""
    if asked.index != 0 or not LEAST_DATA <= asked.size <= MOST_DATA:
        raise RemoteProtocolError(f"autonat server asks for {asked.size} bytes about address {asked.index}")
    for _ in range(0, asked.size, CHUNK_BYTES):
        await line.send(DialData(bytes(CHUNK_BYTES)))


async def probe_v1(host: Host, server: Connection, addr: Multiaddr) -> Answer:
    """Asks by version 1 about one address; raises as `probe`."""
    async with await host.open_stream(server, V1) as stream:
        line = MessageStream[V1Request | V1Response, V1Request | V1Response](
            stream, decode=decode_v1, encode=encode_v1, max_size=MAX_V1_BYTES
        )
        await line.send(V1Request(host.peer_id, (addr.to_bytes(),)))
        response = await line.receive()
    if not isinstance(response, V1Response):
        raise RemoteProtocolError("autonat server answers with a request")
    if response.status == V1Status.OK:
        return Answer.REACHED
    return Answer.NOT_REACHED if response.status == V1Status.DIAL_ERROR else Answer.NOTHING
