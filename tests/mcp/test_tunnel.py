"""The tunnel end to end, through the library: two nodes over TCP, a real server process."""

from __future__ import annotations

import base64
import json
import signal
from typing import TYPE_CHECKING

import pytest
import trio

from talos.addr import parse
from talos.errors import ConfigError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.mcp.limits import McpLimits
from talos.mcp.policy import quick_policy
from talos.mcp.serve import McpServeConfig, open_mcp_server
from tests.carriers import over_carriers
from tests.mcp.harness import FAST, INITIALIZE, McpClient, alive, all_gone, call, error_of, request, text_of, tunnel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@over_carriers
async def test_one_call_of_each_era(carrier: str) -> None:
    async with tunnel(carrier=carrier) as t:
        client = t.client()
        await client.send(INITIALIZE)
        answer = json.loads(await client.line())
        assert answer["result"]["protocolVersion"] == "2025-06-18"
        await client.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        assert await client.call("echo", "one", text="hello") == "hello"
        await client.send(request("server/discover", 2))
        assert json.loads(await client.line())["result"]["supportedVersions"] == ["2026-07-28"]
        (pid,) = t.pids()
        await client.close_stdin()
        assert (await client.end()).code == 0
        await all_gone(t, pid)


ODD_LINES = [
    b'{"jsonrpc":"2.0","id":9007199254740993,"method":"ping"}',
    b'{ "method" : "ping" ,\t"id":"a\\"b", "jsonrpc":"2.0" , "x":{"unknown":[1,2.50,1e3]} }',
    '{"jsonrpc":"2.0","id":"\u2028\u2029","method":"ping","t":"\\u2028 \u2028 \u0085"}'.encode(),
    b'{"jsonrpc":"2.0","id":1.0,"method":"ping"}',
    b'[{"jsonrpc":"2.0","id":5,"method":"ping"},{"jsonrpc":"2.0","id":6,"method":"ping"}]',
    b'{"jsonrpc":"2.0","id":7,"id":7,"method":"ping","method":"ping"}',
    b'{"jsonrpc":"2.0","id":8,"method":"acme/unheard/of","params":{"\xc3\xa9":"\x7f"}}',
    b"not json at all",
    b'{"jsonrpc":"2.0","id":10,"method":"tools/call","params":{"name":"echo","arguments":{"text":"\\ud83d\\ude00 \\/"}}}',
]


@pytest.mark.parametrize("audit", ["calls", "each", "off"])
async def test_every_byte_arrives_as_it_was_sent(tmp_path: Path, audit: str) -> None:
    record = tmp_path / "record"
    down = [
        b'{ "jsonrpc":"2.0", "method":"notifications/x", "v":1.0e0, "u":"\xe2\x80\xa8\\u2028" }',
        b'[{"jsonrpc":"2.0","method":"b"}]',
    ]
    async with tunnel("--record", str(record), audit=audit) as t:
        client = t.client()
        await client.send_raw(b"\r\n\n".join(ODD_LINES) + b"\n")
        for _ in range(len(ODD_LINES) + 1):  # the batch is answered twice
            await client.line()
        for number, line in enumerate(down):
            await client.send(call("raw", number, base64=base64.b64encode(line).decode()))
            assert await client.line() == line
            await client.line()
        last = call("echo", 99, text="last, without its end")
        await client.send_raw(last)
        await client.close_stdin()
        assert text_of(await client.line()) == "last, without its end"
        assert (await client.end()).code == 0
    lines = record.read_bytes().split(b"\n")
    assert lines[: len(ODD_LINES)] == ODD_LINES
    assert lines[-2:] == [last, b""]
    assert b"\r" not in record.read_bytes()
    if audit != "off":
        up = len(ODD_LINES) + len(down) + 1
        for log in (t.serve_log, t.connect_log):
            types = [entry.type for entry in log.entries]
            assert sum(type_ in (1, 2, 4, 5) for type_ in types) == up + len(down)
            assert types[0] == 16
            assert types[-1] == 18
            assert len({(entry.kind, entry.direction, entry.msg_id) for entry in log.entries}) == len(log.entries)
        serve, connect = (
            {e.msg_id: e.sealed_hash for e in log.entries if e.type < 16} for log in (t.serve_log, t.connect_log)
        )
        assert serve == connect


