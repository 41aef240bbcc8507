"""`talos peers`: who is connected, who is near, who is known."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio

from talos.control.ops.view import connected_peer, known_peer
from talos.mdns import open_mdns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.agent import Agent
    from talos.control.arguments import Arguments
    from talos.control.operations import Emit

__all__ = ["peers", "snapshot"]

JOIN_SECONDS = 3.0
MAX_ROWS = 100
"""As many fit an answer."""


def snapshot(agent: Agent, query: Mapping[str, str]) -> Mapping[str, object]:
    """Rows of the kind `peer`: the connected ones; with `known` others too, with `nearby` those that mDNS hears.

    `after` is the last peer id of the part before.
    """
    rows = {str(connection.remote_peer): connected_peer(agent, connection) for connection in agent.node.connections}
    if query.get("nearby"):
        near = {} if agent.mdns is None else agent.mdns.peers
        rows = {
            str(peer): rows.get(str(peer)) or known_peer(agent, peer, str(addrs[0]) if addrs else None, "lan")
            for peer, addrs in near.items()
        }
    elif query.get("known"):
        for peer in list(agent.node.peerstore.peers()):
            addrs = agent.node.peerstore.addrs(peer)
            rows.setdefault(str(peer), known_peer(agent, peer, str(addrs[0]) if addrs else None))
    after = query.get("after", "")
    wanted = [rows[peer] for peer in sorted(rows) if peer > after]
    part = wanted[:MAX_ROWS]
    return {"rows": part, "next": part[-1]["peer_id"] if len(wanted) > len(part) else None}


async def peers(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`which`: connected, known or nearby; one `peer` event for each. A node that has just begun joins first."""
    which = args.text("which", "connected")
    seconds = args.seconds(JOIN_SECONDS)
    async with AsyncExitStack() as stack:
        if which == "nearby" and agent.mdns is None:
            agent.mdns = await stack.enter_async_context(open_mdns(agent.node))
            stack.callback(setattr, agent, "mdns", None)
            emit.stage("listen", "listening to the local network")
            await trio.sleep(seconds)
        elif agent.dht is not None and not agent.node.connections:
            emit.stage("join", "joining the network")
            with trio.move_on_after(seconds):
                await agent.dht.bootstrapped()
        count, after = 0, ""
        while True:
            part = snapshot(agent, {which: "1", "after": after})
            rows = part["rows"]
            assert isinstance(rows, list)
            for row in rows:
                emit("peer", **row)
            count += len(rows)
            if part["next"] is None:
                return {"count": count}
            after = str(part["next"])
