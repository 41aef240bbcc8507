"""What the DHT keeps on disk: values, providers, own publications and the table, in one SQLite file.

Everything is read once, at the start; afterwards memory is what counts and the file follows. Changes of one row that
wait to be written are one change, so what waits is bounded by the tables in memory. All that waits goes into one
transaction, which is synced before anybody is told that it is durable.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from talos.dht.providers import StoredProvider
from talos.dht.values import StoredValue
from talos.errors import ConfigError, LimitExceeded
from talos.identity import private_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from talos.addr import IpBlock

__all__ = ["Journal", "OwnRecord", "RememberedPeer", "open_journal"]

_log = logging.getLogger(__name__)

FORMAT = 1
COMMIT_SECONDS = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS value (key BLOB PRIMARY KEY, value BLOB NOT NULL, received REAL NOT NULL,
    source BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS provider (key BLOB, peer BLOB, addrs TEXT NOT NULL, added REAL NOT NULL, grp TEXT NOT NULL,
    PRIMARY KEY (key, peer)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS own (kind TEXT, key BLOB, value BLOB NOT NULL, published REAL NOT NULL,
    PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS peer (peer BLOB PRIMARY KEY, addrs TEXT NOT NULL, grp TEXT NOT NULL) WITHOUT ROWID;
"""


class OwnRecord(NamedTuple):
    """What we publish again and again: `kind` is "value" or "provide"; `published` is Unix seconds, 0 for never."""

    kind: str
    key: bytes
    value: bytes
    published: float


class RememberedPeer(NamedTuple):
    """A member of the table at the end of the last run."""

    peer: bytes
    addrs: tuple[bytes, ...]
    group: IpBlock | None


def not_written(reason: str) -> LimitExceeded:
    """What is said when nothing can be kept."""
    return LimitExceeded(f"the DHT's store cannot be written: {reason}", scope="dht store", kind="disk")