async def test_a_peer_without_a_grant_gets_no_child(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    async with tunnel("--mark", str(marks), clients=2, granted=1) as t:
        for changes in ({"number": 1}, {"number": 1, "server": "default"}, {"number": 0, "server": "no-such"}):
            client = t.client(**changes)
            await client.send(INITIALIZE)
            assert error_of(await client.line()) == (5031, "refused")
            assert (await client.end()).code == 3
            assert not t.server.sessions
        assert not marks.exists()
        assert t.server.stats.opens_total == {"REFUSED": 3}
        client = t.client()
        assert await client.call("echo", text="granted") == "granted"
    refusals = [entry for entry in t.serve_log.entries if entry.type == 20]
    assert [entry.counterparty for entry in refusals] == [
        t.connecting[1].peer_id.to_bytes(),
        t.connecting[0].peer_id.to_bytes(),
    ]


async def test_without_a_grant_nothing_is_served() -> None:
    async with tunnel() as t:
        with pytest.raises(ConfigError):
            async with open_mcp_server(
                t.serving,
                McpServeConfig(policy=quick_policy(["no-such-program"], [t.connecting[0].peer_id]), audit="off"),
                None,
            ):
                pass


@over_carriers
async def test_eight_peers_at_once_hear_only_their_own(carrier: str) -> None:
    calls = 50
    async with tunnel(carrier=carrier, clients=8) as t:
        clients = [t.client(number) for number in range(8)]
        pids = [await client.call("pid") for client in clients]
        assert len(set(pids)) == 8

        async def work(number: int) -> None:
            client = clients[number]
            await client.send(*(call("echo", id_, text=f"{number}/{id_}") for id_ in range(calls)))
            for id_ in range(calls):
                line = await client.line()
                assert json.loads(line)["id"] == id_
                assert text_of(line) == f"{number}/{id_}"

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(work, number)
        for client in clients:
            await client.close_stdin()
        for client in clients:
            assert (await client.end()).code == 0
        await all_gone(t, *map(int, pids))


async def test_lines_of_many_kinds_keep_their_order() -> None:
    async with tunnel() as t:
        client = t.client()
        await client.send(call("notify", "n", count=5000), call("stderr", "s", lines=5000))
        for number in range(5000):
            assert json.loads(await client.line())["params"]["data"] == number
        assert text_of(await client.line()) == "sent"
        assert text_of(await client.line()) == "said"
        size = 4 << 20
        await client.send(call("count", "c", text="y" * size))
        assert text_of(await client.line()) == str(size)
        assert len(await client.call("big", "b", bytes=size)) == size


async def test_requests_read_while_dialling_arrive() -> None:
    async with tunnel() as t:
        client = t.client()
        await client.send(*(call("echo", id_, text=str(id_)) for id_ in range(20)))
        await client.close_stdin()
        assert [text_of(line) for line in await client.lines(20)] == [str(id_) for id_ in range(20)]
        assert (await client.end()).code == 0


# ----------------------------------------------------------------------------------- the server fails


async def test_a_server_that_dies_in_a_call_is_told_of() -> None:
    async with tunnel() as t:
        client = t.client()
        await client.send(call("sleep", "s", seconds=60), call("crash", "c", status=3))
        errors = [await client.line(), await client.line()]
        assert {json.loads(line)["id"] for line in errors} == {"s", "c"}
        assert all(error_of(line) == (5021, "server-exited") for line in errors)
        assert all(json.loads(line)["error"]["data"]["executed"] == "unknown" for line in errors)
        end = await client.end()
        assert end.code == 6
        assert "status 3" in end.message
        await all_gone(t)
        assert any("status 3" in line for line in t.said)


async def test_a_server_that_ends_by_itself_ends_the_session_well() -> None:
    async with tunnel("--exit", "0") as t:
        client = t.client()
        assert (await client.end()).code == 0
    async with tunnel("--exit", "4") as t:
        client = t.client()
        assert (await client.end()).code == 6


async def test_a_server_that_cannot_start(tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.write_text("#!/nonexistent/interpreter\n")
    program.chmod(0o755)
    async with tunnel(command=[str(program)]) as t:
        client = t.client()
        await client.send(INITIALIZE)
        assert error_of(await client.line()) == (5031, "failed")
        assert (await client.end()).code == 6
        assert t.server.stats.opens_total == {"FAILED": 1}


async def test_garbage_on_stdout_stays_here() -> None:
    async with tunnel("--say", 'Starting \x1b[31mserver\x1b[0m v1...\n42\n"text"') as t:
        client = t.client()
        assert await client.call("echo", text="clean") == "clean"
        assert t.server.stats.dropped_total["garbage"] == 3
        assert any("\\x1b[31mserver" in line for line in t.said)
        await client.close_stdin()
        await client.end()
    assert [entry.type for entry in t.serve_log.entries].count(19) == 3


async def test_a_server_deaf_to_everything_is_gone_all_the_same() -> None:
    async with tunnel("--deaf", "--spawn", "daemon") as t:
        client = t.client()
        pid = int(await client.call("pid"))
        await client.close_stdin()
        assert (await client.end()).code == 0
        await all_gone(t, pid)


@pytest.mark.parametrize("daemon", [False, True])
async def test_grandchildren_go_with_the_session(daemon: bool) -> None:
    async with tunnel() as t:
        client = t.client()
        pid = int(await client.call("grandchild", daemon=daemon, holds_stdout=True))
        await client.send(call("crash", 2, status=0))
        assert error_of(await client.line()) == (5021, "server-exited")
        assert (await client.end()).code == 6
        await all_gone(t, pid)


async def test_a_server_that_closes_its_stdout_is_over() -> None:
    async with tunnel() as t:
        client = t.client()
        await client.send(call("end_stdout"))
        assert error_of(await client.line()) == (5021, "server-exited")
        assert (await client.end()).code == 6


# ----------------------------------------------------------------------------------- limits


SMALL = McpLimits(max_line=65_536, window=65_536)


async def test_a_line_over_the_limit_up_is_answered_and_the_next_call_works() -> None:
    async with tunnel(limits=SMALL) as t:
        client = t.client(limits=SMALL)
        size = 4 << 20
        head = b'{"jsonrpc":"2.0","id":"big","method":"tools/call","params":{"name":"count","arguments":{"text":"'
        await client.send_raw(head)
        for _ in range(size >> 16):
            await client.send_raw(b"z" * 65536)
        await client.send_raw(b'"}}}\n')
        line = await client.line()
        assert error_of(line) == (4131, "too-large")
        assert json.loads(line)["id"] == "big"
        assert json.loads(line)["error"]["data"]["limit"] == 65536
        assert await client.call("echo", text="next") == "next"


async def test_the_peers_limit_holds_for_our_lines_too() -> None:
    async with tunnel(limits=SMALL) as t:
        client = t.client()
        await client.send(call("count", 1, text="y" * 100_000))
        line = await client.line()
        assert error_of(line) == (4131, "too-large")
        assert json.loads(line)["error"]["data"]["limit"] == 65536
        assert await client.call("echo", text="next") == "next"
        await client.close_stdin()
        assert (await client.end()).code == 0


async def test_a_line_over_the_limit_down_becomes_an_error() -> None:
    async with tunnel(limits=SMALL) as t:
        client = t.client()
        await client.send(call("big", "b", bytes=1 << 20))
        line = await client.line()
        assert error_of(line) == (4131, "too-large")
        assert json.loads(line)["id"] == "b"
        assert await client.call("echo", text="next") == "next"
        assert t.server.stats.dropped_total["too-large"] == 1


async def test_in_flight_and_rate() -> None:
    async with tunnel(limits=McpLimits(in_flight=2)) as t:
        client = t.client()
        await client.send(*(call("sleep", id_, seconds=0.3) for id_ in range(3)))
        assert error_of(await client.line()) == (4291, "in-flight")
        await client.lines(2)
        assert await client.call("echo", text="room again") == "room again"
    async with tunnel(limits=McpLimits(rate=0.5, burst=2)) as t:
        client = t.client()
        await client.send(*(call("echo", id_, text="x") for id_ in range(3)))
        answers = await client.lines(3)
        (refused,) = [line for line in answers if b'"error"' in line]
        assert error_of(refused) == (4291, "rate")
        assert json.loads(refused)["error"]["data"]["retryAfterMs"] > 0


async def test_sessions_are_counted() -> None:
    async with tunnel(limits=McpLimits(sessions_per_peer=1)) as t:
        first = t.client()
        await first.call("echo", text="x")
        second = t.client()
        await second.send(INITIALIZE)
        assert error_of(await second.line()) == (5031, "busy")
        assert (await second.end()).code == 1
    async with tunnel(limits=McpLimits(openings_per_minute=1)) as t:
        first = t.client()
        await first.call("echo", text="x")
        await first.close_stdin()
        await first.end()
        second = t.client()
        await second.send(INITIALIZE)
        assert error_of(await second.line()) == (5031, "busy")


async def test_call_timeout_and_idle_session() -> None:
    async with tunnel(limits=McpLimits(call_timeout=0.3)) as t:
        client = t.client()
        await client.send(call("sleep", "s", seconds=0.8))
        assert error_of(await client.line()) == (4081, "timeout")
        await trio.sleep(0.7)
        assert await client.call("echo", text="later") == "later"
        assert t.server.stats.dropped_total["late"] == 1
    async with tunnel(limits=McpLimits(idle_timeout=0.3)) as t:
        client = t.client()
        assert (await client.end()).code == 6


class Stuck(trio.abc.SendStream):
    """A stdout that nobody reads until it is let go."""

    def __init__(self, behind: trio.abc.SendStream) -> None:
        self.let_go = trio.Event()
        self._behind = behind

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.let_go.wait()
        await self._behind.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.let_go.wait()

    async def aclose(self) -> None:
        await self._behind.aclose()


async def settled(counter: Callable[[], int]) -> int:
    """The figure, once it grows no more."""
    before = -1
    while before != (before := counter()) or not before:  # noqa: ASYNC110 - it is stillness that is waited for
        await trio.sleep(0.3)
    return before


async def test_a_stuck_client_is_pushed_back_and_harms_nobody() -> None:
    window = 1 << 18
    limits = McpLimits(max_line=1 << 18, window=window)
    lines = 20_000
    async with tunnel(clients=2, limits=limits) as t:
        other = t.client(1, limits=limits)
        await other.call("echo", text="x")
        already = t.server.stats.bytes_total["down"]
        client = McpClient()
        client.stdout = stuck = Stuck(client.stdout)
        t.start(client, 0, limits=limits)
        await client.send(call("notify", 1, count=lines))
        sent = await settled(lambda: t.server.stats.bytes_total["down"] - already)
        assert 0 < sent <= 2 * window
        assert await other.call("echo", text="unharmed") == "unharmed"
        stuck.let_go.set()
        for number in range(lines):
            assert json.loads(await client.line())["params"]["data"] == number
        assert text_of(await client.line()) == "sent"


@pytest.mark.parametrize("stuck_side", ["client", "server"])
async def test_the_end_passes_a_stuck_sink(stuck_side: str) -> None:
    window = 1 << 18
    limits = McpLimits(max_line=1 << 18, window=window)
    async with tunnel(limits=limits) as t:
        client = McpClient()
        if stuck_side == "client":
            client.stdout = Stuck(client.stdout)
        t.start(client, 0, limits=limits)
        if stuck_side == "client":
            await client.send(call("notify", 1, count=20_000))
            assert await settled(lambda: t.server.stats.bytes_total["down"]) <= 2 * window
        else:
            pid = int(await client.call("pid"))
            await client.send(call("stuck", 1, seconds=60), *(call("echo", n, text="z" * 10_000) for n in range(200)))
            assert await settled(lambda: t.server.stats.bytes_total["up"]) <= 4 * window
            assert alive(pid)
        client.scope.cancel()
        with trio.fail_after(5):
            await client.ended.wait()
        await all_gone(t)


# ----------------------------------------------------------------------------------- endings


async def test_an_audit_log_that_refuses_ends_the_session_before_the_call(tmp_path: Path) -> None:
    record = tmp_path / "record"
    async with tunnel("--record", str(record)) as t:
        client = t.client()
        await client.call("echo", text="before")
        t.serve_log.refuse = True
        await client.send(call("echo", "lost", text="unrecorded"))
        assert error_of(await client.line()) == (5001, "audit")
        assert (await client.end()).code == 7
    assert b"unrecorded" not in record.read_bytes()


async def test_an_audit_log_that_is_late_counts_as_one_that_refuses() -> None:
    async with tunnel(limits=McpLimits(audit_late_seconds=0.2)) as t:
        client = t.client()
        await client.call("echo", text="before")
        t.serve_log.stall = True
        await client.send(call("echo", "lost", text="unrecorded"))
        assert error_of(await client.line()) == (5001, "audit")
        assert (await client.end()).code == 7


async def test_a_log_that_refuses_at_the_start_lets_no_server_start(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    async with tunnel("--mark", str(marks)) as t:
        t.serve_log.refuse = True
        client = t.client()
        await client.send(INITIALIZE)
        assert error_of(await client.line()) == (5031, "failed")
        assert (await client.end()).code == 6
        assert not marks.exists()


async def test_the_clients_own_log_refuses() -> None:
    async with tunnel() as t:
        client = t.client()
        await client.call("echo", text="before")
        t.connect_log.refuse = True
        await client.send(call("echo", "x", text="y"))
        end = await client.end()
        assert end.code == 7


async def test_cancelling_the_client_ends_the_session_at_once() -> None:
    async with tunnel() as t:
        client = t.client()
        pid = int(await client.call("pid"))
        client.scope.cancel()
        await client.ended.wait()
        assert client.exit is None
        await all_gone(t, pid)
        assert any("closed" in line for line in t.said)


async def test_a_client_that_stops_reading_for_good_ends_the_session() -> None:
    async with tunnel() as t:
        client = t.client()
        pid = int(await client.call("pid"))
        await client.close_stdout()
        await client.send(call("echo", 1, text="x"))
        assert (await client.end()).code == 0
        await all_gone(t, pid)


async def test_a_lost_connection_answers_what_is_open() -> None:
    async with tunnel() as t:
        client = t.client()
        pid = int(await client.call("pid"))
        await client.send(call("sleep", "s", seconds=60))
        while not t.server.stats.in_flight:  # noqa: ASYNC110 - nobody but a test waits for it
            await trio.sleep(0.01)
        await t.serving.connections[0].aclose()
        assert error_of(await client.line()) == (5021, "connection-lost")
        assert (await client.end()).code == 4
        await all_gone(t, pid)


async def test_an_offline_peer_is_told_to_the_client() -> None:
    async with tunnel() as t:
        nobody = PeerId.from_key(PrivateKey.generate().public_key)
        client = t.client(peer=nobody, addrs=(parse("/ip4/127.0.0.1/tcp/9"),))
        await client.send(INITIALIZE)
        assert error_of(await client.line()) == (5031, "unreachable")
        assert (await client.end()).code == 4


async def test_draining_says_good_bye_and_takes_nobody_new() -> None:
    async with tunnel() as t:
        client = t.client()
        pid = int(await client.call("pid"))
        await client.send(call("sleep", "s", seconds=60))
        while not t.server.stats.in_flight:  # noqa: ASYNC110 - nobody but a test waits for it
            await trio.sleep(0.01)
        await t.server.drain()
        assert error_of(await client.line()) == (5021, "going-away")
        assert (await client.end()).code == 6
        assert not alive(pid)
        late = t.client()
        await late.send(INITIALIZE)
        assert error_of(await late.line()) == (5031, "busy")


async def test_killing_does_not_wait_for_a_deaf_server() -> None:
    async with tunnel("--deaf", grace_seconds=60) as t:
        client = t.client()
        pid = int(await client.call("pid"))
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(t.server.drain)
                await trio.testing.wait_all_tasks_blocked(0.1)
                t.server.kill()
        assert not alive(pid)


async def test_a_withdrawn_grant_ends_the_session() -> None:
    async with tunnel(clients=2, granted=1) as t:
        client = t.client()
        await client.call("echo", text="x")
        with pytest.raises(ConfigError):
            await t.server.reload(quick_policy(["no-such-program"], [t.connecting[0].peer_id]))
        await client.call("echo", text="the old rules hold")
        await t.server.reload(quick_policy(FAST, [t.connecting[1].peer_id]))
        end = await client.end()
        assert end.code == 3
        assert await t.client(1).call("echo", text="the new one") == "the new one"
    assert 22 in [entry.type for entry in t.serve_log.entries]


async def test_secrets_of_neither_side_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "hidden")
    async with tunnel(env={"GIVEN": "yes"}) as t:
        seen = json.loads(await t.client().call("environment"))
        assert seen["GIVEN"] == "yes"
        assert "A_SECRET" not in seen
        assert set(json.loads(await t.client().call("descriptors"))) <= {0, 1, 2, 3}


def test_signals_are_named() -> None:
    from talos.mcp.session import exit_text

    assert exit_text(-signal.SIGSEGV) == "signal SIGSEGV"
    assert exit_text(-77) == "signal 77"
    assert exit_text(3) == "status 3"


async def test_the_requests_of_a_batch_are_counted_and_answered() -> None:
    batch = b"[" + call("echo", "a", text="x") + b"," + call("echo", "b", text="y") + b"]"
    async with tunnel(limits=McpLimits(in_flight=2)) as t:
        client = t.client()
        for _ in range(3):
            await client.send(batch)
            await client.lines(2)
        assert t.server.stats.in_flight == 0
        await client.send(b"[" + call("stuck", "c", seconds=60) + b"," + call("echo", "d", text="y") + b"]")
        while t.server.stats.in_flight < 2:  # noqa: ASYNC110 - nobody but a test waits for it
            await trio.sleep(0.01)
        t.server.kill()
        errors = await client.lines(2)
        assert [json.loads(line)["id"] for line in errors] == ["c", "d"]
        assert all(error_of(line) == (5021, "server-exited") for line in errors)
