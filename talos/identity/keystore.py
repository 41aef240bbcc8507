"""The key file: a serialized private key, readable by its owner alone.

All calls block on the disk and are meant for the start of a program. What the operating system refuses is
raised as it is (OSError); a file that is not safe to use is a WalletError that names what to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.errors import ConfigError, WalletError
from talos.identity import private_file
from talos.identity.keys import PrivateKey

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAX_FILE_BYTES", "load", "load_or_create", "save"]

MAX_FILE_BYTES = 8192


def load(path: Path) -> PrivateKey:
    """The key in the file; FileNotFoundError when there is none.

    Refuses a symbolic link, anything but a regular file, another owner's file and a mode wider than 0600.
    """
    data = private_file.read(path, MAX_FILE_BYTES, "key file")
    try:
        return PrivateKey.from_bytes(data)
    except ConfigError as error:
        raise WalletError(f"key file {path} does not hold a private key: {error}") from error


def save(path: Path, key: PrivateKey, *, replace: bool = False) -> None:
    """Writes the key file as a whole or not at all, durable on return; its directory is made, mode 0700.

    FileExistsError when there is one, unless `replace`.
    """
    path.parent.mkdir(mode=private_file.DIRECTORY_MODE, parents=True, exist_ok=True)
    private_file.write(path, key.to_bytes(), replace=replace)


def load_or_create(path: Path) -> PrivateKey:
    """The key in the file, or a new Ed25519 key written there first.

    Of programs that start at once, all end with the key that is in the file.
    """
    try:
        return load(path)
    except FileNotFoundError:
        key = PrivateKey.generate()
    try:
        save(path, key)
    except FileExistsError:
        return load(path)
    return key
