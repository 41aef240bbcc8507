"""Files that are not whole yet: `.incoming/<transfer>/<number>.part`, and beside it a journal of what is there.

    journal = "TALPART1" | 32 root | leaves | bitmap, the first chunk in the highest bit of the first byte

Data is synced before the journal says so, and what the journal says is hashed again before it is believed: a journal
can make a resume slower, never wrong. All of it runs in threads; one part is used by one thread at a time, but for
`sync`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
from contextlib import ExitStack
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from talos.errors import TransferFailed
from talos.messaging.files.code import FileCode
from talos.messaging.files.manifest import leaf, tree_root

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from talos.messaging.files.manifest import FileEntry

__all__ = [
    "FILE_MODE",
    "Part",
    "PartsDirectory",
    "disk_faults",
    "open_directory",
    "part_name",
    "remove_parts",
    "remove_strays",
    "split_leaves",
]

_log = logging.getLogger(__name__)

INCOMING = ".incoming"
FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
HASH_BYTES = 32
LARGE_BYTES = 64 * 1024 * 1024
"""What is synced of such a file leaves the page cache: it would push out all else, and pages that are used again cost
the kernel 0.7 CPU seconds a GB where new ones cost 2.7."""
_MAGIC: Final = b"TALPART1"
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@contextlib.contextmanager
def disk_faults() -> Iterator[None]:
    """What the disk refuses ends the transfer, not the node."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "no space is left" if full else f"files cannot be written: {error.strerror}"
        raise TransferFailed(why, code=FileCode.NO_SPACE) from error


def open_directory(name: str | Path, *, parent: int | None = None, make: bool = True) -> int:
    """A descriptor of a directory of ours, made 0700 where there is none; never through a link."""
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
    return os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)


def part_name(number: int) -> str:
    return f"{number}.part"


class PartsDirectory:
    """Where the unfinished files of one transfer lie."""

    def __init__(self, downloads: int, stream_id: bytes) -> None:
        incoming = open_directory(INCOMING, parent=downloads)
        try:
            self.descriptor = open_directory(stream_id.hex(), parent=incoming)
            os.fsync(incoming)
        finally:
            os.close(incoming)

    def close(self) -> None:
        os.close(self.descriptor)

    def leaves(self, number: int, entry: FileEntry) -> tuple[bytes, ...] | None:
        """Those of a file that was begun before, as far as its journal is true; None where they must be asked for."""
        if entry.chunks == 0:
            return ()
        if entry.chunks == 1:
            return (entry.root,)
        size = len(_MAGIC) + HASH_BYTES * (1 + entry.chunks)
        head = _read(_journal_name(number), self.descriptor, size)
        if len(head) < size or head[: len(_MAGIC) + HASH_BYTES] != _MAGIC + entry.root:
            return None
        found = split_leaves(head[len(_MAGIC) + HASH_BYTES :])
        return found if tree_root(found) == entry.root else None


def remove_parts(downloads: int, name: str) -> None:
    """All that was unfinished of one transfer; what cannot be removed is no reason to fail."""
    try:
        with ExitStack() as stack:
            incoming = open_directory(INCOMING, parent=downloads, make=False)
            stack.callback(os.close, incoming)
            directory = open_directory(name, parent=incoming, make=False)
            stack.callback(os.close, directory)
            for part in os.listdir(directory):  # noqa: PTH208 - of a descriptor
                os.unlink(part, dir_fd=directory)
            os.rmdir(name, dir_fd=incoming)
            os.fsync(incoming)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("parts of a transfer stay behind: %s", error.strerror)


def remove_strays(downloads: int, keep: Collection[bytes]) -> None:
    """What a crash has left of transfers that are over."""
    with contextlib.suppress(FileNotFoundError):
        incoming = open_directory(INCOMING, parent=downloads, make=False)
        try:
            names = os.listdir(incoming)  # noqa: PTH208 - of a descriptor
        finally:
            os.close(incoming)
        for name in set(names) - {stream_id.hex() for stream_id in keep}:
            remove_parts(downloads, name)


