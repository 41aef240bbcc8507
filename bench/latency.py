"""Row P5: round trips over one open stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.measure import Goal, Metric, Reading
from interop.harness.statistics import percentile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.side import Side

__all__ = ["SCENARIOS"]

STACK = "tcp/noise/yamux"
COUNT = 3000
WARM_UP = 200


class RoundTrips:
    """32 random bytes there and back."""

    metrics = (
        Metric(
            row="P5",
            name="P5 p50",
            title="ping on an open stream, p50",
            unit="us",
            cpu_unit="CPU us each",
            goals=(Goal(bound=180, kind="at most"),),
        ),
        Metric(
            row="P5",
            name="P5 p99",
            title="ping on an open stream, p99",
            unit="us",
            goals=(Goal(bound=600, kind="at most"),),
        ),
    )

    async def measure(self, side: Side) -> Mapping[str, Reading]:
        done = await side.operate(STACK, "rtt", count=COUNT + WARM_UP)
        rtts = sorted(done.result["rtt_ms"][WARM_UP:])
        each = 1e6 / (COUNT + WARM_UP)
        return {
            "P5 p50": Reading(
                value=percentile(rtts, 0.5) * 1000,
                dialer_cpu=done.dialer_cpu * each,
                listener_cpu=done.listener_cpu * each,
            ),
            "P5 p99": Reading(value=percentile(rtts, 0.99) * 1000),
        }


SCENARIOS = (RoundTrips(),)
