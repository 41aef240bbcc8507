"""No record, no call: a log that cannot be written stops the tunnel before the server sees anything."""

from __future__ import annotations

import fcntl
import json
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECORD_REFUSED = 7
VERIFICATION_FAILED = 8
IN_USE = 9
LIMIT_BYTES = 300_000
"""A new chain fits, and some dozens of commits."""
# Notes each line before it answers: what reached the server, by the server's own word.
SERVER = """
import json, sys
for line in sys.stdin:
    with open(sys.argv[1], "a") as seen:
        seen.write(line)
    print(json.dumps({"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": {}}), flush=True)
"""


def talos(home: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "talos", "--data-dir", str(home), *words]


def make_home(home: Path) -> str:
    subprocess.run(talos(home, "init", "--name", home.name, "-q"), check=True, capture_output=True)
    done = subprocess.run(talos(home, "id", "--json"), check=True, capture_output=True)
    peer_id: str = json.loads(done.stdout)["peer_id"]
    return peer_id


def with_small_files(command: list[str]) -> list[str]:
    """As on a full disk: no file of the command grows beyond the limit."""
    limited = (
        f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT_BYTES}, {LIMIT_BYTES})); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-I", "-c", limited, *command]


@contextmanager
def serving(tmp_path: Path, *, full: bool = False) -> Iterator[str]:
    friend = make_home(tmp_path / "friend")
    make_home(tmp_path / "lender")
    (tmp_path / "server.py").write_text(SERVER)
    command = f"{sys.executable} -I {tmp_path / 'server.py'} {tmp_path / 'seen'}"
    words = (
        "mcp-serve",
        "--authorized-peer",
        friend,
        "--command",
        command,
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--json",
    )
    lend = talos(tmp_path / "lender", *words)
    with subprocess.Popen(
        with_small_files(lend) if full else lend, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["addrs"][0]
        process.terminate()


def seen(tmp_path: Path) -> int:
    file = tmp_path / "seen"
    return len(file.read_text().splitlines()) if file.exists() else 0


def call(client: subprocess.Popen[bytes], number: int) -> dict[str, Any]:
    assert client.stdin is not None
    assert client.stdout is not None
    params = {"name": "add", "arguments": {}}
    client.stdin.write(
        json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode() + b"\n"
    )
    client.stdin.flush()
    answer: dict[str, Any] = json.loads(client.stdout.readline())
    assert answer["id"] == number
    return answer


def calls_until_refused(client: subprocess.Popen[bytes]) -> int:
    """How many calls were answered before the first that got our own error."""
    answered = 0
    while "result" in (answer := call(client, answered)):
        answered += 1
        assert answered < 2000
    assert answer["error"]["code"] == 5001
    return answered


@pytest.mark.parametrize("side", ["serve", "connect"])
def test_a_full_disk_stops_the_calls(side: str, tmp_path: Path) -> None:
    with serving(tmp_path, full=side == "serve") as address:
        connect = talos(tmp_path / "friend", "mcp-connect", address)
        command = with_small_files(connect) if side == "connect" else connect
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as client:
            answered = calls_until_refused(client)
            assert client.wait(20) == RECORD_REFUSED
        if side == "serve":
            assert 2 < answered == seen(tmp_path), "the call that could not be recorded did not reach the server"
        log = tmp_path / ("lender" if side == "serve" else "friend")
    done = subprocess.run(talos(log, "audit", "verify", "--json"), capture_output=True, check=False)
    assert done.returncode == 0, "what a full disk left is in order"


def test_a_chain_in_use_keeps_the_lender_from_starting(tmp_path: Path) -> None:
    home = tmp_path / "lender"
    make_home(home)
    (home / "chain").mkdir(mode=0o700)
    with (home / "chain" / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (home / "chain" / "LOCK").chmod(0o600)
        lock.write(json.dumps({"pid": 4711}))
        lock.flush()
        words = (
            "mcp-serve",
            "--authorized-peer",
            make_home(tmp_path / "friend"),
            "--command",
            sys.executable,
            "--port",
            "0",
        )
        done = subprocess.run(talos(home, *words), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == IN_USE
    assert "talos: error: chain is in use by process 4711" in done.stderr


def test_a_damaged_chain_keeps_the_client_from_calling(tmp_path: Path) -> None:
    with serving(tmp_path) as address:
        connect = talos(tmp_path / "friend", "mcp-connect", address)
        request = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
        subprocess.run(connect, input=request, capture_output=True, timeout=30, check=True)
        before = seen(tmp_path)
        slot = tmp_path / "friend" / "mcp" / "connect" / "default-1"
        with closing(sqlite3.connect(slot / "chain.db", isolation_level=None)) as db:
            db.execute("UPDATE body SET items=x'00' WHERE height=(SELECT max(height) FROM body)")
        done = subprocess.run(connect, input=request, capture_output=True, timeout=30, check=False)
        assert done.returncode == VERIFICATION_FAILED
        assert b"body 1: " in done.stderr
        assert b'"error"' in done.stdout, "the open request is answered before the exit"
        assert seen(tmp_path) == before
