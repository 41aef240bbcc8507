"""What is recorded while an agent runs, as events for those who follow it: its blocks, and the calls in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.chain.config import ChainKeys
from talos.chain.effects import Announce
from talos.chain.records import ChainReader
from talos.cli import chains
from talos.cli.calls import CallReader

if TYPE_CHECKING:
    from talos.agent import Agent
    from talos.chain import Chain
    from talos.cli.calls import Call

__all__ = ["tell_record"]

ENTRIES_TOLD = 64
"""Of a block, in its event; `talos chain show` has the others."""


async def tell_record(agent: Agent, chain: Chain) -> None:
    """Tells `block` for each block from now on, with a `call` for each one that is complete by it; for ever.

    AuditError when the chain cannot be read.
    """
    events = await chain.events()
    height = chain.machine.tip.header.height
    calls = CallReader(chain.directory.name, "serve", agent.peer_id, ordered=False)
    with events, ChainReader(chain.directory, ChainKeys.of(agent.config.wallet)) as reader:
        async for effect in events:
            if isinstance(effect, Announce):
                while height < effect.tip.header.height:
                    height += 1
                    block, complete = await trio.to_thread.run_sync(_read, reader, calls, height)
                    for call in complete:
                        agent.tell("call", **call.fields())
                    agent.tell("block", **block)


def _read(reader: ChainReader, calls: CallReader, height: int) -> tuple[dict[str, object], list[Call]]:
    stored = reader.block(height)
    records = reader.block_records(stored)
    complete = [call for record in records for call in calls.receive(record)]
    return chains.block_fields(stored, records[:ENTRIES_TOLD]), complete
