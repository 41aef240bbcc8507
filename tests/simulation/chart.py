"""Bar charts for the documents, drawn by hand-run programs; matplotlib is needed only there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Panel", "draw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart of horizontal bars, in the order given."""

    title: str
    unit: str
    bars: Mapping[str, float]


def draw(path: Path, panels: Sequence[Panel], *, columns: int = 2) -> None:
    """Writes the panels as one SVG; the same bars give the same file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = path.name
    from matplotlib import pyplot as plt

    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5 * columns, 3 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        names, values = list(panel.bars), list(panel.bars.values())
        bars = axis.barh(range(len(names)), values, color="#3b6ea5")
        axis.bar_label(bars, fmt="%.4g", padding=2, fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.invert_yaxis()
        axis.set_title(panel.title, fontsize=9)
        axis.set_xlabel(panel.unit, fontsize=8)
        axis.set_xlim(0, max([*values, 1e-9]) * 1.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
