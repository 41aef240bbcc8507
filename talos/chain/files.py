"""The files beside a chain's database: the lock that says who writes, and the newest checkpoint that was shown.

    LOCK    whole-file lock for the writer's life; in it, as JSON, who that is and whether its end was clean
    HEAD    a signed checkpoint that the database covers, written after its block and before anyone sees it

A chain that was not closed has a journal with content: its last commits are there and nowhere else.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import stat
from typing import TYPE_CHECKING, Any, Final

from talos.errors import ChainInUse, StoreFailed, StoreFull
from talos.identity import private_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HEAD_NAME", "LOCK_NAME", "Lock", "make_directory", "owner_of", "read_head", "write_head"]

HEAD_NAME: Final = "HEAD"
LOCK_NAME: Final = "LOCK"
MAX_HEAD_BYTES = 64 * 1024
MAX_LOCK_BYTES = 256

_log = logging.getLogger(__name__)
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Lock:
    """The right to write in a directory; ChainInUse, which names the holder, when another process has it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_NAME
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, private_file.FILE_MODE)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = owner_of(directory)
            os.close(self._descriptor)
            raise ChainInUse(f"chain is in use by process {holder or 'unknown'}") from None
        before = _read(self._descriptor)
        self.was_open: bool = before.get("open") is True
        """Whether the writer before did not come to its end."""
        self._write(open_=self.was_open)

    def opened(self) -> None:
        """From now on a missing journal is a lost one."""
        self._write(open_=True)

    def closed(self) -> None:
        """All that was committed is in the database itself."""
        self._write(open_=False)

    def release(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, *, open_: bool) -> None:
        data = json.dumps({"pid": os.getpid(), "open": open_}).encode().ljust(MAX_LOCK_BYTES)
        os.pwrite(self._descriptor, data, 0)
        os.fsync(self._descriptor)


def owner_of(directory: Path) -> int | None:
    """The process that said last that it writes here."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        pid = _read(descriptor).get("pid")
    finally:
        os.close(descriptor)
    return pid if isinstance(pid, int) else None


def make_directory(directory: Path) -> None:
    """The directory, 0700; one that is wider is used, with a warning, for nothing in it tells a secret."""
    try:
        if not directory.exists():
            private_file.make_directory(directory)
    except OSError as error:
        raise StoreFailed(f"the chain's directory {directory} cannot be made: {error.strerror}") from error
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o077:
        _log.warning("others can look into the chain's directory (mode %o): chmod 700 %s", mode, directory)


def read_head(directory: Path) -> bytes | None:
    """The note in HEAD; None when there is none."""
    try:
        with (directory / HEAD_NAME).open("rb") as file:
            return file.read(MAX_HEAD_BYTES + 1)
    except FileNotFoundError:
        return None


def write_head(directory: Path, note: bytes) -> None:
    """Replaces HEAD, durable on return. StoreFull, StoreFailed."""
    try:
        private_file.write(directory / HEAD_NAME, note, replace=True)
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(f"no space is left for the chain in {directory}") from error
        raise StoreFailed(f"cannot write {directory / HEAD_NAME}: {error.strerror}") from error


def _read(descriptor: int) -> dict[str, Any]:
    """What a holder wrote; nothing where that is cut or empty."""
    try:
        found = json.loads(os.pread(descriptor, MAX_LOCK_BYTES, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
