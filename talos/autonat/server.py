"""AutoNAT for others: dials one of their addresses, and says what came of it."""

from __future__ import annotations

import logging
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import SystemRandom
from typing import TYPE_CHECKING

import trio

from talos import addr as addresses
from talos.abc import StreamReset
from talos.autonat.machine import Choice, Rates, choose
from talos.autonat.wire import (
    DIAL_BACK,
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
    decode_back_response,
    decode_v1,
    encode,
    encode_back,
    encode_v1,
)
from talos.errors import ConfigError, RemoteProtocolError, TalosError
from talos.wire.message_stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from multiaddr import Multiaddr

    from talos.abc import Connection, Host, Stream
    from talos.identity.peer_id import PeerId

__all__ = ["AutonatServer", "AutonatServerConfig", "open_autonat_server"]

_log = logging.getLogger(__name__)
LEAST_DATA, MOST_DATA = 30_000, 100_000
_ENDS = (TalosError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError, trio.TooSlowError)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutonatServerConfig:
    """How much is done for others."""

    requests: int = 60
    """A minute, of all."""
    requests_per_peer: int = 12
    """A minute."""
    requests_with_data: int = 12
    """A minute, of those at another IP address than the asker's."""
    at_once_per_peer: int = 2
    addrs: int = 50
    """Of one request."""
    v1_requests: int = 30
    """Of version 1, in 30 s, of all; a peer gets a tenth, and 16 addresses are looked at."""
    request_seconds: float = 60.0
    """For a request with all that it takes."""
    dial_seconds: float = 15.0
    back_seconds: float = 5.0
    """For a peer that was dialled to answer."""
    longest_wait_seconds: float = 3.0
    """Before an address elsewhere is dialled, by chance, so that many servers do not dial it at the same moment."""
    allow_private: bool = False
    """Dials private and loopback addresses: for networks of one's own, and tests."""

    def __post_init__(self) -> None:
        numbers = (self.requests, self.requests_per_peer, self.requests_with_data, self.at_once_per_peer, self.addrs)
        if min(*numbers, self.v1_requests) < 1:
            raise ConfigError("an autonat server answers at least one request")
        if min(self.request_seconds, self.dial_seconds, self.back_seconds) <= 0 or self.longest_wait_seconds < 0:
            raise ConfigError("an autonat server needs time")


@asynccontextmanager
async def open_autonat_server(
    host: Host,
    dialer: Host,
    config: AutonatServerConfig | None = None,
    can_dial: Callable[[Multiaddr], bool] = lambda _: True,
) -> AsyncIterator[AutonatServer]:
    """Answers for the length of the block, both versions.

    `dialer` is another node, of another identity, which does not listen: it has no connection to who asks, and dials
    from ports that nobody has let through. `can_dial` tells which addresses it has a transport for.
    """
    server = AutonatServer(host, dialer, config or AutonatServerConfig(), can_dial)
    with host.mounted(DIAL_REQUEST, server.serve), host.mounted(V1, server.serve_v1):
        yield server


