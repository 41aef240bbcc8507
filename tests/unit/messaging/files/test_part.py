"""Unfinished files: what a journal is worth, what is planted in their way, full disks."""

from __future__ import annotations

import errno
import os
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING

import pytest

from talos.errors import TransferFailed
from talos.messaging.files.code import FileCode
from talos.messaging.files.config import FileConfig
from talos.messaging.files.manifest import FileEntry, leaf, tree_root
from talos.messaging.files.part import Part, PartsDirectory, disk_faults, open_directory, remove_parts, remove_strays
from talos.messaging.files.rules import check_room, folder_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK = 256 * 1024
DATA = Random(3).randbytes(9 * CHUNK + 100)
CHUNKS = [DATA[start : start + CHUNK] for start in range(0, len(DATA), CHUNK)]
LEAVES = tuple(map(leaf, CHUNKS))
ENTRY = FileEntry(
    path="f", size=len(DATA), mime="", root=tree_root(LEAVES), sha256=sha256(DATA).digest(), chunk_size=CHUNK
)
STREAM = bytes(range(16))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = open_directory(tmp_path / "downloads")
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def directory(folder: int) -> Iterator[PartsDirectory]:
    parts = PartsDirectory(folder, STREAM)
    yield parts
    parts.close()


def part_path(tmp_path: Path, name: str = "1.part") -> Path:
    return tmp_path / "downloads" / ".incoming" / STREAM.hex() / name


def test_out_of_order_and_resumed(directory: PartsDirectory, tmp_path: Path) -> None:
    assert directory.leaves(1, ENTRY) is None
    part = Part(directory, 1, ENTRY, LEAVES)
    assert part.missing() == list(range(10))
    for index in (3, 0, 9):
        assert part.write(index, CHUNKS[index])
        part.hash(index, CHUNKS[index])
    part.sync()
    assert part.write(5, CHUNKS[5])
    part.close()
    assert directory.leaves(1, ENTRY) == LEAVES
    part = Part(directory, 1, ENTRY, LEAVES)
    assert part.missing() == [1, 2, 4, 5, 6, 7, 8]
    for index in part.missing():
        part.write(index, CHUNKS[index])
    part.finish()
    part.close()
    assert part_path(tmp_path).read_bytes() == DATA
    part = Part(directory, 1, ENTRY, LEAVES)
    assert part.missing() == []
    part.finish()
    part.close()
    part.close()
    part.sync()


def test_a_journal_that_lies_only_costs_time(directory: PartsDirectory, tmp_path: Path) -> None:
    part = Part(directory, 1, ENTRY, LEAVES)
    for index, chunk in enumerate(CHUNKS):
        part.write(index, chunk)
    part.sync()
    part.close()
    with part_path(tmp_path).open("r+b") as file:
        file.seek(4 * CHUNK + 7)
        file.write(b"flip")
        file.truncate(9 * CHUNK)
    part = Part(directory, 1, ENTRY, LEAVES)
    assert part.missing() == [4, 9]
    part.close()


@pytest.mark.parametrize("cut", [0, 7, 8, 39, 40, 8 + 32 * 11 - 1])
def test_a_journal_that_was_cut_begins_anew(directory: PartsDirectory, tmp_path: Path, cut: int) -> None:
    part = Part(directory, 1, ENTRY, LEAVES)
    part.write(0, CHUNKS[0])
    part.sync()
    part.close()
    os.truncate(part_path(tmp_path, "1.journal"), cut)
    assert directory.leaves(1, ENTRY) is None
    part = Part(directory, 1, ENTRY, LEAVES)
    assert part.missing() == list(range(10))
    part.close()


def test_a_journal_of_another_root_is_not_believed(directory: PartsDirectory, tmp_path: Path) -> None:
    part = Part(directory, 1, ENTRY, LEAVES)
    part.sync()
    part.close()
    journal = bytearray(part_path(tmp_path, "1.journal").read_bytes())
    journal[50] ^= 1
    part_path(tmp_path, "1.journal").write_bytes(journal)
    assert directory.leaves(1, ENTRY) is None


