"""A whole identity in one file, and what becomes of a damaged one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from talos.errors import LimitExceeded, WalletError
from talos.identity import backup, private_file, sealed, wallet
from talos.identity.backup import HISTORY, Backup
from talos.identity.home import Home
from talos.identity.sealed import Passphrase
from talos.identity.wallet import Wallet
from talos.wire import fields

if TYPE_CHECKING:
    from pathlib import Path

SECRET = Passphrase.of("correct horse")
FILES = {"contacts.toml": b"[blocked]\npeers = []\n", HISTORY: bytes(range(256)) * 400}


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "_MEMORY_KIB", 19 * 1024)
    monkeypatch.setattr(sealed, "_PASSES", 2)


@pytest.fixture
def alice() -> Wallet:
    return Wallet.new("Alice", now_ms=1)


@pytest.fixture
def file(tmp_path: Path, alice: Wallet) -> Path:
    backup.write(tmp_path / "backup", Backup(alice, FILES), SECRET)
    return tmp_path / "backup"


def test_what_was_kept_is_there_again(file: Path, alice: Wallet, tmp_path: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    found = backup.read(file, SECRET)
    assert (wallet.encode(found.wallet), found.files) == (wallet.encode(alice), FILES)
    home = Home(tmp_path / "home")
    home.prepare()
    backup.restore(home, found, None)
    assert wallet.encode(wallet.unlock(home, lambda: pytest.fail("asked"))) == wallet.encode(alice)
    for name, data in FILES.items():
        assert private_file.read(home.path / name, 1 << 20, "file") == data
    with pytest.raises(FileExistsError):
        backup.restore(home, found, None)


def test_a_home_with_settings_of_its_own_is_left_alone(file: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    private_file.write(home.contacts, b"")
    with pytest.raises(FileExistsError):
        backup.restore(home, backup.read(file, SECRET), SECRET)
    assert not home.wallet.exists()


def test_no_byte_can_be_changed(file: Path) -> None:
    data = file.read_bytes()
    for place in (0, 10, 30, 60, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :])
        with pytest.raises(WalletError):
            backup.read(file, SECRET)
    file.write_bytes(data[:-1])
    with pytest.raises(WalletError):
        backup.read(file, SECRET)
    file.write_bytes(data)
    with pytest.raises(WalletError) as caught:
        backup.read(file, Passphrase.of("another"))
    assert caught.value.reason == "locked"


def entry(name: bytes, data: bytes) -> bytes:
    return fields.bytes_field(2, fields.bytes_field(1, name) + fields.bytes_field(2, data))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "holds no wallet"),
        (b"\x0a\x05", "is damaged"),
        (entry(b"\xff", b""), "is damaged"),
        (fields.bytes_field(2, b""), "is damaged"),
        (fields.bytes_field(1, b""), "lacks a part"),
    ],
)
def test_what_is_no_backup_inside(tmp_path: Path, body: bytes, said: str) -> None:
    private_file.write(tmp_path / "backup", sealed.seal(body, SECRET))
    with pytest.raises(WalletError, match=said):
        backup.read(tmp_path / "backup", SECRET)


def test_a_name_that_no_backup_has_is_not_written(tmp_path: Path, alice: Wallet) -> None:
    names = ("../evil", "/etc/passwd", "wallet", "run/ctl.sock", "mcp.toml")
    backup.write(tmp_path / "backup", Backup(alice, dict.fromkeys(names, b"x")), SECRET)
    assert backup.read(tmp_path / "backup", SECRET).files == {"mcp.toml": b"x"}


def test_its_size_is_bounded(tmp_path: Path, alice: Wallet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "MAX_BACKUP_BYTES", sealed.MAX_CONTAINER_BYTES + 1000)
    backup.write(tmp_path / "small", Backup(alice, {"mcp.toml": bytes(500)}), SECRET)
    with pytest.raises(LimitExceeded):
        backup.write(tmp_path / "large", Backup(alice, {"mcp.toml": bytes(2000)}), SECRET)
    assert not (tmp_path / "large").exists()
