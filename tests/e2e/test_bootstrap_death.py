"""Peers that began with one address find each other by their keys, and go on when who had that address is gone."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_network_commands import LISTEN, SECONDS, Peer, checked, up

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
LENT = (
    "import json, sys\n"
    "for line in sys.stdin: print(json.dumps({'jsonrpc': '2.0', 'id': 1, 'result': 'pong'}), flush=True)\n"
)


@dataclass
class Network:
    """What is left when the server is killed: toolhost lends to alice, bob is only there."""

    server: subprocess.Popen[bytes]
    toolhost: Peer
    bob: Peer
    alice: Peer


@contextlib.contextmanager
def serving(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], Peer]]:
    """A server that may be killed."""
    process = Peer(home).start("server", *LISTEN, "--json")
    try:
        assert process.stdout is not None
        status = checked(process.stdout.readline())
        yield process, Peer(home, status["identity"]["peer_id"], status["addrs"][0])
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


@contextlib.contextmanager
def lending(toolhost: Peer, to: Peer, program: Path) -> Iterator[None]:
    words = shlex.join((sys.executable, str(program)))
    process = toolhost.start("mcp-serve", "--authorized-peer", to.peer_id, "--command", words, "--json")
    try:
        assert process.stdout is not None
        assert checked(process.stdout.readline())["kind"] == "mcp_ready"
        yield
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    base = tmp_path_factory.mktemp("network")
    (base / "lent.py").write_text(LENT)
    with (
        serving(base / "server") as (process, server),
        up(base / "toolhost", "toolhost", server) as toolhost,
        up(base / "bob", "bob", server) as bob,
        up(base / "alice", "alice", server) as alice,
        lending(toolhost, alice, base / "lent.py"),
    ):
        (alice.home / "config.toml").write_text(f'[node]\nbootstrap = ["{server.addr}"]\n')
        (alice.home / "config.toml").chmod(0o600)
        yield Network(process, toolhost, bob, alice)


def pong(alice: Peer, toolhost: Peer) -> None:
    """Alice's `mcp-connect` is given a key, and no address."""
    done = alice.run("mcp-connect", toolhost.peer_id, stdin=PING)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["result"] == "pong"


def table(peer: Peer) -> set[str]:
    (status,) = peer.rows("dht", "status")
    return {row["peer_id"] for row in status["rows"]}


def until_knows(peer: Peer, *others: Peer) -> None:
    deadline = time.monotonic() + SECONDS
    while not table(peer) >= {other.peer_id for other in others}:
        assert time.monotonic() < deadline, "it never heard of the others"
        time.sleep(0.2)  # each look is a process of its own


def test_a_server_is_reached_by_its_key_alone(network: Network) -> None:
    """By a node of the command beside alice's agent, which has her identity and cannot be asked for peers by dialling."""
    pong(network.alice, network.toolhost)


def test_the_others_go_on_without_the_first(network: Network) -> None:
    alice, bob, toolhost = network.alice, network.bob, network.toolhost
    until_knows(alice, bob, toolhost)
    until_knows(bob, alice, toolhost)
    network.server.kill()
    network.server.wait(SECONDS)
    (found,) = bob.rows("dht", "find-peer", alice.peer_id)
    assert alice.addr.partition("/p2p/")[0] in found["addrs"]
    assert bob.rows("ping", alice.peer_id, "-c", "1")[0]["rtt_ms"] > 0
    pong(alice, toolhost)  # by what alice's agent knows


def test_nor_is_an_agent_needed(network: Network) -> None:
    """The last one: alice's agent ends, and what it remembered is enough."""
    alice, toolhost = network.alice, network.toolhost
    network.server.kill()
    network.server.wait(SECONDS)
    (status,) = alice.rows("status")
    os.kill(status["pid"], signal.SIGTERM)
    while alice.run("status", "--check").returncode == 0:
        pass  # each look is a process of its own
    pong(alice, toolhost)
