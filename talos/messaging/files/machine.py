"""What a transfer is about to do: its states, and which chunks the receiver asks for next. No IO."""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING

from talos.errors import LocalProtocolError, RemoteProtocolError, TransferFailed
from talos.messaging.files.chunk import TAG_BYTES
from talos.messaging.files.code import FileCode
from talos.messaging.files.frames import Want

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from talos.messaging.files.frames import Chunk
    from talos.messaging.files.manifest import FileEntry

__all__ = ["Pull", "TransferState", "check_step"]

TRIES = 2
"""A chunk that is not what was promised is asked for once more."""


class TransferState(enum.Enum):
    """How far a transfer is, as either side sees it."""

    OFFERED = "offered"
    ACCEPTED = "accepted"
    TRANSFERRING = "transferring"
    PAUSED = "paused"
    """Without a connection; it goes on by itself."""
    VERIFYING = "verifying"
    COMPLETE = "complete"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        return self in _FINAL


_FINAL = frozenset(
    (TransferState.COMPLETE, TransferState.DECLINED, TransferState.CANCELLED, TransferState.FAILED),
)
_BEGUN = frozenset((TransferState.TRANSFERRING, TransferState.PAUSED, TransferState.VERIFYING))
_STEPS = {
    TransferState.OFFERED: frozenset((TransferState.ACCEPTED, TransferState.DECLINED)),
    TransferState.ACCEPTED: _BEGUN,
    TransferState.TRANSFERRING: _BEGUN,
    TransferState.PAUSED: _BEGUN,
    TransferState.VERIFYING: _BEGUN | {TransferState.COMPLETE},
}


def check_step(before: TransferState, after: TransferState) -> None:
    """LocalProtocolError when a transfer cannot go from one to the other; it can end at any time before its end."""
    ends = after in (TransferState.CANCELLED, TransferState.FAILED)
    if before.final or not (ends or after in _STEPS[before]):
        raise LocalProtocolError(f"a transfer that is {before.value} cannot become {after.value}")


class Pull:
    """The receiver's plan: files in order, a bounded number of them and of bytes under way at once.

    A file is begun, gets its leaves, becomes ready with the chunks that are missing, and is whole when all of them
    are kept. Files are numbered from 1.
    """

    def __init__(self, files: Sequence[FileEntry], *, window_bytes: int, ahead: int) -> None:
        self._files = files
        self._window = window_bytes
        self._ahead = ahead
        self._next = 1
        self._begun: dict[int, int] = {}
        """Chunks that are missing, by file; -1 before it is ready."""
        self._ranges: deque[tuple[int, int, int]] = deque()
        """File, first chunk, chunk behind the last: to be asked for."""
        self._asked: dict[tuple[int, int], int] = {}
        """Bytes, by file and chunk."""
        self._coming: dict[tuple[int, int], int] = {}
        """The same of those that came and are being looked at."""
        self._tries: dict[tuple[int, int], int] = {}
        self.open_bytes = 0
        """Asked for and not yet kept."""

    @property
    def count(self) -> int:
        """Of files."""
        return len(self._files)

    @property
    def finished(self) -> bool:
        return self._next > len(self._files) and not self._begun

    @property
    def awaits(self) -> bool:
        """Whether the peer owes us chunks."""
        return bool(self._asked)

    def entry(self, file: int) -> FileEntry:
        return self._files[file - 1]

    def begin(self) -> list[int]:
        """The next files that are to be made ready."""
        found = []
        while self._next <= len(self._files) and len(self._begun) < self._ahead:
            self._begun[self._next] = -1
            found.append(self._next)
            self._next += 1
        return found

    def ready(self, file: int, missing: Iterable[int]) -> bool:
        """A file has its leaves, and these chunks are missing; True when none is: then it is whole."""
        if self._begun.get(file) != -1:
            raise LocalProtocolError(f"file {file} was not begun, or is ready")
        count, start, stop = 0, 0, 0
        for index in missing:
            if index != stop or not count:
                self._add(file, start, stop)
                start = index
            stop = index + 1
            count += 1
        self._add(file, start, stop)
        return self._left(file, count)

    def wants(self) -> list[Want]:
        """What to ask for now."""
        found = []
        while self._ranges and (self.open_bytes == 0 or self.open_bytes <= self._window - self._window // 4):
            file, first, stop = self._ranges.popleft()
            entry, index = self.entry(file), first
            while index < stop and (self.open_bytes == 0 or self.open_bytes + entry.chunk_bytes(index) <= self._window):
                size = entry.chunk_bytes(index)
                self._asked[file, index] = size
                self.open_bytes += size
                index += 1
            if index < stop:
                self._ranges.appendleft((file, index, stop))
            if index == first:
                break
            found.append(Want(file, first, index - first))
        return found

    def came(self, chunk: Chunk) -> None:
        """A chunk is here: RemoteProtocolError unless it was asked for and has the shape that it must have."""
        place = (chunk.file, chunk.index)
        size = self._asked.get(place)
        if size is None:
            raise RemoteProtocolError(f"chunk {chunk.index} of file {chunk.file} came unasked")
        if len(chunk.sealed) != size + TAG_BYTES or chunk.last != (chunk.index == self.entry(chunk.file).chunks - 1):
            raise RemoteProtocolError(f"chunk {chunk.index} of file {chunk.file} has another length or end")
        self._coming[place] = self._asked.pop(place)

    def kept(self, file: int, index: int) -> bool:
        """A chunk was right and is written; True when the file is whole by it."""
        self.open_bytes -= self._coming.pop((file, index))
        self._tries.pop((file, index), None)
        return self._left(file, self._begun[file] - 1)

    def bad(self, file: int, index: int) -> None:
        """A chunk was not what the leaf promises: asked for again, TransferFailed the second time."""
        place = (file, index)
        self.open_bytes -= self._coming.pop(place)
        self._tries[place] = self._tries.get(place, 0) + 1
        if self._tries[place] >= TRIES:
            raise TransferFailed(f"chunk {index} of file {file} is wrong again", code=FileCode.HASH_MISMATCH)
        self._ranges.appendleft((file, index, index + 1))

    def _add(self, file: int, start: int, stop: int) -> None:
        if start < stop:
            self._ranges.append((file, start, stop))

    def _left(self, file: int, count: int) -> bool:
        self._begun[file] = count
        if count:
            return False
        del self._begun[file]
        return True
