"""Row P12: lookups of the DHT in a simulated network of ten thousand nodes, a fifth of them dead."""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING

import trio

from bench.measure import TALOS, Goal, Metric, Reading, Series
from tests.simulation.dht import Row, find_peers, kill, store_and_get
from tests.simulation.dht_network import Network

if TYPE_CHECKING:
    from bench.report import Results

__all__ = ["METRICS", "run"]

NODES = 10_000
LOOKUPS = 2_000
DEAD = 0.2
SEED = 12


def _metric(name: str, title: str, unit: str, *goals: Goal) -> Metric:
    return Metric(row="P12", name=f"P12 {name}", title=title, unit=unit, goals=goals)


METRICS = (
    _metric("hops", "median hops of a lookup", "hops", Goal(bound=math.log2(NODES) / 2 + 2, kind="at most")),
    _metric("found", "records got and peers found", "%", Goal(bound=99.9, kind="at least")),
    _metric("messages", "requests of a lookup, mean", "requests"),
    _metric("speed", "lookups simulated, both ends of every request in one process", "lookups/s"),
)


async def run(rounds: int) -> Results:
    """Every round kills other nodes and looks for others."""
    return await trio.to_thread.run_sync(_run, rounds)


def _run(rounds: int) -> Results:
    results: Results = {metric.name: (metric, {TALOS: Series()}) for metric in METRICS}
    network = Network(NODES, random.Random(SEED))
    for _ in range(rounds):
        for node in network.nodes.values():
            node.alive = True
        started = time.perf_counter()
        rows = [
            store_and_get(network, LOOKUPS // 2, "get", lambda: kill(network, DEAD)),
            find_peers(network, LOOKUPS // 2, "find"),
        ]
        readings = _readings(rows, time.perf_counter() - started)
        for name, value in readings.items():
            results[name][1][TALOS].readings.append(Reading(value=value))
    return results


def _readings(rows: list[Row], seconds: float) -> dict[str, float]:
    messages = [count for row in rows for count in row.messages]
    hops = sorted(count for row in rows for count in row.hops)
    return {
        "P12 hops": hops[len(hops) // 2],
        "P12 found": 100 * sum(row.successes for row in rows) / len(hops),
        "P12 messages": sum(messages) / len(messages),
        "P12 speed": (len(hops) + LOOKUPS // 2) / seconds,  # storing is a lookup too
    }