class AutonatServer:
    """The running server; made by `open_autonat_server`."""

    def __init__(
        self, host: Host, dialer: Host, config: AutonatServerConfig, can_dial: Callable[[Multiaddr], bool]
    ) -> None:
        self.dialled = 0
        """Addresses that were dialled for others."""
        self._host = host
        self._dialer = dialer
        self._config = config
        self._can_dial = can_dial
        self._random = SystemRandom()
        self._turns: dict[PeerId, trio.Lock] = {}
        self._rates = Rates(
            total=config.requests,
            per_peer=config.requests_per_peer,
            with_data=config.requests_with_data,
            at_once=config.at_once_per_peer,
        )
        self._rates_v1 = Rates(
            total=config.v1_requests,
            per_peer=max(1, config.v1_requests // 10),
            with_data=1,
            at_once=config.at_once_per_peer,
            seconds=30.0,
        )

    # -- version 2

    async def serve(self, stream: Stream) -> None:
        """Answers one request."""
        peer = stream.connection.remote_peer
        line = MessageStream[Message, Message](stream, decode=decode, encode=encode, max_size=MAX_MESSAGE_BYTES)
        with trio.fail_after(self._config.request_seconds):
            request = await line.receive()
            if not isinstance(request, DialRequest):
                raise RemoteProtocolError("autonat stream begins with no request")
            if not self._rates.enter(peer, trio.current_time()):
                await line.send(DialResponse(ResponseStatus.REQUEST_REJECTED))
                return
            try:
                await line.send(await self._answer(line, stream.connection, request))
            finally:
                self._rates.leave(peer)

    async def _answer(
        self, line: MessageStream[Message, Message], connection: Connection, request: DialRequest
    ) -> DialResponse:
        if not request.addrs or len(request.addrs) > self._config.addrs:
            return DialResponse(ResponseStatus.REQUEST_REJECTED)
        choice = self._choose(request.addrs, connection)
        if choice is None:
            return DialResponse(ResponseStatus.DIAL_REFUSED)
        if choice.elsewhere:
            if not self._rates.with_data(trio.current_time()):
                return DialResponse(ResponseStatus.REQUEST_REJECTED)
            await self._take_data(line, choice.index)
            await trio.sleep(self._random.uniform(0.0, self._config.longest_wait_seconds))
        peer = connection.remote_peer
        return DialResponse(ResponseStatus.OK, choice.index, await self._dial_back(peer, choice.addr, request.nonce))

    def _choose(self, addrs: tuple[bytes, ...], connection: Connection) -> Choice | None:
        """One of a kind that we listen on, and can dial: of others we cannot tell."""
        own = (addresses.split_peer(addr)[0] for addr in self._host.addrs)
        kinds = {addresses.names_of(addr) for addr in own if self._can_dial(addr)}
        seen = addresses.ip_of(connection.remote_addr)
        return choose(addrs, seen, kinds=kinds, allow_private=self._config.allow_private)

    async def _take_data(self, line: MessageStream[Message, Message], index: int) -> None:
        """What the asker has to send before we send anything elsewhere."""
        wanted = LEAST_DATA + secrets.randbelow(MOST_DATA - LEAST_DATA + 1)
        await line.send(DialDataRequest(index, wanted))
        while wanted > 0:
            message = await line.receive()
            if not isinstance(message, DialData) or not message.data:
                raise RemoteProtocolError("autonat stream goes on without the data that was asked for")
            wanted -= len(message.data)

    async def _dial_back(self, peer: PeerId, addr: Multiaddr, nonce: int) -> DialStatus:
        status = DialStatus.DIAL_ERROR
        async with self._turn(peer):
            self.dialled += 1
            connection: Connection | None = None
            try:
                with trio.fail_after(self._config.dial_seconds):
                    connection = await self._dialer.connect(peer, (addr,))
                status = DialStatus.DIAL_BACK_ERROR
                with trio.fail_after(self._config.back_seconds):
                    async with await self._dialer.open_stream(connection, DIAL_BACK) as stream:
                        line = MessageStream[DialBackResponse, DialBack](
                            stream, decode=decode_back_response, encode=encode_back, max_size=MAX_BACK_BYTES
                        )
                        await line.send(DialBack(nonce))
                        status = await _received(stream, line)
            except _ENDS as error:
                _log.debug("%s at %s: %s: %r", peer, addr, status.name, error)
                return status
            finally:
                if connection is not None:
                    await connection.aclose()
        return status

    @asynccontextmanager
    async def _turn(self, peer: PeerId) -> AsyncIterator[None]:
        """One dial to a peer at a time: a connection that stands would be taken for an answer to the next."""
        lock = self._turns.setdefault(peer, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._turns.pop(peer, None)

    # -- version 1

    async def serve_v1(self, stream: Stream) -> None:
        """Answers one request; the asker is dialled at the IP address where it is seen, and nowhere else."""
        peer = stream.connection.remote_peer
        line = MessageStream[V1Request | V1Response, V1Request | V1Response](
            stream, decode=decode_v1, encode=encode_v1, max_size=MAX_V1_BYTES
        )
        with trio.fail_after(self._config.request_seconds):
            request = await line.receive()
            if not isinstance(request, V1Request) or request.peer != peer:
                await line.send(V1Response(V1Status.BAD_REQUEST, "not about who asks"))
            elif not self._rates_v1.enter(peer, trio.current_time()):
                await line.send(V1Response(V1Status.DIAL_REFUSED, "too many requests"))
            else:
                try:
                    await line.send(await self._answer_v1(stream.connection, request))
                finally:
                    self._rates_v1.leave(peer)

    async def _answer_v1(self, connection: Connection, request: V1Request) -> V1Response:
        tried = False
        for raw in request.addrs[:16]:
            choice = self._choose((raw,), connection)
            if choice is None or choice.elsewhere:
                continue
            tried = True
            if await self._reached(connection.remote_peer, choice.addr):
                return V1Response(V1Status.OK, "", choice.addr.to_bytes())
        status = V1Status.DIAL_ERROR if tried else V1Status.DIAL_REFUSED
        return V1Response(status, "no address answers" if tried else "no address that may be dialled")

    async def _reached(self, peer: PeerId, addr: Multiaddr) -> bool:
        async with self._turn(peer):
            self.dialled += 1
            try:
                with trio.fail_after(self._config.dial_seconds):
                    connection = await self._dialer.connect(peer, (addr,))
            except _ENDS:
                return False
            await connection.aclose()
            return True


async def _received(stream: Stream, line: MessageStream[DialBackResponse, DialBack]) -> DialStatus:
    """Waits for the answer, which says that the nonce arrived; rust lets go of the stream behind it, or before."""
    try:
        await stream.send_eof()
        await line.receive()
    except (StreamReset, EOFError) as error:
        _log.debug("dial back without an answer: %r", error)
    return DialStatus.OK
