"""A backup that was put back: those who keep the chain know more of it, and so its owner learns."""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trio

from talos.chain import ChainConfig, open_chain
from talos.chain.effects import Alarm, AlarmKind
from talos.chain.sessions import SyncLimits
from talos.errors import RollbackSuspected
from tests.chain.conftest import call, keys_of, peer_of
from tests.chain.test_sync import fill, node_of

if TYPE_CHECKING:
    from pathlib import Path

ALICE, BOB = keys_of(b"Alice"), keys_of(b"Bob")
KEPT = ChainConfig(replicas=(peer_of(BOB),), seal_seconds=0.01, sync=SyncLimits(guard_seconds=0.5))


async def test_a_restored_backup_signs_nothing_twice(tmp_path: Path) -> None:
    directory = tmp_path / "alice"
    async with AsyncExitStack() as stack:
        a = await node_of(stack, ALICE)
        b = await node_of(stack, BOB, a)
        bob = await stack.enter_async_context(open_chain(b, ChainConfig(), BOB, directory=tmp_path / "bob"))
        for number in (1, 2):
            async with open_chain(a, KEPT, ALICE, directory=directory) as alice:
                with trio.fail_after(10):
                    await fill(alice, number * 10, 2)
                    while (await bob.sync(peer_of(ALICE))).log_size < alice.machine.tip.header.log_size:
                        pass
            if number == 1:
                shutil.copytree(directory, tmp_path / "backup")
        shutil.rmtree(directory)
        shutil.copytree(tmp_path / "backup", directory)
        async with (
            open_chain(a, KEPT, ALICE, directory=directory) as alice,
            await alice.events() as events,
        ):
            height = alice.machine.tip.header.height
            with trio.fail_after(10):
                await alice.record(call(99))
                async for effect in events:
                    if isinstance(effect, Alarm) and effect.kind is AlarmKind.ROLLBACK:
                        break
            with pytest.raises(RollbackSuspected):
                await alice.record(call(100))
            assert alice.machine.tip.header.height == height, "nothing was signed"
        assert not bob.frozen
