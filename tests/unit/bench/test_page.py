"""The page of benchmarks: what was not measured stays, what was is new."""

from __future__ import annotations

from bench import chain, crypto, report
from bench.measure import Metric, Reading, Series
from bench.page import merged, requirement
from interop.adapters import Adapters

NOBODY = Adapters(ready={}, absent={}, failed={})


def result(metric: Metric, value: float) -> report.Results:
    return {metric.name: (metric, {"talos": Series(readings=[Reading(value=value)])})}


def page(*results: report.Results) -> str:
    joined: report.Results = {}
    for one in results:
        joined |= one
    return report.document(joined, NOBODY, 5)


def test_rows_that_were_not_measured_stay() -> None:
    sign, verify = (metric for metric in crypto.METRICS if metric.name in ("P17 sign", "P17 verify"))
    append = chain.METRICS[0]
    old = merged(page(), page(result(append, 111), result(sign, 222), result(verify, 333)))
    assert merged(old, page()) == old
    new = merged(old, page(result(sign, 444)))
    assert ("| talos | 111 |" in new, "| talos | 222 |" in new) == (True, False)
    assert ("| talos | 333 |" in new, "| talos | 444 |" in new) == (True, True)
    assert new.count("### P17 sign:") == new.count("| P16 1 | >= 4000 /s |") == 1
    assert new.index("### P16 1:") < new.index("### P17 verify:")


def test_the_requirement_documents_table_is_whole() -> None:
    metrics = [*crypto.METRICS, *chain.METRICS]
    table = requirement({metric.name: result(metric, 2.0)[metric.name] for metric in metrics})
    rows = [line for line in table.splitlines() if "P17" in line]
    assert len(rows) == 9
    assert "| Mine (difficulty=2) | 546 | 500 | 2 ms | P17 mine |" in rows
    assert "| Sign (1.4KB) | 7,917 | 2 | 5e+02 ms | P17 sign |" in rows
    assert requirement({}) == ""
