"""The images of the official harnesses, run as those run them: two processes, a redis, the environment, stdout."""

from __future__ import annotations

import json
import re

import pytest

from interop import natlab
from interop.gossipsub.local import blob_script, missed, run_nodes
from interop.harness.local import run_kad, run_pair
from interop.hole_punch.__main__ import routes
from interop.hole_punch.local import run_hole_punch

STACKS = [
    "tcp/noise/yamux",
    "tcp/tls/yamux",
    "tcp/noise/mplex",
    "tcp/tls/mplex",
    "ws/noise/yamux",
    "wss/tls/mplex",
    "quic-v1",
]


@pytest.mark.parametrize("stack", STACKS)
async def test_transport(stack: str) -> None:
    run = await run_pair("transport", stack)
    assert run.code == 0, run.stderr
    found = re.fullmatch(
        r"latency:\n  handshake_plus_one_rtt: (\d+\.\d+)\n  ping_rtt: (\d+\.\d+)\n  unit: ms\n", run.stdout
    )
    assert found, run.stdout
    assert all(float(number) > 0 for number in found.groups())


@pytest.mark.parametrize("stack", [*STACKS[:2], "quic-v1"])
async def test_transport_of_the_older_generation(stack: str) -> None:
    run = await run_pair("transport", stack, legacy=True)
    assert run.code == 0, run.stderr
    assert run.stdout.count("\n") == 1
    result = json.loads(run.stdout)
    assert set(result) == {"handshakePlusOneRTTMillis", "pingRTTMilllis"}
    assert all(number > 0 for number in result.values())


@pytest.mark.parametrize(("legacy", "variable"), [(False, "LISTENER_IP"), (True, "ip")])
async def test_a_wildcard_to_listen_on_is_never_published(legacy: bool, variable: str) -> None:
    run = await run_pair("transport", STACKS[0], legacy=legacy, more={variable: "0.0.0.0"})
    assert run.code == 0, run.stderr
    assert run.stdout


async def test_perf() -> None:
    few = {
        "UPLOAD_BYTES": "1048576",
        "DOWNLOAD_BYTES": "1048576",
        "UPLOAD_ITERATIONS": "2",
        "DOWNLOAD_ITERATIONS": "3",
        "LATENCY_ITERATIONS": "5",
        "DURATION": "null",
    }
    run = await run_pair("perf", "tcp/noise/yamux", more=few)
    assert run.code == 0, run.stderr
    sections = re.findall(r"^(\w+):\n((?:  .*\n)+)", run.stdout, re.MULTILINE)
    assert [name for name, _ in sections] == ["upload", "download", "latency"]
    values = {name: dict(line.strip().split(": ", 1) for line in body.splitlines()) for name, body in sections}
    assert [values[name]["iterations"] for name in values] == ["2", "3", "5"]
    assert [values[name]["unit"] for name in values] == ["Gbps", "Gbps", "ms"]
    for section in values.values():
        assert list(section) == ["iterations", "min", "q1", "median", "q3", "max", "outliers", "samples", "unit"]
        assert len(json.loads(section["samples"])) == int(section["iterations"])
        assert float(section["median"]) > 0


async def test_a_stack_that_we_do_not_have_fails_with_a_reason() -> None:
    run = await run_pair("transport", "tcp/noise/yamux", more={"TRANSPORT": "webtransport"})
    assert run.code == 1
    assert run.stdout == ""
    assert "webtransport" in run.stderr


@pytest.mark.parametrize("image", ["transport", "perf"])
async def test_a_missing_variable_is_named(image: str) -> None:
    run = await run_pair(image, "tcp/noise/yamux", more={"IS_DIALER": ""})
    assert run.code == 1
    assert "IS_DIALER" in run.stderr


async def test_the_three_of_kad_dht() -> None:
    run = await run_kad()
    assert run.code == 0, run.stderr
    assert run.stdout == "status: pass\n"


@pytest.mark.long
async def test_nodes_of_a_gossipsub_simulation() -> None:
    script = blob_script(nodes=5, messages=5)
    found = await run_nodes(script, 5)
    assert missed(script, found) == []
    del found.received[3]["2"]
    assert missed(script, found) == ["node 3: message 2 is missing"]


@pytest.mark.long
@pytest.mark.parametrize("stack", ["tcp/noise/yamux", "quic-v1"])
async def test_hole_punch_between_two_nats(stack: str) -> None:
    reason = natlab.absent()
    if reason is not None:
        pytest.skip(reason)
    run = await run_hole_punch(stack)
    assert run.code == 0, run.stderr
    assert re.fullmatch(
        r"latency:\n  handshake_plus_one_rtt: (\d+\.\d+)\n  ping_rtt: (\d+\.\d+)\n  unit: ms\n", run.stdout
    )


def test_the_routes_that_the_hole_punch_harness_wants() -> None:
    given = {"WAN_SUBNET": "10.1.0.0/27", "WAN_ROUTER_IP": "10.2.0.2", "DIALER_LAN_SUBNET": "10.3.0.0/27"}
    assert routes(given, relaying=False) == [("10.1.0.0/27", "10.2.0.2", "lan0")]
    assert routes(given, relaying=True) == []
    assert routes({**given, "DIALER_ROUTER_IP": "10.2.0.3"}, relaying=True) == [("10.3.0.0/27", "10.2.0.3", "wan0")]
