"""Quartiles and outliers, as the perf harness wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Summary", "percentile", "summary"]

FENCE = 1.5
"""Further than this many interquartile ranges outside the quartiles is an outlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Five numbers of a sample; `min` and `max` leave the outliers out."""

    samples: tuple[float, ...]
    min: float
    q1: float
    median: float
    q3: float
    max: float
    outliers: tuple[float, ...]


def percentile(ordered: Sequence[float], p: float) -> float:
    """The value at p·(n−1) of a sorted sample, interpolated linearly; ValueError when it is empty."""
    if not ordered:
        raise ValueError("an empty sample has no percentile")
    if not 0 <= p <= 1:
        raise ValueError(f"a percentile is between 0 and 1, not {p}")
    position = p * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    low, high = ordered[below], ordered[above]
    # The clamp keeps rounding from leaving the interval.
    return min(max(low + (high - low) * (position - below), low), high)


def summary(samples: Sequence[float]) -> Summary:
    """Sums a sample up; ValueError when it is empty."""
    ordered = sorted(samples)
    q1, median, q3 = (percentile(ordered, p) for p in (0.25, 0.5, 0.75))
    low, high = q1 - FENCE * (q3 - q1), q3 + FENCE * (q3 - q1)
    inside = [value for value in ordered if low <= value <= high]
    return Summary(
        samples=tuple(samples),
        min=inside[0],
        q1=q1,
        median=median,
        q3=q3,
        max=inside[-1],
        outliers=tuple(value for value in ordered if not low <= value <= high),
    )
