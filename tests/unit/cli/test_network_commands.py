"""The commands of the network without a network: what they ask an agent for, and how they print what it answers."""

from __future__ import annotations

import base64
import io
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.cli import modes, telling
from talos.cli.commands import register as register_command
from talos.cli.commands import server as server_command
from talos.cli.exits import Failure
from talos.cli.session import Session
from talos.identity.wallet import public_identity
from tests.unit.cli.conftest import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from talos.cli.modes import Asked, Show
    from tests.unit.cli.conftest import Talos

BOB = "12D3KooWCwdoLSZCfEzmdTgo4hNDvbF7NwoCW8AQ6BEsmz5T1Mjs"
SHORT = "12D3KooWCwdo…1Mjs"
ADDR = "/ip4/192.168.1.9/tcp/8766"
PEER: dict[str, Any] = {
    "peer_id": BOB, "alias": None, "claimed_name": None, "agent": "talos/1", "connected": True, "path": "lan",
    "addr": ADDR, "transport": "tcp", "security": "noise", "muxer": "yamux", "rtt_ms": 1.9,
    "since": "2026-01-01T00:00:00.000Z",
}  # fmt: skip
KNOWN: dict[str, Any] = {
    **PEER, "agent": None, "connected": False, "path": None, "addr": None, "transport": None, "security": None,
    "muxer": None, "rtt_ms": None, "since": None,
}  # fmt: skip
PROVIDER: dict[str, Any] = {"peer_id": BOB, "addrs": [ADDR]}
STEP: dict[str, Any] = {
    "step": "answer", "hop": 2, "asked": BOB, "closer": 3, "rtt_ms": 1.5, "detail": "first word",
}  # fmt: skip
MESSAGE: dict[str, Any] = {
    "topic": "fleet", "from": BOB, "via": BOB, "id": "ab", "data_b64": base64.b64encode(b"hi \xff").decode(),
    "received": "2026-01-01T00:00:00.000Z",
}  # fmt: skip
TABLE: dict[str, Any] = {
    "protocol": "/talos/kad/1.0.0", "mode": "server", "scope": "any", "peers": 1, "buckets": 1, "values": 2,
    "providers": 3, "bootstrap": "done", "network_size": 4, "rows": [{**PROVIDER, "bucket": 7}], "next": None,
}  # fmt: skip
ROW: dict[str, Any] = {
    "topic": "fleet", "subscribed": True, "lost": 0, "peers": [
        {"peer_id": BOB, "score": 1.5, "in_mesh": True}, {"peer_id": BOB, "score": 0.5, "in_mesh": False},
    ],
}  # fmt: skip
NEIGHBOUR: dict[str, Any] = {
    "peer_id": BOB, "protocol": "/meshsub/1.2.0", "direction": "out", "score": 1.5, "topics": ["a", "b"], "queued": 0,
}  # fmt: skip
MESH: dict[str, Any] = {"rows": [ROW], "peers": [NEIGHBOUR], "counters": {}, "next": None}