def test_a_wrong_chunk_is_not_written(directory: PartsDirectory, tmp_path: Path) -> None:
    part = Part(directory, 1, ENTRY, LEAVES)
    for position in range(0, CHUNK, CHUNK // 16):
        flipped = bytearray(CHUNKS[0])
        flipped[position] ^= 1 << (position % 8)
        assert not part.write(0, bytes(flipped))
    part.close()
    assert part_path(tmp_path).stat().st_size == 0


def test_small_files_have_no_journal(directory: PartsDirectory, tmp_path: Path) -> None:
    entry = FileEntry(path="s", size=3, mime="", root=leaf(b"abc"), sha256=sha256(b"abc").digest(), chunk_size=CHUNK)
    part = Part(directory, 1, entry, directory.leaves(1, entry) or ())
    assert part.missing() == [0]
    part.write(0, b"abc")
    part.close()
    part = Part(directory, 1, entry, (leaf(b"abc"),))
    assert part.missing() == []
    part.finish()
    part.close()
    empty = FileEntry(path="e", size=0, mime="", root=tree_root([]), sha256=sha256(b"").digest(), chunk_size=CHUNK)
    part = Part(directory, 2, empty, directory.leaves(2, empty) or ())
    assert part.missing() == []
    part.finish()
    part.close()
    assert not part_path(tmp_path, "1.journal").exists()


def test_a_list_that_lies_about_the_whole(directory: PartsDirectory) -> None:
    entry = FileEntry(path="s", size=3, mime="", root=leaf(b"abc"), sha256=bytes(32), chunk_size=CHUNK)
    part = Part(directory, 1, entry, (leaf(b"abc"),))
    part.write(0, b"abc")
    with pytest.raises(TransferFailed) as caught:
        part.finish()
    part.close()
    assert caught.value.code == FileCode.HASH_MISMATCH


@pytest.mark.parametrize("planted", ["link", "fifo", "directory"])
@pytest.mark.parametrize("name", ["1.part", "1.journal"])
def test_nothing_planted_is_written_through(directory: PartsDirectory, tmp_path: Path, planted: str, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    where = part_path(tmp_path, name)
    if planted == "link":
        where.symlink_to(victim)
    elif planted == "fifo":
        os.mkfifo(where)
    else:
        where.mkdir()
    with pytest.raises(TransferFailed), disk_faults():
        Part(directory, 1, ENTRY, LEAVES)
    assert victim.read_text() == "mine"


def test_a_linked_directory_is_not_entered(folder: int, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "downloads" / ".incoming").symlink_to(tmp_path / "outside")
    with pytest.raises(NotADirectoryError):
        PartsDirectory(folder, STREAM)
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "text"), [(errno.ENOSPC, "no space"), (errno.EDQUOT, "no space"), (errno.EIO, "cannot be written")]
)
def test_faults_of_the_disk_end_the_transfer(number: int, text: str) -> None:
    with pytest.raises(TransferFailed, match=text) as caught, disk_faults():
        raise OSError(number, os.strerror(number))
    assert caught.value.code == FileCode.NO_SPACE


def test_a_full_disk_at_each_write(directory: PartsDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever call fails, nothing is lost that was there, and the next try goes on."""
    failing = ("pwrite", "fdatasync", "fsync", "ftruncate")
    for name in failing:
        real, left = getattr(os, name), [2]

        def fails(*args: object, real: object = real, left: list[int] = left) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "full")
            return real(*args)  # type: ignore[operator]

        with monkeypatch.context() as patched, pytest.raises(TransferFailed), disk_faults():  # noqa: PT012
            patched.setattr(os, name, fails)
            for _ in range(3):
                part = Part(directory, 1, ENTRY, LEAVES)
                try:
                    for index in part.missing():
                        part.write(index, CHUNKS[index])
                        part.sync()
                    part.finish()
                finally:
                    part.close()
    part = Part(directory, 1, ENTRY, LEAVES)
    for index in part.missing():
        part.write(index, CHUNKS[index])
    part.finish()
    part.close()


def test_leftovers_go(folder: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for stream in (STREAM, bytes(16)):
        directory = PartsDirectory(folder, stream)
        Part(directory, 1, ENTRY, LEAVES).close()
        directory.close()
    incoming = tmp_path / "downloads" / ".incoming"
    remove_strays(folder, [STREAM])
    assert [path.name for path in incoming.iterdir()] == [STREAM.hex()]
    (incoming / STREAM.hex() / "inner").mkdir()
    remove_parts(folder, STREAM.hex())
    assert "stay behind" in caplog.text
    (incoming / STREAM.hex() / "inner").rmdir()
    remove_parts(folder, STREAM.hex())
    remove_parts(folder, STREAM.hex())
    assert list(incoming.iterdir()) == []


def test_room(folder: int, tmp_path: Path) -> None:
    volume = os.fstatvfs(folder)
    free = volume.f_bavail * volume.f_frsize
    check_room(folder, 0, FileConfig(free_bytes=0))
    for wanted, kept in ((free + (1 << 30), 0), (free, 1 << 30)):
        with pytest.raises(TransferFailed) as caught:
            check_room(folder, wanted, FileConfig(free_bytes=kept))
        assert caught.value.code == FileCode.NO_SPACE
    downloads = tmp_path / "downloads"
    (downloads / "inner").mkdir()
    (downloads / "inner" / "a").write_bytes(bytes(100))
    os.link(downloads / "inner" / "a", downloads / "b")
    (downloads / "link").symlink_to("/etc/passwd")
    assert folder_bytes(downloads) == 100 + len("/etc/passwd")


def test_a_large_file_is_whole_though_the_cache_forgets_it(
    directory: PartsDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[int] = []
    advise = os.posix_fadvise

    def note(file: int, start: int, length: int, advice: int) -> None:
        forgotten.append(advice)
        advise(file, start, length, advice)

    monkeypatch.setattr("talos.messaging.files.part.LARGE_BYTES", len(DATA))
    monkeypatch.setattr(os, "posix_fadvise", note)
    part = Part(directory, 1, ENTRY, LEAVES)
    for index in (1, 0, *range(2, 10)):
        assert part.write(index, CHUNKS[index])
    part.sync()
    part.finish()
    part.close()
    assert set(forgotten) == {os.POSIX_FADV_DONTNEED}
    assert part_path(tmp_path).read_bytes() == DATA
