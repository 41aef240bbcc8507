"""`docs/benchmarks.md` as it grows: a run replaces the rows that it measured and leaves the others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bench.measure import TALOS

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.report import Results

__all__ = ["merged", "requirement"]

REQUIREMENT = "## The requirement document's table"
_GOALS, _FIGURES = "## Goals", "## Figures"
_OPERATIONS = (
    ("Sign (1.4KB)", 7_917, "sign"),
    ("Verify (1.4KB)", 3_733, "verify"),
    ("Encrypt (1.4KB)", 311_709, "encrypt"),
    ("Decrypt (1.4KB)", 195_595, "decrypt"),
    ("Block Lookup (hash)", 9_259_028, "lookup"),
    ("Mine (difficulty=2)", 546, "mine"),
    ("Save to Disk", 3_447, "save 5 KB"),
    ("Chunk 1MB", 2_898, "chunk"),
    ("Reassemble 64KB", 9_776, "reassemble"),
)
"""The operation, the document's figure (Apple Silicon, December 2024), and our row."""


def requirement(results: Results) -> str:
    """Its operations, each with its figure there and here; nothing when none was measured."""
    lines = []
    for operation, theirs, name in _OPERATIONS:
        if f"P17 {name}" not in results:
            continue
        metric, series = results[f"P17 {name}"]
        median = series[TALOS].median()
        if median:
            rate = median if metric.unit == "/s" else 1000 / median
            lines.append(f"| {operation} | {theirs:,} | {rate:,.0f} | {1000 / rate:.2g} ms | P17 {name} |")
    if not lines:
        return ""
    head = ["| operation | the document's ops/s | ops/s here | time here | row |", "|---|---|---|---|---|"]
    about = [
        "Its figures are of another machine (Apple Silicon, December 2024). Saving is durable here: with its sync."
    ]
    return "\n".join([REQUIREMENT, "", *about, "", *head, *lines, ""])


def merged(old: str, new: str) -> str:
    """The page `new` with what `old` says of rows that are not in it."""
    head, goals, figures, table = _parts(new)
    _, old_goals, old_figures, old_table = _parts(old)
    goals, figures = _union(goals, old_goals), _union(figures, old_figures)
    lines = [head, _GOALS, "", "| row | goal | figure | met |", "|---|---|---|---|"]
    lines += [line for group in goals.values() for line in group]
    lines += ["", table or old_table, _FIGURES, ""]
    lines += [line for group in figures.values() for line in group]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


_Groups = dict[str, list[str]]


def _parts(page: str) -> tuple[str, _Groups, _Groups, str]:
    """What stands before the goals; goals and figures by their metric; the requirement's table."""
    before, _, rest = page.partition(_GOALS + "\n")
    between, _, figures = rest.partition(_FIGURES + "\n")
    goals, mark, table = between.partition(REQUIREMENT)
    rows = [line for line in goals.splitlines() if re.match(r"\| P\d", line)]
    sections = [section for section in re.split(r"^(?=### )", figures, flags=re.MULTILINE) if section.startswith("###")]
    return (
        before,
        _grouped(rows, lambda row: row.split("|")[1].strip()),
        _grouped(sections, lambda section: section[4:].partition(":")[0]),
        mark + table,
    )


def _grouped(items: list[str], name_of: Callable[[str], str]) -> _Groups:
    found: _Groups = {}
    for item in items:
        found.setdefault(name_of(item), []).append(item)
    return found


def _union(new: _Groups, old: _Groups) -> _Groups:
    """By the number of the row, the names of each in the order in which they came."""
    both = {**{name: old[name] for name in old if name not in new}, **new}
    return {name: both[name] for name in sorted(both, key=lambda name: int(re.match(r"P(\d+)", name)[1]))}  # type: ignore[index]
