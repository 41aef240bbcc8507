"""The control API over its real socket: routes, streams, operations, and clients that misbehave."""

from __future__ import annotations

import http.client
import json
import socket
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel

from talos import __version__
from talos.control import api, client, operations, server, snapshots
from talos.control.client import AgentLost, Client, GoingAway, NoAgent
from talos.control.event_log import EventLogConfig
from talos.control.failure import Failure
from talos.control.home import read_agent_file, socket_path
from talos.control.kinds import MAX_BODY_BYTES, STREAM_EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.agent import Agent
    from talos.control.arguments import Arguments
    from talos.control.operations import Emit
    from talos.identity.home import Home
    from tests.unit.control.conftest import Served

    Serve = Callable[..., Any]


def raw(
    home: Home, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """One request without our client: what any HTTP program would see."""
    connection = client._Connection(socket_path(home), 5.0)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        data = response.read()
        kind = response.getheader("content-type") or ""
        return response.status, dict(response.getheaders()), json.loads(data) if "json" in kind else data
    finally:
        connection.close()


# -- snapshots and headers


async def test_snapshots_and_what_every_answer_carries(serve: Serve) -> None:
    async with serve() as served:
        status, headers, body = await served.ask(raw, served.home, "GET", "/v1/version")
        assert (status, body["api"], body["version"]) == (200, 1, __version__)
        assert (headers["talos-api"], headers["talos-version"]) == ("1", __version__)
        assert "server" not in {name.lower() for name in headers}
        found = await served.ask(served.client.get, "status")
        assert (found["identity"]["name"], found["running"], found["dht"]) == ("Alice", True, None)
        assert (await served.ask(served.client.get, "id"))["peer_id"] == str(served.control.agent.peer_id)
        assert stat.S_IMODE(socket_path(served.home).stat().st_mode) == 0o600
        described = read_agent_file(served.home)
        assert described is not None
        assert described.version == __version__
    assert not socket_path(served.home).exists()
    assert read_agent_file(served.home) is None
    with pytest.raises(NoAgent):
        served.client.get("version")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/nonsense", None, 404),
        ("GET", "/nonsense", None, 404),
        ("PUT", "/v1/status", None, 405),
        ("GET", "/v1/operations/x/events", None, 404),
        ("DELETE", "/v1/operations/x", None, 404),
        ("PUT", "/v1/operations/x/input", b"x", 404),
        ("POST", "/v1/operations", b"", 400),
        ("POST", "/v1/operations", b"[]", 400),
        ("POST", "/v1/operations", b"{", 400),
        ("POST", "/v1/operations", b"\xff", 400),
        ("POST", "/v1/operations", b'{"op": "ready", "op": "ready"}', 400),
        ("POST", "/v1/operations", b'{"op": "ready", "seconds": NaN}', 400),
        ("POST", "/v1/operations", b'{"op": "ready", "seconds": 0}', 400),
        ("POST", "/v1/operations", b'{"op": "ready", "args": 1}', 400),
        ("POST", "/v1/operations", b'{"op": "nonsense"}', 400),
        ("POST", "/v1/operations", b'{"op": "ready", "args": ' + b'{"a":' * 70 + b"1" + b"}" * 71, 400),
        ("POST", "/v1/operations", b"[" * 100_000, 400),
        ("POST", "/v1/operations", b" " * (MAX_BODY_BYTES + 1), 413),
    ],
)
async def test_what_is_wrong_gets_an_error_object(
    serve: Serve, method: str, path: str, body: bytes | None, status: int
) -> None:
    async with serve() as served:
        found, _, answer = await served.ask(raw, served.home, method, path, body)
        assert found == status
        assert answer["exit"] > 0
        assert answer["message"]


