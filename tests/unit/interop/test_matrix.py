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
        for transport in ("memory", "tcp", "unix")
        for security in ("noise", "tls")
        for muxer in ("yamux", "mplex")
    }
    assert alone >= expected


def test_each_cell_does_all_operations() -> None:
    for cell in load().cells:
        done = {operation.name: dict(operation.options) for operation in cell.operations}
        assert list(done) == ["ping", "identify", "echo", "perf", "reconnect"]
        assert done["echo"] == {"bytes": 1 << 20}
        assert done["perf"] == {"up": 10_000_000, "down": 10_000_000}
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


def test_selecting() -> None:
    matrix = load()
    assert Counter(cell.peer for cell in matrix.select(["js"], "tls")) == {"js": 2}
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
