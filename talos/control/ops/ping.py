"""`talos ping`: how far away a peer is, and by which path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.control.failure import Failure
from talos.control.ops.view import connected_peer
from talos.ping import PingConfig, pinging

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.agent import Agent
    from talos.control.arguments import Arguments
    from talos.control.operations import Emit

__all__ = ["ping"]

REPLY_SECONDS = 10.0
MAX_COUNT = 1_000_000


async def ping(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`peer`, `addrs`, `count` (0: until cancelled), `interval` in seconds; one `ping` event for each answer.

    Raises DialError or PeerNotFound; Failure `timeout` when an answer does not come in time.
    """
    peer, count = args.peer("peer"), args.count("count", 4, most=MAX_COUNT)
    interval = args.number("interval", 1.0, least=0.01, most=3600)
    seconds = args.seconds(REPLY_SECONDS)
    addrs = args.addrs("addrs")
    if peer == agent.peer_id:
        raise Failure("usage", "that is this identity itself")
    emit.stage("dial", f"dialing {len(addrs)} addresses" if addrs else "looking for an address")
    agent.node.peerstore.add_addrs(peer, addrs)
    connection = await agent.node.connect(peer)
    times: list[float] = []
    async with pinging(agent.node, connection, PingConfig(reply_seconds=seconds)) as pings:
        while True:
            try:
                times.append(await pings.ping())
            except trio.TooSlowError:
                raise Failure("timeout", f"no answer in {seconds:g} s (stage: ping)") from None
            view = connected_peer(agent, connection)
            emit("ping", **{**view, "seq": len(times), "rtt_ms": _milliseconds(times[-1])})
            if len(times) == count:
                break
            await trio.sleep(interval)
    return {
        "peer_id": str(peer),
        "received": len(times),
        "min_ms": _milliseconds(min(times)),
        "mean_ms": _milliseconds(sum(times) / len(times)),
        "max_ms": _milliseconds(max(times)),
    }


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
