"""The exact lines that the harnesses match."""

from __future__ import annotations

import json

from interop.harness.results import perf_yaml, transport_json, transport_yaml
from interop.harness.statistics import summary


def test_transport_yaml() -> None:
    assert transport_yaml(5.0111, 0.5992) == (
        "latency:\n  handshake_plus_one_rtt: 5.011\n  ping_rtt: 0.599\n  unit: ms\n"
    )


def test_transport_json_is_one_line_with_three_ls() -> None:
    line = transport_json(7.30001, 7.1)
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert json.loads(line) == {"handshakePlusOneRTTMillis": 7.3, "pingRTTMilllis": 7.1}


def test_perf_yaml() -> None:
    found = perf_yaml("upload", summary([1.0, 2.0, 3.0, 4.0, 50.0]), unit="Gbps", decimals=2)
    assert found == (
        "upload:\n  iterations: 5\n  min: 1.00\n  q1: 2.00\n  median: 3.00\n  q3: 4.00\n  max: 4.00\n"
        "  outliers: [50.00]\n  samples: [1.00, 2.00, 3.00, 4.00, 50.00]\n  unit: Gbps\n"
    )


def test_perf_yaml_without_outliers() -> None:
    assert "  outliers: []\n" in perf_yaml("latency", summary([1.0]), unit="ms", decimals=3)
