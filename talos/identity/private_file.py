"""Files and directories for their owner's eyes alone: secrets, and what tells who talked to whom.

Nothing is opened through a symbolic link, and what others could read or have put there is refused with the
command that mends it. A file is written as a whole or not at all. All calls block on the disk.
What the operating system refuses is raised as it is (OSError).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from talos.errors import WalletError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["check_directory", "check_file", "make_directory", "read", "sync_directory", "turn", "write"]

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


def read(path: Path, limit: int, what: str) -> bytes:
    """The content of `path`, at most `limit` bytes; FileNotFoundError when there is none.

    `what` names the file in errors. WalletError for a symbolic link, anything but a regular file, another
    owner's file, a mode wider than 0600 and a longer file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink():
            raise WalletError(f"{what} {path} is a symbolic link, name the file itself", reason="open") from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        check_file(path, os.fstat(file.fileno()), what)
        data = file.read(limit + 1)
    if len(data) > limit:
        raise WalletError(f"{what} {path} is longer than {limit} bytes")
    return data


def write(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Writes the file, mode 0600 under any umask, durable on return; its directory must exist.

    FileExistsError when there is one, unless `replace`.
    """
    scratch = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), FILE_MODE)  # a strange umask must not leave it unreadable
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            scratch.replace(path)
        else:
            os.link(scratch, path)  # unlike a rename it never takes a file's place
    finally:
        scratch.unlink(missing_ok=True)
    sync_directory(path.parent)


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """One at a time for those who read a file and write it changed, of all processes; waits for the others.

    The file itself is replaced, so a file beside it is what is locked; it is never deleted.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path.with_name(f".{path.name}.lock"), flags, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Makes `path` and what is missing above it, each 0700 under any umask; one that is there is checked."""
    if not path.parent.exists():
        make_directory(path.parent)
    try:
        path.mkdir(DIRECTORY_MODE)
    except FileExistsError:
        check_directory(path)
    else:
        path.chmod(DIRECTORY_MODE)


def check_file(path: Path, status: os.stat_result, what: str) -> None:
    """WalletError unless `status` is that of a regular file of ours which others cannot use."""
    if not stat.S_ISREG(status.st_mode):
        raise WalletError(f"{what} {path} is not a regular file", reason="open")
    _check_owner_and_mode(path, status, what, FILE_MODE)


def check_directory(path: Path) -> None:
    """WalletError unless `path` is a directory of ours, and no link, which others cannot use."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise WalletError(f"directory {path} is a symbolic link, name the directory itself", reason="open")
    if not stat.S_ISDIR(status.st_mode):
        raise WalletError(f"{path} is not a directory", reason="open")
    _check_owner_and_mode(path, status, "directory", DIRECTORY_MODE)


def sync_directory(directory: Path) -> None:
    """Makes the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_owner_and_mode(path: Path, status: os.stat_result, what: str, allowed: int) -> None:
    quoted = shlex.quote(str(path))
    if status.st_uid != os.geteuid():
        owner = status.st_uid
        raise WalletError(f"{what} {path} belongs to user {owner}; run: chown {os.geteuid()} {quoted}", reason="open")
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~allowed:
        raise WalletError(
            f"{what} {path} has mode {mode:04o}, others may use it; run: chmod {allowed:o} {quoted}", reason="open"
        )
