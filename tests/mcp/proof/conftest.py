"""One agent that lends every server of the proofs, and the command by which its friend reaches each."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
START_SECONDS = 20


@dataclass(frozen=True)
class Tunnel:
    """A running `mcp-serve` and the home that may use it."""

    home: Path
    address: str

    def connect(self, server: str) -> list[str]:
        """The command that an MCP client starts instead of the server's own."""
        return [*talos(self.home), "mcp-connect", self.address, "--server", server]


def talos(home: Path) -> list[str]:
    return [sys.executable, "-m", "talos", "--data-dir", str(home)]


def make_home(path: Path) -> str:
    """A new identity; its peer id."""
    subprocess.run([*talos(path), "init", "--name", path.name, "-q"], check=True, capture_output=True)
    done = subprocess.run([*talos(path), "id", "--json"], check=True, capture_output=True)
    peer_id: str = json.loads(done.stdout)["peer_id"]
    return peer_id


def lend(room: Path, servers: dict[str, list[str]]) -> Iterator[Tunnel]:
    """Lends the servers from a new home to another, by a policy file, until resumed."""
    friend = make_home(room / "friend")
    make_home(room / "lender")
    lines = ["version = 1", "[peers.friend]", f'id = "{friend}"']
    for name, command in servers.items():
        lines += [f"[servers.{name}]", f"command = {json.dumps(command)}"]
        # The conformance suite opens a session for each scenario and closes none.
        lines += ["[[grants]]", 'peer = "friend"', f'server = "{name}"', "limits = { sessions = 64 }"]
    policy = room / "policy.toml"
    policy.write_text("\n".join(lines) + "\n")
    policy.chmod(0o600)
    with (room / "lender.log").open("wb") as log:
        serving = subprocess.Popen(
            [
                *talos(room / "lender"),
                "mcp-serve",
                "--policy",
                str(policy),
                "--listen",
                "/ip4/127.0.0.1/tcp/0",
                "--json",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    with serving:
        assert serving.stdout is not None
        line = serving.stdout.readline()
        assert line, (room / "lender.log").read_text()
        yield Tunnel(room / "friend", json.loads(line)["addrs"][0])
        serving.terminate()
        serving.wait(START_SECONDS)


PYTHON_SERVERS = {
    "example": [sys.executable, str(ROOT / "examples" / "mcp_server.py"), "--root", str(ROOT / "docs" / "decisions")],
    "fixture": [sys.executable, str(HERE / "fixture_server.py")],
}


@pytest.fixture(scope="session")
def python_tunnel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tunnel]:
    yield from lend(tmp_path_factory.mktemp("python"), PYTHON_SERVERS)
