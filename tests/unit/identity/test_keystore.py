import os
import stat
from pathlib import Path

import pytest

from talos.errors import WalletError
from talos.identity import keystore
from talos.identity.keys import PrivateKey


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "node key"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_saves_and_loads(path: Path) -> None:
    key = PrivateKey.generate()
    keystore.save(path, key)
    assert keystore.load(path) == key
    assert path.read_bytes() == key.to_bytes()
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_mode_does_not_depend_on_the_umask(path: Path) -> None:
    path.parent.mkdir()
    before = os.umask(0o277)
    try:
        keystore.save(path, PrivateKey.generate())
    finally:
        os.umask(before)
    assert mode(path) == 0o600


def test_creates_once(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        keystore.load(path)
    key = keystore.load_or_create(path)
    assert keystore.load_or_create(path) == key


def test_never_takes_the_place_of_a_key_unasked(path: Path) -> None:
    key = keystore.load_or_create(path)
    with pytest.raises(FileExistsError):
        keystore.save(path, PrivateKey.generate())
    assert keystore.load(path) == key
    assert len(list(path.parent.iterdir())) == 1
    other = PrivateKey.generate()
    keystore.save(path, other, replace=True)
    assert keystore.load(path) == other
    assert len(list(path.parent.iterdir())) == 1


def test_of_two_starts_at_once_both_use_the_key_in_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    winner = PrivateKey.generate()
    save = keystore.save

    def beaten(target: Path, key: PrivateKey) -> None:
        save(target, winner)
        save(target, key)

    monkeypatch.setattr(keystore, "save", beaten)
    assert keystore.load_or_create(path) == winner


def test_failure_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = keystore.load_or_create(path)

    def fail(descriptor: int) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        keystore.save(path, PrivateKey.generate(), replace=True)
    assert keystore.load(path) == key
    assert len(list(path.parent.iterdir())) == 1


def test_is_durable_before_it_appears(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, link = os.fsync, os.link

    def record_sync(descriptor: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def record_link(source: Path, target: Path) -> None:
        steps.append("appears")
        link(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "link", record_link)
    keystore.save(path, PrivateKey.generate())
    assert steps == ["file", "appears", "directory"]


@pytest.mark.parametrize("wide", [0o640, 0o604, 0o700, 0o660, 0o4600])
def test_wider_mode_is_refused_with_the_command_to_run(path: Path, wide: int) -> None:
    keystore.load_or_create(path)
    path.chmod(wide)
    with pytest.raises(WalletError, match=rf"mode {wide:04o}.*run: chmod 600 '.*node key'"):
        keystore.load(path)


def test_narrower_mode_is_fine(path: Path) -> None:
    key = keystore.load_or_create(path)
    path.chmod(0o400)
    assert keystore.load(path) == key


def test_foreign_owner_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keystore.load_or_create(path)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(WalletError, match=rf"belongs to user {owner}; run: chown {owner + 1} "):
        keystore.load(path)


def test_symbolic_link_is_refused(path: Path) -> None:
    keystore.load_or_create(path)
    link = path.parent / "link"
    link.symlink_to(path)
    with pytest.raises(WalletError, match="symbolic link"):
        keystore.load(link)


def test_what_is_no_file_is_refused(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(WalletError, match="not a regular file"):
        keystore.load(path)


@pytest.mark.parametrize("content", [b"", b"\x08\x01", b"text", bytes(keystore.MAX_FILE_BYTES + 1)])
def test_damaged_file_is_named(path: Path, content: bytes) -> None:
    keystore.load_or_create(path)
    path.write_bytes(content)
    with pytest.raises(WalletError, match="node key"):
        keystore.load(path)


def test_every_cut_and_flipped_byte_is_refused_or_another_key(path: Path) -> None:
    key = keystore.load_or_create(path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position])
        with pytest.raises(WalletError):
            keystore.load(path)
        path.write_bytes(whole[:position] + bytes((whole[position] ^ 1,)) + whole[position + 1 :])
        with pytest.raises(WalletError):
            keystore.load(path)
    path.write_bytes(whole)
    assert keystore.load(path) == key
