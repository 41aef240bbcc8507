"""Whole programs behind two NATs: who lends a server is reached by name, at last without the relay."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from interop import natlab
from tests.mcp.harness import FAST, call, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(natlab.absent() is not None, reason=natlab.absent() or ""),
]
TALOS = (sys.executable, "-W", "error", "-m", "talos")
SECONDS = 60.0
POLL_SECONDS = 0.2
SERVER = " ".join(FAST)


class Place:
    """A home on one host of the lab."""

    def __init__(self, lab: natlab.Lab, host: str, home: Path) -> None:
        self._command = (*lab.command(host), *TALOS, "--data-dir", str(home))

    def run(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [*self._command, *words]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=SECONDS, check=False)

    def made(self, name: str) -> str:
        """Its peer id."""
        done = self.run("init", "--name", name)
        assert done.returncode == 0, done.stderr.decode()
        return str(json.loads(self.run("id", "--json").stdout)["peer_id"])

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return found

    @contextlib.contextmanager
    def running(self, *words: str) -> Iterator[dict[str, Any]]:
        """What it says once it is up."""
        process = subprocess.Popen([*self._command, "--json", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate(timeout=SECONDS)[1].decode()
            yield json.loads(line)
        finally:
            process.terminate()
            process.communicate(timeout=SECONDS)


def test_a_server_of_tools_behind_a_nat_is_reached_by_its_name(tmp_path: Path) -> None:
    with natlab.open_lab() as lab:
        relay, bob, alice = (Place(lab, host, tmp_path / host) for host in ("relay", "b", "a"))
        names = {"bob": bob.made("bob"), "alice": alice.made("alice")}
        listen = ("--listen", f"/ip4/{natlab.HOSTS['relay']}/tcp/8765")
        with relay.running("server", "--relay", *listen) as server:
            start = ("--bootstrap", server["addrs"][0])
            lend = ("mcp-serve", "--authorized-peer", names["alice"], "--command", SERVER, *start)
            with bob.running(*lend):
                lent = _until_relayed(bob)
                assert lent["reachability"] == "private"
                assert lent["relay"]["relays"] == [server["identity"]["peer_id"]]
                done = alice.run("mcp-connect", names["bob"], *start, stdin=call("echo", text="hello") + b"\n")
                assert done.returncode == 0, done.stderr.decode()
                assert text_of(done.stdout) == "hello"
                assert bob.status()["relay"]["punched"] >= 1
                assert relay.status()["relay"]["serving"]["reservations"] == 1


def _until_relayed(place: Place) -> dict[str, Any]:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found = place.status()
        if found["relay"]["relays"]:
            return found
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"no relay: {found}")
