"""Archive segments: old blocks in a file that is read back and verified before anything of them is deleted.

"TALOSSEG1\\n" ‖ 32 chain_id ‖ u64 first height ‖ u64 last height ‖ u64 first index ‖ u64 entries
per block  u32 crc32 ‖ u32 length ‖ u64 height ‖ 232 header ‖ 64 sig ‖ items          crc and length of what follows
"TALOSEND1\\n" ‖ u64 blocks ‖ SHA-256 of all before
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from talos.chain.block import HEADER_BYTES, SIGNED_HEADER_BYTES, Block, body_hash, decode_items, encode_items
from talos.errors import ProofInvalid, StoreFailed, StoreFull
from talos.identity import private_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from talos.chain.block import Item

__all__ = ["Segment", "read_segment", "verify_segment", "write_segment"]

MAGIC: Final = b"TALOSSEG1\n"
END: Final = b"TALOSEND1\n"
_HEAD: Final = struct.Struct(">32sQQQQ")
_RECORD: Final = struct.Struct(">II")
_TAIL: Final = struct.Struct(">10sQ32s")
MAX_RECORD = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What a segment holds."""

    chain_id: bytes
    first_height: int
    last_height: int
    first_index: int
    entries: int

    def name(self, digest: bytes) -> str:
        return f"{self.first_height}-{self.last_height}-{digest.hex()[:16]}.seg"


def write_segment(directory: Path, segment: Segment, blocks: Iterable[Block]) -> Path:
    """Writes, syncs, names, and reads back; gives its path. StoreFull, StoreFailed; ProofInvalid: it differs."""
    if not directory.exists():
        private_file.make_directory(directory)
    scratch = directory / ".segment"
    digest = sha256()
    try:
        with scratch.open("wb") as file:
            os.fchmod(file.fileno(), private_file.FILE_MODE)
            count = 0
            for part in _parts(segment, blocks):
                file.write(part)
                digest.update(part)
                count += 1
            file.write(_TAIL.pack(END, count - 1, digest.digest()))
            file.flush()
            os.fsync(file.fileno())
        path = directory / segment.name(digest.digest())
        scratch.rename(path)
        private_file.sync_directory(directory)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        kind = StoreFull if error.errno in {28, 27, 122} else StoreFailed
        raise kind(f"cannot write the archive in {directory}: {error.strerror}") from error
    found = verify_segment(path)
    if found != segment:
        raise ProofInvalid(f"{path} reads back as another segment")
    return path


def verify_segment(path: Path) -> Segment:
    """Reads all of it. ProofInvalid names what is damaged."""
    segment = None
    expected = entries = 0
    for segment, block in read_segment(path):
        if not expected:
            expected = segment.first_height
        header = block.header
        if header.height != expected or header.chain_id != segment.chain_id:
            raise ProofInvalid(f"{path}: block {expected} is another one")
        if body_hash(block.items) != header.body_hash:
            raise ProofInvalid(f"{path}: block {expected} has another body than its header says")
        expected, entries = expected + 1, entries + header.n_items
    if segment is None or (expected - 1, entries) != (segment.last_height, segment.entries):
        raise ProofInvalid(f"{path} does not hold what its head says")
    return segment


def read_segment(path: Path) -> Iterator[tuple[Segment, Block]]:
    """Its blocks, each with the head; checksums and digest are compared on the way. ProofInvalid."""
    digest = sha256()
    with path.open("rb") as file:
        head = file.read(len(MAGIC) + _HEAD.size)
        if len(head) < len(MAGIC) + _HEAD.size or not head.startswith(MAGIC):
            raise ProofInvalid(f"{path} is no segment")
        digest.update(head)
        chain_id, first, last, index, entries = _HEAD.unpack_from(head, len(MAGIC))
        segment = Segment(
            chain_id=chain_id, first_height=first, last_height=last, first_index=index, entries=entries
        )  # fmt: skip
        for height in range(first, last + 1):
            prefix = file.read(_RECORD.size)
            if len(prefix) < _RECORD.size:
                raise ProofInvalid(f"{path} is cut short before block {height}")
            checksum, size = _RECORD.unpack(prefix)
            data = file.read(size) if size <= MAX_RECORD else b""
            if len(data) != size or zlib.crc32(data) != checksum:
                raise ProofInvalid(f"{path}: block {height} is damaged")
            digest.update(prefix + data)
            raw, sig = data[8 : 8 + HEADER_BYTES], data[8 + HEADER_BYTES : 8 + SIGNED_HEADER_BYTES]
            body = data[8 + SIGNED_HEADER_BYTES :]
            yield segment, Block(raw, sig, tuple(_items(body)))
        tail = file.read(_TAIL.size + 1)
        if tail != _TAIL.pack(END, last - first + 1, digest.digest()):
            raise ProofInvalid(f"{path} does not end as it should")


def _items(body: bytes) -> list[Item]:
    """Whole, or without their blobs: the first byte says which."""
    return decode_items(body[1:], pruned=body[:1] == b"\x01")


def _parts(segment: Segment, blocks: Iterable[Block]) -> Iterator[bytes]:
    yield MAGIC + _HEAD.pack(
        segment.chain_id, segment.first_height, segment.last_height, segment.first_index, segment.entries
    )
    for block in blocks:
        pruned = any(item.sealed_len and not item.sealed for item in block.items)
        body = (b"\x01" if pruned else b"\x00") + encode_items(block.items)
        data = block.header.height.to_bytes(8, "big") + block.raw + block.sig + body
        yield _RECORD.pack(zlib.crc32(data), len(data)) + data
