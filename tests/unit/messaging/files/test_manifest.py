"""Manifests and chunks: the known answer, the chain's tree, limits, and altered chunks."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest

from talos.chain.merkle import merkle_root
from talos.errors import TransferFailed
from talos.messaging.files.chunk import ChunkCipher
from talos.messaging.files.code import FileCode
from talos.messaging.files.manifest import MAX_FILES, FileEntry, Manifest, chunk_size, leaf, tree_root

KIB, MIB = 1024, 1024 * 1024
DATA = bytes(index % 251 for index in range(600_000))
STREAM, KEY = bytes(range(16)), b"\x0a" * 32
CHUNKS = [DATA[start : start + 256 * KIB] for start in range(0, len(DATA), 256 * KIB)]
ENTRY = FileEntry(
    path="a/b.bin", size=600_000, mime="application/octet-stream", root=bytes(32), sha256=bytes(32), chunk_size=262_144
)


def test_known_answer() -> None:
    root = tree_root([leaf(chunk) for chunk in CHUNKS])
    assert root.hex() == "19475aa2e87e9f6f8be9626d2d5bc3dda82ed97be7eff8042a3cc753c82f0ddd"
    cipher = ChunkCipher(KEY, STREAM, 1)
    sealed = [cipher.seal(index, chunk, last=index == 2) for index, chunk in enumerate(CHUNKS)]
    digest = sha256(b"".join(sealed)).hexdigest()
    assert digest == "c616d7066c5069cb3f241540ab6e1f4ddcfb0fce7468d6de0aaea32f43667d3c"
    assert [cipher.open(index, data, last=index == 2) for index, data in enumerate(sealed)] == CHUNKS


@pytest.mark.parametrize("size", [*range(34), 255, 256, 257, 1000])
def test_the_tree_is_that_of_the_chain(size: int) -> None:
    leaves = [leaf(index.to_bytes(4, "big")) for index in range(size)]
    assert tree_root(leaves) == merkle_root(leaves)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ((1, STREAM, 0, False), "another file"),
        ((2, STREAM, 0, False), "another file"),
        ((1, bytes(16), 0, False), "another transfer"),
        ((1, STREAM, 1, False), "another place"),
        ((1, STREAM, 0, True), "called the last"),
    ],
)
def test_a_chunk_opens_at_its_place_alone(place: tuple[int, bytes, int, bool], why: str) -> None:
    file, stream, index, last = place
    sealed = ChunkCipher(KEY, STREAM, 1).seal(0, b"chunk", last=False)
    if place == (1, STREAM, 0, False):
        sealed = sealed[:-1] + bytes((sealed[-1] ^ 1,))
    with pytest.raises(TransferFailed, match="altered") as caught:
        ChunkCipher(KEY, stream, file).open(index, sealed, last=last)
    assert caught.value.code == FileCode.HASH_MISMATCH, why


@pytest.mark.parametrize(
    ("size", "chunk"),
    [
        (0, 256 * KIB),
        (64 * MIB - 1, 256 * KIB),
        (64 * MIB, 512 * KIB),
        (512 * MIB - 1, 512 * KIB),
        (512 * MIB, MIB),
        (2048 * MIB, MIB),
    ],
)
def test_chunks_grow_with_the_file(size: int, chunk: int) -> None:
    assert chunk_size(size) == chunk


def test_entries_know_their_chunks() -> None:
    assert (ENTRY.chunks, ENTRY.chunk_bytes(0), ENTRY.chunk_bytes(2)) == (3, 262_144, 600_000 - 524_288)
    assert replace(ENTRY, size=0).chunks == 0


def test_round_trip() -> None:
    manifest = Manifest((ENTRY, replace(ENTRY, path="c", size=64 * MIB, chunk_size=512 * KIB)))
    assert Manifest.decode(manifest.encode()) == manifest
    assert manifest.total_size == 600_000 + 64 * MIB


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (replace(ENTRY, path="x" * 1025), FileCode.NAME_REFUSED),
        (replace(ENTRY, mime="x" * 129), FileCode.NAME_REFUSED),
        (replace(ENTRY, chunk_size=1), FileCode.HASH_MISMATCH),
        (replace(ENTRY, root=b""), FileCode.HASH_MISMATCH),
        (replace(ENTRY, sha256=bytes(31)), FileCode.HASH_MISMATCH),
    ],
)
def test_entries_that_are_none(entry: FileEntry, code: FileCode) -> None:
    with pytest.raises(TransferFailed) as caught:
        Manifest.decode(Manifest((entry,)).encode())
    assert caught.value.code == code


@pytest.mark.parametrize("data", [b"", b"\xff", bytes(4 * MIB + 1), Manifest((ENTRY,) * (MAX_FILES + 1)).encode()])
def test_manifests_that_are_none(data: bytes) -> None:
    with pytest.raises(TransferFailed):
        Manifest.decode(data)
