"""What is sent: found on the disk, hashed once, and read again chunk by chunk. All of it runs in threads."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from talos.errors import LocalProtocolError, TransferFailed
from talos.messaging.files.chunk import ChunkCipher
from talos.messaging.files.code import FileCode
from talos.messaging.files.frames import Chunk
from talos.messaging.files.manifest import FileEntry, chunk_size, leaf, tree_root
from talos.messaging.files.mime import HEAD_BYTES, recognise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import FileIO
    from pathlib import Path

    from talos.messaging.files.config import FileConfig

__all__ = ["Found", "Hashed", "Source", "Walk", "hash_file", "hash_walk", "walk"]

_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Found(NamedTuple):
    """A file to be sent, and the path that it has in the list."""

    where: str
    path: str


@dataclass(slots=True)
class Walk:
    """All that is to be sent."""

    name: str
    directory: bool
    """The files belong into a directory of that name; else there is but one."""
    files: list[Found]
    skipped: list[str]
    """Links, devices, sockets and pipes."""


class Hashed(NamedTuple):
    """What is known of a file's content."""

    entry: FileEntry
    leaves: tuple[bytes, ...]


def walk(paths: Sequence[Path], config: FileConfig, *, name: str | None = None) -> Walk:
    """The files at `paths`; links that are named themselves are followed, those below are skipped.

    OSError when one cannot be read, LocalProtocolError when there is nothing to send, TransferFailed(TOO_LARGE) for
    more files or bytes than a transfer has.
    """
    roots = [path.resolve(strict=True) for path in paths]
    lone = len(roots) == 1 and roots[0].is_file()
    found = Walk(name or (_text(roots[0].name) if len(roots) == 1 else "files"), not lone, [], [])
    scan = _Scan(found, config)
    for root in roots:
        prefix = (_text(root.name),) if len(roots) > 1 or lone else ()
        scan.visit(os.fspath(root), root.lstat(), prefix)
    if not found.files:
        raise LocalProtocolError("nothing to send: no files there")
    if lone and name:
        found.files = [found.files[0]._replace(path=name)]
    return found


class _Scan:
    def __init__(self, found: Walk, config: FileConfig) -> None:
        self._found = found
        self._config = config
        self._bytes = 0

    def visit(self, where: str, status: os.stat_result, path: tuple[str, ...]) -> None:
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(where) as entries:
                below = sorted(entries, key=lambda entry: entry.name)
            for entry in below:
                self.visit(entry.path, entry.stat(follow_symlinks=False), (*path, _text(entry.name)))
        elif stat.S_ISREG(status.st_mode):
            self._add(Found(where, "/".join(path)), status.st_size)
        else:
            self._found.skipped.append("/".join(path))

    def _add(self, file: Found, size: int) -> None:
        self._found.files.append(file)
        self._bytes += size
        if len(self._found.files) > self._config.entries:
            raise TransferFailed(f"more than {self._config.entries} files", code=FileCode.TOO_LARGE)
        if self._bytes > self._config.total_bytes:
            raise TransferFailed(f"more than {self._config.total_bytes} bytes", code=FileCode.TOO_LARGE)


def hash_walk(found: Walk) -> list[Hashed]:
    """Reads all of it."""
    with ThreadPoolExecutor(1) as helper:
        return [hash_file(file, helper) for file in found.files]


def hash_file(file: Found, helper: ThreadPoolExecutor) -> Hashed:
    """Reads a file once; `helper` hashes the whole while this thread hashes the chunk."""
    with _opened(file.where) as stream:
        size = os.fstat(stream.fileno()).st_size
        whole, leaves, head, done = sha256(), [], b"", 0
        buffer = memoryview(bytearray(min(chunk_size(size), max(size, 1))))
        while count := _fill(stream, buffer):
            chunk = buffer[:count]
            if not done:
                head = bytes(chunk[:HEAD_BYTES])
            job = helper.submit(whole.update, chunk)
            leaves.append(leaf(chunk))
            job.result()
            done += count
    if done != size:
        raise changed(file.path)
    kind = recognise(head, whole=size <= HEAD_BYTES)
    entry = FileEntry(
        path=file.path,
        size=size,
        mime=kind.mime,
        root=tree_root(leaves),
        sha256=whole.digest(),
        chunk_size=chunk_size(size),
    )
    return Hashed(entry, tuple(leaves))


class Source:
    """Reads and seals the chunks of one file; TransferFailed(SOURCE_CHANGED) when they are not what was offered."""

    def __init__(self, where: str, number: int, hashed: Hashed, key: bytes, stream_id: bytes) -> None:
        self._file = _opened(where)
        self._number = number
        self._entry, self._leaves = hashed
        self._cipher = ChunkCipher(key, stream_id, number)
        self._buffer = memoryview(bytearray(min(self._entry.chunk_size, self._entry.size)))

    def close(self) -> None:
        self._file.close()

    def chunk(self, index: int) -> Chunk:
        """Its leaf is compared first, so that two contents never meet one key and nonce."""
        entry = self._entry
        room = self._buffer[: entry.chunk_bytes(index)]
        data = room[: os.preadv(self._file.fileno(), (room,), index * entry.chunk_size)]
        if leaf(data) != self._leaves[index]:
            raise changed(entry.path)
        last = index == entry.chunks - 1
        return Chunk(self._number, index, last, self._cipher.seal(index, data, last=last))


def changed(path: str) -> TransferFailed:
    """What became of a file whose content is another one by now."""
    return TransferFailed(f"{path} has changed since it was offered", code=FileCode.SOURCE_CHANGED)


def _opened(where: str) -> FileIO:
    descriptor = os.open(where, _OPEN_FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LocalProtocolError(f"{where} is no file any more")
    return os.fdopen(descriptor, "rb", buffering=0)


def _fill(stream: FileIO, buffer: memoryview) -> int:
    """Fills the buffer but at the end of the file."""
    done = 0
    while done < len(buffer) and (count := stream.readinto(buffer[done:])):
        done += count
    return done


def _text(name: str) -> str:
    """A file name as text: what is no UTF-8 is replaced."""
    return os.fsencode(name).decode("utf-8", "replace")
