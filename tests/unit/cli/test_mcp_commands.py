"""mcp-serve and mcp-connect in one process: the glue between options, signals, descriptors and the tunnel."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from talos.cli import wire
from talos.cli.commands import mcp_connect, mcp_serve
from talos.cli.exits import Failure
from talos.cli.output import Output
from talos.cli.session import Session
from talos.cli.streams import Wire
from talos.identity import private_file, wallet
from talos.identity.keyring import HomeKeys
from talos.identity.wallet import Wallet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.unit.cli.conftest import Talos

    MakeSession = Callable[..., tuple[Session, Wallet]]

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
SERVER = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": {}}), flush=True)
"""


class Heard(Output):
    """What a command says, for those who wait for it."""

    def __init__(self, *, as_json: bool = False) -> None:
        super().__init__(as_json=as_json, verbose=True)
        self.said: list[str] = []
        self.objects: list[dict[str, Any]] = []
        self.ready = trio.Event()

    def emit(self, kind: str, **fields: object) -> None:
        self.objects.append({"kind": kind, **fields})
        self.ready.set()

    def note(self, text: str) -> None:
        self.said.append(text)
        if text.startswith("there: "):
            self.ready.set()

    detail = warn = note

    def problem(self, problem: object) -> None:
        self.said.append(getattr(problem, "code", "?"))


@pytest.fixture
def make_session(tmp_path: Path) -> Callable[..., tuple[Session, Wallet]]:
    def make(name: str, **options: Any) -> tuple[Session, Wallet]:
        session = Session(data_dir=str(tmp_path / name), **options)
        session._out = Heard(as_json=session.json)
        session.home.prepare()
        made = Wallet.new(name, now_ms=0)
        wallet.create(session.home, made, None)
        return session, made

    return make


def serve_plan(peers: tuple[str, ...], **changes: Any) -> mcp_serve._Plan:
    quick = mcp_serve._Quick(
        command=f"{sys.executable} -c '{SERVER}'",
        peers=peers,
        name="default",
        allow_any=False,
        cwd=None,
        env={},
        pass_env=(),
    )
    plan: dict[str, Any] = {
        "policy_file": None,
        "quick": quick,
        "listen": ("/ip4/127.0.0.1/tcp/0",),
        "bootstrap": (),
        "audit": "calls",
        "drain": 1.0,
        "max_message": None,
        "metrics": None,
    }
    return mcp_serve._Plan(**{**plan, **changes})


@asynccontextmanager
async def served(
    session: Session, owner: Wallet, plan: mcp_serve._Plan, ends_by: signal.Signals = signal.SIGTERM
) -> AsyncIterator[Heard]:
    """mcp-serve in the background, ended by a signal whose exit code is checked."""
    heard = session.out
    assert isinstance(heard, Heard)
    codes = []

    async def run() -> None:
        codes.append(
            await mcp_serve._main(session, plan, mcp_serve._rules(session, plan), HomeKeys(session.home, owner))
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await heard.ready.wait()
        yield heard
        signal.raise_signal(ends_by)
    assert codes == [128 + ends_by]


async def connect(session: Session, peer: str, sent: bytes, **changes: Any) -> tuple[int, bytes]:
    """mcp-connect on two pipes: its exit code and all of its stdout."""
    stdin, to_stdin = os.pipe()
    from_stdout, stdout = os.pipe()
    session.wire = Wire(stdin, stdout)
    plan: dict[str, Any] = {
        "peer": peer, "server": "", "addrs": (), "bootstrap": (), "seconds": 10.0, "audit": "calls"
    }  # fmt: skip
    os.write(to_stdin, sent)
    os.close(to_stdin)
    code = await mcp_connect._main(session, mcp_connect._Plan(**{**plan, **changes}))
    with os.fdopen(from_stdout, "rb") as reader:
        return code, reader.read()


async def test_a_call_through_both_commands(make_session: MakeSession) -> None:
    (alice, owner), (bob, client) = make_session("alice", json=True), make_session("bob")
    async with served(alice, owner, serve_plan((str(client.peer_id),), max_message=65_536)) as heard:
        (ready,) = heard.objects
        assert ready["grants"] == [{"peer_id": str(client.peer_id), "server": "default"}]
        code, out = await connect(bob, ready["addrs"][0], PING)
        assert (code, json.loads(out)) == (0, {"jsonrpc": "2.0", "id": 1, "result": {}})
        bare = ready["addrs"][0].partition("/p2p/")[0]
        code, out = await connect(bob, str(owner.peer_id), PING, addrs=(bare,), audit="off")
        assert code == 0
    assert any(bob.home.mcp_connect.iterdir())
    assert alice.home.chain.is_dir()


async def test_ready_in_words_names_what_to_type_there(make_session: MakeSession) -> None:
    (alice, owner), (bob, client) = make_session("alice"), make_session("bob")
    plan = serve_plan((str(client.peer_id),), audit="off")
    async with served(alice, owner, plan, signal.SIGHUP) as heard:
        assert heard.said[0] == f"ready as {owner.peer_id}"
        command, _, addr = heard.said[-1].removeprefix("there: ").rpartition(" --addr ")
        assert command == f"talos mcp-connect {owner.peer_id}"
        assert f"  {addr}/p2p/{owner.peer_id}" in heard.said
        assert f'  "default" for {client.peer_id}' in heard.said
        code, _ = await connect(bob, str(owner.peer_id), PING, addrs=(addr,))
        assert code == 0


async def test_with_a_dht_the_peer_id_is_enough(make_session: MakeSession) -> None:
    """Each begins with a peer that only an option names, and asks it for the other."""
    (hub, hub_owner), (alice, owner), (bob, client) = make_session("hub"), make_session("alice"), make_session("bob")
    hub_plan = serve_plan((str(client.peer_id),), audit="off")
    hub_keys = HomeKeys(hub.home, hub_owner)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mcp_serve._main, hub, hub_plan, mcp_serve._rules(hub, hub_plan), hub_keys)
            heard = hub.out
            assert isinstance(heard, Heard)
            await heard.ready.wait()
            (addr,) = [line.strip() for line in heard.said if line.startswith("  /ip4/")]
            plan = serve_plan((str(client.peer_id),), bootstrap=(addr,))
            nursery.start_soon(mcp_serve._main, alice, plan, mcp_serve._rules(alice, plan), HomeKeys(alice.home, owner))
            heard = alice.out
            assert isinstance(heard, Heard)
            await heard.ready.wait()
            assert heard.said[-1] == f"there: talos mcp-connect {owner.peer_id}"
            code, out = await connect(bob, str(owner.peer_id), PING, bootstrap=(addr,))
            assert (code, json.loads(out)["result"]) == (0, {})
            nursery.cancel_scope.cancel()


