"""Chunks in their order: how a sender numbers them, and what a receiver makes of those that come.

Rules of the receiver:
- a chunk whose size or hash is not what its ChunkInfo says, whose total contradicts what was said before, or whose
  offset is not the sum of the sizes before it, breaks the stream;
- a chunk that was here before is dropped;
- where none may be missing, those that are ahead wait, so many and so many bytes of them; one that is further ahead
  breaks the stream;
- of a lossy stream what comes behind a gap is taken at once: the gap counts as missing, and what comes for it later is
  dropped;
- the end names how many chunks and bytes there were, and the root over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from talos.errors import RemoteProtocolError
from talos.messaging.live.config import MAX_CHUNK_BYTES
from talos.messaging.live.tree import Tree, leaf_hash
from talos.messaging.payload import MAX_NUMBER, ChunkInfo

if TYPE_CHECKING:
    from talos.messaging.content import StreamEnd
    from talos.messaging.live.config import LiveLimits

__all__ = ["Assembly", "Numbering"]


class Numbering:
    """The sender's side."""

    def __init__(self, stream_id: bytes) -> None:
        self._id = stream_id
        self._tree = Tree()
        self.bytes_total = 0

    @property
    def chunks(self) -> int:
        return self._tree.size

    def next(self, data: bytes) -> ChunkInfo:
        """The place of a chunk that is at most 64 KiB long."""
        leaf = leaf_hash(data)
        info = ChunkInfo(stream_id=self._id, index=self._tree.size, offset=self.bytes_total, size=len(data), hash=leaf)
        self._tree.add(leaf)
        self.bytes_total += len(data)
        return info

    def root(self) -> bytes:
        return self._tree.root()


@dataclass(slots=True)
class _Ahead:
    """A chunk that waits for those before it."""

    info: ChunkInfo
    data: bytes


class Assembly:
    """The receiver's side."""

    def __init__(self, limits: LiveLimits, *, lossy: bool) -> None:
        self._limits = limits
        self._lossy = lossy
        self._tree = Tree()
        self._ahead: dict[int, _Ahead] = {}
        self._total = 0
        self._next = 0
        self._offset = 0
        self.ahead_bytes = 0
        self.received = 0
        self.missing = 0
        """Chunks of a lossy stream that did not come in time."""
        self.repeated = 0

    @property
    def next_index(self) -> int:
        """Of the chunk whose turn it is."""
        return self._next

    def place(self, info: ChunkInfo, data: bytes) -> list[bytes]:
        """Chunks whose turn has come by this one, in order. RemoteProtocolError: the stream is broken."""
        self._check(info, data)
        if info.index < self._next:
            self.repeated += 1
            return []
        if self._lossy:
            if info.index == self._next and info.offset != self._offset:
                raise RemoteProtocolError("a chunk that does not begin where the one before it ended")
            if info.index > self._next and info.offset < self._offset:
                raise RemoteProtocolError("a chunk that begins before the one before it ended")
            self.missing += info.index - self._next
            return [self._show(info, data)]
        return self._place_in_order(info, data)

    def finish(self, end: StreamEnd) -> None:
        """The sender says that it is whole. RemoteProtocolError when that is not what came."""
        if end.chunks < self._next or end.bytes_total < self._offset:
            raise RemoteProtocolError("an end before what has come")
        if self._total and end.chunks != self._total:
            raise RemoteProtocolError("an end that is not where it was announced")
        late = end.chunks - self._next
        if late and not self._lossy:
            raise RemoteProtocolError(f"{late} chunks did not come")
        self.missing += late
        if not self.missing and (end.root != self._tree.root() or end.bytes_total != self._offset):
            raise RemoteProtocolError("the root of what came is another one")
        self._ahead.clear()
        self.ahead_bytes = 0

    def _check(self, info: ChunkInfo, data: bytes) -> None:
        if len(data) > MAX_CHUNK_BYTES or info.size != len(data):
            raise RemoteProtocolError(f"a chunk of {len(data)} bytes that should be {info.size}")
        if max(info.index, info.offset, info.total) > MAX_NUMBER:
            raise RemoteProtocolError("a place that no stream has")
        if info.hash != leaf_hash(data):
            raise RemoteProtocolError("a chunk with another hash")
        total = info.index + 1 if info.last else info.total
        if (info.last and info.total not in (0, total)) or (total and self._total not in (0, total)):
            raise RemoteProtocolError("a stream that ends in two places")
        self._total = self._total or total
        if self._total and info.index >= self._total:
            raise RemoteProtocolError("a chunk behind the last one")

    def _place_in_order(self, info: ChunkInfo, data: bytes) -> list[bytes]:
        held = self._ahead.get(info.index)
        if held is not None:
            if held.info.hash != info.hash:
                raise RemoteProtocolError("two chunks in one place")
            self.repeated += 1
            return []
        ahead = info.index - self._next
        if ahead >= self._limits.ahead_chunks or (ahead and self.ahead_bytes + len(data) > self._limits.ahead_bytes):
            raise RemoteProtocolError("a chunk that is too far ahead")
        self._ahead[info.index] = _Ahead(info, data)
        self.ahead_bytes += len(data)
        shown = []
        while (waiting := self._ahead.pop(self._next, None)) is not None:
            self.ahead_bytes -= len(waiting.data)
            if waiting.info.offset != self._offset:
                raise RemoteProtocolError("a chunk that does not begin where the one before it ended")
            shown.append(self._show(waiting.info, waiting.data))
        return shown

    def _show(self, info: ChunkInfo, data: bytes) -> bytes:
        self._tree.add(info.hash)
        self._next = info.index + 1
        self._offset = info.offset + len(data)
        self.received += 1
        return data
