"""A peer that authenticates honestly and then writes its yamux frames by hand."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from talos.abc import Role
from talos.host.block import background
from talos.identity.keys import PrivateKey
from talos.multistream import PrefixedStream, select
from talos.muxer.yamux.frame import HEADER, HEADER_BYTES, PROTOCOL_ID, Flag, Kind
from talos.security.noise import Noise
from tests.attacks.harness import SOON_SECONDS
from tests.attacks.test_handshake import HEADER as MULTISTREAM
from tests.attacks.test_handshake import line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from tests.attacks.harness import Victim

__all__ = [
    "DATA",
    "FIN",
    "GO_AWAY",
    "PING",
    "RST",
    "SYN",
    "WINDOW",
    "RawYamux",
    "frame",
    "hello",
    "raw_yamux",
    "yamux_over",
]

DATA, WINDOW, PING, GO_AWAY = (int(kind) for kind in Kind)
SYN, ACK, FIN, RST = (int(flag) for flag in (Flag.SYN, Flag.ACK, Flag.FIN, Flag.RST))


def frame(kind: int, flags: int, stream_id: int, length: int | bytes = 0) -> bytes:
    """One frame; a payload gives its own length."""
    if isinstance(length, bytes):
        return HEADER.pack(kind, flags, stream_id, len(length)) + length
    return HEADER.pack(kind, flags, stream_id, length)


def hello(protocol: str) -> bytes:
    """What asks for a protocol on a new stream."""
    return MULTISTREAM + line(protocol.encode())


class RawYamux:
    """Frames out as they are given; what comes in is sorted by stream. It grants nothing by itself."""

    def __init__(self, channel: trio.abc.Stream, *, answers_pings: bool) -> None:
        self.channel = channel
        self.data: defaultdict[int, bytearray] = defaultdict(bytearray)
        self.granted: Counter[int] = Counter()
        self.resets: dict[int, int] = {}
        """Codes of the node, by stream."""
        self.acknowledged: set[int] = set()
        self.ended: set[int] = set()
        self.answers: list[int] = []
        """Of the node to our pings."""
        self.asked: list[int] = []
        """Pings of the node."""
        self.went_away: int | None = None
        """With what code."""
        self.closed = False
        self._answers_pings = answers_pings
        self._next_id = 1
        self._turn = trio.Lock()
        self._news = trio.Event()

    async def read(self) -> None:
        """Sorts what comes until the node closes."""
        buffer = bytearray()
        try:
            async for chunk in self.channel:
                buffer += chunk
                position = 0
                while len(buffer) - position >= HEADER_BYTES:
                    kind, flags, stream_id, length = HEADER.unpack_from(buffer, position)
                    size = length if kind == DATA else 0
                    if len(buffer) - position < HEADER_BYTES + size:
                        break
                    position += HEADER_BYTES
                    self._take(kind, flags, stream_id, length, bytes(buffer[position : position + size]))
                    position += size
                del buffer[:position]
                await self._answer()
                self._tell()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.closed = True
        self._tell()

    def _take(self, kind: int, flags: int, stream_id: int, length: int, payload: bytes) -> None:
        if kind == PING:
            (self.answers if flags & ACK else self.asked).append(length)
        elif kind == GO_AWAY:
            self.went_away = length
        elif flags & RST:
            self.resets[stream_id] = length
        else:
            if flags & ACK:
                self.acknowledged.add(stream_id)
            if flags & FIN:
                self.ended.add(stream_id)
            self.data[stream_id] += payload
            if kind == WINDOW:
                self.granted[stream_id] += length

    async def _answer(self) -> None:
        if self._answers_pings:
            while self.asked:
                await self.send(frame(PING, ACK, 0, self.asked.pop(0)))

    def _tell(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    async def until(self, reached: Callable[[], bool], seconds: float = SOON_SECONDS) -> None:
        """Waits for what the node says; the test fails when it does not say so in time."""
        with trio.move_on_after(seconds):
            while not reached():
                await self._news.wait()
        assert reached(), f"not within {seconds} s: {self.went_away=} {self.closed=} {self.resets=!s:.200}"

    async def until_refused(self, code: int = 1, seconds: float = SOON_SECONDS) -> None:
        """The node says go away with `code`, and closes."""
        await self.until(lambda: self.closed, seconds)
        assert self.went_away == code, self.went_away

    async def send(self, *frames: bytes) -> None:
        """All in one piece."""
        async with self._turn:
            await self.channel.send_all(b"".join(frames))

    def new_ids(self, count: int) -> Iterable[int]:
        """Ids of streams that were not opened yet."""
        first, self._next_id = self._next_id, self._next_id + 2 * count
        return range(first, self._next_id, 2)

    async def open(self, protocol: str, data: bytes = b"") -> int:
        """A stream with that protocol, on which `data` was sent at once."""
        (stream_id,) = self.new_ids(1)
        greeting = hello(protocol)
        await self.send(frame(DATA, SYN, stream_id, greeting + data))
        await self.until(lambda: len(self.data[stream_id]) >= len(greeting))
        assert self.data[stream_id].startswith(greeting)
        del self.data[stream_id][: len(greeting)]
        return stream_id

    async def echo(self, stream_id: int, data: bytes) -> None:
        """Sends `data` on a stream and wants it back within a second."""
        await self.send(frame(DATA, 0, stream_id, data))
        await self.until(lambda: len(self.data[stream_id]) >= len(data), 1)
        assert self.data[stream_id] == data
        self.data[stream_id].clear()


@asynccontextmanager
async def raw_yamux(
    node: Victim, *, source: str | None = None, answers_pings: bool = True, reads: bool = True
) -> AsyncIterator[RawYamux]:
    """An authenticated connection to the node, whose yamux is ours to write."""
    async with node.raw(source) as stream, yamux_over(stream, node, answers_pings=answers_pings, reads=reads) as peer:
        yield peer


@asynccontextmanager
async def yamux_over(
    stream: trio.abc.Stream, node: Victim, *, answers_pings: bool = True, reads: bool = True
) -> AsyncIterator[RawYamux]:
    """The same over a stream to the node that stands already."""
    _, leftover = await select(stream, ("/noise",))
    channel = await Noise(PrivateKey.generate()).secure(
        PrefixedStream(stream, leftover) if leftover else stream, Role.DIALER, node.peer, muxers=(PROTOCOL_ID,)
    )
    assert channel.early_muxer == PROTOCOL_ID
    peer = RawYamux(channel, answers_pings=answers_pings)
    async with background() as nursery:
        if reads:
            nursery.start_soon(peer.read)
        yield peer
