"""What an agent tells of its record: each block once, and each call with the block that completes it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from talos.chain import ChainConfig, ChainKeys, open_chain
from talos.cli.recorded import ENTRIES_TOLD, tell_record
from talos.identity.wallet import Wallet
from talos.mcp.detail import MetaType
from talos.mcp.transcript import Way
from tests.unit.cli.test_audit import NOW, Writer, answer, checked, request

if TYPE_CHECKING:
    from pathlib import Path


async def test_calls_are_told_with_their_blocks(tmp_path: Path) -> None:
    """In the order of their answers: one that takes long holds up no other."""
    wallet = Wallet.new("Alice", now_ms=NOW)
    lent = Writer(wallet.peer_id, connects=False, start=NOW)
    told: list[dict[str, Any]] = []

    def tell(kind: str, **fields: object) -> None:
        told.append(checked(json.dumps({"v": 1, "kind": kind, **fields})))

    agent: Any = SimpleNamespace(peer_id=wallet.peer_id, config=SimpleNamespace(wallet=wallet), tell=tell)
    async with open_chain(None, ChainConfig(), ChainKeys.of(wallet), directory=tmp_path / "chain") as chain:
        await chain.record(lent.event(MetaType.OPENED, server="files"))
        await chain.seal()
        before = chain.machine.tip.header.height
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_record, agent, chain)
            await trio.testing.wait_all_tasks_blocked(0.01)
            slow, quick = (lent.line(Way.UP, request(number, name)) for number, name in ((1, "slow"), (2, "quick")))
            notes = [lent.line(Way.UP, b'{"jsonrpc":"2.0","method":"notifications/x"}') for _ in range(ENTRIES_TOLD)]
            await chain.record_many([slow, quick, *notes, lent.line(Way.DOWN, answer(2), answers=2, duration_ms=12)])
            await chain.seal()
            await chain.record(lent.line(Way.DOWN, answer(1), answers=1, duration_ms=900))
            await chain.seal()
            with trio.fail_after(20):
                while [event["kind"] for event in told].count("block") < 2:  # noqa: ASYNC110 - nobody else is told
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    blocks = [event for event in told if event["kind"] == "block"]
    assert [block["height"] for block in blocks] == [before + 1, before + 2]
    assert (blocks[0]["n_items"], len(blocks[0]["entries"])) == (ENTRIES_TOLD + 3, ENTRIES_TOLD)
    calls = [event for event in told if event["kind"] == "call" and event["type"] == "request"]
    assert [(call["tool"], call["duration_ms"], call["block"], call["ok"]) for call in calls] == [
        ("quick", 12, before + 1, True),
        ("slow", 900, before + 1, True),
    ]
    assert told.index(calls[0]) < told.index(blocks[0]) < told.index(calls[1]) < told.index(blocks[1])
