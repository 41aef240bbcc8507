"""One agent to a home, as real processes: commands at once, ends of all kinds, what others may see of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from talos import cli as talos_cli
from talos.identity.home import Home

if TYPE_CHECKING:
    from collections.abc import Iterator

TALOS = [sys.executable, "-W", "error", "-m", "talos"]
HEAVY = {
    "trio", "cryptography", "google.protobuf", "multiaddr", "starlette", "hypercorn", "anyio", "prometheus_client",
    "kademlia", "dns", "rich",
}  # fmt: skip
SECONDS = 60
COMMAND = "import sys; from talos.cli.session import Session; Session(data_dir=sys.argv[1]).perform('ready', {})"
"""The shortest network command: an operation that ends at once."""
LOCAL = "--listen=/ip4/127.0.0.1/tcp/0"


def talos(home: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    given = {"capture_output": True, "timeout": SECONDS, "text": True, "stdin": subprocess.DEVNULL, **options}
    return subprocess.run([*TALOS, "--data-dir", str(home), *arguments], check=False, **given)


def command(home: Path) -> subprocess.Popen[str]:
    program = [sys.executable, "-W", "error", "-c", COMMAND, str(home)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def all_succeed(commands: list[subprocess.Popen[str]]) -> None:
    ended = [(each.communicate(timeout=SECONDS)[1], each.returncode) for each in commands]
    assert [code for _, code in ended] == [0] * len(commands), ended


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home as `talos init` makes it."""
    made = tmp_path_factory.mktemp("made") / "home"
    assert talos(made, "init", "--name", "Alice").returncode == 0
    return made


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """One for the test alone."""
    return Path(shutil.copytree(made, tmp_path / "home"))


@dataclass(frozen=True)
class Shared:
    """An agent that several tests ask; none of them ends it."""

    home: Path
    process: subprocess.Popen[str]
    told: bytes
    """What its service manager was told."""


