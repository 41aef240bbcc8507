"""Own entries in groups: what becomes a block at once, what waits, and who is told when it fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.abc import AuditEntry, AuditReceipt
from talos.chain import ChainConfig, ChainKeys, open_chain
from talos.chain.records import ChainReader
from talos.errors import AuditError, EntryConflict, MempoolFull, StoreFailed, StoreFull

if TYPE_CHECKING:
    from pathlib import Path

    from talos.chain import Chain

MakeEntry = Callable[..., AuditEntry]
QUIET = ChainConfig(seal_seconds=3600)
"""Nothing is sealed by time."""


def numbers(directory: Path, keys: ChainKeys) -> list[int]:
    with ChainReader(directory, keys) as reader:
        return [int.from_bytes(r.entry.fields[0], "big") for r in reader.records() if r.entry.msg_id is not None]


def rows(directory: Path) -> int:
    """In the mempool's table."""
    with closing(sqlite3.connect(directory / "chain.db")) as db:
        return int(db.execute("SELECT count(*) FROM mempool").fetchone()[0])


async def crowd(chain: Chain, entries: list[AuditEntry]) -> list[AuditReceipt | Exception]:
    """All at once, each for itself."""
    results: dict[int, AuditReceipt | Exception] = {}

    async def one(number: int, entry: AuditEntry) -> None:
        try:
            results[number] = await chain.record(entry)
        except AuditError as error:
            results[number] = error

    async with trio.open_nursery() as nursery:
        for number, entry in enumerate(entries):
            nursery.start_soon(one, number, entry)
    return [results[number] for number in range(len(entries))]


