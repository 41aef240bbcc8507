"""Goals against figures, turns, and what the reports say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bench import report
from bench.__main__ import SCENARIOS, arguments, listing, run_scenario
from bench.measure import Goal, Metric, Reading, Series, judge
from interop.adapters import Adapters
from interop.process import Adapter, PeerFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.side import Side

METRIC = Metric(
    row="P1",
    name="P1 up",
    title="bulk",
    unit="MB/s",
    cpu_unit="CPU s/GB",
    goals=(
        Goal(bound=1.3, kind="at least", peer="go"),
        Goal(bound=400, kind="at least"),
        Goal(bound=0.9, kind="at most", of="dialer_cpu"),
        Goal(bound=2, kind="at most", peer="js"),
    ),
)


def series(*values: float, cpu: float | None = None) -> Series:
    return Series(readings=[Reading(value=value, dialer_cpu=cpu, listener_cpu=cpu) for value in values])


def test_goals_are_judged_by_medians() -> None:
    found = judge(METRIC, {"talos": series(600, 650, 100, cpu=0.8), "go": series(500), "js": series(200)})
    assert [verdict.met for verdict in found] == [False, True, True, False]
    assert [verdict.text for verdict in found] == ["1.20x", "600 MB/s", "0.8 CPU s/GB", "3.00x"]


def test_a_goal_against_an_absent_peer_is_not_judged() -> None:
    found = judge(METRIC, {"talos": series(600), "js": Series(failed="cannot")})
    assert [verdict.met for verdict in found] == [None, True, None, None]
    assert found[0].text == "not measured"
    assert [verdict.met for verdict in judge(METRIC, {"go": series(1)})] == [None] * 4


class Counting:
    """Gives the number of the turn; js fails in its second."""

    metrics = (METRIC,)

    def __init__(self) -> None:
        self.turns: list[str] = []

    async def measure(self, side: Side) -> Mapping[str, Reading]:
        self.turns.append(side.name)
        if side.name == "js" and self.turns.count("js") == 2:
            raise PeerFailed("js: no more | today")
        return {"P1 up": Reading(value=100.0 * len(self.turns), dialer_cpu=0.5)}


def adapters() -> Adapters:
    ready = {name: Adapter(name=name, command=("true",), version="3") for name in ("talos", "js", "go")}
    return Adapters(ready=ready, absent={"rust": "no cargo"}, failed={})


async def test_sides_take_turns_and_one_that_fails_leaves() -> None:
    scenario = Counting()
    results = await run_scenario(scenario, adapters(), 3)
    assert scenario.turns == ["talos", "js", "go"] * 2 + ["talos", "go"]
    _, found = results["P1 up"]
    assert found["talos"].values() == [100, 400, 700]
    assert found["js"].failed == "js: no more | today"
    table = report.tables(results)
    assert "| talos | 400 | 100 | 700 | 0.5 |  |  |" in table
    assert "| go | 600 | 300 | 800 | 0.5 |  | 0.67x |" in table
    page = report.document(results, adapters(), 3)
    assert "| rust | absent: no cargo |" in page
    assert "| P1 up | >= 1.3x go | 0.67x | **no** |" in page
    document = json.loads(report.as_json(results, adapters()))
    assert document["metrics"]["P1 up"]["peers"]["talos"]["values"] == [100, 400, 700]
    assert document["metrics"]["P1 up"]["goals"][1]["met"] is True


async def test_a_side_that_never_worked_says_why() -> None:
    class Failing(Counting):
        async def measure(self, side: Side) -> Mapping[str, Reading]:
            raise PeerFailed("cannot half-close | at all")

    results = await run_scenario(Failing(), adapters(), 3)
    rows = report.tables(results).splitlines()
    assert {row.count(" |") for row in rows if row.startswith("| ")} == {7}
    assert "| go | cannot half-close / at all |" in report.tables(results)


def test_all_rows_are_there() -> None:
    rows = {metric.row for scenario in SCENARIOS for metric in scenario.metrics}
    assert rows == {"P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "P10", "P11", "P13"}
    names = [metric.name for scenario in SCENARIOS for metric in scenario.metrics]
    assert len(names) == len(set(names))
    assert ">= 1.3x go" in listing()


def test_arguments() -> None:
    assert arguments([]).rows == [
        "P1",
        "P2",
        "P3",
        "P4",
        "P5",
        "P6",
        "P7",
        "P8",
        "P9",
        "P10",
        "P11",
        "P12",
        "P13",
        "P14",
        "P15",
        "P16",
        "P17",
    ]
    options = arguments(["P1", "P3", "--peers", "talos,go"])
    assert (options.rows, options.peers) == (["P1", "P3"], ["talos", "go"])


@pytest.mark.parametrize("words", [["P99"], ["--peers", "cobol"], ["--rounds", "0"]])
def test_nonsense_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(words)
    assert "error" in capsys.readouterr().err


def test_the_machine_is_described() -> None:
    assert set(report.machine()) == {"cpu", "system", "python"}
