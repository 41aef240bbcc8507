"""`messages.db`: one writer, transactions that gather what waits, and readers that never wait for it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from talos.errors import MessagingError, StoreFailed, StoreFull, TalosError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Database", "Job", "StoreClosed", "open_database"]

T = TypeVar("T")

GROUP_JOBS = 256
BUSY_MS = 5000

_PRAGMAS = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA foreign_keys = ON;
PRAGMA secure_delete = ON;
"""


class StoreClosed(MessagingError):
    """The message store was closed while something waited to be written."""


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """Something to be written."""

    function: Callable[[sqlite3.Connection], T]
    done: trio.Event = field(default_factory=trio.Event)
    then: Callable[[], None] | None = None
    undone: Callable[[], None] | None = None
    value: T | None = None
    error: BaseException | None = None


class Database:
    """Made by `open_database`; `run` is its task."""

    def __init__(self, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._waiting: deque[Job[Any]] = deque()
        self._wake = trio.Event()
        self._thread = trio.CapacityLimiter(1)
        self.failed: StoreFailed | None = None
        """What ended the writing: nothing is written any more."""

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `function` in a transaction, in the order of the calls; durable on return.

        Several calls share a transaction, and one that raises a TalosError undoes only its own changes. Cancelling
        the caller does not undo it. StoreFull, StoreFailed or StoreClosed.
        """
        job = self.write_soon(function)
        await job.done.wait()
        if job.error is not None:
            raise job.error
        return job.value  # type: ignore[return-value] # T itself may be None

    def write_soon(
        self,
        function: Callable[[sqlite3.Connection], T],
        *,
        then: Callable[[], None] | None = None,
        undone: Callable[[], None] | None = None,
    ) -> Job[T]:
        """As `write`, without waiting: `done` is set once it is durable, or `error` says why not.

        `then` is called when it is durable, `undone` when it never will be, before anything else is written.
        """
        job: Job[T] = Job(function, then=then, undone=undone)
        self._waiting.append(job)
        self._wake.set()
        return job

    def read(self, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """Rows of what was committed; for queries by an index, as it runs on the event loop."""
        return iter(self._reader.execute(sql, values))

    async def run(self) -> None:
        """Writes what waits, for ever."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(GROUP_JOBS, len(self._waiting)))]
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._commit, group, limiter=self._thread)
                for job in group:
                    job.done.set()
                    follow = job.then if job.error is None else job.undone
                    if follow is not None:
                        follow()

    def close(self) -> None:
        """What waits still is written; the connections are closed by who opened them."""
        if self._waiting and self.failed is None:
            group = list(self._waiting)
            self._waiting.clear()
            self._commit(group)
            for job in group:
                job.done.set()
        for job in self._waiting:
            job.error = StoreClosed("the message store is closed")
            job.done.set()

    def _commit(self, group: list[Job[Any]]) -> None:
        """In the writer's thread; a failure of the transaction is the failure of each of its jobs."""
        if self.failed is not None:
            _fail(group, self.failed)
            return
        connection = self._writer
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in group:
                _run(connection, job)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            fault = _meaning(error)
            if isinstance(fault, StoreFailed):
                self.failed = fault
            _fail(group, fault)

    def _undo(self) -> None:
        # The error that is being told is the one that counts.
        with contextlib.suppress(sqlite3.Error):
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")


@contextlib.contextmanager
def open_database(path: Path, schema: str) -> Iterator[Database]:
    """The database at `path`, 0600, made where there is none; StoreFailed when it cannot be opened."""
    with contextlib.ExitStack() as stack:
        try:
            _create(path)
            writer = stack.enter_context(contextlib.closing(_connect(path)))
            writer.executescript(_PRAGMAS)
            writer.executescript(schema)
            reader = stack.enter_context(contextlib.closing(_connect(path)))
            reader.execute("PRAGMA query_only = ON")
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(f"the message store {path} cannot be opened: {error}") from error
        database = Database(writer, reader)
        try:
            yield database
        finally:
            database.close()


def _create(path: Path) -> None:
    """For its owner's eyes alone from its first moment; SQLite gives the files beside it the same mode."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    return connection


def _run(connection: sqlite3.Connection, job: Job[Any]) -> None:
    connection.execute("SAVEPOINT job")
    try:
        job.value = job.function(connection)
    except TalosError as error:
        job.error = error
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")


def _fail(group: list[Job[Any]], error: BaseException) -> None:
    for job in group:
        job.error = error


def _meaning(error: sqlite3.Error) -> StoreFull | StoreFailed:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return StoreFull("no space is left for messages")
    return StoreFailed(f"messages cannot be written: {error}")
