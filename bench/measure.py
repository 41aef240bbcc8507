"""What is measured, what came out, and which goals that meets."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.side import Side

__all__ = ["Goal", "Metric", "Reading", "Scenario", "Series", "Verdict", "judge"]

TALOS = "talos"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound on Talos's median, or on its ratio to a peer's."""

    bound: float
    kind: Literal["at least", "at most"]
    peer: str | None = None
    """None: the bound is a figure in the metric's unit."""
    of: Literal["value", "dialer_cpu", "listener_cpu"] = "value"

    def text(self, unit: str) -> str:
        sign = ">=" if self.kind == "at least" else "<="
        what = {"value": "", "dialer_cpu": "dialer CPU ", "listener_cpu": "listener CPU "}[self.of]
        return f"{what}{sign} {self.bound:g}x {self.peer}" if self.peer else f"{what}{sign} {self.bound:g} {unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One line of a row of the goals."""

    row: str
    name: str
    title: str
    unit: str
    cpu_unit: str = ""
    """What the CPU figures are per; empty where they say nothing."""
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One measurement of one side; CPU in the metric's `cpu_unit`."""

    value: float
    dialer_cpu: float | None = None
    listener_cpu: float | None = None


@dataclass(slots=True)
class Series:
    """All readings of one peer for one metric, or why there are none."""

    readings: list[Reading] = field(default_factory=list)
    failed: str | None = None

    def values(self, of: str = "value") -> list[float]:
        found = [getattr(reading, of) for reading in self.readings]
        return [value for value in found if value is not None]

    def median(self, of: str = "value") -> float | None:
        values = self.values(of)
        return statistics.median(values) if values else None


class Scenario(Protocol):
    """Measures some metrics of one side at a time."""

    @property
    def metrics(self) -> Sequence[Metric]: ...

    async def measure(self, side: Side) -> Mapping[str, Reading]:
        """One reading by metric name. PeerFailed when the side cannot do it; what is left out was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A goal and what became of it; `met` None: it could not be judged."""

    metric: Metric
    goal: Goal
    figure: float | None
    met: bool | None

    @property
    def text(self) -> str:
        """The figure as the goal counts it."""
        if self.figure is None:
            return "not measured"
        return f"{self.figure:.2f}x" if self.goal.peer else f"{self.figure:.3g} {unit_of(self.metric, self.goal)}"


def unit_of(metric: Metric, goal: Goal) -> str:
    return metric.unit if goal.of == "value" else metric.cpu_unit


def judge(metric: Metric, series: Mapping[str, Series]) -> list[Verdict]:
    """Each goal of the metric against the medians."""
    return [_verdict(metric, goal, series) for goal in metric.goals]


def _verdict(metric: Metric, goal: Goal, series: Mapping[str, Series]) -> Verdict:
    figure = series[TALOS].median(goal.of) if TALOS in series else None
    if figure is not None and goal.peer is not None:
        other = series[goal.peer].median(goal.of) if goal.peer in series else None
        figure = figure / other if other else None
    if figure is None:
        return Verdict(metric=metric, goal=goal, figure=None, met=None)
    met = figure >= goal.bound if goal.kind == "at least" else figure <= goal.bound
    return Verdict(metric=metric, goal=goal, figure=figure, met=met)