async def test_a_route_that_raises_is_a_500_and_the_next_one_works(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(agent: Agent, query: object) -> dict[str, object]:
        raise ZeroDivisionError

    def large(agent: Agent, query: object) -> dict[str, object]:
        return {"x": "y" * 70_000}

    found = {"broken": broken, "large": large}
    monkeypatch.setattr(snapshots, "find", lambda route: (found[route], {}))
    async with serve() as served:
        for route in found:
            status, _, answer = await served.ask(raw, served.home, "GET", f"/v1/{route}")
            assert (status, answer["code"]) == (500, "failed")
        monkeypatch.undo()
        assert (await served.ask(served.client.get, "version"))["api"] == 1


# -- operations


async def test_an_operation_from_begin_to_result(serve: Serve) -> None:
    async def work(agent: Agent, args: Arguments, emit: Emit) -> dict[str, object]:
        emit.stage("one", args.text("t"))
        emit.progress(1, 2)
        pieces = [piece async for piece in args.input]
        emit("peer", n=len(b"".join(pieces)))
        return {"seconds": args.seconds(9)}

    async with serve() as served:
        served.operations["work"] = work
        ident = await served.ask(served.client.begin, "work", {"t": "x"}, seconds=2.5, piped=True)
        await served.ask(served.client.feed, ident, [b"x" * 100_000, b"y"])
        events = await served.ask(lambda: list(served.client.follow(ident)))
        assert [(event.number, event.kind) for event in events] == [
            (1, "stage"), (2, "progress"), (3, "peer"), (4, "result"),
        ]  # fmt: skip
        assert events[0].fields == {"kind": "stage", "stage": "one", "detail": "x"}
        assert events[2].fields["n"] == 100_001
        assert events[3].fields["seconds"] == 2.5
        await served.control.operations.close_when_done()  # read to its end: forgotten


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Failure("refused", "no", hint="ask him", tried=["a"]), "refused"),
        (trio.TooSlowError(), "timeout"),
        (FileNotFoundError(2, "no such file", "x"), "file_unusable"),
        (ZeroDivisionError(), "failed"),
    ],
)
async def test_an_operation_that_fails_says_how(serve: Serve, error: Exception, code: str) -> None:
    async def fail(agent: Agent, args: Arguments, emit: Emit) -> None:
        raise error

    async with serve() as served:
        served.operations["fail"] = fail
        ident = await served.ask(served.client.begin, "fail", {})
        (event,) = await served.ask(lambda: list(served.client.follow(ident)))
        assert (event.kind, event.fields["code"]) == ("error", code)
        told = client.failure_of(event.fields)
        assert (told.code, str(told)) == (code, event.fields["message"])
        assert served.control.agent.faults == (1 if isinstance(error, ZeroDivisionError) else 0)


async def test_a_long_stream_goes_on_over_several_answers(serve: Serve) -> None:
    async def many(agent: Agent, args: Arguments, emit: Emit) -> None:
        for number in range(2 * STREAM_EVENTS + 7):
            emit("peer", n=number, pad="x" * 200)

    async with serve() as served:
        served.operations["many"] = many
        ident = await served.ask(served.client.begin, "many", {})
        events = await served.ask(lambda: list(served.client.follow(ident)))
        assert [event.number for event in events] == list(range(1, 2 * STREAM_EVENTS + 9))


async def test_cancelling_ends_it_at_once(serve: Serve) -> None:
    ended = trio.Event()

    async def forever(agent: Agent, args: Arguments, emit: Emit) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serve() as served:
        served.operations["forever"] = forever
        ident = await served.ask(served.client.begin, "forever", {})
        await served.ask(served.client.cancel, ident)
        await ended.wait()
        await served.ask(served.client.cancel, "gone")


async def test_operations_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forever(agent: Agent, args: Arguments, emit: Emit) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(operations.OperationsConfig, "__init__", _small)
    async with serve() as served:
        served.operations["forever"] = forever
        for _ in range(2):
            await served.ask(served.client.begin, "forever", {})
        status, _, answer = await served.ask(raw, served.home, "POST", "/v1/operations", b'{"op": "forever"}')
        assert status == 429
        assert "2 operations" in answer["message"]


def _small(self: operations.OperationsConfig) -> None:
    for name, value in {"at_once": 2, "lease_seconds": 10.0, "log": EventLogConfig()}.items():
        object.__setattr__(self, name, value)


async def test_at_the_end_what_runs_is_told_and_newcomers_are_sent_away(serve: Serve) -> None:
    begun, hold = trio.Event(), trio.Event()

    async def stubborn(agent: Agent, args: Arguments, emit: Emit) -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await hold.wait()

    async with serve() as served:
        served.operations["stubborn"] = stubborn
        ident = await served.ask(served.client.begin, "stubborn", {})
        await begun.wait()
        async with trio.open_nursery() as nursery:
            heard: list[str] = []
            nursery.start_soon(_heard, served, ident, heard)
            operation = served.control.operations.find(ident)
            with ExitStack() as released:
                released.callback(hold.set)  # also when something fails: nothing else ends it
                while not operation._followers:
                    await trio.lowlevel.checkpoint()
                await served.ask(served.client.post, "down", {})
                while not served.control.operations.closing:
                    await trio.lowlevel.checkpoint()
                with pytest.raises(GoingAway):
                    await served.ask(served.client.begin, "ready", {})
                with pytest.raises(GoingAway):
                    await served.ask(served.client.get, "status")
        assert heard == ["going_away"]


async def _heard(served: Served, ident: str, codes: list[str]) -> None:
    events = await served.ask(lambda: list(served.client.follow(ident)))
    codes.append(events[-1].fields["code"])


# -- the agent's events


async def test_events_of_the_agent_filtered_and_resumed(serve: Serve) -> None:
    async with serve() as served:
        tell = served.control.agent.tell
        for number in range(3):
            tell("a", n=number)
            tell("b", n=number)
        events = served.client.events(["b"], after=2)
        first = await served.ask(next, events)
        assert (first.number, first.kind, first.fields["n"]) == (4, "b", 1)
        assert (await served.ask(next, events)).number == 6
    with pytest.raises((NoAgent, AgentLost)):
        next(events)