@pytest.fixture(scope="module")
def shared(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    base = tmp_path_factory.mktemp("shared")
    home = Path(shutil.copytree(made, base / "home"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, pytest.MonkeyPatch.context() as patch:
        manager.bind(str(base / "notify"))
        manager.settimeout(SECONDS)
        patch.setenv("NOTIFY_SOCKET", str(base / "notify"))
        with up(home) as process:
            yield Shared(home, process, manager.recv(100))
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 128 + signal.SIGINT
    assert not (home / "run" / "ctl.sock").exists()


@contextlib.contextmanager
def up(home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`talos up` that is ready."""
    process = subprocess.Popen(
        [*TALOS, "--data-dir", str(home), "--json", "up", LOCAL, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(f"not up: {process.communicate(timeout=SECONDS)[1]}")
        checked(line)
        yield process
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


def checked(line: str) -> dict[str, Any]:
    assert line.isascii()
    found: dict[str, Any] = json.loads(line)
    schema = Path(talos_cli.__file__).with_name("schema") / f"{found['kind']}.json"
    Draft202012Validator(json.loads(schema.read_text())).validate(found)
    return found


def told(agent: subprocess.Popen[str], kind: str, **values: object) -> dict[str, Any]:
    """The next event of that kind and those values that the agent prints."""
    assert agent.stdout is not None
    with contextlib.closing(_Watchdog(agent)):
        for line in agent.stdout:
            event = checked(line)
            if event["kind"] == kind and values.items() <= event.items():
                return event
    pytest.fail(f"no {kind} was told")


class _Watchdog:
    """Ends an agent that says nothing."""

    def __init__(self, agent: subprocess.Popen[str]) -> None:
        self._timer = threading.Timer(SECONDS, agent.kill)
        self._timer.start()

    def close(self) -> None:
        self._timer.cancel()


# -- commands at once


def test_a_crowd_of_commands_without_an_agent(home: Path) -> None:
    all_succeed([command(home) for _ in range(5)])
    assert not (home / "run" / "ctl.sock").exists()


@pytest.mark.long
@pytest.mark.parametrize("ends", [None, signal.SIGKILL, signal.SIGTERM])
def test_twenty_commands_while_an_agent_comes_or_goes(home: Path, ends: signal.Signals | None) -> None:
    with contextlib.ExitStack() as stack:
        if ends is None:
            commands = [command(home) for _ in range(20)]
            stack.enter_context(up(home))
        else:
            agent = stack.enter_context(up(home))
            commands = [command(home) for _ in range(20)]
            agent.send_signal(ends)
        all_succeed(commands)


@pytest.mark.long
def test_twenty_commands_without_an_agent(home: Path) -> None:
    all_succeed([command(home) for _ in range(20)])


def test_a_home_with_a_long_path(made: Path, tmp_path: Path) -> None:
    home = tmp_path / ("x" * 100) / ("y" * 100)
    shutil.copytree(made, home)
    with up(home):
        found = checked(talos(home, "--json", "status", "--check").stdout)
        assert found["running"] is True
        described = json.loads((home / "run" / "agent.json").read_text())
        assert not described["socket"].startswith(str(home))
        assert Path(described["socket"]).stat().st_mode & 0o777 == 0o600
        assert talos(home, "down").returncode == 0
    assert not Path(described["socket"]).exists()


# -- owners


def test_there_is_one_agent_to_a_home(shared: Shared) -> None:
    home, pid = shared.home, shared.process.pid
    found = checked(talos(home, "--json", "status", "--check").stdout)
    assert (found["pid"], found["identity"]["name"]) == (pid, "Alice")
    if shutil.which("curl"):
        asked = ["curl", "-s", "--unix-socket", str(home / "run" / "ctl.sock"), "http://talos/v1/status"]
        seen = subprocess.run(asked, capture_output=True, check=True, timeout=SECONDS)
        assert json.loads(seen.stdout)["pid"] == pid
    second = talos(home, "--json", "up", LOCAL)
    error = checked(second.stderr.splitlines()[-1])
    assert (second.returncode, error["code"]) == (9, "home_in_use")
    assert f"pid {pid}" in error["message"]
    detached = talos(home, "up", "-d")
    assert (detached.returncode, detached.stdout.strip()) == (0, str(pid))
    assert talos(home, "wait").returncode == 0
    assert talos(home, "--timeout", "0.3", "wait", "--peers", "1").returncode == 4


def test_an_agent_and_its_end(home: Path) -> None:
    done = talos(home, "up", "-d", LOCAL)
    assert done.returncode == 0, done.stderr
    try:
        assert int(done.stdout) == checked(talos(home, "--json", "status").stdout)["pid"]
        assert "Up as" in talos(home, "logs").stdout
    finally:
        assert talos(home, "down").returncode == 0
    assert not (home / "run" / "ctl.sock").exists()
    assert talos(home, "--json", "status").returncode == 0
    assert talos(home, "status", "--check").returncode == 4
    assert talos(home, "down").returncode == 4


@pytest.mark.long
def test_who_does_not_read_does_not_hold_an_agent(home: Path) -> None:
    with up(home) as agent, contextlib.closing(_stalled(home)):
        assert talos(home, "down").returncode == 0
        assert agent.wait(SECONDS) == 0


def _stalled(home: Path) -> socket.socket:
    """A client that asks much and reads nothing."""
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(home / "run" / "ctl.sock"))
    made.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            made.send(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
    return made


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_the_exit_code(home: Path, number: signal.Signals) -> None:
    """The gate ends the shared agent by SIGINT, and those of the other files by SIGTERM."""
    with up(home) as agent:
        agent.send_signal(number)
        assert agent.wait(SECONDS) == 128 + number
    assert not (home / "run" / "ctl.sock").exists()


def test_a_hangup_is_no_end(shared: Shared) -> None:
    """It reads the policy again, and goes on."""
    shared.process.send_signal(signal.SIGHUP)
    assert talos(shared.home, "status", "--check").returncode == 0


def test_listen_follows_an_agent_and_leaves_it_running(shared: Shared) -> None:
    listening = subprocess.Popen(
        [*TALOS, "--data-dir", str(shared.home), "--json", "listen"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert listening.stdout is not None
    assert checked(listening.stdout.readline())["pid"] == shared.process.pid
    listening.send_signal(signal.SIGINT)
    listening.communicate(timeout=SECONDS)
    assert listening.returncode == 130
    assert talos(shared.home, "status", "--check").returncode == 0


def test_in_the_background_what_goes_wrong_is_relayed(home: Path, tmp_path: Path) -> None:
    assert talos(tmp_path / "none", "up", "-d").returncode == 5
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = talos(home, "up", "-d", f"--listen=/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}")
    assert done.returncode == 9
    assert "talos: error: " in done.stderr


def test_the_service_manager_is_told(shared: Shared) -> None:
    assert shared.told == b"READY=1"


def test_the_lock_is_held_and_nobody_answers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from talos.cli import modes
    from talos.cli.session import Session
    from talos.errors import HomeInUse

    monkeypatch.setattr(modes, "PATIENCE_SECONDS", 0.3)
    with Home(home).lock(), pytest.raises(HomeInUse, match=f"pid {os.getpid()}"):
        Session(data_dir=str(home)).perform("ready", {})


# -- lending through the agent


def test_an_agent_lends_for_as_long_as_the_command_lasts(shared: Shared, tmp_path: Path) -> None:
    home, other = shared.home, tmp_path / "other"
    assert talos(other, "init", "--name", "Bob").returncode == 0
    bob = json.loads(talos(other, "--json", "id").stdout)["peer_id"]
    where = tmp_path / "where"
    where.mkdir()
    program = (
        "import json, os, sys\n"
        "for line in sys.stdin: print(json.dumps({'jsonrpc': '2.0', 'id': 1, 'result': os.getcwd()}), flush=True)"
    )
    (tmp_path / "server.py").write_text(program)
    ping = '{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
    lending = subprocess.Popen(
        [*TALOS, "--data-dir", str(home), "--json", "mcp-serve", "--authorized-peer", bob,
         "--command", f"{sys.executable} {tmp_path / 'server.py'}"],
        cwd=where, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert lending.stdout is not None
    addr = checked(lending.stdout.readline())["addrs"][0]
    assert "lent already" in talos(home, "mcp-serve", "--authorized-peer", bob, "--command", "cat").stderr
    done = talos(other, "mcp-connect", addr, input=ping, stdin=None)
    assert json.loads(done.stdout)["result"] == str(where)
    call = told(shared.process, "call", method="ping")
    assert (call["peer_id"], call["server"], call["ok"]) == (bob, "default", True)
    assert told(shared.process, "block")["height"] == call["block"]
    lending.terminate()
    lending.communicate(timeout=SECONDS)
    assert lending.returncode == 143
    refused = talos(other, "mcp-connect", addr, input=ping, stdin=None)
    assert refused.returncode in (3, 6), refused.stderr


# -- what is loaded


def test_status_of_an_agent_loads_nothing_heavy(shared: Shared) -> None:
    program = (
        "import sys; from talos.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "print(code, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--data-dir", str(shared.home), "status", "--check"],
        capture_output=True, text=True, check=True, timeout=SECONDS,
    )  # fmt: skip
    code, *modules = done.stderr.splitlines()[-1].split()
    assert code == "0"
    assert HEAVY & set(modules) == set()
