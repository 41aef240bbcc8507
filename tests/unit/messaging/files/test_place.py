"""Whole files in their place: hostile lists, names that are taken, crashes in between."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from talos.errors import TransferFailed
from talos.messaging.files.code import FileCode
from talos.messaging.files.config import FileConfig
from talos.messaging.files.manifest import FileEntry, Manifest
from talos.messaging.files.mime import TypeLimits
from talos.messaging.files.part import open_directory
from talos.messaging.files.place import MAX_NUMBER, free_name, link_directory, link_file, planned_paths
from talos.messaging.files.rules import check_files, check_head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def entry(path: str, *, size: int = 1, mime: str = "text/plain") -> FileEntry:
    return FileEntry(path=path, size=size, mime=mime, root=bytes(32), sha256=bytes(32), chunk_size=262_144)


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[tuple[int, int]]:
    downloads, parts = open_directory(tmp_path / "downloads"), open_directory(tmp_path / "parts")
    for number in (1, 2, 3):
        (tmp_path / "parts" / f"{number}.part").write_text(str(number))
    yield downloads, parts
    os.close(downloads)
    os.close(parts)


@pytest.mark.parametrize(
    "paths",
    [
        ["../x"],
        ["/etc/x"],
        ["a/../../x"],
        ["a//b"],
        ["."],
        ["C:\\x"],
        ["a\\..\\x"],
        ["a/b", "a"],
        ["a", "a/b"],
        ["/".join("d" * 33)],
        ["x" * 1025],
        ["nul\0"],
    ],
)
def test_lists_that_no_honest_sender_makes(paths: list[str]) -> None:
    with pytest.raises(TransferFailed) as caught:
        planned_paths([entry(path) for path in paths], directory=True)
    assert caught.value.code == FileCode.NAME_REFUSED


def test_a_lone_file_keeps_its_last_part() -> None:
    assert planned_paths([entry("../../etc/pass\x1bwd")], directory=False) == [("pass_wd",)]
    with pytest.raises(TransferFailed):
        planned_paths([entry("a"), entry("b")], directory=False)


def test_twins_are_numbered() -> None:
    found = planned_paths([entry("A/x.txt"), entry("a/X.TXT"), entry("b?"), entry("b*")], directory=True)
    assert found == [("A", "x.txt"), ("a", "X (1).TXT"), ("b_",), ("b_ (1)",)]


def test_a_file_takes_the_first_free_name(folders: tuple[int, int], tmp_path: Path) -> None:
    downloads, parts = folders
    (tmp_path / "downloads" / "f.txt").write_text("mine")
    (tmp_path / "downloads" / "f (1).txt").symlink_to("nowhere")
    assert not link_file(downloads, parts, "f.txt")
    assert not link_file(downloads, parts, "f (1).txt")
    name = free_name(downloads, "f.txt")
    assert name == "f (2).txt"
    assert link_file(downloads, parts, name)
    assert link_file(downloads, parts, name)
    assert (tmp_path / "downloads" / "f.txt").read_text() == "mine"
    assert (tmp_path / "downloads" / name).read_text() == "1"


def test_there_is_an_end_to_numbers(folders: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talos.messaging.files.place.MAX_NUMBER", 2)
    assert MAX_NUMBER == 10_000
    for _ in range(3):
        os.close(os.open(free_name(folders[0], "f"), os.O_CREAT | os.O_EXCL, dir_fd=folders[0]))
    with pytest.raises(TransferFailed) as caught:
        free_name(folders[0], "f")
    assert caught.value.code == FileCode.NAME_REFUSED


def test_a_directory_is_linked_again_after_a_crash(folders: tuple[int, int], tmp_path: Path) -> None:
    downloads, parts = folders
    paths = [("a",), ("d", "b"), ("d", "e", "c")]
    (tmp_path / "downloads" / "top").mkdir()
    os.link(tmp_path / "parts" / "1.part", tmp_path / "downloads" / "top" / "a")
    link_directory(downloads, parts, "top", paths)
    link_directory(downloads, parts, "top", paths)
    top = tmp_path / "downloads" / "top"
    found = {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}
    assert found == {"a": "1", "d/b": "2", "d/e/c": "3"}
    assert top.joinpath("d").stat().st_mode & 0o777 == 0o700


def test_planted_files_and_links_inside(folders: tuple[int, int], tmp_path: Path) -> None:
    downloads, parts = folders
    top = tmp_path / "downloads" / "top"
    top.mkdir()
    (top / "a").write_text("mine")
    link_directory(downloads, parts, "top", [("a",)])
    assert ((top / "a").read_text(), (top / "a (1)").read_text()) == ("mine", "1")
    (tmp_path / "outside").mkdir()
    (top / "d").symlink_to(tmp_path / "outside")
    with pytest.raises(NotADirectoryError):
        link_directory(downloads, parts, "top", [("d", "b")])
    assert list((tmp_path / "outside").iterdir()) == []


LIMITS = TypeLimits(image=10, audio=20, video=50, document=30, other=5)


@pytest.mark.parametrize(
    ("mime", "path", "limit"),
    [
        ("image/png", "x.png", 10),
        ("audio/flac", "x.flac", 20),
        ("video/mp4", "x.mp4", 50),
        ("video/mp4", "x.png", 10),
        ("application/pdf", "x.pdf", 30),
        ("application/octet-stream", "x.mp4", 5),
    ],
)
def test_what_a_list_says_of_its_types(mime: str, path: str, limit: int) -> None:
    config = FileConfig(limits=LIMITS)
    check_files(Manifest((entry(path, size=limit, mime=mime),)), config, directory=False)
    with pytest.raises(TransferFailed) as caught:
        check_files(Manifest((entry(path, size=limit + 1, mime=mime),)), config, directory=False)
    assert caught.value.code == FileCode.TOO_LARGE


def test_more_than_a_transfer_has() -> None:
    for config in (FileConfig(entries=1), FileConfig(total_bytes=1)):
        with pytest.raises(TransferFailed) as caught:
            check_files(Manifest((entry("a"), entry("b"))), config, directory=True)
        assert caught.value.code == FileCode.TOO_LARGE


def test_the_first_chunk_decides_again() -> None:
    lying = entry("x.mp4", size=40, mime="video/mp4")
    check_head(lying, b"\0\0\0\x18ftypisom" + bytes(28), FileConfig(limits=LIMITS))
    with pytest.raises(TransferFailed) as caught:
        check_head(lying, bytes(40), FileConfig(limits=LIMITS))
    assert caught.value.code == FileCode.TOO_LARGE
    with pytest.raises(TransferFailed) as caught:
        check_head(entry("x"), b"\0", FileConfig(known_types_only=True))
    assert caught.value.code == FileCode.TYPE_REFUSED
