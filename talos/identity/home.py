"""The data directory of one identity: what lies where, and the lock that says whose turn it is.

    wallet, wallet.key, identity.json     talos.identity.wallet
    contacts.toml                         talos.identity.contacts
    config.toml, mcp.toml                 written by their owner
    messages.db                           history and outbox, sealed
    chain/                                the node's chain, its record of what happened
    mcp/connect/<server>-<n>/             a chain for each connection that runs beside others
    outgoing/                             what was piped into a transfer, until that is over
    audit/                                the log of versions before the chain
    log/                                  crash reports
    run/metrics.token                     who may read the numbers of this run
    lock                                  never deleted

All of it is 0700 and 0600. Calls block on the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from talos.errors import HomeInUse, WalletError
from talos.identity import private_file

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Home"]

MAX_LOCK_BYTES = 256


@dataclass(frozen=True, slots=True)
class Home:
    """A data directory by its absolute path; nothing is read or made before a method is called."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(os.path.abspath(self.path)))  # noqa: PTH100 - no link is followed

    @property
    def wallet(self) -> Path:
        return self.path / "wallet"

    @property
    def unlock_key(self) -> Path:
        return self.path / "wallet.key"

    @property
    def identity(self) -> Path:
        return self.path / "identity.json"

    @property
    def contacts(self) -> Path:
        return self.path / "contacts.toml"

    @property
    def messages(self) -> Path:
        return self.path / "messages.db"

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def chain(self) -> Path:
        return self.path / "chain"

    @property
    def audit(self) -> Path:
        return self.path / "audit"

    @property
    def mcp_connect(self) -> Path:
        return self.path / "mcp" / "connect"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def metrics_token(self) -> Path:
        return self.path / "run" / "metrics.token"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    def prepare(self) -> None:
        """Makes the directory, or checks the one that is there as `check` does."""
        private_file.make_directory(self.path)

    def check(self) -> None:
        """WalletError when there is no directory, or one that others can use; the message says what to run."""
        try:
            private_file.check_directory(self.path)
        except FileNotFoundError:
            raise WalletError(f"no identity in {self.path}", reason="missing") from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the directory for the length of the block; HomeInUse at once when another process does.

        To be called by the process that does the work. The lock is the whole-file kind: it goes with the process,
        however that ends, and not with whichever descriptor of the file is closed first.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.lock_file, flags, private_file.FILE_MODE)
        try:
            private_file.check_file(self.lock_file, os.fstat(descriptor), "lock file")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HomeInUse(f"{self.path} is in use{_holder(os.pread(descriptor, MAX_LOCK_BYTES, 0))}") from None
            owner = json.dumps({"pid": os.getpid(), "since": int(time.time())}).encode()
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, owner, 0)
            yield
        finally:
            os.close(descriptor)

    def holder(self) -> tuple[int, int] | None:
        """Pid and start of whoever took the lock last; it may have left it by now."""
        try:
            found = json.loads(self.lock_file.read_bytes()[:MAX_LOCK_BYTES])
            return int(found["pid"]), int(found["since"])
        except (OSError, ValueError, TypeError, KeyError, OverflowError):
            return None

    def is_owned(self) -> bool:
        """Whether some process holds the lock now."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def _holder(data: bytes) -> str:
    """Who holds the lock by what it wrote there; nothing when it has not come so far."""
    try:
        found = json.loads(data)
        since = time.strftime("%H:%M", time.localtime(found["since"]))
        return f" by pid {int(found['pid'])} since {since}"
    except (ValueError, TypeError, KeyError, OverflowError):
        return ""