class Journal:
    """The file, made by `open_journal`. Setters never wait; `durable` does."""

    def __init__(self, connection: sqlite3.Connection | None) -> None:
        self._connection = connection
        self._waiting: dict[tuple[object, ...], tuple[str, tuple[object, ...]]] = {}
        self._work = trio.Event()
        self._round = _Round()
        """Of the changes that wait."""
        self._writing: _Round | None = None
        self.full = False
        """The disk was full at the last try."""
        self.failed = False
        """Nothing is written any more."""

    @property
    def state(self) -> str:
        """`memory`, `disk`, `disk full` or `disk failed`."""
        if self._connection is None:
            return "memory"
        return "disk failed" if self.failed else "disk full" if self.full else "disk"

    # ------------------------------------------------------------------------------- what changes

    def set_value(self, stored: StoredValue) -> None:
        row = (stored.key, stored.value, stored.received, stored.source)
        self._change(("value", stored.key), "INSERT OR REPLACE INTO value VALUES (?, ?, ?, ?)", row)

    def remove_value(self, key: bytes) -> None:
        self._change(("value", key), "DELETE FROM value WHERE key = ?", (key,))

    def set_provider(self, stored: StoredProvider) -> None:
        row = (stored.key, stored.peer, _hexes(stored.addrs), stored.added, json.dumps(stored.group))
        self._change(("provider", *stored.row), "INSERT OR REPLACE INTO provider VALUES (?, ?, ?, ?, ?)", row)

    def remove_provider(self, row: tuple[bytes, bytes]) -> None:
        self._change(("provider", *row), "DELETE FROM provider WHERE key = ? AND peer = ?", row)

    def set_own(self, record: OwnRecord) -> None:
        self._change(("own", record.kind, record.key), "INSERT OR REPLACE INTO own VALUES (?, ?, ?, ?)", tuple(record))

    def remove_own(self, kind: str, key: bytes) -> None:
        self._change(("own", kind, key), "DELETE FROM own WHERE kind = ? AND key = ?", (kind, key))

    def replace_peers(self, peers: Iterable[RememberedPeer]) -> None:
        self._change(("peers",), "DELETE FROM peer", ())
        for known in peers:
            row = (known.peer, _hexes(known.addrs), json.dumps(known.group))
            self._change(("peer", known.peer), "INSERT OR REPLACE INTO peer VALUES (?, ?, ?)", row)

    # ------------------------------------------------------------------------------- what there is

    def values(self) -> Iterator[StoredValue]:
        for key, value, received, source in self._rows("SELECT key, value, received, source FROM value"):
            yield StoredValue(bytes(key), bytes(value), received, bytes(source))

    def providers(self) -> Iterator[StoredProvider]:
        for key, peer, addrs, added, group in self._rows("SELECT key, peer, addrs, added, grp FROM provider"):
            yield StoredProvider(bytes(key), bytes(peer), _bytes(addrs), added, _group(group))

    def own(self) -> Iterator[OwnRecord]:
        for kind, key, value, published in self._rows("SELECT kind, key, value, published FROM own"):
            yield OwnRecord(kind, bytes(key), bytes(value), published)

    def peers(self) -> Iterator[RememberedPeer]:
        for peer, addrs, group in self._rows("SELECT peer, addrs, grp FROM peer"):
            yield RememberedPeer(bytes(peer), _bytes(addrs), _group(group))

    # ------------------------------------------------------------------------------- writing

    async def durable(self) -> None:
        """Returns when all that was changed until now is on the disk. LimitExceeded when that cannot be.

        Cancelling it changes nothing.
        """
        rounds = [self._writing] if self._writing is not None else []
        if self._waiting:
            rounds.append(self._round)
        for current in rounds:
            await current.done.wait()
            if current.error:
                raise not_written(current.error)

    def retry(self) -> None:
        """Tries to write what a full disk has refused."""
        if self._waiting:
            self._work.set()

    async def write(self) -> None:
        """Writes what changes, for ever. After a failure it waits for the next change, and tries all of it again."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while self._waiting and await self._write_round():
                pass

    def close(self) -> None:
        """Writes the rest, at once, and lets go of the file."""
        if self._connection is not None:
            with closing(self._connection):
                self._commit(list(self._waiting.values()))
            self._waiting.clear()
            self._connection = None

    async def _write_round(self) -> bool:
        changes, self._waiting = self._waiting, {}
        current = self._writing = self._round
        self._round = _Round()
        try:
            # A commit that was begun is finished: cancelled in between, nobody would know whether it was.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + COMMIT_SECONDS):
                current.error = await trio.to_thread.run_sync(self._commit, list(changes.values()))
        finally:
            self._writing = None
            current.done.set()
        if current.error and not self.failed:
            self._waiting = changes | self._waiting
        return not current.error

    def _commit(self, changes: list[tuple[str, tuple[object, ...]]]) -> str:
        """One transaction; why it failed, or nothing. A full disk passes, anything else ends the writing for good."""
        connection = self._connection
        if connection is None or self.failed:
            return "it has failed before"
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                for statement, row in changes:
                    connection.execute(statement, row)
        except sqlite3.Error as error:
            self.full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
            self.failed = not self.full
            _log.warning("the DHT's store cannot be written: %s", error)
            return str(error)
        self.full = False
        return ""

    def _change(self, row: tuple[object, ...], statement: str, values: tuple[object, ...]) -> None:
        if self._connection is None or self.failed:
            return
        self._waiting[row] = statement, values
        self._work.set()

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        return iter(()) if self._connection is None else iter(self._connection.execute(query))


class _Round:
    """All changes that are written together."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error = "the store was closed"


def open_journal(path: Path | None) -> Journal:
    """The journal in the file `path`, made when there is none; None keeps nothing on disk.

    ConfigError when another process has it or it cannot be opened. A file that is damaged is put aside under the name
    `….damaged`, and a new one begun: all of it can be learnt again. Blocks on the disk.
    """
    if path is None:
        return Journal(None)
    try:
        return Journal(_connect(path))
    except sqlite3.OperationalError as error:  # locked, or not to be opened: the file itself may be well
        raise ConfigError(f"the DHT's store {path} cannot be opened: {error}") from error
    except sqlite3.DatabaseError as error:
        aside = path.with_name(path.name + ".damaged")
        _log.warning("the DHT's store %s is damaged (%s), it is put aside as %s", path, error, aside)
        path.replace(aside)
        return Journal(_connect(path))


def _connect(path: Path) -> sqlite3.Connection:
    private_file.make_directory(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, private_file.FILE_MODE)
    try:
        private_file.check_file(path, os.fstat(descriptor), "store")
    finally:
        os.close(descriptor)
    # The thread that commits is the only one beside that of the node, and they take turns.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for statement in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {statement}")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        _check_format(path, version)
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version={FORMAT}")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_format(path: Path, version: int) -> None:
    if version not in (0, FORMAT):
        raise ConfigError(f"the DHT's store {path} is of the unknown format {version}")


def _hexes(items: Iterable[bytes]) -> str:
    return " ".join(item.hex() for item in items)


def _bytes(text: object) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(part) for part in str(text).split())


def _group(text: object) -> IpBlock | None:
    group = json.loads(str(text))
    return None if group is None else (group[0], group[1], group[2])
