"""The matrix file: multiplied out as the issue names it, and refused where it says nonsense."""

from __future__ import annotations

from collections import Counter

import pytest

from interop.matrix import PEERS, Operation, load, parse
from talos.errors import ConfigError

GOOD = """
deadline_seconds = 30
parallel = 2
[[operation]]
name = "ping"
options = { count = 3 }
[[operation]]
name = "identify"
[[row]]
peer = "py"
transports = ["tcp"]
security = ["noise", "tls"]
muxers = ["yamux"]
roles = ["dialer", "listener"]
override.ping = { count = 1 }
"""


def test_the_cells_that_there_must_be() -> None:
    cells = load().cells
    for peer in ("js", "go", "rust", "py"):
        for security in ("noise", "tls"):
            names = {cell.name for cell in cells if cell.peer == peer}
            assert f"tcp/{security}/yamux talos->{peer}" in names
            assert f"tcp/{security}/yamux {peer}->talos" in names
    alone = {cell.stack for cell in cells if cell.peer == "talos"}
    expected = {
        f"{transport}/{security}/{muxer}"
        for transport in ("memory", "tcp", "ws", "wss", "unix")
        for security in ("noise", "tls")
        for muxer in ("yamux", "mplex")
    }
    assert alone >= expected


def test_each_cell_does_all_operations() -> None:
    for cell in load().cells:
        if cell.absent is not None:
            continue
        done = {operation.name: dict(operation.options) for operation in cell.operations}
        assert list(done) == ["ping", "identify", "echo", "perf", "reconnect"]
        little = cell.peer != "talos" and cell.stack.endswith("/mplex")  # which has no flow control
        assert done["echo"] == {"bytes": 65_536 if little else 1 << 20}
        assert done["perf"] == dict.fromkeys(("up", "down"), 200_000 if little else 10_000_000)
        assert done["reconnect"] == {"count": 20 if cell.peer == "py" else 200}


def test_a_row_is_multiplied_out() -> None:
    matrix = parse(GOOD)
    assert (matrix.deadline_seconds, matrix.parallel) == (30, 2)
    assert [cell.name for cell in matrix.cells] == [
        "tcp/noise/yamux talos->py",
        "tcp/noise/yamux py->talos",
        "tcp/tls/yamux talos->py",
        "tcp/tls/yamux py->talos",
    ]
    assert matrix.cells[0].operations == (
        Operation(name="ping", options={"count": 1}),
        Operation(name="identify", options={}),
    )
    assert matrix.cells[0].transport == "tcp"


def test_what_a_peer_does_not_have_is_a_cell_with_its_reason() -> None:
    cells = parse(GOOD + 'absent.tls = "it has none"\n').cells
    assert {cell.absent for cell in cells if "tls" in cell.name} == {"it has none"}
    assert {cell.absent for cell in cells if "tls" not in cell.name} == {None}
    for wrong in ('absent.quic = "there is no such cell"', 'absent = "all of it"', 'absent.tls = ""'):
        with pytest.raises(ConfigError, match="absent"):
            parse(GOOD + wrong + "\n")


def test_selecting() -> None:
    matrix = load()
    assert Counter(cell.peer for cell in matrix.select(["js"], "tls/yamux")) == {"js": 6}
    assert matrix.select(PEERS, "") == matrix.cells
    assert matrix.select(["go"], "->go")[0].dialer == "talos"
    assert matrix.select([], "") == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("deadline_seconds = 30", "deadline_seconds = 0"),
        ("deadline_seconds = 30", 'deadline_seconds = "30"'),
        ("parallel = 2", "parallel = 0"),
        ("parallel = 2", "parallel = 99"),
        ("parallel = 2", "parallel = true"),
        ("parallel = 2", "parallels = 2"),
        ('name = "ping"', "name = 7"),
        ('name = "ping"', 'nam = "ping"'),
        ("{ count = 3 }", "{ count = -3 }"),
        ("{ count = 3 }", '{ count = "3" }'),
        ("{ count = 3 }", "3"),
        ('peer = "py"', 'peer = "cobol"'),
        ('["tcp"]', "[]"),
        ('["tcp"]', '"tcp"'),
        ('["tcp"]', '["pigeon"]'),
        ('["noise", "tls"]', '["noise", "noise"]'),
        ("override.ping", "override.pong"),
        ("override.ping = { count = 1 }", "override.ping = { count = 1.5 }"),
        ("[[row]]", "[row]"),
        ("[[row]]", "[[rows]]"),
        ("parallel = 2", "parallel = "),
    ],
)
def test_nonsense_is_refused(old: str, new: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError):
        parse(GOOD.replace(old, new))
