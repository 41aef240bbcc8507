"""What a run prints, keeps as JSON and writes into the documentation."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, Any

from interop.matrix import Cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interop.adapters import Adapters
    from interop.cells import Outcome

__all__ = ["as_json", "counts", "line", "markdown"]

REASON_CHARACTERS = 300
NETWORKS = (
    "A DHT pair puts a value, gets it, provides and finds a provider. In the mixed network 12 servers know one Talos",
    "node to begin with; with each peer, what one puts or provides the other finds, both ways, and hidden peers, which",
    "only Talos nodes are connected to, are found through them: those sought that have a Talos node among the three",
    "nearest, where every lookup has to ask. A gossip pair sends ten signed messages of 2 KiB; in the mixed mesh each",
    "implementation publishes ten, and every node tells of every one, once, by its author; Talos counts copies left",
    "unsent because of IDONTWANT, and peers that it dialled because a PRUNE named them. Over a relay the caller proves",
    "who it is, pings and echoes. Holes are punched, and AutoNAT asked, between network namespaces whose routers",
    "translate; behind symmetric routers no hole can be punched, and the relay goes on carrying.",
)
NETWORK_RESULTS = ("network", "gossip", "mesh", "features")


def line(outcome: Outcome) -> str:
    """One row of the table that grows while cells end."""
    figures = "" if outcome.failed or outcome.skipped else _figures(outcome)
    reason = (outcome.failed or outcome.skipped or "")[:REASON_CHARACTERS]
    return f"{outcome.word}  {outcome.cell.name:<34} {outcome.seconds:6.1f} s  {figures}{reason}".rstrip()


def _figures(outcome: Outcome) -> str:
    results = outcome.results
    parts = []
    if "ping" in results:
        parts.append(f"ping {min(results['ping']['rtt_ms']):.2f} ms")
    if "perf" in results:
        perf = results["perf"]
        parts.append(f"up {_rate(perf['up'], perf['upload_seconds'])}")
        parts.append(f"down {_rate(perf['down'], perf['download_seconds'])}")
    if "reconnect" in results:
        again = results["reconnect"]
        parts.append(f"{again['count'] / again['seconds']:.0f} reconnects/s")
    parts += [f"{name}: {_told(results[name])}" for name in results if name in NETWORK_RESULTS]
    return ", ".join(parts)


def _told(result: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in result.items())


def _rate(size: int, seconds: float) -> str:
    return f"{size / max(seconds, 1e-9) / 1e6:.0f} MB/s"


def counts(outcomes: Sequence[Outcome]) -> str:
    """The last line of a run, which others read."""
    words = [outcome.word for outcome in outcomes]
    return f"{words.count('pass')} passed, {words.count('FAIL')} failed, {words.count('skip')} skipped"


def as_json(outcomes: Sequence[Outcome], adapters: Adapters) -> str:
    """All figures of a run."""
    document: dict[str, Any] = {
        "versions": {name: adapter.version for name, adapter in adapters.ready.items()},
        "absent": adapters.absent,
        "cells": [
            {
                "name": outcome.cell.name,
                "outcome": outcome.word.lower(),
                "reason": outcome.failed or outcome.skipped,
                "seconds": round(outcome.seconds, 3),
                "results": outcome.results,
            }
            for outcome in outcomes
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def markdown(outcomes: Sequence[Outcome], adapters: Adapters) -> str:
    """`docs/interop.md`."""
    lines = [
        "# Interoperability",
        "",
        "Written by `python -m interop --write-docs`. Each cell pings, identifies both ways, echoes 1 MiB, moves 10 MB",
        "each way by perf and reconnects 200 times (20 where the peer is py); Talos dials and is dialled.",
        "The figures show that a cell works; how fast things are stands in `benchmarks.md`.",
        "",
        f"Last run: {counts(outcomes)}; Python {platform.python_version()}, {platform.system()} {platform.machine()}.",
        "",
        "| implementation | version |",
        "|---|---|",
        *(f"| {name} | {adapter.version} |" for name, adapter in sorted(adapters.ready.items())),
        *(f"| {name} | absent: {reason} |" for name, reason in sorted(adapters.absent.items())),
        "",
        "| stack | dialer | listener | outcome | figures |",
        "|---|---|---|---|---|",
    ]
    ordered = sorted(outcomes, key=lambda outcome: (outcome.cell.peer, outcome.cell.name))
    lines += [_row(outcome, outcome.cell.stack) for outcome in ordered if isinstance(outcome.cell, Cell)]
    lines += ["", *NETWORKS, "", "| network | client | server | outcome | figures |", "|---|---|---|---|---|"]
    lines += [_row(outcome, outcome.cell.title) for outcome in ordered if not isinstance(outcome.cell, Cell)]
    return "\n".join(lines) + "\n"


def _row(outcome: Outcome, first: str) -> str:
    cell = outcome.cell
    detail = outcome.failed or outcome.skipped or _figures(outcome)
    return f"| {first} | {cell.dialer} | {cell.listener} | {outcome.word.lower()} | {_cell(detail)} |"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")[:REASON_CHARACTERS]
