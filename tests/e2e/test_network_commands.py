"""Commands over a network of processes: a server that only the first address names, and two agents that find each other."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

import talos.cli

if TYPE_CHECKING:
    from collections.abc import Iterator

TALOS = [sys.executable, "-W", "error", "-m", "talos"]
SCHEMAS = Path(talos.cli.__file__).with_name("schema")
SECONDS = 25
LISTEN = ("--listen", "/ip4/127.0.0.1/tcp/0")
NOBODY = "12D3KooWCwdoLSZCfEzmdTgo4hNDvbF7NwoCW8AQ6BEsmz5T1Mjs"


@dataclass(frozen=True)
class Peer:
    """A home, and who lives there."""

    home: Path
    peer_id: str = ""
    addr: str = ""

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*TALOS, "--data-dir", str(self.home), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [*TALOS, "--data-dir", str(self.home), *words]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=SECONDS, check=False)

    def rows(self, *words: str, stdin: bytes = b"") -> list[dict[str, Any]]:
        """The JSON lines of a command that has to succeed, each by its schema."""
        done = self.run(*words, "--json", stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return [checked(line) for line in done.stdout.splitlines()]

    def error(self, *words: str) -> dict[str, Any]:
        done = self.run(*words, "--json")
        assert done.stdout == b""
        told = checked(done.stderr.splitlines()[-1])
        assert told["kind"] == "error"
        assert done.returncode == told["exit"]
        return told


def checked(line: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line)
    Draft202012Validator(json.loads((SCHEMAS / f"{found['kind']}.json").read_text())).validate(found)
    return found


@contextlib.contextmanager
def running(home: Path, *words: str) -> Iterator[Peer]:
    """An agent or server that is up, for the length of the block."""
    process = Peer(home).start(*words, "--json")
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(f"not up: {process.communicate(timeout=SECONDS)[1]!r}")
        status = checked(line)
        yield Peer(home, status["identity"]["peer_id"], status["addrs"][0])
    finally:
        process.terminate()
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 143
    assert b"Traceback" not in err


def up(home: Path, name: str, server: Peer) -> contextlib.AbstractContextManager[Peer]:
    assert Peer(home).run("init", "--name", name).returncode == 0
    return running(home, "up", "--no-mdns", *LISTEN, "--bootstrap", server.addr)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Peer, Peer, Peer]]:
    """The server, alice and bob, all connected to it."""
    base = tmp_path_factory.mktemp("network")
    with (
        running(base / "server", "server", *LISTEN) as server,
        up(base / "alice", "alice", server) as alice,
        up(base / "bob", "bob", server) as bob,
    ):
        for peer in (alice, bob):
            assert peer.run("wait", "--peers", "1").returncode == 0
        yield server, alice, bob


Network = tuple[Peer, Peer, Peer]


def test_a_peer_is_found_by_its_key(network: Network) -> None:
    _, alice, bob = network
    (found,) = alice.rows("dht", "find-peer", bob.peer_id)
    assert (found["kind"], found["peer_id"]) == ("provider", bob.peer_id)
    assert bob.addr.partition("/p2p/")[0] in found["addrs"]
    answers = alice.rows("ping", bob.peer_id, "-c", "2", "-i", "0.05")
    assert [(answer["seq"], answer["peer_id"], answer["path"]) for answer in answers] == [
        (1, bob.peer_id, "lan"),
        (2, bob.peer_id, "lan"),
    ]
    assert (answers[0]["transport"], answers[0]["security"], answers[0]["muxer"]) == ("tcp", "noise", "yamux")
    connected = {row["peer_id"]: row for row in alice.rows("peers")}
    assert connected[bob.peer_id]["connected"]
    assert {row["peer_id"] for row in alice.rows("peers", "--known")} >= set(connected)


def test_a_node_for_one_command_begins_with_whom_an_option_names(network: Network, tmp_path: Path) -> None:
    server, _, bob = network
    carol = Peer(tmp_path / "carol")
    assert carol.run("init", "--name", "carol").returncode == 0
    (found, *_) = carol.rows("dht", "find-peer", bob.peer_id, "--bootstrap", server.addr)
    assert found["peer_id"] == bob.peer_id
    assert carol.error("ping", bob.peer_id, "--bootstrap", bob.peer_id)["code"] == "usage"


def test_a_server_says_once_where_it_is(tmp_path: Path) -> None:
    process = Peer(tmp_path / "server").start("server", *LISTEN)
    assert process.stdout is not None
    lines = [process.stdout.readline().decode() for _ in range(3)]
    process.terminate()
    lines += process.communicate(timeout=SECONDS)[0].decode().splitlines()
    assert len([line for line in lines if line.startswith("  /ip4/")]) == 1
    assert "/p2p/12D3KooW" in lines[2]


def test_who_cannot_be_found_is_told(network: Network) -> None:
    _, alice, _ = network
    error = alice.error("ping", NOBODY, "-c", "1")
    assert (error["code"], error["exit"]) == ("unreachable", 4)
    assert error["tried"]
    assert alice.error("dht", "find-providers", "nobody has this")["code"] == "not_found"
    assert alice.error("dht", "get", "nothing")["code"] == "usage"


def test_what_one_provides_another_finds(network: Network) -> None:
    _, alice, bob = network
    (stored,) = alice.rows("dht", "provide", "a thing")
    assert stored["told"] >= 1
    (provider,) = bob.rows("dht", "find-providers", "a thing")
    assert provider["peer_id"] == alice.peer_id
    steps = bob.rows("dht", "find-providers", "a thing", "--trace")
    assert {step["kind"] for step in steps} == {"lookup_step", "provider"}


def test_registered_keys_are_read_by_others(network: Network) -> None:
    server, alice, bob = network
    (told,) = alice.rows("register", "--server", _host_port(server.addr))
    assert (told["name"], told["peer_id"]) == ("alice", alice.peer_id)
    assert told["told"] >= 1
    (record,) = bob.rows("dht", "get", f"/talos/keys/{alice.peer_id}")
    assert base64.b64decode(record["value_b64"])
    (status,) = bob.rows("dht", "status")
    assert status["peers"] >= 1
    assert status["rows"]


def test_a_topic_reaches_who_is_in_it(network: Network) -> None:
    _, alice, bob = network
    assert alice.error("gossip", "pub", "nobody's", "hello", "--timeout", "0.2")["code"] == "unreachable"
    assert alice.error("gossip", "mesh", "nobody's")["code"] == "not_found"
    subscriber = bob.start("gossip", "sub", "fleet", "-n", "2", "--json")
    (published,) = alice.rows("gossip", "pub", "fleet", "good morning")
    assert published["peers"] >= 1
    topics = {row["topic"]: row for row in alice.rows("gossip", "topics")}
    assert [row["topic"] for row in alice.rows("gossip", "mesh", "fleet")] == ["fleet"]
    assert {peer["peer_id"] for peer in topics["fleet"]["peers"]} == {bob.peer_id}
    assert {row["peer_id"] for row in alice.rows("gossip", "peers")} >= {bob.peer_id}
    alice.rows("gossip", "pub", "fleet", "-", stdin=b"\x00\xff")
    out, err = subscriber.communicate(timeout=SECONDS)
    assert (subscriber.returncode, err) == (0, b"")
    heard = [checked(line) for line in out.splitlines()]
    assert [base64.b64decode(one["data_b64"]) for one in heard] == [b"good morning", b"\x00\xff"]
    assert {one["from"] for one in heard} == {alice.peer_id}


def test_without_an_agent_a_node_of_its_own_does_it(network: Network, tmp_path: Path) -> None:
    """And asks only: it is gone when it has the answer."""
    server, _, bob = network
    carol = Peer(tmp_path / "carol")
    assert carol.run("init", "--name", "carol").returncode == 0
    assert carol.error("dht", "find-peer", bob.peer_id)["code"] == "no_bootstrap"
    assert carol.error("gossip", "topics")["code"] == "agent_down"
    assert carol.error("dht", "status")["code"] == "agent_down"
    (carol.home / "config.toml").write_text(f'[node]\nbootstrap = ["{server.addr}"]\n')
    (carol.home / "config.toml").chmod(0o600)
    (found,) = carol.rows("dht", "find-peer", bob.peer_id)
    assert found["peer_id"] == bob.peer_id
    assert server.peer_id in {row["peer_id"] for row in carol.rows("peers")}
    assert carol.rows("ping", bob.peer_id, "-c", "1")[0]["rtt_ms"] > 0


def _host_port(addr: str) -> str:
    parts = addr.split("/")
    return f"{parts[2]}:{parts[4]}"
