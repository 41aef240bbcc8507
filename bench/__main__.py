"""`python -m bench`: measures rows of the goals, Talos beside its peers."""

from __future__ import annotations

import argparse
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from bench import (
    bulk,
    chain,
    connections,
    crypto,
    dht,
    files,
    gossip,
    latency,
    lookups,
    memory,
    report,
    streams,
    tunnel,
)
from bench.measure import Series
from bench.page import merged
from bench.side import Side
from interop.adapters import ROOT, prepare
from interop.process import PeerFailed
from talos.errors import ConfigError
from talos.program import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.measure import Metric, Scenario
    from bench.report import Results
    from interop.adapters import Adapters

SCENARIOS: tuple[Scenario, ...] = (
    *bulk.SCENARIOS,
    *connections.SCENARIOS,
    *latency.SCENARIOS,
    *streams.SCENARIOS,
    *memory.SCENARIOS,
    *gossip.SCENARIOS,
    *dht.SCENARIOS,
)
PEERS = ("talos", "js", "go", "rust", "py")
OWN_ROWS = (("P12", lookups), ("P14", tunnel), ("P15", files), ("P16", chain), ("P17", crypto), ("P17", chain))
"""Their sides are not the implementations: the simulated network has but one, the tunnel has the ways to one server,
files go beside another program, cryptography and the chain have the primitives of this machine."""
DOCS_FILE = ROOT / "docs" / "benchmarks.md"


def arguments(words: Sequence[str]) -> argparse.Namespace:
    rows = sorted({metric.row for metric in _metrics()}, key=lambda row: int(row[1:]))
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Talos beside its peers.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(rows)}; default: all")
    parser.add_argument("--list", action="store_true", help="print what there is and stop")
    parser.add_argument("--peers", default=",".join(PEERS), help="which, by comma; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all readings there")
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md")
    options = parser.parse_args(words)
    if unknown := set(options.rows) - set(rows):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    if options.rounds < 1:
        parser.error("at least one round")
    options.rows = options.rows or rows
    options.peers = [name for name in options.peers.split(",") if name]
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    return options


async def run_scenario(scenario: Scenario, adapters: Adapters, rounds: int) -> Results:
    """Every side once a round, so that a noisy minute hits them all."""
    results: Results = {
        metric.name: (metric, {name: Series() for name in adapters.ready}) for metric in scenario.metrics
    }
    async with AsyncExitStack() as stack:
        sides = [await stack.enter_async_context(Side(adapter)) for adapter in adapters.ready.values()]
        failed: set[str] = set()
        for _ in range(rounds):
            for side in sides:
                if side.name in failed:
                    continue
                try:
                    readings = await scenario.measure(side)
                except PeerFailed as error:
                    failed.add(side.name)
                    for _, series in results.values():
                        series[side.name].failed = str(error)
                    continue
                for name, reading in readings.items():
                    results[name][1][side.name].readings.append(reading)
    return results


async def main(options: argparse.Namespace) -> int:
    """Measures what was chosen. A goal that is not met is reported, not an error; a side that failed is one."""
    adapters = await prepare(options.peers)
    results: Results = {}
    for scenario in SCENARIOS:
        if any(metric.row in options.rows for metric in scenario.metrics):
            found = await run_scenario(scenario, adapters, options.rounds)
            chosen = {name: pair for name, pair in found.items() if pair[0].row in options.rows}
            results |= chosen
            print(report.tables(chosen), flush=True)
    for module in dict.fromkeys(module for row, module in OWN_ROWS if row in options.rows):
        found = await module.run(options.rounds)
        chosen = {name: pair for name, pair in found.items() if pair[0].row in options.rows}
        results |= chosen
        print(report.tables(chosen), flush=True)
    print(report.goals(results))
    for name, reason in (adapters.absent | adapters.failed).items():
        print(f"absent: {name}: {reason}")
    if options.json:
        await trio.Path(options.json).write_text(report.as_json(results, adapters))
    if options.write_docs:
        file = trio.Path(DOCS_FILE)
        await file.write_text(merged(await file.read_text(), report.document(results, adapters, options.rounds)))
    return 1 if adapters.failed else 0


def listing() -> str:
    return "\n".join(
        f"{metric.name:<16} {metric.title}; {'; '.join(goal.text(metric.unit) for goal in metric.goals) or 'no goal'}"
        for metric in _metrics()
    )


def _metrics() -> list[Metric]:
    return [
        *(metric for scenario in SCENARIOS for metric in scenario.metrics),
        *lookups.METRICS,
        *tunnel.METRICS,
        *files.METRICS,
        *crypto.METRICS,
        *chain.METRICS,
    ]


if __name__ == "__main__":
    chosen_options = arguments(sys.argv[1:])
    if chosen_options.list:
        print(listing())
        sys.exit(0)
    try:
        sys.exit(run(main, chosen_options))
    except ConfigError as error:
        sys.exit(f"bench: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
