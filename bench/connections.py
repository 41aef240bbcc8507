"""Rows P3, P4 and the second of P9: new connections one after the other, and how long each takes to stand."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from bench.measure import Goal, Metric, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.side import Side

__all__ = ["SCENARIOS"]

STACK = "tcp/noise/yamux"
COUNTS = {"py": 10}
"""A quarter of a second each, and its own limits refuse more."""


class Connections:
    """Dial, security, muxer, one byte echoed, close."""

    metrics = (
        Metric(
            row="P3",
            name="P3",
            title="new connections, sequential, one byte echoed on each",
            unit="/s",
            cpu_unit="CPU ms each",
            goals=(Goal(bound=1.0, kind="at least", peer="go"), Goal(bound=250, kind="at least")),
        ),
        Metric(
            row="P4",
            name="P4",
            title="handshake, dial to authenticated and multiplexed, p50",
            unit="ms",
            goals=(Goal(bound=2.5, kind="at most"), Goal(bound=1.4, kind="at most", peer="go")),
        ),
    )

    async def measure(self, side: Side) -> Mapping[str, Reading]:
        count = COUNTS.get(side.name, 300)
        done = await side.operate(STACK, "handshakes", count=count)
        return {
            "P3": Reading(
                value=count / done.result["seconds"],
                dialer_cpu=done.dialer_cpu / count * 1000,
                listener_cpu=done.listener_cpu / count * 1000,
            ),
            "P4": Reading(value=statistics.median(done.result["latency_ms"])),
        }


class QuicConnections:
    """The same over QUIC, which has its handshake in one round trip."""

    metrics = (
        Metric(
            row="P9",
            name="P9 connections",
            title="quic-v1, new connections, sequential, one byte echoed on each",
            unit="/s",
            cpu_unit="CPU ms each",
            goals=(Goal(bound=5, kind="at least", peer="py"), Goal(bound=1.0, kind="at least", peer="js")),
        ),
    )

    async def measure(self, side: Side) -> Mapping[str, Reading]:
        count = COUNTS.get(side.name, 300)
        done = await side.operate("quic-v1", "handshakes", count=count)
        reading = Reading(
            value=count / done.result["seconds"],
            dialer_cpu=done.dialer_cpu / count * 1000,
            listener_cpu=done.listener_cpu / count * 1000,
        )
        return {"P9 connections": reading}


SCENARIOS = (Connections(), QuicConnections())
