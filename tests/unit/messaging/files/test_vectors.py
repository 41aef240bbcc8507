"""The known answer of docs/protocols/files.md, from its file alone: what another implementer has."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from talos.messaging.files.chunk import ChunkCipher
from talos.messaging.files.manifest import FileEntry, Manifest, chunk_size, leaf, tree_root

KNOWN = json.loads((Path(__file__).parents[3] / "vectors" / "messaging" / "file.json").read_text())
GIVEN = KNOWN["given"]
DATA = bytes(index % 251 for index in range(GIVEN["size"]))
CHUNKS = [DATA[start : start + KNOWN["chunk_size"]] for start in range(0, len(DATA), KNOWN["chunk_size"])]
PAGE = (Path(__file__).parents[4] / "docs" / "protocols" / "files.md").read_text()


def test_a_file_is_cut_and_hashed() -> None:
    assert chunk_size(len(DATA)) == KNOWN["chunk_size"]
    leaves = tuple(map(leaf, CHUNKS))
    assert [one.hex() for one in leaves] == KNOWN["leaves"]
    assert (tree_root(leaves).hex(), sha256(DATA).hexdigest()) == (KNOWN["root"], KNOWN["sha256"])


def test_its_chunks_are_sealed_and_opened() -> None:
    cipher = ChunkCipher(bytes.fromhex(GIVEN["key"]), bytes.fromhex(GIVEN["stream_id"]), GIVEN["file"])
    last = len(CHUNKS) - 1
    sealed = [cipher.seal(index, chunk, last=index == last) for index, chunk in enumerate(CHUNKS)]
    assert [one[-16:].hex() for one in sealed] == KNOWN["tags"]
    assert sha256(b"".join(sealed)).hexdigest() == KNOWN["sealed_sha256"]
    buffer = bytearray(KNOWN["chunk_size"])
    for index, chunk in enumerate(CHUNKS):
        assert cipher.open_into(index, sealed[index], buffer, last=index == last) == chunk


def test_its_list_has_one_form() -> None:
    entries = tuple(
        FileEntry(**(one | {name: bytes.fromhex(one[name]) for name in ("root", "sha256")})) for one in KNOWN["files"]
    )
    assert Manifest(entries).encode().hex() == KNOWN["manifest"]
    assert Manifest.decode(bytes.fromhex(KNOWN["manifest"])) == Manifest(entries)
    assert sha256(bytes.fromhex(KNOWN["manifest"])).hexdigest() == KNOWN["manifest_hash"]


def test_the_page_says_the_same() -> None:
    for name in ("root", "sha256", "sealed_sha256", "manifest_hash"):
        assert KNOWN[name] in PAGE