async def test_a_reader_that_was_too_slow_learns_what_it_missed(serve: Serve) -> None:
    async with serve() as served:
        for number in range(5000):
            served.control.agent.tell("a", n=number)
        events = served.client.events(after=0)
        first = await served.ask(next, events)
        assert (first.kind, first.fields["missed"]) == ("lagged", 5000 - 4096)
        assert (await served.ask(next, events)).number == 5000 - 4096 + 1
        events.close()
        status, _, _ = await served.ask(raw, served.home, "GET", "/v1/events", **{"Last-Event-ID": "x"})
        assert status == 400


async def test_streams_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_STREAMS", 1)
    async with serve() as served:
        served.control.agent.tell("a")
        open_stream = served.client.events(after=0)
        await served.ask(next, open_stream)
        status, _, _ = await served.ask(raw, served.home, "GET", "/v1/events")
        assert status == 429
        open_stream.close()


async def test_peers_who_come_and_go_are_events(serve: Serve, memory_config: Any) -> None:
    from talos.agent import open_host

    async with serve() as served:
        events = served.client.events(["peer"], after=0)
        async with open_host(memory_config()) as other:
            await other.connect(served.control.agent.peer_id, served.control.agent.node.addrs)
            here = await served.ask(next, events)
        gone = await served.ask(next, events)
        assert [event.fields["connected"] for event in (here, gone)] == [True, False]
        assert here.fields["peer_id"] == gone.fields["peer_id"] == str(other.peer_id)
        events.close()


# -- clients that misbehave


def _connected(home: Home) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.connect(str(socket_path(home)))
    return made


async def test_stalled_half_closed_and_idle_clients_hold_nobody_up(serve: Serve) -> None:
    async with serve() as served:
        idle = [await served.ask(_connected, served.home) for _ in range(200)]
        stalled = _connected(served.home)
        stalled.sendall(b"POST /v1/operations HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        half = _connected(served.home)
        half.sendall(b"GET /v1/ver")
        half.shutdown(socket.SHUT_WR)
        too_long = _connected(served.home)
        too_long.sendall(b"GET /v1/version HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
        assert (await served.ask(served.client.get, "version"))["api"] == 1
        assert b" 400 " in await trio.to_thread.run_sync(too_long.recv, 100)
        for each in (*idle, stalled, half, too_long):
            each.close()


async def test_a_client_that_never_reads_does_not_hold_the_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SERVER_SECONDS", 0.2)
    deaf = None
    async with serve() as served:
        deaf = _connected(served.home)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        request = b"GET /v1/nonsense-%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"y" * 8000)
        refused = 0  # sends in a row; the server runs between them, so many mean that it waits for us to read
        while refused < 200:
            try:
                deaf.send(request)
                refused = 0
            except BlockingIOError:
                refused += 1
            await trio.sleep(0.001)
        assert (await served.ask(served.client.get, "version"))["api"] == 1
        await served.ask(served.client.post, "down", {})
        while not served.left:  # noqa: ASYNC110 - what would leave the process sets no event
            await trio.sleep(0.01)
        deaf.close()  # in the tests nobody leaves by os._exit
    assert served.left == [7]


async def test_a_server_that_raises_is_started_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original: Any = getattr(server, "serve")  # noqa: B009 - of another module, as mypy sees it

    async def raising(*args: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            options["task_status"].started([])
            raise ZeroDivisionError
        await original(*args, **options)

    monkeypatch.setattr(server, "serve", raising)
    monkeypatch.setattr(server, "RESTART_SECONDS", 0.01)
    async with serve() as served:
        assert (await served.ask(served.client.get, "version"))["api"] == 1
        assert served.control.agent.faults == 1


# -- the client


def test_an_agent_of_another_api_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    response = http.client.HTTPResponse(_Fake(b"HTTP/1.1 200 OK\r\ntalos-api: 2\r\ntalos-version: 9.9\r\n\r\n{}"))  # type: ignore[arg-type]
    response.begin()
    with pytest.raises(Failure, match=r"the agent is 9\.9, its API 2") as caught:
        client._check_api(response)
    assert caught.value.code == "version_skew"


class _Fake:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> Any:
        import io

        return io.BytesIO(self._data)


def test_who_does_not_answer_and_who_breaks_off(home: Home) -> None:
    from talos.control.home import run_directory
    from talos.identity import private_file

    private_file.make_directory(run_directory(home))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path(home)))
        listener.listen()
        with pytest.raises(Failure, match="does not answer") as caught:
            Client(home, seconds=0.05).get("version")
        assert caught.value.code == "timeout"
        listener.close()
        with pytest.raises(NoAgent):
            Client(home).get("version")


def test_an_unknown_code_of_a_newer_agent_is_a_failure() -> None:
    assert client.failure_of({"code": "new", "message": "x"}).code == "failed"
