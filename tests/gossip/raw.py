"""A peer whose every byte is ours: RPCs made by hand, streams opened and read at will."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from talos.errors import StreamCode
from talos.gossip.version import PROTOCOLS
from talos.wire import fields
from talos.wire.length_prefix import LengthPrefixDecoder, frame

if TYPE_CHECKING:
    from talos.abc import Host, Stream
    from talos.identity.keys import PrivateKey
    from talos.identity.peer_id import PeerId

SIGN_PREFIX = b"libp2p-pubsub:"


def subscribe(*topics: str | bytes, on: bool = True) -> bytes:
    """An RPC with subscriptions."""
    return b"".join(
        fields.bytes_field(1, fields.uint64_field(1, int(on)) + fields.bytes_field(2, _raw(topic))) for topic in topics
    )


def publish(*messages: bytes) -> bytes:
    """An RPC with messages."""
    return b"".join(fields.bytes_field(2, message) for message in messages)


def control(**items: list[bytes]) -> bytes:
    """An RPC with a control part; items by name, each already encoded."""
    numbers = {"ihave": 1, "iwant": 2, "graft": 3, "prune": 4, "idontwant": 5, "extensions": 6}
    body = b"".join(fields.bytes_field(numbers[name], item) for name, those in items.items() for item in those)
    return fields.bytes_field(3, body)


def graft(topic: str | bytes) -> bytes:
    return control(graft=[fields.bytes_field(1, _raw(topic))])


def prune(topic: str, *, backoff: int | None = None, peers: list[bytes] = []) -> bytes:  # noqa: B006 - never changed
    body = fields.bytes_field(1, topic.encode())
    body += b"".join(fields.bytes_field(2, fields.bytes_field(1, peer)) for peer in peers)
    if backoff is not None:
        body += b"\x18" + _uint64(backoff)
    return control(prune=[body])


def ihave(topic: str, ids: list[bytes]) -> bytes:
    return control(ihave=[fields.bytes_field(1, topic.encode()) + b"".join(fields.bytes_field(2, one) for one in ids)])


def iwant(ids: list[bytes]) -> bytes:
    return control(iwant=[b"".join(fields.bytes_field(1, one) for one in ids)])


def message(
    topic: str | bytes,
    data: bytes,
    *,
    key: PrivateKey | None = None,
    author: PeerId | None = None,
    seqno: bytes = b"",
    signature: bytes | None = None,
    more: bytes = b"",
) -> bytes:
    """A message; signed by `key`, unless another signature is given; `more` is put behind the signature."""
    body = b"" if author is None else fields.bytes_field(1, author.to_bytes())
    body += fields.bytes_field(2, data)
    body += fields.bytes_field(3, seqno) if seqno else b""
    body += fields.bytes_field(4, _raw(topic))
    if signature is None and key is not None:
        signature = key.sign(SIGN_PREFIX + body)
    return body + (b"" if signature is None else fields.bytes_field(5, signature)) + more


class RawPeer:
    """Streams with one neighbour: `send` writes on ours, `received` holds the RPCs that came on its."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.received: list[bytes] = []
        self.reads = True
        """Whether the neighbour's stream is read."""
        self._stream: Stream | None = None
        self._changed = trio.Event()

    async def answer(self, stream: Stream) -> None:
        """The handler for the neighbour's stream."""
        decoder = LengthPrefixDecoder(1 << 22)
        if not self.reads:
            await trio.sleep_forever()
        while data := await stream.receive_some():
            self.received += decoder.receive_data(data)
            self._changed.set()
            self._changed = trio.Event()

    async def open(self, to: Any, *protocols: str) -> Stream:
        """Our stream, and the first RPC on it."""
        self._stream = await self.host.open_stream(to, *(protocols or PROTOCOLS))
        return self._stream

    async def send(self, *rpcs: bytes) -> None:
        assert self._stream is not None
        await self._stream.send_all(b"".join(map(frame, rpcs)))

    async def end(self) -> StreamCode:
        """Waits until the neighbour resets our stream; the code."""
        from talos.abc import StreamReset

        assert self._stream is not None
        try:
            await self._stream.receive_some()
        except StreamReset as reset:
            return StreamCode(reset.code)
        raise AssertionError("the stream was not reset")

    async def until(self, reached: Any) -> None:
        """Until `reached(received)`."""
        while not reached(self.received):
            await self._changed.wait()

    def messages(self) -> list[bytes]:
        """All messages that came, as bytes."""
        return [value for rpc in self.received for number, value in fields.read(rpc) if number == 2 and value]  # type: ignore[misc]

    def controls(self, number: int) -> list[bytes]:
        """All control items of a kind that came."""
        parts = [value for rpc in self.received for tag, value in fields.read(rpc) if tag == 3]
        return [item for part in parts for tag, item in fields.read(part) if tag == number]  # type: ignore[arg-type,misc]


def _raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _uint64(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
