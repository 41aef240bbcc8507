"""Private files and directories: modes under any umask, and what is refused with the command that mends it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from talos.errors import WalletError
from talos.identity import private_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_files_and_directories_are_private_under_any_umask(tmp_path: Path, umask: None) -> None:
    directory = tmp_path / "a" / "b"
    private_file.make_directory(directory)
    private_file.write(directory / "f", b"secret")
    assert [mode(path) for path in (directory.parent, directory, directory / "f")] == [0o700, 0o700, 0o600]
    assert private_file.read(directory / "f", 6, "file") == b"secret"


def test_a_file_is_replaced_only_when_told_and_leaves_no_scraps(tmp_path: Path) -> None:
    path = tmp_path / "f"
    private_file.write(path, b"one")
    with pytest.raises(FileExistsError):
        private_file.write(path, b"two")
    assert path.read_bytes() == b"one"
    private_file.write(path, b"two", replace=True)
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_scraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    private_file.write(path, b"one")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        private_file.write(path, b"two", replace=True)
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o700, 0o644])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "a file"
    private_file.write(path, b"x")
    path.chmod(bits)
    with pytest.raises(WalletError, match=rf"wallet .* has mode 0{bits:o}.*; run: chmod 600 '.*a file'") as caught:
        private_file.read(path, 10, "wallet")
    assert caught.value.reason == "open"


def test_a_directory_that_others_may_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d"
    private_file.make_directory(path)
    for bits in (0o777, 0o755, 0o1700, 0o750):
        path.chmod(bits)
        with pytest.raises(WalletError, match="; run: chmod 700 ") as caught:
            private_file.make_directory(path)
        assert caught.value.reason == "open"


def test_another_owner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, path = tmp_path / "d", tmp_path / "d" / "f"
    private_file.make_directory(directory)
    private_file.write(path, b"x")
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(WalletError, match=f"belongs to user {own}; run: chown {own + 1} "):
        private_file.read(path, 10, "wallet")
    with pytest.raises(WalletError, match=f"belongs to user {own}; run: chown"):
        private_file.check_directory(directory)


def test_links_are_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    private_file.make_directory(directory)
    private_file.write(directory / "f", b"x")
    (tmp_path / "file").symlink_to(directory / "f")
    (tmp_path / "directory").symlink_to(directory)
    with pytest.raises(WalletError, match="symbolic link"):
        private_file.read(tmp_path / "file", 10, "wallet")
    with pytest.raises(WalletError, match="symbolic link"):
        private_file.make_directory(tmp_path / "directory")


def test_what_is_no_file_or_no_directory_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    private_file.make_directory(directory)
    os.mkfifo(directory / "pipe", 0o600)
    private_file.write(directory / "f", b"x")
    with pytest.raises(WalletError, match="not a regular file"):
        private_file.read(directory / "pipe", 10, "wallet")
    with pytest.raises(WalletError, match="not a directory"):
        private_file.check_directory(directory / "f")


def test_a_long_file_is_refused(tmp_path: Path) -> None:
    private_file.write(tmp_path / "f", b"x" * 11)
    with pytest.raises(WalletError, match="longer than 10 bytes"):
        private_file.read(tmp_path / "f", 10, "wallet")


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        private_file.read(tmp_path / "f", 10, "wallet")
