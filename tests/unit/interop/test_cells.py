"""Running cells against small programs that keep or break the contract, and what is said of them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from interop import report
from interop.adapters import Adapters
from interop.cells import Outcome, check, run_cell, run_cells
from interop.matrix import Cell, Matrix, Operation
from interop.process import Adapter, PeerFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

PEER = "12D3KooWPeer"
ADDR = f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}"
OPERATIONS = (
    Operation(name="ping", options={"count": 2}),
    Operation(name="identify", options={}),
    Operation(name="echo", options={"bytes": 5}),
    Operation(name="perf", options={"up": 3, "down": 4}),
    Operation(name="reconnect", options={"count": 6}),
)
GOOD: dict[str, dict[str, Any]] = {
    "ping": {"rtt_ms": [0.5, 0.25]},
    "identify": {
        "peer_id": PEER,
        "agent": "fake",
        "protocols": ["/ipfs/ping/1.0.0"],
        "observed_addr": "/ip4/127.0.0.1/tcp/9",
        "asked_by_peer": True,
    },
    "echo": {"bytes": 5, "ok": True, "seconds": 1},
    "perf": {"up": 3, "down": 4, "seconds": 2, "upload_seconds": 1, "download_seconds": 1},
    "reconnect": {"count": 6, "seconds": 2},
    "rtt": {"rtt_ms": [1]},
}
PROGRAM = f"""
import sys, json
if sys.argv[1] == "listen":
    print("identified X fake", file=sys.stderr, flush=True)
    print({ADDR!r})
    print("ready", flush=True)
    sys.stdin.read()
else:
    print(json.dumps(json.loads({json.dumps(GOOD)!r})[sys.argv[3]]))
"""


def cell(dialer: str = "talos", listener: str = "js", stack: str = "tcp/noise/yamux") -> Cell:
    return Cell(dialer=dialer, listener=listener, stack=stack, operations=OPERATIONS)


def adapters(**programs: str) -> Adapters:
    ready = {
        name: Adapter(name=name, command=(sys.executable, "-S", "-c", program), version="1.2")
        for name, program in programs.items()
    }
    return Adapters(ready=ready, absent={"rust": "no cargo"}, failed={"go": "build failed: syntax error"})


BOTH = adapters(talos=PROGRAM, js=PROGRAM)


@pytest.mark.parametrize("stack", ["tcp/noise/yamux", "unix/noise/yamux", "memory/noise/yamux"])
async def test_a_cell_passes(stack: str) -> None:
    outcome = await run_cell(cell(stack=stack), BOTH, 20)
    assert outcome.failed is None
    assert outcome.word == "pass"
    assert outcome.results == {operation.name: GOOD[operation.name] for operation in OPERATIONS}


async def test_our_listener_has_to_identify_the_dialer() -> None:
    assert (await run_cell(cell("js", "talos"), BOTH, 20)).word == "pass"
    silent = adapters(talos=PROGRAM.replace("identified X", "saw"), js=PROGRAM)
    outcome = await run_cell(cell("js", "talos"), silent, 20)
    assert outcome.failed == "talos: the listener did not identify the dialer"


async def test_a_peer_without_toolchain_is_skipped() -> None:
    outcome = await run_cell(cell("talos", "rust"), BOTH, 20)
    assert (outcome.word, outcome.skipped, outcome.failed) == ("skip", "no cargo", None)


async def test_a_peer_that_does_not_build_fails_its_cells() -> None:
    outcome = await run_cell(cell("go", "talos"), BOTH, 20)
    assert outcome.word == "FAIL"
    assert outcome.failed is not None
    assert "syntax error" in outcome.failed


async def test_a_peer_that_fails_fails_the_cell() -> None:
    outcome = await run_cell(cell(), adapters(talos="import sys; sys.exit('reset')", js=PROGRAM), 20)
    assert outcome.failed == "talos: ping exited with 1: reset"


async def test_a_cell_has_a_deadline() -> None:
    slow = PROGRAM.replace("import sys, json", "import sys, json\nif sys.argv[3:4] == ['echo']: sys.stdin.read()")
    outcome = await run_cell(cell(), adapters(talos=slow, js=PROGRAM), 1.0)
    assert outcome.failed == "not done within 1 s; finished: ping, identify"


async def test_all_cells_run_and_are_told() -> None:
    cells = (cell(), cell("talos", "rust"), cell("go", "talos"), cell(stack="tcp/tls/yamux"))
    told: list[Outcome] = []
    outcomes = await run_cells(Matrix(deadline_seconds=20, parallel=2, cells=cells), cells, BOTH, told.append)
    assert told == outcomes
    assert sorted(outcome.cell.name for outcome in outcomes) == sorted(cell.name for cell in cells)
    assert report.counts(outcomes) == "2 passed, 1 failed, 1 skipped"
    lines = [report.line(outcome) for outcome in outcomes]
    assert any(line.startswith("pass  tcp/noise/yamux talos->js") and "3 reconnects/s" in line for line in lines)
    assert any(line.startswith("skip  tcp/noise/yamux talos->rust") and line.endswith("no cargo") for line in lines)
    page = report.markdown(outcomes, BOTH)
    assert "| tcp/tls/yamux | talos | js | pass |" in page
    assert "| rust | absent: no cargo |" in page
    assert "| js | 1.2 |" in page
    document = json.loads(report.as_json(outcomes, BOTH))
    assert document["absent"] == {"rust": "no cargo"}
    assert sorted(each["outcome"] for each in document["cells"]) == ["fail", "pass", "pass", "skip"]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_good_answer_passes(operation: Operation) -> None:
    check(operation, GOOD[operation.name], cell(), ADDR)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ping", {"rtt_ms": [0.5]}),
        ("ping", {"rtt_ms": [0.5, -0.1]}),
        ("identify", {"peer_id": "12D3KooWOther"}),
        ("identify", {"protocols": []}),
        ("identify", {"agent": ""}),
        ("identify", {"observed_addr": ""}),
        ("identify", {"asked_by_peer": False}),
        ("echo", {"ok": False}),
        ("echo", {"bytes": 4}),
        ("perf", {"up": 0}),
        ("perf", {"down": 5}),
        ("reconnect", {"count": 5}),
    ],
)
def test_a_lesser_answer_fails(name: str, change: Mapping[str, Any]) -> None:
    operation = next(operation for operation in OPERATIONS if operation.name == name)
    with pytest.raises(PeerFailed, match=f"talos: {name} answered"):
        check(operation, GOOD[name] | dict(change), cell(), ADDR)


def test_only_our_dialer_knows_whether_it_was_asked() -> None:
    answer = {name: value for name, value in GOOD["identify"].items() if name != "asked_by_peer"}
    check(OPERATIONS[1], answer, cell("js", "talos"), ADDR)


def test_over_memory_the_peer_is_whoever_is_there() -> None:
    check(
        OPERATIONS[1],
        GOOD["identify"] | {"peer_id": "?", "observed_addr": ""},
        cell(stack="memory/tls/mplex"),
        "/memory/1",
    )
