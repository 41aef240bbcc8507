"""How commands run: asking an agent, being a node for a moment, waiting for an owner that comes or goes."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.cli import modes, telling
from talos.cli.exits import problem_of
from talos.cli.session import Session
from talos.control import ops, server
from talos.control.client import AgentLost, Client, GoingAway
from talos.control.failure import Failure
from talos.errors import HomeInUse
from tests.unit.cli.conftest import checked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from talos.agent import Agent
    from talos.control.arguments import Arguments
    from talos.control.operations import Emit
    from tests.unit.cli.conftest import Talos


async def echo(agent: Agent, args: Arguments, emit: Emit) -> dict[str, object]:
    """Says back what it is given, in one event; fails if it is told to."""
    emit.stage("echo", "echoing")
    emit.progress(1, 1)
    data = b"".join([piece async for piece in args.input]) if args.flag("piped") else b""
    emit("echo", text=args.text("text"), piped=data.decode(), seconds=args.seconds(0))
    if args.flag("fails"):
        raise Failure("refused", "as told", hint="do not tell")
    return {"ephemeral": agent.config.ephemeral}


@pytest.fixture
def session(talos_: Talos, home: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    assert talos_("init", "--name", "Alice").code == 0
    load = ops.load
    monkeypatch.setattr(server, "load", lambda name: echo if name == "echo" else load(name))
    return Session(data_dir=str(home), quiet=True)


@contextmanager
def agent(talos_: Talos, home: Path) -> Iterator[None]:
    """`talos up` in a thread of this process; ends by `talos down`."""
    from talos.cli.commands import up as commands
    from talos.cli.config import Config
    from talos.cli.owner import Start

    own_session = Session(data_dir=str(home), json=True)
    start = Start(config=Config(), listen=("/ip4/127.0.0.1/tcp/0",))
    showing = commands._Showing(own_session)
    codes: list[int] = []

    async def run() -> None:
        # Signals are the main thread's: what `own` adds to this is tested as a process.
        from talos.cli import owner

        async def body(control: Any) -> int:
            return await showing.body(control)

        settings = server.ControlConfig(home=own_session.home, explain=problem_of)
        opener = owner._opener(own_session, own_session.unlock_keys(), start)
        codes.append(await server.run_agent(settings, opener, body, trio.Event()))

    with own_session.owning():
        thread = threading.Thread(target=trio.run, args=(run,))
        thread.start()
        try:
            assert talos_("--timeout", "30", "wait").code == 0
            yield
        finally:
            Client(own_session.home).post("down", {})
            thread.join(30)
    assert codes == [0]


def shown_by(session: Session, **args: object) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    shown: list[tuple[str, Any]] = []
    pipe = args.pop("input", None)
    result = session.perform("echo", {"text": "hi", **args}, show=lambda *event: shown.append(event), input=pipe)  # type: ignore[arg-type]
    return result, shown


def test_a_node_for_one_command(session: Session) -> None:
    result, shown = shown_by(session)
    assert result == {"ephemeral": True}
    assert shown == [("echo", {"text": "hi", "piped": "", "seconds": 0})]
    result, shown = shown_by(session, piped=True, input=[b"a", b"b"])
    assert shown[0][1]["piped"] == "ab"
    with pytest.raises(Failure, match="as told") as caught:
        shown_by(session, fails=True)
    assert (caught.value.code, caught.value.hint) == ("refused", "do not tell")
    assert not session.home.is_owned()
    assert session.ask("status") is None
    assert session.pages("peers") is None


def test_a_client_of_the_agent(session: Session, talos_: Talos, home: Path) -> None:
    with agent(talos_, home):
        session.timeout = 3.0
        result, shown = shown_by(session, piped=True, input=[b"a" * 70_000])
        assert result == {"ephemeral": False}
        assert len(shown[0][1]["piped"]) == 70_000
        assert shown[0][1]["seconds"] == 3.0
        with pytest.raises(Failure, match="as told"):
            shown_by(session, fails=True)
        status = checked(talos_("--json", "status", "--check").out)
        assert (status["running"], status["dht"]["mode"]) == (True, "server")
        assert talos_("-v", "status").out.startswith("up ")
        assert talos_("--json", "up", "--port", "0").error()["code"] == "home_in_use"
        assert talos_("up", "-d").code == 0
        assert list(session.pages("peers") or ()) == []
        me = status["identity"]["peer_id"]
        assert session.find(f"{me[:12]}…{me[-4:]}").peer_text == me
        with pytest.raises(Failure, match="--metrics"):
            _mcp_serve(talos_, me)
    assert checked(talos_("--json", "status").out)["running"] is False
    assert talos_("status").out.startswith("no agent runs")
    assert talos_("--json", "status", "--check").error()["code"] == "agent_down"
    assert talos_("--json", "down").error()["code"] == "agent_down"
    assert talos_("--json", "--timeout", "0.05", "wait").error()["code"] == "timeout"
    assert talos_("--json", "logs").error()["code"] == "agent_down"


def _mcp_serve(talos_: Talos, peer: str) -> None:
    ran = talos_("mcp-serve", "--authorized-peer", peer, "--command", "cat", "--metrics", "127.0.0.1:0")
    assert ran.code == 2
    raise Failure("usage", ran.err)


def test_an_owner_that_does_not_answer(session: Session, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(modes, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(modes, "TOLD_SECONDS", 0.0)
    session.quiet = False
    with session.home.lock():
        with pytest.raises(HomeInUse):
            shown_by(session)
        assert capsys.readouterr().err.count("waiting for it") == 1
        with pytest.raises(HomeInUse), session.owning():
            pytest.fail("two owners")
    with session.owning():
        assert session.home.is_owned()


def test_an_agent_that_leaves_is_waited_for(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Client.begin
    calls: list[int] = []

    def leaving(self: Client, *args: Any, **options: Any) -> str:
        calls.append(1)
        if len(calls) == 1:
            raise GoingAway
        if len(calls) == 2:
            raise AgentLost
        return begin(self, *args, **options)

    monkeypatch.setattr(Client, "begin", leaving)
    assert shown_by(session)[0] == {"ephemeral": True}
    assert len(calls) == 3


def test_what_was_lost_in_the_middle_is_not_repeated(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: Client, *args: Any, **options: Any) -> str:
        raise AgentLost

    monkeypatch.setattr(Client, "begin", lost)
    with pytest.raises(Failure, match="in the middle"):
        shown_by(session, input=[b"x"])
    monkeypatch.setattr(modes, "RETRY_SECONDS", 0.0)
    with pytest.raises(Failure, match="in the middle"):
        shown_by(session)


def test_a_stage_is_told_when_it_lasts(session: Session, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    session.quiet = False
    told = threading.Event()
    monkeypatch.setattr(modes, "STAGE_SECONDS", 0.0)
    monkeypatch.setattr(session.out, "note", lambda text: told.set())
    with modes.Teller(session, lambda *_: None) as teller:
        teller("stage", {"detail": "dialing 3 addresses"})
        assert told.wait(5)
        assert teller("lagged", {"missed": 3}) is None
    assert "3 events were missed" in capsys.readouterr().err


CALL: dict[str, Any] = {
    "type": "request", "peer_id": "x", "server": "files", "tool": "read", "method": "tools/call", "ok": True,
    "decision": "forwarded", "reason": None, "error_code": None, "duration_ms": 3, "block": 9,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fields", "text"),
    [
        ("peer", {"alias": None, "peer_id": "12D3KooWQ7cExxxxxxxxxxxxx2fA", "connected": True, "addr": "/ip4/1.2.3.4/tcp/1"}, "connected"),
        ("peer", {"alias": None, "peer_id": "x", "connected": False, "addr": None}, "x gone"),
        ("call", CALL, "x → files.read  ok  3 ms  block 9\n"),
        ("call", {**CALL, "ok": False, "error_code": -32000, "tool": None, "block": None}, "x → files.tools/call  error -32000  3 ms\n"),
        ("call", {**CALL, "ok": False, "decision": "denied", "reason": "tool", "duration_ms": None}, "x → files.read  denied (tool)  block 9\n"),
        ("call", {**CALL, "ok": False, "type": "refused", "server": None, "tool": None, "method": None}, "x → refused  refused  3 ms"),
        ("block", {"height": 7, "n_items": 2}, "block 7  2 entries\n"),
        ("lagged", {"missed": 7}, "7 events were missed"),
    ],
)  # fmt: skip
def test_events_as_lines(kind: str, fields: dict[str, Any], text: str, capsys: Any) -> None:
    telling.tell_event(Session(), kind, fields)
    assert text in capsys.readouterr().out
    telling.tell_event(Session(), "stage", fields)
    telling.tell_event(Session(), "call", {**CALL, "type": "notification"})
    assert not capsys.readouterr().out
