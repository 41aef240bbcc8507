"""What is kept of messages, for those who only read: beside the process that writes, or without one."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

from talos.errors import StoreFailed
from talos.identity.peer_id import PeerId
from talos.messaging.rows import RowCipher
from talos.messaging.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from talos.messaging.database import Database
    from talos.messaging.store import OutboxRow, StoredMessage, WaitingLetter

__all__ = ["MessageHistory", "open_history"]

PAGE = 256
BUSY_SECONDS = 5.0


class MessageHistory:
    """Made by `open_history`; each call sees what is committed by then."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def messages(self, *, after: int = 0) -> Iterator[StoredMessage]:
        """Behind the number `after`, oldest first; read in parts, so that it may be stopped at any time."""
        while page := self._store.messages(after=after, limit=PAGE):
            yield from page
            after = page[-1].number

    def has(self, sender: bytes, message_id: bytes) -> bool:
        """Whether there is a message of this sender, named by the bytes of its peer id."""
        key = PeerId.from_bytes(sender).public_key()
        return key is not None and self._store.message(key.data, message_id) is not None

    def at(self, number: int) -> StoredMessage | None:
        """By its place in the history."""
        return self._store.message_at(number)

    def outbox(self) -> Iterator[OutboxRow]:
        """What waits to be delivered, in the order in which it was written."""
        after = 0
        while page := self._store.outbox(after=after, limit=PAGE):
            yield from page
            after = page[-1].number

    def waiting(self) -> list[WaitingLetter]:
        """Letters of strangers who have not been let in."""
        return self._store.waiting()


@contextlib.contextmanager
def open_history(directory: Path, store_key: bytes) -> Iterator[MessageHistory]:
    """Reads `messages.db` in `directory`, and changes nothing. StoreFailed when it cannot be read."""
    path = directory / "messages.db"
    with contextlib.ExitStack() as stack:
        try:
            connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)
            stack.enter_context(contextlib.closing(connection))
            connection.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise StoreFailed(f"the message store {path} cannot be opened: {error}") from error
        reader: Any = _Reader(connection, path)
        database: Database = reader  # of which a store that is only read uses `read` alone
        yield MessageHistory(Store(database, RowCipher(store_key)))


class _Reader:
    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def read(self, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        try:
            return iter(self._connection.execute(sql, values))
        except sqlite3.Error as error:
            raise StoreFailed(f"the message store {self._path} cannot be read: {error}") from error