async def test_the_numbers_of_a_run(make_session: MakeSession) -> None:
    (alice, owner), (bob, client) = make_session("alice", json=True), make_session("bob")
    async with served(alice, owner, serve_plan((str(client.peer_id),), metrics="127.0.0.1:0")) as heard:
        assert (await connect(bob, heard.objects[0]["addrs"][0], PING))[0] == 0
        (said,) = [line for line in heard.said if line.startswith("numbers at ")]
        url = said.split()[2].rstrip(",")
        token = alice.home.metrics_token.read_text().strip()
        answer = await fetch(url, f"GET /metrics HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"talos_mcp_opens_total" in answer
        assert str(client.peer_id).encode() not in answer
    assert not alice.home.metrics_token.exists()


async def fetch(url: str, request: str) -> bytes:
    host, _, port = url.removeprefix("http://").removesuffix("/metrics").rpartition(":")
    async with await trio.open_tcp_stream(host.strip("[]"), int(port)) as stream:
        await stream.send_all(request.encode())
        return b"".join([piece async for piece in stream])


async def test_who_is_not_named_is_refused(make_session: MakeSession) -> None:
    (alice, owner), (_, client) = make_session("alice", json=True), make_session("bob")
    mallory, _ = make_session("mallory")
    async with served(alice, owner, serve_plan((str(client.peer_id),)), signal.SIGINT) as heard:
        code, out = await connect(mallory, heard.objects[0]["addrs"][0], PING)
    assert code == 3
    assert json.loads(out)["error"]["code"] == 5031
    assert isinstance(mallory.out, Heard)
    assert mallory.out.said[-1] == "refused"


async def test_a_policy_file_is_read_again_on_sighup(make_session: MakeSession, tmp_path: Path) -> None:
    (alice, owner), (_, client) = make_session("alice", json=True), make_session("bob")
    policy = tmp_path / "mcp.toml"
    text = f'version = 1\n[servers.s]\ncommand = ["cat"]\n[peers.b]\nid = "{client.peer_id}"\n'
    policy.write_text(text + '[[grants]]\npeer = "b"\nserver = "s"\n')
    policy.chmod(0o600)
    async with served(alice, owner, serve_plan((), policy_file=policy)) as heard:
        policy.write_text("nonsense")
        await hung_up(heard, "everything stays as it was")
        policy.write_text(text + '[[grants]]\npeer = "b"\nserver = "s"\n')
        put(alice, '[log]\nlevel = "info"\nfile = "talos.log"\n[node]\nport = 1\n[files]\nfrom = "contacts"\n')
        await hung_up(heard, "restart needed for node.port, files.from")
        assert (alice.home.path / "talos.log").stat().st_mode & 0o777 == 0o600
        put(alice, '[log]\n[node]\nport = 2\n[files]\nfrom = "contacts"\n')
        await hung_up(heard, "restart needed for node.port")
        assert "restart needed for node.port" in heard.said, "what was told is not told again"
        put(alice, "[node]\nprot = 2\n")
        await hung_up(heard, 'unknown "node.prot"')


def put(session: Session, text: str) -> None:
    private_file.write(session.home.config, text.encode(), replace=True)


async def hung_up(heard: Heard, expected: str) -> None:
    """SIGHUP, and the answer to it."""
    heard.said.clear()
    signal.raise_signal(signal.SIGHUP)
    with trio.fail_after(60):
        while not any(expected in line for line in heard.said):  # noqa: ASYNC110 - it says so, and no more
            await trio.sleep(0.01)


async def test_a_signal_ends_the_client_and_its_pipes_stay_blocking(make_session: MakeSession) -> None:
    (alice, owner), (bob, client) = make_session("alice", json=True), make_session("bob")
    stdin, to_stdin = os.pipe()
    from_stdout, stdout = os.pipe()
    spare = os.dup(stdin)
    bob.wire = Wire(stdin, stdout)
    codes = []

    async def run(peer: str) -> None:
        plan = mcp_connect._Plan(peer=peer, server="", addrs=(), bootstrap=(), seconds=10.0, relay=False, audit="calls")
        codes.append(await mcp_connect._main(bob, plan))

    async with served(alice, owner, serve_plan((str(client.peer_id),))) as heard:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, heard.objects[0]["addrs"][0])
            os.write(to_stdin, PING)
            await trio.lowlevel.wait_readable(from_stdout)
            assert json.loads(os.read(from_stdout, 999))["id"] == 1
            assert not os.get_blocking(spare)
            signal.raise_signal(signal.SIGINT)
        assert codes == [130]
        assert os.get_blocking(spare)
    for descriptor in (to_stdin, from_stdout, spare):
        os.close(descriptor)


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"peer": "bbo"}, 2), ({"addrs": ("/ip4/300.0.0.1/tcp/1",)}, 5), ({"addrs": ("/ip4/127.0.0.1/tcp/1",)}, 4)],
)
async def test_what_cannot_be_is_answered(make_session: MakeSession, changes: dict[str, Any], code: int) -> None:
    bob, _ = make_session("bob")
    peer = changes.pop("peer", "12D3KooWCwdoLSZCfEzmdTgo4hNDvbF7NwoCW8AQ6BEsmz5T1Mjs")
    found, out = await connect(bob, peer, PING, **changes)
    assert found == code
    assert json.loads(out)["error"]["code"] == 5031


