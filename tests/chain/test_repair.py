"""Damaged rows are fetched again from who keeps the chain, by block id; only right bytes replace them."""

from __future__ import annotations

import sqlite3
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from talos.chain import ChainConfig, ChainReader, open_chain, repair, verify_reader
from talos.chain.block import Item
from talos.errors import LocalProtocolError, StoreCorrupt
from tests.chain.conftest import keys_of, peer_of
from tests.chain.raw_peer import RawPeer
from tests.chain.test_hostile import FEED, LONG, staged
from tests.chain.test_sync import fill, node_of
from tests.unit.chain.memory_chain import make_entry

if TYPE_CHECKING:
    from pathlib import Path

    from talos.chain.messages import Request, Response

ALICE, BOB, EVE = keys_of(b"Alice"), keys_of(b"Bob"), keys_of(b"Eve")


def damage(directory: Path, column: str, table: str, height: int) -> None:
    with closing(sqlite3.connect(directory / "chain.db", isolation_level=None)) as db:
        (data,) = db.execute(f"SELECT {column} FROM {table} WHERE height=?", (height,)).fetchone()
        changed = data[:-3] + bytes((data[-3] ^ 1,)) + data[-2:]
        db.execute(f"UPDATE {table} SET {column}=? WHERE height=?", (changed, height))


@pytest.mark.parametrize(("table", "column"), [("body", "items"), ("header", "raw")])
async def test_a_damaged_row_is_fetched_again(
    tmp_path: Path, table: str, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "PAUSE_SECONDS", 0.05)
    kept = ChainConfig(replicas=(peer_of(BOB),))
    async with AsyncExitStack() as stack:
        a = await node_of(stack, ALICE)
        b = await node_of(stack, BOB, a)
        alice = await stack.enter_async_context(open_chain(a, kept, ALICE, directory=tmp_path / "alice"))
        bob = await stack.enter_async_context(open_chain(b, ChainConfig(), BOB, directory=tmp_path / "bob"))
        with trio.fail_after(60):
            for number in range(3):
                await fill(alice, number * 10, 2)
            while (await bob.sync(peer_of(ALICE))).height < 3:
                pass
            damage(tmp_path / "alice", column, table, 2)
            with pytest.raises(StoreCorrupt, match=f"{table} 2"):
                alice.core.serving.items_at(2)
            while not await trio.to_thread.run_sync(whole, tmp_path / "alice"):
                pass
        await alice.prove(4)


def whole(directory: Path) -> bool:
    try:
        with ChainReader(directory) as reader:
            return verify_reader(reader, full=True).ok
    except StoreCorrupt:
        return False


def other_block(raw: RawPeer, request: Request) -> Response:
    response = raw.honest(request)
    return replace(response, blocks=tuple(replace(one, items=(Item(make_entry(9000)),)) for one in response.blocks))


async def test_wrong_bytes_replace_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that gives another body: the row stays marked by its hash, and is asked for again later."""
    monkeypatch.setattr(repair, "PAUSE_SECONDS", 0.05)
    async with staged(tmp_path) as scene:
        raw = RawPeer(LONG)
        await scene.bob.sync(await scene.attacker(raw))
        await scene.whole()
        core = scene.bob._replicas._cores[FEED.chain_id]  # type: ignore[union-attr]
        wrong: list[Request] = []
        twice = trio.Event()

        def lie(request: Request) -> Response:
            wrong.append(request)
            if len(wrong) > 1:  # so the first was looked at
                twice.set()
            return other_block(raw, request)

        raw.respond = lie
        damage(core.store.directory, "items", "body", 7)
        with trio.fail_after(60):
            with pytest.raises(StoreCorrupt):
                core.serving.items_at(7)
            await twice.wait()
            assert await repair._scrub(core) == [7]
            raw.respond = raw.honest
            while await repair._scrub(core):
                pass


async def test_what_nobody_gives_is_asked_for_after_a_pause(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    """What looks again sees the damage again; that alone does not begin the next round."""
    asked = []

    class Damaged:
        damaged = trio.Event()

        class reading:  # noqa: N801 - stands for an attribute
            @staticmethod
            def forget() -> None:
                pass

    async def scrub(core: Damaged) -> list[int]:
        core.damaged.set()
        return [7]

    async def mend(core: Damaged, height: int) -> bool:
        asked.append(trio.current_time())
        core.damaged.set()
        return False

    monkeypatch.setattr(repair, "_scrub", scrub)
    monkeypatch.setattr(repair, "_mend", mend)
    Damaged.damaged.set()
    with trio.move_on_after(3.5 * repair.PAUSE_SECONDS):
        await repair.keep_whole(Damaged)  # type: ignore[arg-type]
    assert len(asked) == 4


async def test_a_chain_is_brought_back_from_who_keeps_it(tmp_path: Path) -> None:
    """Its author lost most of it; a copy comes back, whole, and only to the author."""
    kept = ChainConfig(replicas=(peer_of(BOB),))
    async with AsyncExitStack() as stack:
        a = await node_of(stack, ALICE)
        b = await node_of(stack, BOB, a)
        e = await node_of(stack, EVE, b)
        alice = await stack.enter_async_context(open_chain(a, kept, ALICE, directory=tmp_path / "alice"))
        bob = await stack.enter_async_context(open_chain(b, ChainConfig(), BOB, directory=tmp_path / "bob"))
        with trio.fail_after(60):
            for number in range(3):
                await fill(alice, number * 10, 4)
            while (await bob.sync(peer_of(ALICE))).height < 3:
                pass
        eve = await stack.enter_async_context(open_chain(e, ChainConfig(), EVE, directory=tmp_path / "eve"))
        with trio.fail_after(60), pytest.raises(LocalProtocolError, match="does not show how"):
            await eve.bring_back(peer_of(BOB), alice.chain_id)
        chain_id = alice.chain_id
    async with AsyncExitStack() as stack:
        b = await node_of(stack, BOB)
        a = await node_of(stack, ALICE, b)
        await stack.enter_async_context(open_chain(b, ChainConfig(), BOB, directory=tmp_path / "bob"))
        other = await stack.enter_async_context(open_chain(a, ChainConfig(), ALICE, directory=tmp_path / "scratch"))
        with trio.fail_after(60):
            copy = await other.bring_back(peer_of(BOB), chain_id)
    with ChainReader(copy) as reader:
        found = verify_reader(reader, full=True)
        assert (found.first_bad, found.checked) == (None, 13)
        assert reader.params.chain_id == chain_id