class Answering:
    """In the place of an agent: keeps what it was asked for, and answers with what the test has put there."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.result: dict[str, Any] = {}
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.snapshots: dict[str, dict[str, Any]] = {}
        self.queries: list[Mapping[str, str] | None] = []

    def perform(self, session: Session, asked: Asked, show: Show) -> dict[str, Any]:
        self.asked.append(asked)
        for kind, fields in self.events:
            show(kind, fields)
        return self.result

    def ask(self, session: Session, route: str, query: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        self.queries.append(query)
        return self.snapshots.get(route)

    @property
    def only(self) -> tuple[str, dict[str, Any]]:
        """The one operation that was asked for."""
        (asked,) = self.asked
        return asked.name, dict(asked.args)


@pytest.fixture
def agent(talos_: Talos, monkeypatch: pytest.MonkeyPatch) -> Answering:
    assert talos_("init", "--name", "Alice").code == 0
    answering = Answering()
    monkeypatch.setattr(modes, "perform", answering.perform)
    monkeypatch.setattr(Session, "ask", _method(answering.ask))
    return answering


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    """As a function of a class: a bound method would not be given the session."""

    def method(session: Session, *words: Any) -> Any:
        return function(session, *words)

    return method


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# -- peers, ping, register


@pytest.mark.parametrize(("flags", "which"), [((), "connected"), (("--known",), "known"), (("--nearby",), "nearby")])
def test_peers(agent: Answering, talos_: Talos, flags: tuple[str, ...], which: str) -> None:
    agent.events = [("peer", PEER), ("peer", KNOWN), ("peer", {**KNOWN, "connected": True})]
    assert talos_("peers", *flags).out.splitlines() == [
        f"{SHORT}  lan  {ADDR}  noise yamux  talos/1",
        f"{SHORT}  not connected  no address known",
        f"{SHORT}  connected  no address known",
    ]
    assert agent.only == ("peers", {"which": which})
    for line in talos_("--json", "peers", *flags).out.splitlines():
        assert checked(line)["peer_id"] == BOB


def test_peers_nearby_or_known(agent: Answering, talos_: Talos) -> None:
    assert talos_("--json", "peers", "--known", "--nearby").error()["code"] == "usage"
    assert not agent.asked


def test_peers_are_watched_until_a_signal(agent: Answering, talos_: Talos, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.events = [("peer", PEER)]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("talos.cli.commands.peers.time.sleep", sleep)
    ran = talos_("peers", "--watch")
    assert ran.code == 130
    assert len(ran.out.splitlines()) == len(agent.asked) == 2
    assert slept == [2.0, 2.0]


def test_ping(agent: Answering, talos_: Talos) -> None:
    agent.events = [("ping", {**PEER, "seq": 1})]
    agent.result = {"peer_id": BOB, "received": 2, "min_ms": 1.0, "mean_ms": 2.0, "max_ms": 3.0}
    ran = talos_("ping", f"{ADDR}/p2p/{BOB}", "-c", "2", "-i", "0.5")
    assert ran.out == f"{SHORT}  1.9 ms  lan  {ADDR}  noise yamux\n"
    assert "2 answers, 1.0 / 2.0 / 3.0 ms" in ran.err
    assert agent.only == ("ping", {"peer": BOB, "addrs": [ADDR], "count": 2, "interval": 0.5})
    ran = talos_("--json", "ping", BOB)
    assert (ran.object()["kind"], ran.err) == ("ping", "")
    assert dict(agent.asked[1].args) == {"peer": BOB, "addrs": [], "count": 0, "interval": 1.0}
    agent.result["received"] = 1
    assert not talos_("ping", BOB, "-c", "1").err


@pytest.mark.parametrize(
    ("server", "addrs"),
    [
        (None, []),
        ("example.org:8765", ["/dns/example.org/tcp/8765"]),
        (f"{ADDR}/p2p/{BOB}", [f"{ADDR}/p2p/{BOB}"]),
    ],
)
def test_register(agent: Answering, talos_: Talos, server: str | None, addrs: list[str]) -> None:
    agent.result = {"peer_id": BOB, "name": "Alice", "addrs": [ADDR], "told": 3}
    words = ("register",) if server is None else ("register", "--server", server)
    assert talos_(*words).out == f"Alice  {SHORT}  is in the DHT, with 3 peers\n"
    assert agent.only == ("register", {"server": addrs})
    assert talos_("--json", *words).object()["told"] == 3


@pytest.mark.parametrize(
    ("text", "addr"),
    [
        ("1.2.3.4:1", "/ip4/1.2.3.4/tcp/1"),
        ("[::1]:65535", "/ip6/::1/tcp/65535"),
        ("a-b.example:80", "/dns/a-b.example/tcp/80"),
    ],
)
def test_the_address_of_a_server(text: str, addr: str) -> None:
    assert register_command.server_addr(text) == addr


@pytest.mark.parametrize(
    "text", ["", "host", ":1", "host:", "host:0", "host:65536", "host:1x", "-x:1", "a b:1", "h:１"]
)
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(Failure) as caught:
        register_command.server_addr(text)
    assert caught.value.code == "usage"


# -- dht


def test_dht_find_peer(agent: Answering, talos_: Talos) -> None:
    agent.events = [("lookup_step", STEP), ("lookup_step", {**STEP, "asked": None}), ("provider", PROVIDER)]
    ran = talos_("dht", "find-peer", BOB, "--trace")
    assert ran.out == f"{BOB}  {ADDR}\n"
    first, second = ran.err.splitlines()
    assert f"hop 2  answer  {SHORT}  3 closer  first word" in first
    assert "hop 2  answer  3 closer  first word" in second
    assert agent.only == ("dht-find-peer", {"peer": BOB, "trace": True})
    kinds = [checked(line)["kind"] for line in talos_("--json", "dht", "find-peer", BOB).out.splitlines()]
    assert kinds == ["lookup_step", "lookup_step", "provider"]


def test_dht_find_providers(agent: Answering, talos_: Talos) -> None:
    agent.events = [("provider", {**PROVIDER, "addrs": []})]
    assert talos_("dht", "find-providers", "a thing", "-n", "5").out == f"{BOB}  no address known\n"
    assert agent.only == ("dht-find-providers", {"key": "a thing", "count": 5, "trace": False})
    assert talos_("--json", "dht", "find-providers", "a thing").object()["addrs"] == []


def test_dht_provide(agent: Answering, talos_: Talos) -> None:
    agent.result = {"key": "a thing", "told": 20}
    assert talos_("dht", "provide", "a thing").out == "told 20 peers\n"
    assert agent.only == ("dht-provide", {"key": "a thing", "trace": False})
    found = talos_("--json", "dht", "provide", "a thing").object()
    assert (found["kind"], found["told"], found["size"]) == ("stored", 20, None)


def test_dht_put(agent: Answering, talos_: Talos, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.result = {"key": "/x/y", "size": 3}
    assert talos_("dht", "put", "/x/y", "abc").out == "stored 3 bytes\n"
    assert agent.only[1]["value_b64"] == base64.b64encode(b"abc").decode()
    piped(monkeypatch, b"\x00\xff\x01")
    found = talos_("--json", "dht", "put", "/x/y", "-").object()
    assert (found["kind"], found["size"], found["told"]) == ("stored", 3, None)
    assert agent.asked[-1].args["value_b64"] == base64.b64encode(b"\x00\xff\x01").decode()
    piped(monkeypatch, bytes(10 * 1024 + 1))
    assert talos_("--json", "dht", "put", "/x/y", "-").error()["code"] == "usage"
    assert len(agent.asked) == 2


def test_dht_get(agent: Answering, talos_: Talos) -> None:
    agent.events = [("record", {"key": "/x/y", "value_b64": base64.b64encode(b"a\xff").decode(), "seq": None})]
    assert talos_("dht", "get", "/x/y").out == "a\\xff\n"
    assert agent.only == ("dht-get", {"key": "/x/y", "trace": False})
    assert talos_("--json", "dht", "get", "/x/y").object()["kind"] == "record"


def test_dht_status(agent: Answering, talos_: Talos) -> None:
    assert talos_("--json", "dht", "status").error()["code"] == "agent_down"
    agent.snapshots["dht/table"] = TABLE
    ran = talos_("-v", "dht", "status")
    assert ran.out.startswith("server of /talos/kad/1.0.0  ·  1 peer in 1 bucket  ·  2 values")
    assert f"7  {BOB}  {ADDR}" in ran.err
    assert talos_("--json", "dht", "status").object()["rows"] == TABLE["rows"]


# -- gossip


def test_gossip_pub(agent: Answering, talos_: Talos, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.result = {"topic": "fleet", "id": "ab", "peers": 2}
    assert talos_("gossip", "pub", "fleet", "hello").out == "said in fleet to 2 neighbours\n"
    assert agent.only == ("gossip-pub", {"topic": "fleet", "data_b64": base64.b64encode(b"hello").decode()})
    piped(monkeypatch, b"\xff")
    assert talos_("--json", "gossip", "pub", "fleet", "-").object()["kind"] == "published"
    assert agent.asked[-1].args["data_b64"] == base64.b64encode(b"\xff").decode()
    piped(monkeypatch, bytes((1 << 20) + 1))
    assert talos_("--json", "gossip", "pub", "fleet", "-").error()["code"] == "usage"


def test_gossip_sub(agent: Answering, talos_: Talos) -> None:
    agent.events = [("gossip_message", MESSAGE), ("gossip_message", {**MESSAGE, "from": None})]
    ran = talos_("gossip", "sub", "fleet", "other", "-n", "2")
    assert ran.out.splitlines() == [f"fleet  {SHORT}  hi \\xff", "fleet  somebody  hi \\xff"]
    assert agent.only == ("gossip-sub", {"topics": ["fleet", "other"], "count": 2})
    for line in talos_("--json", "gossip", "sub", "fleet").out.splitlines():
        assert checked(line)["topic"] == "fleet"
    assert agent.asked[-1].args["count"] == 0


def test_gossip_without_an_agent(agent: Answering, talos_: Talos) -> None:
    for words in (("topics",), ("peers",), ("mesh", "fleet")):
        assert talos_("--json", "gossip", *words).error()["code"] == "agent_down"


def test_what_the_router_looks_like(agent: Answering, talos_: Talos) -> None:
    agent.snapshots["gossip/mesh"] = MESH
    assert talos_("gossip", "topics").out == "fleet  2 neighbours  subscribed\n"
    assert talos_("--json", "gossip", "topics").object()["kind"] == "mesh"
    assert talos_("gossip", "peers").out == f"{SHORT}  /meshsub/1.2.0  out  score 1.5  a, b\n"
    assert talos_("--json", "gossip", "peers").object()["kind"] == "gossip_peer"
    assert talos_("gossip", "mesh", "fleet").out.splitlines() == [
        f"{SHORT}  mesh  score 1.5",
        f"{SHORT}  outside  score 0.5",
    ]
    assert agent.queries[-1] == {"topic": "fleet"}
    assert talos_("--json", "gossip", "mesh", "fleet").object()["topic"] == "fleet"
    agent.snapshots["gossip/mesh"] = {**MESH, "rows": [{**ROW, "subscribed": False}]}
    assert talos_("gossip", "topics").out == "fleet  2 neighbours\n"
    agent.snapshots["gossip/mesh"] = {**MESH, "rows": []}
    assert talos_("--json", "gossip", "mesh", "fleet").error()["code"] == "not_found"


# -- the server


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Session, Any]]:
    """What the server would have been opened with."""
    found: list[tuple[Session, Any]] = []

    async def own(session: Session, wallet: Any, start: Any, body: Callable[..., Any]) -> int:
        found.append((session, start))
        return 0

    monkeypatch.setattr("talos.cli.owner.own", own)
    monkeypatch.setattr("talos.cli.commands.server.logs.configure", lambda level: None)  # it is the whole process's
    return found


def test_the_server_makes_its_identity_once(home: Path, talos_: Talos, opened: list[tuple[Session, Any]]) -> None:
    assert talos_("server").code == 0
    made = public_identity(opened[0][0].home)
    assert made.name == "talos-server"
    assert talos_("server", "--listen", "/ip4/127.0.0.1/tcp/0", "--bootstrap", f"{ADDR}/p2p/{BOB}").code == 0
    (_, first), (session, second) = opened
    assert public_identity(session.home).peer_text == made.peer_text
    assert (first.config.dht.mode, first.audit) == ("server", False)
    assert all(addr.endswith("/tcp/8765") for addr in first.listen)
    assert second.listen == ("/ip4/127.0.0.1/tcp/0",)
    assert second.bootstrap == (f"{ADDR}/p2p/{BOB}",)


def test_the_server_has_a_home_of_its_own(
    tmp_path: Path, talos_: Talos, opened: list[tuple[Session, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TALOS_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "user").mkdir()
    assert talos_("--debug", "server").code == 0
    assert opened[0][0].home.path == tmp_path / "user" / ".talos-server"


@pytest.mark.parametrize("as_json", [False, True])
async def test_the_server_says_where_it_is(
    as_json: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(telling, "tell_up", lambda session, status, key, *, whole: told.append((status, key, whole)))
    monkeypatch.setattr("talos.control.snapshots.status", lambda agent, query: {"pid": 1})
    node = SimpleNamespace(addrs=[ADDR], key=SimpleNamespace(public_key=SimpleNamespace(data=b"k")))
    control = SimpleNamespace(agent=SimpleNamespace(node=node), stopped=trio.Event())
    control.stopped.set()
    assert await server_command._Showing(Session(json=as_json)).body(control) == 0  # type: ignore[arg-type]
    captured = capsys.readouterr()
    assert told == [({"pid": 1}, b"k", True)]
    assert captured.out == ""
    assert ("talos register --server" in captured.err) is not as_json
