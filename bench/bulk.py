"""Rows P1, P2, P7, P8 and the first of P9: bytes over one stream, each way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.measure import Goal, Metric, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.side import Side

__all__ = ["SCENARIOS"]

MIB = 1 << 20
SIZES = {"js": 128 * MIB, "py": 48 * MIB}
"""About half a second for each; the rest moves 384 MiB."""
SMALL_SIZES = {"js": 16 * MIB, "py": 2 * MIB}


class Bulk:
    """64 KiB writes up, and as much down."""

    def __init__(self, row: str, stack: str, goals: tuple[Goal, ...]) -> None:
        self._stack = stack
        self._up, self._down = (f"{row} {way}" for way in ("up", "down"))
        self.metrics = [
            Metric(
                row=row,
                name=name,
                title=f"{stack.replace('/', ' + ')}, one stream, {way}",
                unit="MB/s",
                cpu_unit="CPU s/GB",
                goals=goals,
            )
            for name, way in ((self._up, "dialer to listener"), (self._down, "listener to dialer"))
        ]

    async def measure(self, side: Side) -> Mapping[str, Reading]:
        size = SIZES.get(side.name, 384 * MIB)
        up = await side.operate(self._stack, "bulk", bytes=size, write=64 * 1024)
        down = await side.operate(self._stack, "perf", up=0, down=size)
        return {
            name: Reading(
                value=size / operated.result["seconds"] / 1e6,
                dialer_cpu=operated.dialer_cpu / (size / 1e9),
                listener_cpu=operated.listener_cpu / (size / 1e9),
            )
            for name, operated in ((self._up, up), (self._down, down))
        }


class SmallWrites:
    """1 KiB writes that the application does not gather."""

    metrics = (
        Metric(
            row="P2",
            name="P2",
            title="tcp + noise + yamux, one stream, 1 KiB writes",
            unit="MB/s",
            cpu_unit="CPU s/GB",
            goals=(Goal(bound=25, kind="at least", peer="py"), Goal(bound=80, kind="at least")),
        ),
    )

    async def measure(self, side: Side) -> Mapping[str, Reading]:
        size = SMALL_SIZES.get(side.name, 64 * MIB)
        done = await side.operate("tcp/noise/yamux", "bulk", bytes=size, write=1024)
        reading = Reading(
            value=size / done.result["seconds"] / 1e6,
            dialer_cpu=done.dialer_cpu / (size / 1e9),
            listener_cpu=done.listener_cpu / (size / 1e9),
        )
        return {"P2": reading}


SCENARIOS = (
    Bulk(
        "P1",
        "tcp/noise/yamux",
        (
            Goal(bound=1.3, kind="at least", peer="go"),
            Goal(bound=3, kind="at least", peer="js"),
            Goal(bound=6, kind="at least", peer="py"),
            Goal(bound=0.9, kind="at most", of="dialer_cpu"),
            Goal(bound=0.9, kind="at most", of="listener_cpu"),
        ),
    ),
    SmallWrites(),
    Bulk(
        "P7",
        "tcp/tls/yamux",
        (Goal(bound=1.0, kind="at least", peer="go"), Goal(bound=8, kind="at least", peer="py")),
    ),
    Bulk(
        "P8",
        "ws/noise/yamux",
        (Goal(bound=1.0, kind="at least", peer="go"), Goal(bound=6, kind="at least", peer="py")),
    ),
    Bulk(
        "P9",
        "quic-v1",
        (Goal(bound=5, kind="at least", peer="py"), Goal(bound=1.0, kind="at least", peer="js")),
    ),
)
