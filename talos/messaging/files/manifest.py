"""The list of what a transfer holds: paths, sizes, and the hashes that every chunk is checked against.

leaf = SHA-256(00 ‖ chunk)        root = RFC 6962 tree hash of the leaves        sha256 = of the whole file
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from talos.errors import TransferFailed
from talos.messaging.content import MAX_MANIFEST_BYTES
from talos.messaging.files.code import FileCode
from talos.wire.pb import messaging_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_FILES", "FileEntry", "Manifest", "chunk_size", "leaf", "tree_root"]

KIB = 1024
MIB = 1024 * KIB
MAX_FILES = 10_000
MAX_PATH_BYTES = 1024
MAX_MIME_BYTES = 128
HASH_BYTES = 32
CHUNK_SIZES = (256 * KIB, 512 * KIB, MIB)
MANIFEST_CHUNK = 256 * KIB
"""Of the manifest itself, which travels as file 0 when it does not fit the offer."""


def chunk_size(size: int) -> int:
    """Bytes in each chunk but the last of a file of `size` bytes."""
    if size < 64 * MIB:
        return CHUNK_SIZES[0]
    return CHUNK_SIZES[1] if size < 512 * MIB else CHUNK_SIZES[2]


def leaf(chunk: bytes | bytearray | memoryview) -> bytes:
    """The hash of a chunk in the file's tree."""
    made = sha256(b"\0")
    made.update(chunk)
    return made.digest()


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 section 2.1: the split is the largest power of two below the count, so no leaf is ever doubled."""
    if not leaves:
        return sha256(b"").digest()
    levels: list[bytes | None] = []
    for node in leaves:
        carried, level = node, 0
        while level < len(levels) and (left := levels[level]) is not None:
            carried, levels[level] = sha256(b"\1" + left + carried).digest(), None
            level += 1
        levels[level : level + 1] = [carried]
    waiting = [node for node in levels if node is not None]
    root = waiting[0]
    for left in waiting[1:]:
        root = sha256(b"\1" + left + root).digest()
    return root


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file; `path` has `/` between its parts."""

    path: str
    size: int
    mime: str
    root: bytes
    sha256: bytes
    chunk_size: int

    @property
    def chunks(self) -> int:
        """How many there are; an empty file has none."""
        return -(-self.size // self.chunk_size)

    def chunk_bytes(self, index: int) -> int:
        """The length of chunk `index`, below `chunks`."""
        return min(self.chunk_size, self.size - index * self.chunk_size)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files of one transfer; the first has number 1."""

    files: tuple[FileEntry, ...]

    @property
    def total_size(self) -> int:
        return sum(entry.size for entry in self.files)

    def encode(self) -> bytes:
        """The bytes whose SHA-256 the offer names."""
        entries = [
            pb.FileEntry(
                path=entry.path,
                size=entry.size,
                mime=entry.mime,
                chunk_size=entry.chunk_size,
                root=entry.root,
                sha256=entry.sha256,
            )
            for entry in self.files
        ]
        return pb.Manifest(files=entries).SerializeToString()

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """The manifest in `data`; TransferFailed when it is none, or past a limit."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise TransferFailed("a list of files over 4 MiB", code=FileCode.TOO_LARGE)
        try:
            found = pb.Manifest.FromString(data)
        except DecodeError as error:
            raise TransferFailed("a list of files that is no protobuf", code=FileCode.HASH_MISMATCH) from error
        if not 1 <= len(found.files) <= MAX_FILES:
            raise TransferFailed(f"a list of {len(found.files)} files", code=FileCode.TOO_LARGE)
        return cls(tuple(_entry(entry) for entry in found.files))


def _entry(found: pb.FileEntry) -> FileEntry:
    if len(found.path.encode()) > MAX_PATH_BYTES or len(found.mime.encode()) > MAX_MIME_BYTES:
        raise TransferFailed("a file whose path or type is too long", code=FileCode.NAME_REFUSED)
    if found.chunk_size != chunk_size(found.size):
        raise TransferFailed(f"chunks of {found.chunk_size} bytes", code=FileCode.HASH_MISMATCH)
    if len(found.root) != HASH_BYTES or len(found.sha256) != HASH_BYTES:
        raise TransferFailed("a file without its hashes", code=FileCode.HASH_MISMATCH)
    return FileEntry(
        path=found.path,
        size=found.size,
        mime=found.mime,
        root=found.root,
        sha256=found.sha256,
        chunk_size=found.chunk_size,
    )
