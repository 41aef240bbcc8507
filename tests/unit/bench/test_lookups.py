"""The bench of simulated lookups, on a small network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import lookups
from bench.measure import TALOS, judge

if TYPE_CHECKING:
    import pytest


async def test_every_metric_is_read_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "NODES", 100)
    monkeypatch.setattr(lookups, "LOOKUPS", 40)
    results = await lookups.run(2)
    assert set(results) == {metric.name for metric in lookups.METRICS}
    for metric, series in results.values():
        assert len(series[TALOS].readings) == 2
        assert all(verdict.met for verdict in judge(metric, series))
    assert 1 <= results["P12 messages"][1][TALOS].values()[0] < 40