def test_mcp_connect_is_a_program(talos_: Talos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talos.cli.streams.claim", lambda arguments: None)
    assert "run it as a program" in talos_("mcp-connect", "x").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is no server to lend"),
        (("--command", "cat"), "nobody may use the server"),
        (("--command", "cat", "--policy", "x"), "exclude each other"),
        (("--command", "cat", "--port", "1", "--listen", "/ip4/127.0.0.1/tcp/0"), "exclude each other"),
        (("--command", "cat", "--env", "=x"), "--env takes KEY=VALUE"),
    ],
)
def test_what_serve_refuses_before_it_starts(talos_: Talos, arguments: tuple[str, ...], message: str) -> None:
    talos_("init", "--name", "A")
    assert message in talos_("mcp-serve", *arguments).err


def test_the_policy_file_of_the_home(tmp_path: Path) -> None:
    default = tmp_path / "mcp.toml"
    with pytest.raises(Failure, match="no server"):
        mcp_serve._policy_file(None, None, default)
    default.touch()
    assert mcp_serve._policy_file(None, None, default) == default
    assert mcp_serve._policy_file(None, "cat", default) is None
    assert mcp_serve._variables(("A=b=c", "D=")) == {"A": "b=c", "D": ""}


async def test_a_file_is_read_and_written_in_threads(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x" * 100_000)
    read = os.open(tmp_path / "in", os.O_RDONLY)
    write = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT, 0o600)
    reader, writer = wire.open_reader(Wire(read, write)), wire.open_writer(Wire(read, write))
    async with reader, writer:
        while data := await reader.receive_some():
            await writer.wait_send_all_might_not_block()
            await writer.send_all(data)
    os.close(read)
    os.close(write)
    assert (tmp_path / "out").read_bytes() == b"x" * 100_000
