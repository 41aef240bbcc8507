"""Row P6: streams opened, agreed, used for a byte and closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.measure import Goal, Metric, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.side import Side

__all__ = ["SCENARIOS"]

STACK = "tcp/noise/yamux"
COUNTS = {"py": 400}


def _metric(name: str, title: str, goal: float) -> Metric:
    return Metric(
        row="P6",
        name=name,
        title=f"streams: open, negotiate, one byte echoed, close; {title}",
        unit="/s",
        cpu_unit="CPU us each",
        goals=(Goal(bound=goal, kind="at least"),),
    )


class Streams:
    """One at a time, then 32 at once."""

    metrics = (_metric("P6 x1", "one at a time", 1200), _metric("P6 x32", "32 at once", 3000))

    async def measure(self, side: Side) -> Mapping[str, Reading]:
        count = COUNTS.get(side.name, 2000)
        readings = {}
        for name, concurrency, times in (("P6 x1", 1, 1), ("P6 x32", 32, 2)):
            done = await side.operate(STACK, "streams", count=count * times, concurrency=concurrency)
            readings[name] = Reading(
                value=count * times / done.result["seconds"],
                dialer_cpu=done.dialer_cpu / (count * times) * 1e6,
                listener_cpu=done.listener_cpu / (count * times) * 1e6,
            )
        return readings


SCENARIOS = (Streams(),)
