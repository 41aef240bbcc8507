"""The message store's writer: groups, failures, closing; and rows that say nothing."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from talos.errors import MessagingError, StoreCorrupt, StoreFailed, StoreFull
from talos.messaging.database import Database, StoreClosed, open_database
from talos.messaging.rows import RowCipher

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, v BLOB NOT NULL)"


def insert(connection: sqlite3.Connection, value: bytes = b"x") -> int | None:
    return connection.execute("INSERT INTO t (v) VALUES (?)", (value,)).lastrowid


def rows(database: Database) -> list[bytes]:
    return [value for (value,) in database.read("SELECT v FROM t ORDER BY n")]


async def test_writes_of_a_moment_share_a_transaction_and_keep_their_order(tmp_path: Path) -> None:
    with open_database(tmp_path / "messages.db", SCHEMA) as database:
        jobs = [database.write_soon(partial(insert, value=bytes((n,)))) for n in range(5)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.run)
            assert await database.write(insert) == 6
            assert [job.value for job in jobs] == [1, 2, 3, 4, 5]
            assert all(job.done.is_set() for job in jobs)
            nursery.cancel_scope.cancel()
        assert rows(database) == [b"\0", b"\1", b"\2", b"\3", b"\4", b"x"]
    assert (tmp_path / "messages.db").stat().st_mode & 0o777 == 0o600


async def test_one_that_raises_undoes_its_own_changes_alone(tmp_path: Path) -> None:
    def refuse(connection: sqlite3.Connection) -> None:
        insert(connection, b"undone")
        raise MessagingError("no")

    with open_database(tmp_path / "messages.db", SCHEMA) as database:
        async with trio.open_nursery() as nursery:
            first, second = database.write_soon(insert), database.write_soon(refuse)
            nursery.start_soon(database.run)
            with pytest.raises(MessagingError, match="no"):
                await database.write(refuse)
            assert (first.error, str(second.error)) == (None, "no")
            nursery.cancel_scope.cancel()
        assert rows(database) == [b"x"]


async def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    with open_database(tmp_path / "messages.db", SCHEMA) as database:
        job = database.write_soon(insert)
    assert job.value == 1
    with open_database(tmp_path / "messages.db", SCHEMA) as database:
        assert rows(database) == [b"x"]


async def test_a_failed_disk_ends_the_writing(tmp_path: Path) -> None:
    def fail(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with open_database(tmp_path / "messages.db", SCHEMA) as database:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.run)
            before = database.write_soon(insert)
            with pytest.raises(StoreFailed, match="I/O"):
                await database.write(fail)
            assert isinstance(before.error, StoreFailed), "one transaction"
            with pytest.raises(StoreFailed):
                await database.write(insert)
            nursery.cancel_scope.cancel()
        late = database.write_soon(insert)
    assert isinstance(late.error, StoreClosed)


async def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    with open_database(tmp_path / "messages.db", SCHEMA) as database:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.run)
            await database.write(insert)
            page_count = next(database.read("PRAGMA page_count"))[0]
            await database.write(lambda c: c.execute(f"PRAGMA max_page_count = {page_count + 2}").fetchall())
            with pytest.raises(StoreFull):
                await database.write(lambda c: insert(c, bytes(100_000)))
            await database.write(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchall())
            await database.write(insert)
            nursery.cancel_scope.cancel()
        assert rows(database) == [b"x", b"x"]


def test_a_store_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "messages.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreFailed, match="cannot be opened"), open_database(tmp_path / "messages.db", SCHEMA):
        pass


def test_rows_open_in_their_place_alone() -> None:
    cipher = RowCipher(b"\1" * 32)
    box = cipher.seal("message", b"1", b"secret")
    assert b"secret" not in box
    assert cipher.seal("message", b"1", b"secret") != box
    assert cipher.open("message", b"1", box) == b"secret"
    for table, row, data in (
        ("outbox", b"1", box),
        ("message", b"2", box),
        ("message", b"1", box[:-1]),
        ("m", b"", b""),
    ):
        with pytest.raises(StoreCorrupt):
            cipher.open(table, row, data)
    with pytest.raises(StoreCorrupt):
        RowCipher(b"\2" * 32).open("message", b"1", box)


def test_indexes_are_keyed() -> None:
    one, other = RowCipher(b"\1" * 32), RowCipher(b"\2" * 32)
    assert one.index(b"peer") == one.index(b"peer") != other.index(b"peer")
    assert len(one.index(b"a", b"b")) == 16
