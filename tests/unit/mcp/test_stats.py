"""The numbers and their text."""

from __future__ import annotations

import re

from talos.mcp.stats import McpStats


def test_the_text_is_that_of_prometheus() -> None:
    stats = McpStats()
    stats.sessions["open"] = 2
    stats.line("up", "request", 100)
    stats.line("up", "request", 50)
    stats.denied_total["rate"] += 1
    stats.call(0.004)
    stats.call(0.2)
    stats.call(1000)
    text = stats.prometheus()
    for line in (
        'talos_mcp_sessions{state="open"} 2',
        'talos_mcp_lines_total{dir="up",kind="request"} 2',
        'talos_mcp_bytes_total{dir="up"} 150',
        'talos_mcp_denied_total{reason="rate"} 1',
        "# TYPE talos_mcp_lines_total counter",
        "# TYPE talos_mcp_sessions gauge",
        "talos_mcp_restarts_total 0",
        "talos_mcp_children 0",
        'talos_mcp_call_seconds_bucket{le="0.005"} 1',
        'talos_mcp_call_seconds_bucket{le="0.5"} 2',
        'talos_mcp_call_seconds_bucket{le="+Inf"} 3',
        "talos_mcp_call_seconds_count 3",
    ):
        assert f"{line}\n" in text
    for line in text.splitlines():
        assert re.fullmatch(r"# TYPE \w+ (counter|gauge|histogram)|\w+(\{[^}]*\})? [0-9.]+", line)
