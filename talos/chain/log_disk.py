"""The files of one log, opened by their one writer. Everything here blocks; `file_log` calls it from threads."""

from __future__ import annotations

import errno
import fcntl
import hmac
import os
import secrets as random_bytes
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from talos.chain.entry import Entry, leaf_hash, msg_key
from talos.chain.reader import HEAD_NAME, LOCK_NAME, LOG_NAME
from talos.chain.record import (
    HEADER_BYTES,
    LINK_BYTES,
    MAX_BODY_BYTES,
    PREFIX_BYTES,
    Head,
    Header,
    Secrets,
    entry_of,
)
from talos.errors import AuditError, ProofInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["LogDisk", "LogInUse", "LogStopped"]

MARK_BYTES = 256 * 1024
"""How far back the next opening reads at least, to know repeated entries: a few hundred records."""
_sync = getattr(os, "fdatasync", os.fsync)


class LogInUse(AuditError):
    """Another process writes this log."""


class LogStopped(AuditError):
    """What is on the disk is no longer known: nothing more is written until the log is opened again."""


class LogDisk:
    """A locked log, open at its end. Opening it repairs what a crash left and checks what the head names."""

    def __init__(self, directory: Path, k_priv: Callable[[bytes], bytes], max_bytes: int) -> None:
        self.directory = directory
        self.torn = 0
        self.count = 0
        self.recent: list[tuple[bytes, bytes]] = []
        """Message key and leaf of the records that opening read, oldest first."""
        self.secrets: Secrets
        self._max_bytes = max_bytes
        self._end = HEADER_BYTES
        self._link = b""
        self._log = self._head = -1
        self._marks: deque[tuple[int, int]] = deque()
        self._descriptors: list[int] = []
        try:
            self._open(k_priv)
        except OSError as error:
            self.close()
            raise AuditError(f"cannot open the log in {directory}: {error.strerror}") from error
        except ProofInvalid as error:
            self.close()
            raise AuditError(f"the log in {directory} is damaged: {error}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of the lock last. Idempotent."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def append(self, bodies: Iterable[bytes]) -> None:
        """Makes records of the bodies, durable on return: one write, one sync.

        AuditError: none of them is there, later ones may work. LogStopped: unknown, and final.
        """
        data, link, count = bytearray(), self._link, self.count
        for body in bodies:
            count += 1
            link = self.secrets.link(link, count, body)
            data += len(body).to_bytes(PREFIX_BYTES, "big") + body + link
        if self._end + len(data) > self._max_bytes:
            raise AuditError(f"the log in {self.directory} is full: {self._max_bytes} bytes")
        self._write(data)
        try:
            _sync(self._log)
        except OSError as error:
            # A kernel forgets the pages that it could not write: a second sync would succeed and prove nothing.
            raise LogStopped(f"the log in {self.directory} failed: {error.strerror}") from error
        self._end, self._link, self.count = self._end + len(data), link, count
        self._move_mark()
        self._write_head()

    def _open(self, k_priv: Callable[[bytes], bytes]) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._file(LOCK_NAME, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                raise
            raise LogInUse(f"the log in {self.directory} is in use by another process") from error
        if not (self.directory / LOG_NAME).exists():
            self._create(k_priv)
        self._log = self._file(LOG_NAME, os.O_RDWR | os.O_APPEND)
        data = os.pread(self._log, HEADER_BYTES, 0)
        header = Header.decode(data)
        self.secrets = Secrets(k_priv(header.random))
        header.check(data, self.secrets)
        head = self._read_head(header)
        self._marks.append((head.mark_count, head.mark_offset))
        self._read_tail(head)
        if self.torn:
            os.ftruncate(self._log, self._end)
            os.fsync(self._log)
        self._write_head()

    def _create(self, k_priv: Callable[[bytes], bytes]) -> None:
        if (self.directory / HEAD_NAME).exists():
            raise ProofInvalid("there is a head without its log")
        header = Header(time.time_ns() // 1_000_000, random_bytes.token_bytes(16))
        scratch = self.directory / f".{LOG_NAME}"
        scratch.unlink(missing_ok=True)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, header.encode(Secrets(k_priv(header.random))))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        scratch.rename(self.directory / LOG_NAME)
        self._sync_directory()

    def _read_head(self, header: Header) -> Head:
        """The head; a log that was just made, or whose maker died before, has none and no records."""
        fresh = not (self.directory / HEAD_NAME).exists()
        if fresh and os.fstat(self._log).st_size > HEADER_BYTES:
            raise ProofInvalid("its head is missing")
        self._head = self._file(HEAD_NAME, os.O_RDWR | os.O_CREAT)
        if not fresh:
            head = Head.decode(os.pread(self._head, 4096, 0), self.secrets)
            if os.fstat(self._log).st_size < head.end:
                raise ProofInvalid(f"it ends before record {head.count}, the last that the head names")
            return head
        head = Head(0, HEADER_BYTES, header.link(self.secrets), 0, HEADER_BYTES)
        os.pwrite(self._head, head.encode(self.secrets), 0)
        os.fsync(self._head)
        self._sync_directory()
        return head

    def _read_tail(self, head: Head) -> None:
        """From the head's mark on: records up to the head must hold, behind it only whole ones count."""
        size = os.fstat(self._log).st_size
        offset, count = head.mark_offset, head.mark_count
        link = os.pread(self._log, LINK_BYTES, offset - LINK_BYTES)
        while (body := self._body_at(offset, size)) is not None:
            behind = offset + PREFIX_BYTES + len(body)
            expected = self.secrets.link(link, count + 1, body)
            if not hmac.compare_digest(expected, os.pread(self._log, LINK_BYTES, behind)):
                break
            entry = entry_of(body)
            self.recent.append((msg_key(Entry.decode(entry)), leaf_hash(entry)))
            offset, count, link = behind + LINK_BYTES, count + 1, expected
            if offset == head.end and (count, link) != (head.count, head.link):
                raise ProofInvalid(f"record {count} is not the one that the head names")
        if offset < head.end:
            raise ProofInvalid(f"record {count + 1} (byte {offset}) is damaged; the head counts {head.count}")
        self.count, self._end, self._link, self.torn = count, offset, link, size - offset

    def _body_at(self, offset: int, size: int) -> bytes | None:
        length = int.from_bytes(os.pread(self._log, PREFIX_BYTES, offset), "big")
        if length > MAX_BODY_BYTES or offset + PREFIX_BYTES + length + LINK_BYTES > size:
            return None
        return os.pread(self._log, length, offset + PREFIX_BYTES)

    def _write(self, data: bytes | bytearray) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._log, left) :]
        except OSError as error:
            self._cut_back()
            raise AuditError(f"cannot write to the log in {self.directory}: {error.strerror}") from error

    def _cut_back(self) -> None:
        """What was written of a commit that failed must not stand before the next one."""
        try:
            os.ftruncate(self._log, self._end)
        except OSError as error:
            raise LogStopped(f"the log in {self.directory} failed: {error.strerror}") from error

    def _write_head(self) -> None:
        """In place and not synced: a head that lags behind after a power cut names less, never something else."""
        mark_count, mark_offset = self._marks[0]
        head = Head(self.count, self._end, self._link, mark_count, mark_offset)
        try:
            os.pwrite(self._head, head.encode(self.secrets), 0)
        except OSError as error:
            raise LogStopped(f"the log in {self.directory} failed: {error.strerror}") from error

    def _move_mark(self) -> None:
        if self._end - self._marks[-1][1] >= MARK_BYTES:
            self._marks.append((self.count, self._end))
            while len(self._marks) > 2:
                self._marks.popleft()

    def _file(self, name: str, flags: int) -> int:
        descriptor = os.open(self.directory / name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._descriptors.append(descriptor)
        if os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
        return descriptor

    def _sync_directory(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # some filesystems sync no directory
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