def failing(chain: Chain, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    def fail(*_: Any) -> None:
        raise error

    if name == "append":
        monkeypatch.setattr(chain.core.writer, "_append", fail)
    else:
        monkeypatch.setattr(chain.core.store, name, fail)


@pytest.mark.parametrize(
    ("config", "count", "height"),
    [
        (QUIET, 64, 1),
        (QUIET, 63, 0),
        (ChainConfig(seal_seconds=3600, bits=13), 64, 0),
    ],
)
async def test_a_large_group_is_a_block_at_once(
    tmp_path: Path, keys: ChainKeys, make_entry: MakeEntry, config: ChainConfig, count: int, height: int
) -> None:
    directory = tmp_path / "chain"
    async with open_chain(None, config, keys, directory=directory) as chain:
        await chain.record_many([make_entry(number) for number in range(count)])
        assert (chain.status()["height"], rows(directory)) == (height, 0 if height else count)
        assert chain.count == count + 1
        assert numbers(directory, keys) == list(range(count))


def on_a_fast_disk(chain: Chain) -> None:
    """Whatever the one here is like."""
    chain.core.writer._slow.extend([False] * 64)
    chain.core.writer.fast = True


@pytest.mark.parametrize("fast", [False, True])
async def test_callers_share_a_block(tmp_path: Path, keys: ChainKeys, make_entry: MakeEntry, *, fast: bool) -> None:
    async with open_chain(None, QUIET, keys, directory=tmp_path / "chain") as chain:
        if fast:
            on_a_fast_disk(chain)
        found = await crowd(chain, [make_entry(number) for number in range(100)])
        assert all(isinstance(one, AuditReceipt) and not one.duplicate for one in found)
        assert (chain.status()["height"], chain.status()["mempool"], chain.queued) == (1, 0, 0)


async def test_few_callers_share_a_commit_without_a_thread(
    tmp_path: Path, keys: ChainKeys, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a fast disk: the first that comes writes at once, those that come in the same turn are written together."""
    async with open_chain(None, QUIET, keys, directory=tmp_path / "chain") as chain:
        writer, sizes = chain.core.writer, list[int]()
        write = writer._append

        def counted(group: Any) -> None:
            sizes.append(len(group))
            write(group)

        monkeypatch.setattr(writer, "_append", counted)
        monkeypatch.setattr(writer, "in_thread", None)
        for number in range(2):
            on_a_fast_disk(chain)
            await crowd(chain, [make_entry(10 * number + n) for n in range(5)])
        assert sizes == [1, 4, 1, 4]
        monkeypatch.undo()


async def test_what_waits_goes_first(tmp_path: Path, keys: ChainKeys, make_entry: MakeEntry) -> None:
    directory = tmp_path / "chain"
    async with open_chain(None, QUIET, keys, directory=directory) as chain:
        for number in range(3):
            await chain.record(make_entry(number))
        await chain.record_many([make_entry(number) for number in range(3, 70)])
        assert (chain.status()["height"], rows(directory)) == (1, 0)
    assert numbers(directory, keys) == list(range(70))


async def test_what_a_block_has_no_room_for_waits(tmp_path: Path, keys: ChainKeys, make_entry: MakeEntry) -> None:
    directory = tmp_path / "chain"
    async with open_chain(None, QUIET, keys, directory=directory) as chain:
        await chain.record_many([make_entry(number) for number in range(4100)])
        assert (chain.status()["height"], chain.status()["mempool"], rows(directory)) == (1, 4, 4)
    assert numbers(directory, keys) == list(range(4100))


@pytest.mark.parametrize("fast", [False, True])
async def test_one_caller_is_refused_alone(
    tmp_path: Path, keys: ChainKeys, make_entry: MakeEntry, *, fast: bool
) -> None:
    directory = tmp_path / "chain"
    async with open_chain(None, QUIET, keys, directory=directory) as chain:
        chain.core.writer.fast = fast
        entries = [make_entry(1), make_entry(2), make_entry(1), make_entry(2, b"other"), make_entry(3)]
        found = await crowd(chain, entries)
        by_id: dict[bytes, list[AuditReceipt | Exception]] = {}
        for entry, one in zip(entries, found, strict=True):
            by_id.setdefault(entry.msg_id, []).append(one)
        first, second, third = by_id.values()
        assert sorted(one.duplicate for one in first if isinstance(one, AuditReceipt)) == [False, True]
        assert sorted(type(one).__name__ for one in second) == ["AuditReceipt", "EntryConflict"]
        assert [type(one) for one in third] == [AuditReceipt]
        with pytest.raises(EntryConflict):
            await chain.record_many([make_entry(4), make_entry(3, b"other")])
    assert sorted(numbers(directory, keys)) == [1, 2, 3], "all or none"


async def test_more_than_may_wait(tmp_path: Path, keys: ChainKeys, make_entry: MakeEntry) -> None:
    config = ChainConfig(seal_seconds=3600, mempool_items=5)
    async with open_chain(None, config, keys, directory=tmp_path / "chain") as chain:
        with pytest.raises(MempoolFull, match="wait for the disk"):
            await chain.record_many([make_entry(number) for number in range(6)])
        found = await crowd(chain, [make_entry(number) for number in range(7)])
        assert [isinstance(one, AuditReceipt) for one in found].count(True) == 5
        assert chain.status()["mempool"] == 5


@pytest.mark.parametrize(("method", "count"), [("append", 2), ("persist", 64)])
async def test_a_full_disk_fails_those_who_brought_something(
    tmp_path: Path, keys: ChainKeys, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch, method: str, count: int
) -> None:
    directory = tmp_path / "chain"
    async with open_chain(None, QUIET, keys, directory=directory) as chain:
        await chain.record(make_entry(0))
        entries = [make_entry(number) for number in range(count + 1)]
        with monkeypatch.context() as patch:
            failing(chain, patch, method, StoreFull("no space"))
            found = await crowd(chain, entries)
        assert sorted(type(one).__name__ for one in found) == ["AuditReceipt"] + ["StoreFull"] * count
        assert chain.count == 2
        again = await chain.record_many(entries)
        assert [receipt.duplicate for receipt in again] == [True] + [False] * count
    assert numbers(directory, keys) == list(range(count + 1))


@pytest.mark.parametrize("fast", [False, True])
async def test_a_failed_disk_is_final(
    tmp_path: Path, keys: ChainKeys, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch, *, fast: bool
) -> None:
    directory = tmp_path / "chain"
    async with open_chain(None, QUIET, keys, directory=directory) as chain:
        await chain.record(make_entry(0))
        chain.core.writer.fast = fast
        failing(chain, monkeypatch, "append", StoreFailed("gone"))
        for number in (1, 2):
            with pytest.raises(StoreFailed, match="gone"):
                await chain.record(make_entry(number))
    assert numbers(directory, keys) == [0]


async def test_a_cancelled_caller_leaves_a_durable_entry(
    tmp_path: Path, keys: ChainKeys, make_entry: MakeEntry
) -> None:
    directory = tmp_path / "chain"
    async with open_chain(None, QUIET, keys, directory=directory) as chain, trio.open_nursery() as nursery:
        nursery.start_soon(chain.record, make_entry(1))
        while not chain.queued:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert numbers(directory, keys) == [1]
