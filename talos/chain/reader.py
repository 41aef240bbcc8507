"""Reading a log file: without a lock, beside its writer, checking every link and every box.

All of it is synchronous: it is for commands and for worker threads.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from talos.chain.record import (
    HEADER_BYTES,
    LINK_BYTES,
    MAX_BODY_BYTES,
    PREFIX_BYTES,
    Head,
    Header,
    Record,
    Secrets,
)
from talos.errors import AuditError, ProofInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO

__all__ = [
    "HEAD_NAME",
    "LOCK_NAME",
    "LOG_NAME",
    "LogReader",
    "LogSummary",
    "Record",
    "RecordInvalid",
    "logs_of",
    "read_log",
    "verify_log",
]

LOG_NAME = "log"
HEAD_NAME = "head"
LOCK_NAME = "lock"


class RecordInvalid(ProofInvalid):
    """The first record that is not what the log's links and commitments say; `index` counts from 1."""

    def __init__(self, directory: Path, index: int, offset: int, reason: str) -> None:
        super().__init__(f"log {directory}: record {index} (byte {offset}): {reason}")
        self.directory, self.index, self.offset, self.reason = directory, index, offset, reason


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSummary:
    """What a log that is in order holds."""

    records: int
    bytes: int
    torn: int
    """Bytes of a record at the end that was never whole, and so never acknowledged."""


class LogReader:
    """Gives a log's records in order, each checked; asked again, it goes on with what has come since.

    ProofInvalid names the log, and as RecordInvalid the record and its place. AuditError when the log cannot be read.
    """

    def __init__(self, directory: Path, k_priv: Callable[[bytes], bytes]) -> None:
        self.directory = directory
        self.records = 0
        self.offset = HEADER_BYTES
        try:
            self._file: BinaryIO = (directory / LOG_NAME).open("rb")
        except OSError as error:
            raise AuditError(f"cannot read the log in {directory}: {error.strerror}") from error
        try:
            data = self._file.read(HEADER_BYTES)
            header = Header.decode(data)
            self.secrets = Secrets(k_priv(header.random))
            header.check(data, self.secrets)
            self._link = header.link(self.secrets)
        except ProofInvalid as error:
            self._file.close()
            raise ProofInvalid(f"log {directory}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Record]:
        """The records that are whole now; what the head says must be there and is not is a fault."""
        head = self._head()
        while (record := self._next(head)) is not None:
            yield record

    @property
    def torn(self) -> int:
        """Bytes behind the last whole record."""
        return os.fstat(self._file.fileno()).st_size - self.offset

    def _head(self) -> Head:
        try:
            return Head.decode((self.directory / HEAD_NAME).read_bytes(), self.secrets)
        except FileNotFoundError as error:
            raise ProofInvalid(f"log {self.directory}: its head is missing") from error
        except OSError as error:
            raise AuditError(f"cannot read the head of the log in {self.directory}: {error.strerror}") from error
        except ProofInvalid as error:
            raise ProofInvalid(f"log {self.directory}: {error}") from error

    def _next(self, head: Head) -> Record | None:
        certain = self.offset < head.end
        body, found, fault = self._read_record()
        if fault:
            if certain:
                raise self._fault(f"{fault}; the head counts {head.count} records")
            return None
        index = self.records + 1
        link = self.secrets.link(self._link, index, body)
        if not hmac.compare_digest(link, found):
            if not certain:
                return None
            raise self._fault("it does not follow from the one before")
        try:
            record = self.secrets.open(index, body)
        except ProofInvalid as error:
            raise self._fault(str(error)) from error
        self.records, self._link = index, link
        self.offset += PREFIX_BYTES + len(body) + LINK_BYTES
        if self.offset == head.end and (index, link) != (head.count, head.link):
            raise self._fault("it is not the one that the head names")
        return record

    def _read_record(self) -> tuple[bytes, bytes, str]:
        """Body and link of what stands at the offset, or why nothing whole stands there."""
        self._file.seek(self.offset)
        prefix = self._file.read(PREFIX_BYTES)
        if not prefix:
            return b"", b"", "it is missing: the log was cut"
        size = int.from_bytes(prefix, "big")
        if len(prefix) < PREFIX_BYTES or size > MAX_BODY_BYTES:
            return b"", b"", "its length is no length"
        data = self._file.read(size + LINK_BYTES)
        if len(data) < size + LINK_BYTES:
            return b"", b"", "it is cut short"
        return data[:size], data[size:], ""

    def _fault(self, what: str) -> RecordInvalid:
        return RecordInvalid(self.directory, self.records + 1, self.offset, what)


def read_log(directory: Path, k_priv: Callable[[bytes], bytes]) -> Iterator[Record]:
    """All records of the log, each checked before it is given."""
    with LogReader(directory, k_priv) as reader:
        yield from reader


def verify_log(directory: Path, k_priv: Callable[[bytes], bytes]) -> LogSummary:
    """Checks every record and that none is missing at the end; ProofInvalid names the first bad one."""
    with LogReader(directory, k_priv) as reader:
        for _ in reader:
            pass
        return LogSummary(records=reader.records, bytes=reader.offset, torn=reader.torn)


def logs_of(audit: Path, slots: Path) -> list[Path]:
    """The directories of a home's logs that exist: its own, then those of `mcp-connect`, by name."""
    found = [audit, *sorted(slots.iterdir())] if slots.is_dir() else [audit]
    return [directory for directory in found if (directory / LOG_NAME).is_file()]
