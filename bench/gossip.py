"""Row P10: signed messages of 1 KiB among ten gossip nodes that all know each other, in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.measure import Goal, Metric, Reading
from interop.process import PeerFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.side import Side

__all__ = ["SCENARIOS"]

TOPIC = "bench"
NODES = 10
PEERS = frozenset({"talos", "js", "go", "py"})
SIZE = 1024
COUNTS = {"py": 40}
"""What py's nodes hold in their queues without losing it."""


class Messages:
    """A burst of one publisher, until all have it; then 20 messages a second, published by all in turn."""

    metrics = (
        Metric(
            row="P10",
            name="P10 burst",
            title="gossip, 10 nodes in one process, 1 KiB signed: deliveries of a burst",
            unit="/s",
            goals=(Goal(bound=3, kind="at least", peer="js"),),
        ),
        Metric(
            row="P10",
            name="P10 p50",
            title="the same at 20 messages a second: from publish to delivery, p50",
            unit="ms",
            goals=(Goal(bound=1, kind="at most", peer="js"),),
        ),
    )

    async def measure(self, side: Side) -> Mapping[str, Reading]:
        if side.name not in PEERS:
            return {}
        done = await side.network(gossip=TOPIC, nodes=NODES, count=COUNTS.get(side.name, 300), size=SIZE)
        if done["delivered"] < done["expected"]:
            raise PeerFailed(f"{side.name}: {done['delivered']} of {done['expected']} deliveries of the burst")
        return {"P10 burst": Reading(value=done["burst_per_second"]), "P10 p50": Reading(value=done["p50_ms"])}


SCENARIOS = (Messages(),)
