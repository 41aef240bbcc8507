"""`talos wait`: until the agent has the peers that are waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.agent import Agent
    from talos.control.arguments import Arguments
    from talos.control.operations import Emit

__all__ = ["ready"]

SECONDS = 60.0


async def ready(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """Returns when `peers` peers are connected (`TooSlowError` past the deadline); with 0 at once."""
    wanted = args.count("peers", 0, most=10_000)
    emit.stage("wait", f"waiting for {wanted} peers")
    with trio.fail_after(args.seconds(SECONDS)):
        async with agent.node.events() as events:
            while _peers(agent) < wanted:
                await events.receive()
    return {"peers": _peers(agent)}


def _peers(agent: Agent) -> int:
    return len({connection.remote_peer for connection in agent.node.connections})
