"""A live stream that a peer has opened to us, as its reader sees it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from talos.errors import RemoteProtocolError, TransferFailed
from talos.messaging.code import Code
from talos.messaging.files.code import FileCode
from talos.messaging.live.machine import Assembly

if TYPE_CHECKING:
    from talos.identity.peer_id import PeerId
    from talos.messaging.content import StreamEnd
    from talos.messaging.live.codec import Codec
    from talos.messaging.live.config import LiveLimits
    from talos.messaging.payload import ChunkInfo

__all__ = ["IncomingStream"]


class IncomingStream:
    """Values in their order, by `async for`, for one reader.

    It ends when the sender has ended it, whole. TransferFailed, after what was taken by then, when it breaks off, or is
    not what its sender signed. Of a lossy stream `missing` did not come in time, and the oldest of those that nobody
    took are `dropped`; of every other one the sender waits until they are taken.
    """

    def __init__(
        self, peer: PeerId, stream_id: bytes, codec: Codec, media_type: str, limits: LiveLimits, *, lossy: bool
    ) -> None:
        self.peer = peer
        self.id = stream_id
        self.codec = codec
        self.media_type = media_type
        self.lossy = lossy
        self.dropped = 0
        """Chunks that came and were not taken in time."""
        self.last_seen = trio.current_time()
        self._limits = limits
        self._assembly = Assembly(limits, lossy=lossy)
        self._chunks: deque[bytes] = deque()
        self._bytes = 0
        self._news = trio.Event()
        self._over = False
        self._failure: TransferFailed | None = None

    def __aiter__(self) -> IncomingStream:
        return self

    async def __anext__(self) -> Any:
        """The next value. TransferFailed for a chunk that its codec does not understand: the stream is over then."""
        await trio.lowlevel.checkpoint()
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            if self._over:
                raise StopAsyncIteration
            await self._news.wait()
        data = self._chunks.popleft()
        self._bytes -= len(data)
        try:
            return self.codec.decoded(data)
        except ValueError as error:
            self.fail("a chunk that its codec does not understand", FileCode.CODEC)
            raise TransferFailed("a chunk that its codec does not understand", code=FileCode.CODEC) from error

    @property
    def missing(self) -> int:
        """Chunks of a lossy stream that did not come in time."""
        return self._assembly.missing

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self._over

    @property
    def held_bytes(self) -> int:
        """Of chunks that came and were not taken."""
        return self._bytes + self._assembly.ahead_bytes

    def close(self) -> None:
        """Takes no more; the sender is told at its next chunk."""
        self._chunks.clear()
        self._bytes = 0
        self._end()

    # ------------------------------------------------------------------------------- what comes

    def take(self, info: ChunkInfo, data: bytes, room: int) -> Code:
        """A chunk came; `room` is what all streams together may still hold."""
        if self._over:
            return Code.UNSUPPORTED
        self.last_seen = trio.current_time()
        if not self.lossy:
            ahead = info.index > self._assembly.next_index  # those must not take the room of the one that is missing
            if not self._has_room(len(data), room - (self._limits.held_bytes // 2 if ahead else 0)):
                return Code.BUSY
        try:
            shown = self._assembly.place(info, data)
        except RemoteProtocolError as error:
            self.fail(str(error), FileCode.HASH_MISMATCH)
            return Code.BAD_PAYLOAD
        for chunk in shown:
            self._chunks.append(chunk)
            self._bytes += len(chunk)
        while self._chunks and not self._has_room(0, room - len(data)):
            self._bytes -= len(self._chunks.popleft())
            self.dropped += 1
        if shown:
            self._wake()
        return Code.OK

    def finish(self, end: StreamEnd) -> bool:
        """The sender has ended it; False when that is not what came."""
        try:
            self._assembly.finish(end)
        except RemoteProtocolError as error:
            self.fail(str(error), FileCode.HASH_MISMATCH)
            return False
        self._end()
        return True

    def fail(self, why: str, code: int) -> None:
        """It is over before its end; nothing when it is over already."""
        if not self._over:
            self._failure = TransferFailed(why, code=code)
            self._end()

    def _has_room(self, size: int, room: int) -> bool:
        limits = self._limits
        return len(self._chunks) < limits.ahead_chunks + (not size) and (
            self.held_bytes + size <= limits.ahead_bytes and size <= max(room, 0)
        )

    def _end(self) -> None:
        self._over = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()