class Part:
    """One file on its way in; `leaves` are those that give its root."""

    def __init__(self, directory: PartsDirectory, number: int, entry: FileEntry, leaves: tuple[bytes, ...]) -> None:
        self.number = number
        self.entry = entry
        self.leaves = leaves
        self.unsynced = 0
        """Bytes written since the last `sync`."""
        self._have = bytearray(-(-entry.chunks // 8))
        self._whole = sha256()
        self._hashed = 0
        """Chunks that are in `_whole`: from the first on, in order."""
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._journal = -1
        self._file = os.open(part_name(number), _FILE_FLAGS, FILE_MODE, dir_fd=directory.descriptor)
        try:
            _check_regular(self._file)
            os.fchmod(self._file, FILE_MODE)
            if entry.chunks > 1:
                self._open_journal(directory)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """After the last `sync`; may be called again."""
        with self._syncing:
            for descriptor in (self._file, self._journal):
                if descriptor >= 0:
                    os.close(descriptor)
            self._file = self._journal = -1

    def missing(self) -> list[int]:
        """The chunks that are not there; those that seem to be are hashed."""
        found = []
        size = os.fstat(self._file).st_size
        for index in range(self.entry.chunks):
            data = self._read(index) if self._is_marked(index) or (self._journal < 0 and size) else b""
            if data and leaf(data) == self.leaves[index]:
                self._mark(index)
                self.hash(index, data)
            else:
                self._unmark(index)
                found.append(index)
        return found

    def write(self, index: int, chunk: bytes | memoryview) -> bool:
        """Keeps a chunk whose leaf is right; False when it is not, and nothing was written."""
        if leaf(chunk) != self.leaves[index]:
            return False
        view, position = memoryview(chunk), index * self.entry.chunk_size
        while view:
            done = os.pwrite(self._file, view, position)
            view, position = view[done:], position + done
        with self._lock:
            self._mark(index)
            self.unsynced += len(chunk)
        return True

    def hash(self, index: int, chunk: bytes | memoryview) -> None:
        """Adds a chunk to the hash of the whole when its turn is; otherwise it is read again in the end."""
        if index == self._hashed:
            self._whole.update(chunk)
            self._hashed += 1

    def sync(self) -> None:
        """Makes what is written durable, and then the journal that says so. May run beside `write`."""
        with self._syncing:
            if self._file < 0:
                return
            with self._lock:
                have, self.unsynced = bytes(self._have), 0
            os.fdatasync(self._file)
            if self.entry.size >= LARGE_BYTES:
                os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
            if self._journal >= 0:
                _write(self._journal, have, self._bitmap_offset)
                os.fdatasync(self._journal)

    def finish(self) -> None:
        """All chunks are there: TransferFailed(HASH_MISMATCH) unless they are the file that was promised; durable."""
        for index in range(self._hashed, self.entry.chunks):
            self.hash(index, self._read(index))
        if self._whole.digest() != self.entry.sha256:
            raise TransferFailed("a file whose hash is not the one in the list", code=FileCode.HASH_MISMATCH)
        os.ftruncate(self._file, self.entry.size)
        os.fsync(self._file)
        if self._journal >= 0:
            self.sync()

    @property
    def _bitmap_offset(self) -> int:
        return len(_MAGIC) + HASH_BYTES * (1 + self.entry.chunks)

    def _open_journal(self, directory: PartsDirectory) -> None:
        self._journal = os.open(_journal_name(self.number), _FILE_FLAGS, FILE_MODE, dir_fd=directory.descriptor)
        head = _MAGIC + self.entry.root + b"".join(self.leaves)
        known = os.pread(self._journal, len(head) + len(self._have), 0)
        if known.startswith(head):
            kept = known[len(head) :]
            self._have[: len(kept)] = kept
        else:
            os.ftruncate(self._journal, 0)
            _write(self._journal, head, 0)
            os.fsync(directory.descriptor)

    def _read(self, index: int) -> bytes:
        return os.pread(self._file, self.entry.chunk_bytes(index), index * self.entry.chunk_size)

    def _is_marked(self, index: int) -> bool:
        return bool(self._have[index >> 3] & 0x80 >> (index & 7))

    def _mark(self, index: int) -> None:
        self._have[index >> 3] |= 0x80 >> (index & 7)

    def _unmark(self, index: int) -> None:
        self._have[index >> 3] &= ~(0x80 >> (index & 7))


def split_leaves(hashes: bytes) -> tuple[bytes, ...]:
    """The hashes, one by one."""
    return tuple(hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES))


def _check_regular(descriptor: int) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "a part that is no file")


def _journal_name(number: int) -> str:
    return f"{number}.journal"


def _read(name: str, parent: int, size: int) -> bytes:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, position)
        view, position = view[done:], position + done
