"""The key file: a serialized private key, readable by its owner alone.

All calls block on the disk and are meant for the start of a program. What the operating system refuses is
raised as it is (OSError); a file that is not safe to use is a WalletError that names what to run.
"""

from __future__ import annotations

import os
import secrets
import shlex
import stat
from typing import TYPE_CHECKING

from talos.errors import ConfigError, WalletError
from talos.identity.keys import PrivateKey

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAX_FILE_BYTES", "load", "load_or_create", "save"]

MAX_FILE_BYTES = 8192


def load(path: Path) -> PrivateKey:
    """The key in the file; FileNotFoundError when there is none.

    Refuses a symbolic link, anything but a regular file, another owner's file and a mode wider than 0600.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink():
            raise WalletError(f"key file {path} is a symbolic link, name the file itself") from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        _check(path, os.fstat(file.fileno()))
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise WalletError(f"key file {path} is longer than {MAX_FILE_BYTES} bytes")
    try:
        return PrivateKey.from_bytes(data)
    except ConfigError as error:
        raise WalletError(f"key file {path} does not hold a private key: {error}") from error


def save(path: Path, key: PrivateKey, *, replace: bool = False) -> None:
    """Writes the key file as a whole or not at all, durable on return; its directory is made, mode 0700.

    FileExistsError when there is one, unless `replace`.
    """
    directory = path.parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = directory / f".{path.name}.{secrets.token_hex(8)}"
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # a strange umask must not leave it unreadable
            file.write(key.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        if replace:
            scratch.replace(path)
        else:
            os.link(scratch, path)  # unlike a rename it never takes a file's place
    finally:
        scratch.unlink(missing_ok=True)
    _sync_directory(directory)


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


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise WalletError(f"key file {path} is not a regular file")
    if status.st_uid != os.geteuid():
        raise WalletError(f"key file {path} belongs to user {status.st_uid}; run: chown {os.geteuid()} {_quoted(path)}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~0o600:
        raise WalletError(f"key file {path} has mode {mode:04o}, others may use it; run: chmod 600 {_quoted(path)}")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
