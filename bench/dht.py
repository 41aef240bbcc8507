"""Row P11: records stored and found in a network of 20 servers, all in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.measure import Goal, Metric, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.side import Side

__all__ = ["SCENARIOS"]

SWARM = "/talos/kad/1.0.0"
SERVERS = 20
PEERS = frozenset({"talos", "js", "go", "py"})
COUNTS = {"js": 20, "py": 10}
"""The slow ones do less of it; each operation is a lookup of its own, so the rate does not depend on the count."""
OPERATIONS = {
    "provide": "a provider record stored",
    "put": "a value stored",
    "get": "a value found by another client",
    "find": "a provider found by another client",
}


def _metric(name: str, title: str) -> Metric:
    return Metric(
        row="P11",
        name=f"P11 {name}",
        title=f"DHT, 20 servers in one process, one after the other: {title}",
        unit="/s",
        goals=(Goal(bound=10, kind="at least", peer="py"),),
    )


class Records:
    """Two clients: one stores, the other one finds."""

    metrics = tuple(_metric(name, title) for name, title in OPERATIONS.items())

    async def measure(self, side: Side) -> Mapping[str, Reading]:
        if side.name not in PEERS:
            return {}
        done = await side.network(dht=SWARM, nodes=SERVERS, count=COUNTS.get(side.name, 50))
        return {f"P11 {name}": Reading(value=done[f"{name}_per_second"]) for name in OPERATIONS}


SCENARIOS = (Records(),)
