"""The lines that the harnesses match: wrong indentation or spelling loses a result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interop.harness.statistics import Summary

__all__ = ["perf_yaml", "transport_json", "transport_yaml"]


def transport_yaml(handshake_plus_one_rtt_ms: float, ping_rtt_ms: float) -> str:
    """unified-testing `transport`, `hole-punch`."""
    return (
        "latency:\n"
        f"  handshake_plus_one_rtt: {handshake_plus_one_rtt_ms:.3f}\n"
        f"  ping_rtt: {ping_rtt_ms:.3f}\n"
        "  unit: ms\n"
    )


def transport_json(handshake_plus_one_rtt_ms: float, ping_rtt_ms: float) -> str:
    """test-plans `transport-interop`, on one line; the parser wants three l's in the second key."""
    result = {
        "handshakePlusOneRTTMillis": round(handshake_plus_one_rtt_ms, 3),
        "pingRTTMilllis": round(ping_rtt_ms, 3),
    }
    return json.dumps(result) + "\n"


def perf_yaml(name: str, summary: Summary, *, unit: str, decimals: int) -> str:
    """One section of unified-testing `perf`: `upload`, `download` or `latency`."""

    def figure(value: float) -> str:
        return f"{value:.{decimals}f}"

    def figures(values: tuple[float, ...]) -> str:
        return "[" + ", ".join(map(figure, values)) + "]"

    return (
        f"{name}:\n"
        f"  iterations: {len(summary.samples)}\n"
        f"  min: {figure(summary.min)}\n"
        f"  q1: {figure(summary.q1)}\n"
        f"  median: {figure(summary.median)}\n"
        f"  q3: {figure(summary.q3)}\n"
        f"  max: {figure(summary.max)}\n"
        f"  outliers: {figures(summary.outliers)}\n"
        f"  samples: {figures(summary.samples)}\n"
        f"  unit: {unit}\n"
    )
