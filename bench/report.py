"""Results as a Markdown page and as JSON."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bench.measure import TALOS, judge, unit_of
from bench.page import requirement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.measure import Metric, Series, Verdict
    from interop.adapters import Adapters

__all__ = ["Results", "as_json", "document", "goals", "machine", "tables"]

Results: TypeAlias = "dict[str, tuple[Metric, dict[str, Series]]]"
REASON_CHARACTERS = 160


def tables(results: Results) -> str:
    """A table for each metric."""
    return "\n".join(_table(metric, series) for metric, series in results.values())


def _table(metric: Metric, series: Mapping[str, Series]) -> str:
    cpu = f" dialer {metric.cpu_unit} | listener {metric.cpu_unit} |" if metric.cpu_unit else ""
    lines = [
        f"### {metric.name}: {metric.title}",
        "",
        f"| peer | median {metric.unit} | min | max |{cpu} Talos : peer |",
        "|---|---|---|---|" + ("---|---|" if cpu else "") + "---|",
    ]
    ours = series[TALOS].median() if TALOS in series else None
    for name, found in series.items():
        lines.append(_row(name, found, ours, with_cpu=bool(cpu)))
    return "\n".join(lines) + "\n"


def _row(name: str, series: Series, ours: float | None, *, with_cpu: bool) -> str:
    values = series.values()
    median = series.median()
    columns = 7 if with_cpu else 5
    if median is None:
        reason = (series.failed or "no reading").replace("|", "/").replace("\n", " ")[:REASON_CHARACTERS]
        return f"| {name} | {reason} |" + " |" * (columns - 2)
    cells = [name, _figure(median), _figure(min(values)), _figure(max(values))]
    if with_cpu:
        cells += [_figure(series.median("dialer_cpu")), _figure(series.median("listener_cpu"))]
    cells.append("" if ours is None or name == TALOS or not median else f"{ours / median:.2f}x")
    return f"| {' | '.join(cells)} |"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def goals(results: Results) -> str:
    """Each goal, the figure, and whether it is met."""
    lines = ["| row | goal | figure | met |", "|---|---|---|---|"]
    for metric, series in results.values():
        for verdict in judge(metric, series):
            goal = verdict.goal.text(unit_of(metric, verdict.goal))
            lines.append(f"| {metric.name} | {goal} | {verdict.text} | {_met(verdict)} |")
    return "\n".join(lines) + "\n"


def _met(verdict: Verdict) -> str:
    return {True: "yes", False: "**no**", None: "-"}[verdict.met]


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": f"{os.cpu_count()} x {model}",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def document(results: Results, adapters: Adapters, rounds: int) -> str:
    """`docs/benchmarks.md`."""
    about = machine()
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m bench --write-docs`; the scenarios stand in `bench/`. Each peer talks to itself:",
        "client and server in two processes on loopback, started through the same adapter (`interop/peers/`),",
        f"identify on. The sides take turns; each figure is the median of {rounds} rounds. CPU is what the process",
        "used: of the dialer for the operation, of the listener from before the dialer started to its end.",
        "A run replaces the rows that it measures: they may be of different days.",
        "",
        f"Machine: {about['cpu']}; {about['system']}; {about['python']}. Shared machines are noisy: read the ratios.",
        "",
        "| implementation | version |",
        "|---|---|",
        *(f"| {name} | {adapter.version} |" for name, adapter in adapters.ready.items()),
        *(f"| {name} | absent: {reason} |" for name, reason in (adapters.absent | adapters.failed).items()),
        "",
        "## Goals",
        "",
        goals(results),
        requirement(results),
        "## Figures",
        "",
        tables(results),
    ]
    return "\n".join(lines)


def as_json(results: Results, adapters: Adapters) -> str:
    """All readings, for comparing releases."""
    document = {
        "machine": machine(),
        "versions": {name: adapter.version for name, adapter in adapters.ready.items()},
        "absent": adapters.absent | adapters.failed,
        "metrics": {
            name: {
                "row": metric.row,
                "title": metric.title,
                "unit": metric.unit,
                "cpu_unit": metric.cpu_unit,
                "peers": {
                    peer: {
                        "median": found.median(),
                        "values": found.values(),
                        "dialer_cpu": found.values("dialer_cpu"),
                        "listener_cpu": found.values("listener_cpu"),
                        "failed": found.failed,
                    }
                    for peer, found in series.items()
                },
                "goals": [
                    {"goal": v.goal.text(unit_of(metric, v.goal)), "figure": v.figure, "met": v.met}
                    for v in judge(metric, series)
                ],
            }
            for name, (metric, series) in results.items()
        },
    }
    return json.dumps(document, indent=2) + "\n"
