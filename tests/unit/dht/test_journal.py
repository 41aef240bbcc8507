from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from talos.dht.journal import Journal, OwnRecord, RememberedPeer, open_journal
from talos.dht.providers import StoredProvider
from talos.dht.values import StoredValue
from talos.errors import ConfigError, LimitExceeded, WalletError
from talos.host.block import background

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VALUE = StoredValue(b"/a/\xff", b"value\0", 1234.5, b"peer")
PROVIDER = StoredProvider(b"key", b"peer", (b"\1\2", b"\3"), 1.5, (4, 16, 7))
NOWHERE = StoredProvider(b"key", b"other", (), 2.5, None)
OWN = OwnRecord("provide", b"key", b"", 3.5)
PEER = RememberedPeer(b"peer", (b"\1",), (6, 32, 9))


@contextmanager
def journal(path: Path | None) -> Iterator[Journal]:
    opened = open_journal(path)
    try:
        yield opened
    finally:
        opened.close()


def content(opened: Journal) -> list[object]:
    return [*opened.values(), *opened.providers(), *opened.own(), *opened.peers()]


async def test_what_is_durable_is_there_for_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "dht" / "records"
    with journal(path) as first:
        async with background() as nursery:
            nursery.start_soon(first.write)
            first.set_value(VALUE)
            first.set_provider(PROVIDER)
            await first.durable()
            first.set_provider(NOWHERE)
            first.set_own(OWN)
            first.replace_peers([PEER._replace(peer=b"gone")])
            await first.durable()
            assert first.state == "disk"
        first.replace_peers([PEER])  # what waits is written at the end
    assert path.stat().st_mode & 0o777 == 0o600
    with journal(path) as second:
        assert sorted(map(str, content(second))) == sorted(map(str, [VALUE, PROVIDER, NOWHERE, OWN, PEER]))
        second.remove_value(VALUE.key)
        second.remove_provider(PROVIDER.row)
        second.remove_own(OWN.kind, OWN.key)
    with journal(path) as third:
        assert content(third) == [NOWHERE, PEER]


async def test_without_a_file_nothing_waits() -> None:
    with journal(None) as memory:
        memory.set_value(VALUE)
        await memory.durable()
        assert content(memory) == []
        assert memory.state == "memory"


async def test_what_waits_is_one_change_for_each_row(tmp_path: Path) -> None:
    with journal(tmp_path / "records") as opened:
        for number in range(100):
            opened.set_value(StoredValue(b"/a/b", b"%d" % number, 0.0, b"peer"))
        assert len(opened._waiting) == 1
    with journal(tmp_path / "records") as again:
        assert [stored.value for stored in again.values()] == [b"99"]


def test_a_file_that_another_has_is_not_opened(tmp_path: Path) -> None:
    with journal(tmp_path / "records"), pytest.raises(ConfigError, match="locked"):
        open_journal(tmp_path / "records")


def test_a_file_of_a_later_version_is_not_opened(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "records") as other:
        other.execute("PRAGMA user_version=99")
    other.close()
    os.chmod(tmp_path / "records", 0o600)  # noqa: PTH101
    with pytest.raises(ConfigError, match="99"):
        open_journal(tmp_path / "records")


def test_a_link_is_not_followed_and_a_wider_mode_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        open_journal(tmp_path / "link")
    (tmp_path / "wide").touch(0o644)
    with pytest.raises(WalletError):
        open_journal(tmp_path / "wide")


def test_a_damaged_file_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "records"
    path.write_bytes(b"no database" * 1000)
    path.chmod(0o600)
    with journal(path) as fresh:
        assert content(fresh) == []
        fresh.set_value(VALUE)
    assert (tmp_path / "records.damaged").read_bytes() == b"no database" * 1000
    assert "damaged" in caplog.text
    with journal(path) as again:
        assert content(again) == [VALUE]


class Failing:
    """A connection whose next statements fail."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self.is_broken = True

    def execute(self, statement: str, row: tuple[object, ...] = ()) -> sqlite3.Cursor:
        if self.is_broken and statement.startswith("INSERT"):
            error = sqlite3.OperationalError("the disk says no")
            error.sqlite_errorname = self._name
            raise error
        return self._connection.execute(statement, row)

    def __enter__(self) -> object:
        return self._connection.__enter__()

    def __exit__(self, *error: object) -> object:
        return self._connection.__exit__(*error)  # type: ignore[arg-type]

    def close(self) -> None:
        self._connection.close()


async def test_a_full_disk_passes(tmp_path: Path) -> None:
    with journal(tmp_path / "records") as opened:
        failing = Failing(opened._connection, "SQLITE_FULL")  # type: ignore[arg-type]
        opened._connection = failing  # type: ignore[assignment]
        async with background() as nursery:
            nursery.start_soon(opened.write)
            opened.set_value(VALUE)
            with pytest.raises(LimitExceeded, match="says no"):
                await opened.durable()
            assert opened.state == "disk full"
            failing.is_broken = False
            opened.retry()
            await opened.durable()
            assert opened.state == "disk"
            opened.retry()
    with journal(tmp_path / "records") as again:
        assert content(again) == [VALUE]


async def test_any_other_failure_is_the_end(tmp_path: Path) -> None:
    with journal(tmp_path / "records") as opened:
        opened._connection = Failing(opened._connection, "SQLITE_IOERR_FSYNC")  # type: ignore[arg-type,assignment]
        async with background() as nursery:
            nursery.start_soon(opened.write)
            opened.set_value(VALUE)
            with pytest.raises(LimitExceeded):
                await opened.durable()
            assert opened.state == "disk failed"
            opened._connection.is_broken = False  # type: ignore[union-attr]
            opened.set_value(VALUE)
            assert not opened._waiting
    with journal(tmp_path / "records") as again:
        assert content(again) == []


async def test_a_commit_that_was_begun_is_finished(tmp_path: Path) -> None:
    with journal(tmp_path / "records") as opened:
        async with background() as nursery:
            nursery.start_soon(opened.write)
            opened.set_value(VALUE)
            with trio.CancelScope() as scope:
                nursery.start_soon(trio.lowlevel.checkpoint)
                scope.cancel()
                await opened.durable()
            await trio.testing.wait_all_tasks_blocked()
    with journal(tmp_path / "records") as again:
        assert content(again) == [VALUE]
