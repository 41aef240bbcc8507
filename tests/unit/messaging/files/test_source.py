"""What is found and hashed on the sender's disk."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from talos.errors import LocalProtocolError, TransferFailed
from talos.messaging.files.chunk import ChunkCipher
from talos.messaging.files.code import FileCode
from talos.messaging.files.config import FileConfig
from talos.messaging.files.manifest import leaf, tree_root
from talos.messaging.files.source import Found, Source, hash_file, hash_walk, walk

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1024
DATA = bytes(index % 251 for index in range(600_000))
CONFIG = FileConfig()


def test_the_known_answer_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "known.bin"
    path.write_bytes(DATA)
    found = walk([path], CONFIG)
    (hashed,) = hash_walk(found)
    assert (found.name, found.directory, found.files) == ("known.bin", False, [Found(str(path), "known.bin")])
    assert hashed.entry.root.hex() == "19475aa2e87e9f6f8be9626d2d5bc3dda82ed97be7eff8042a3cc753c82f0ddd"
    assert hashed.entry.sha256.hex() == "3eec6f2df36b88a1a97c03224253e9d0c59f2696ff7b145203a5d43c736bc7e0"
    source = Source(str(path), 1, hashed, b"\x0a" * 32, bytes(range(16)))
    sealed = [source.chunk(index) for index in range(3)]
    source.close()
    digest = sha256(b"".join(chunk.sealed for chunk in sealed)).hexdigest()
    assert digest == "c616d7066c5069cb3f241540ab6e1f4ddcfb0fce7468d6de0aaea32f43667d3c"
    assert [chunk.last for chunk in sealed] == [False, False, True]


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (hashed,) = hash_walk(walk([tmp_path / "empty"], CONFIG))
    assert (hashed.entry.size, hashed.entry.root, hashed.leaves) == (0, tree_root([]), ())
    assert hashed.entry.sha256 == sha256(b"").digest()


def test_a_named_link_is_followed_and_a_found_one_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("x")
    (folder / "link").symlink_to("file")
    (tmp_path / "way").symlink_to(folder)
    found = walk([tmp_path / "way"], CONFIG, name="other")
    assert (found.name, found.directory, found.skipped) == ("other", True, ["link"])
    assert [file.path for file in found.files] == ["file"]
    lone = walk([folder / "link"], CONFIG, name="new.txt")
    assert (lone.files[0].path, lone.directory) == ("new.txt", False)


def test_several_roots_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").touch()
    (tmp_path / "y").touch()
    found = walk([tmp_path / "d", tmp_path / "y"], CONFIG)
    assert (found.name, [file.path for file in found.files]) == ("files", ["d/x", "y"])


def test_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.close(os.open(os.fsencode(tmp_path / "d") + b"/\xff.txt", os.O_CREAT | os.O_WRONLY))
    found = walk([tmp_path / "d"], CONFIG)
    assert found.files[0].path == "\ufffd.txt"
    assert hash_walk(found)[0].entry.size == 0


def test_limits_of_a_transfer(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / str(number)).write_bytes(bytes(10))
    assert len(walk([tmp_path], FileConfig(entries=3, total_bytes=30)).files) == 3
    for config in (FileConfig(entries=2), FileConfig(total_bytes=29)):
        with pytest.raises(TransferFailed) as caught:
            walk([tmp_path], config)
        assert caught.value.code == FileCode.TOO_LARGE
    (tmp_path / "none").mkdir()
    with pytest.raises(LocalProtocolError, match="nothing to send"):
        walk([tmp_path / "none"], CONFIG)


def test_two_contents_never_meet_one_key(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(DATA)
    (hashed,) = hash_walk(walk([path], CONFIG))
    path.write_bytes(DATA[:-1] + b"!")
    source = Source(str(path), 1, hashed, bytes(32), bytes(16))
    opened = ChunkCipher(bytes(32), bytes(16), 1).open(0, source.chunk(0).sealed, last=False)
    assert leaf(opened) == hashed.leaves[0]
    with pytest.raises(TransferFailed) as caught:
        source.chunk(2)
    source.close()
    assert caught.value.code == FileCode.SOURCE_CHANGED


def test_what_stops_being_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as helper:
        with pytest.raises(LocalProtocolError, match="no file any more"):
            hash_file(Found(str(path), "f"), helper)
        path.unlink()
        path.symlink_to("/etc/passwd")
        with pytest.raises(OSError, match="symbolic"):
            hash_file(Found(str(path), "f"), helper)
