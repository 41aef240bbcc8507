"""Row P14 measures all three ways, over real processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import tunnel
from bench.measure import TALOS

if TYPE_CHECKING:
    import pytest


async def test_each_way_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CALLS": 3, "WARM_UP": 1, "PIPELINED": 128, "LARGE": 1}.items():
        monkeypatch.setattr(tunnel, name, value)
    results = await tunnel.run(1)
    for name, (metric, series) in results.items():
        assert metric.name == name
        expected = {TALOS, tunnel.PIPE} if name == "P14 CPU" else {TALOS, tunnel.PIPE, tunnel.DIRECT}
        assert set(series) == expected
        assert all(len(found.readings) == 1 for found in series.values())
        if name != "P14 CPU":  # which a handful of calls need not show
            assert all(found.readings[0].value > 0 for found in series.values())
