"""A whole identity in one file: the wallet with its contacts and settings, and its messages where they are wanted.

The container is that of the wallet (`talos.identity.sealed`), under a passphrase of its own. Its body:

    message Backup { bytes wallet = 1; repeated File files = 2; }   message File { string name = 1; bytes data = 2; }

The message store lies in it as it lies in the home, sealed once more under the wallet's store key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from talos.errors import LimitExceeded, RemoteProtocolError, WalletError
from talos.identity import private_file, sealed, wallet
from talos.wire import fields

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from talos.identity.home import Home
    from talos.identity.sealed import Passphrase
    from talos.identity.wallet import Wallet

__all__ = ["HISTORY", "MAX_BACKUP_BYTES", "SETTINGS", "Backup", "read", "restore", "write"]

MAX_BACKUP_BYTES = 1 << 30
SETTINGS = ("contacts.toml", "config.toml", "mcp.toml")
HISTORY = "messages.db"

_WALLET, _FILE = 1, 2
_NAME, _DATA = 1, 2


@dataclass(frozen=True, slots=True, repr=False)
class Backup:
    """What is kept: the wallet, and files of the home by their names."""

    wallet: Wallet
    files: Mapping[str, bytes]


def write(path: Path, backup: Backup, passphrase: Passphrase) -> None:
    """Writes the file, 0600. FileExistsError when there is one, LimitExceeded past 1 GiB."""
    parts = [fields.bytes_field(_WALLET, wallet.encode(backup.wallet))]
    parts += [
        fields.bytes_field(_FILE, fields.bytes_field(_NAME, name.encode()) + fields.bytes_field(_DATA, data))
        for name, data in backup.files.items()
    ]
    size = sum(map(len, parts))
    if size > MAX_BACKUP_BYTES - sealed.MAX_CONTAINER_BYTES:
        raise LimitExceeded(f"{size} bytes are more than a backup holds", limit=MAX_BACKUP_BYTES, kind="bytes")
    private_file.write(path, sealed.seal(b"".join(parts), passphrase))


def read(path: Path, passphrase: Passphrase) -> Backup:
    """Opens the file. WalletError "locked" or "damaged"; names that no backup has are left out."""
    data = private_file.read(path, MAX_BACKUP_BYTES, "backup")
    body = sealed.open_sealed(data, passphrase, most=MAX_BACKUP_BYTES)
    found: Wallet | None = None
    files: dict[str, bytes] = {}
    try:
        for number, value in fields.read(body):
            if number == _WALLET and isinstance(value, bytes):
                found = wallet.decode(value)
            elif number == _FILE and isinstance(value, bytes):
                file = fields.singular_bytes(value, (_NAME, _DATA))
                files[file[_NAME].decode()] = file.get(_DATA, b"")
    except (RemoteProtocolError, UnicodeDecodeError, KeyError):
        raise WalletError("the backup's content is damaged") from None
    if found is None:
        raise WalletError("the backup holds no wallet")
    return Backup(found, {name: data for name, data in files.items() if name in (*SETTINGS, HISTORY)})


def restore(home: Home, backup: Backup, passphrase: Passphrase | None) -> None:
    """Fills a home that has no wallet; without a passphrase the wallet lies beside an unlock key.

    To be called with the home's lock held. The wallet comes last: a home that was filled half has none.
    FileExistsError when something of it is there already.
    """
    for name, data in backup.files.items():
        private_file.write(home.path / name, data)
    wallet.create(home, backup.wallet, passphrase)
