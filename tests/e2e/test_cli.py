"""The command line as its users meet it: real processes, real terminals, real signals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from talos import cli as talos_cli

if TYPE_CHECKING:
    from collections.abc import Iterator

TALOS = [sys.executable, "-W", "error", "-m", "talos"]
HEAVY = {
    "trio", "cryptography", "google.protobuf", "multiaddr", "starlette", "hypercorn", "anyio", "prometheus_client",
    "kademlia", "dns", "rich",
}  # fmt: skip
PEER = "12D3KooWCwdoLSZCfEzmdTgo4hNDvbF7NwoCW8AQ6BEsmz5T1Mjs"
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
SERVER = """
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": {"method": asked["method"], "environment": dict(os.environ)}}), flush=True)
"""
SECONDS = 20


@dataclass(frozen=True)
class Agent:
    """A home and who lives there."""

    home: Path
    peer_id: str

    def talos(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return talos("--data-dir", str(self.home), *arguments, **options)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*TALOS, "--data-dir", str(self.home), *arguments], **{**pipes, **options})


def talos(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    given = {"capture_output": True, "timeout": SECONDS, **options}
    if "input" not in given:
        given.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([*TALOS, *arguments], check=False, **given)


def make(path: Path, name: str) -> Agent:
    done = talos("--data-dir", str(path), "init", "--name", name, "--json")
    assert done.returncode == 0, done.stderr
    return Agent(path, json.loads(done.stdout)["peer_id"])


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> list[Agent]:
    base = tmp_path_factory.mktemp("agents")
    return [make(base / name, name) for name in ("alice", "bob", "mallory")]


@pytest.fixture
def alice(agents: list[Agent]) -> Agent:
    return agents[0]


@pytest.fixture
def bob(agents: list[Agent]) -> Agent:
    return agents[1]


@contextlib.contextmanager
def serving(agent: Agent, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """`mcp-serve` that has said that it is ready."""
    listen = () if "--port" in arguments else ("--listen", "/ip4/127.0.0.1/tcp/0")
    process = agent.start("mcp-serve", *listen, "--json", *arguments)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(f"mcp-serve did not start: {process.communicate(timeout=SECONDS)[1]!r}")
        yield process, checked(line)
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


def lend(alice: Agent, bob: Agent, *more: str) -> contextlib.AbstractContextManager[Any]:
    command = shlex.join([sys.executable, "-c", SERVER])
    return serving(alice, "--authorized-peer", bob.peer_id, "--command", command, *more)


def error_of(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    """The JSON error; nothing that looks like a traceback stands beside it."""
    assert b"Traceback" not in done.stderr
    found = checked(done.stderr.splitlines()[-1])
    assert found["exit"] == done.returncode
    return found


def checked(line: bytes) -> dict[str, Any]:
    """A JSON line against the schema of its kind."""
    assert line.isascii()
    found: dict[str, Any] = json.loads(line)
    schema = Path(talos_cli.__file__).with_name("schema") / f"{found['kind']}.json"
    Draft202012Validator(json.loads(schema.read_text())).validate(found)
    return found


# -- what is loaded -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["id"], ["id", "--json"], ["id", "--did"], ["mcp-config", PEER], ["mcp-config", f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}"]],
)  # fmt: skip
def test_light_commands_load_nothing_heavy(alice: Agent, arguments: list[str]) -> None:
    program = (
        "import sys; from talos.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "print(code, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--data-dir", str(alice.home), *arguments],
        capture_output=True, text=True, check=True, timeout=SECONDS,
    )  # fmt: skip
    code, *modules = done.stderr.splitlines()[-1].split()
    assert code == "0"
    assert HEAVY & set(modules) == set()
    commands = {name for name in modules if name.startswith("talos.cli.commands.")}
    assert commands <= {"talos.cli.commands.id", "talos.cli.commands.mcp_config"}


def test_completion_loads_no_command_and_says_nothing_else() -> None:
    environment = {**os.environ, "_TALOS_COMPLETE": "bash_complete", "COMP_WORDS": "talos mcp-", "COMP_CWORD": "1"}
    program = (
        "import sys; from talos.cli.main import main\n"
        "code = main([])\n"
        "print(code, *[name for name in sys.modules if 'commands.' in name or name in ('trio', 'cryptography')], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=SECONDS, check=True
    )
    assert done.stdout.split() == ["plain,mcp-serve", "plain,mcp-connect", "plain,mcp-config"]
    assert done.stderr == "0\n"


# -- streams --------------------------------------------------------------------------------------------


def test_a_closed_pipe_ends_it_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*TALOS, "--help"], stdout=writer, stderr=subprocess.PIPE, timeout=SECONDS, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_an_error(alice: Agent, unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*TALOS, "--data-dir", str(alice.home), "--json", "id"], env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full, stderr=subprocess.PIPE, timeout=SECONDS, check=False,
        )  # fmt: skip
    assert done.returncode == 5
    assert error_of(done)["message"] == "no space left on device"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["id", "mcp-connect 12D3KooWnobody"])
def test_descriptors_may_come_closed(alice: Agent, closed: str, command: str) -> None:
    line = f"{shlex.join(TALOS)} --data-dir {alice.home} {command} {closed}"
    done = subprocess.run(line, shell=True, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == (0 if command == "id" else 2)
    assert b"Traceback" not in done.stderr


def test_mcp_connect_puts_nothing_of_its_own_on_stdout(bob: Agent) -> None:
    for arguments in (["--help"], ["--nonsense"], [], [PEER, "--addr", "nonsense"], ["nobody"]):
        done = bob.talos("mcp-connect", *arguments)
        assert not done.stdout
        assert done.stderr
        assert b"Traceback" not in done.stderr


def test_what_prints_by_mistake_never_touches_the_wire(bob: Agent) -> None:
    program = (
        "import os, sys; from talos.cli import streams\n"
        "wire = streams.claim(['mcp-connect'])\n"
        "print('python'); os.write(1, b'descriptor\\n'); os.system('echo child')\n"
        "sys.__stdout__.write('old\\n'); sys.__stdout__.flush()\n"
        "print(repr(sys.stdin.read()), min(wire.read, wire.write) > 2, os.get_inheritable(wire.write))\n"
        "os.write(wire.write, os.read(wire.read, 99))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=b"through", capture_output=True, timeout=SECONDS, check=True
    )
    assert done.stdout == b"through"
    assert sorted(done.stderr.split()) == sorted(b"python descriptor child old '' True False".split())


# -- terminals ------------------------------------------------------------------------------------------


def on_terminal(arguments: list[str], typed: list[bytes] = []) -> tuple[int, str]:  # noqa: B006 - never changed
    """Runs it on a pseudo-terminal; each answer is typed when a prompt has come."""
    answers = list(typed)
    process, descriptor = pty.fork()
    if process == 0:
        os.execv(sys.executable, [*TALOS, *arguments])
    shown = b""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and select.select([descriptor], [], [], SECONDS)[0]:
        try:
            piece = os.read(descriptor, 4096)
        except OSError:  # the terminal's way to say that its last user has gone
            break
        if not piece:
            break
        shown += piece
        if answers and shown.rstrip(b" ").endswith(b":"):
            os.write(descriptor, answers.pop(0) + b"\n")
    os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode()


def test_words_on_a_terminal_bring_the_identity_back(tmp_path: Path) -> None:
    code, shown = on_terminal(["--data-dir", str(tmp_path / "a"), "init", "--name", "Alice"])
    assert code == 0
    (line,) = [line for line in shown.splitlines() if line.startswith("24 recovery words")]
    words = line.partition(": ")[2]
    assert len(words.split()) == 24
    again = talos("--data-dir", str(tmp_path / "b"), "init", "--name", "A", "--recover", "--json", input=words.encode())
    first = talos("--data-dir", str(tmp_path / "a"), "id", "--json")
    assert json.loads(again.stdout)["peer_id"] == json.loads(first.stdout)["peer_id"]
    code, shown = on_terminal(["--data-dir", str(tmp_path / "a"), "wallet", "words"])
    assert code == 0
    assert shown.split()[1::2] == words.split()


def test_a_passphrase_is_asked_on_a_terminal_and_never_shown(tmp_path: Path) -> None:
    base = ["--data-dir", str(tmp_path / "a")]
    code, shown = on_terminal([*base, "init", "--name", "Alice", "--passphrase"], [b"open sesame", b"open sesame"])
    assert code == 0
    assert "sesame" not in shown
    code, shown = on_terminal([*base, "wallet", "words"], [b"open sesame"])
    assert code == 0
    assert len(shown.split()) > 24
    code, shown = on_terminal([*base, "wallet", "words"], [b"wrong"])
    assert code == 5
    assert "wrong passphrase" in shown
    code, shown = on_terminal([*base, "wallet", "words", "--no-input"])
    assert code == 5


def test_the_agent_learns_of_a_new_passphrase(tmp_path: Path) -> None:
    home = ["--data-dir", str(tmp_path / "a")]
    talos(*home, "init", "--name", "Alice")
    up = subprocess.Popen([*TALOS, *home, "up", "--listen", "/ip4/127.0.0.1/tcp/0"], stdout=subprocess.PIPE)
    try:
        assert up.stdout is not None
        assert up.stdout.readline().startswith(b"Up as")
        code, shown = on_terminal([*home, "wallet", "passphrase"], [b"open sesame", b"open sesame"])
        assert code == 0
        assert "the agent that is up has not learned it" not in shown
        code, shown = on_terminal([*home, "wallet", "passphrase"], [b"open sesame", b"still sesame", b"still sesame"])
        assert (code, "warning" in shown) == (0, False)
    finally:
        up.terminate()
        up.communicate(timeout=SECONDS)
    code, shown = on_terminal([*home, "wallet", "words"], [b"still sesame"])
    assert code == 0


def test_a_sealed_wallet_without_a_terminal_does_not_wait(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("open sesame\n")
    (tmp_path / "p").chmod(0o600)
    home = str(tmp_path / "a")
    talos("--data-dir", home, "init", "--name", "A", "--passphrase-file", str(tmp_path / "p"))
    sealed = Agent(tmp_path / "a", PEER)
    done = sealed.talos("--json", "mcp-serve", "--authorized-peer", PEER, "--command", "cat", "--port", "0")
    assert error_of(done)["code"] == "wallet_locked"
    done = sealed.talos("--json", "mcp-connect", f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}", input=PING)
    assert error_of(done)["code"] == "wallet_locked"
    assert json.loads(done.stdout)["error"]["code"] == 5031


# -- the tunnel -----------------------------------------------------------------------------------------


def test_a_server_is_lent_by_key(agents: list[Agent]) -> None:
    alice, bob, mallory = agents
    with lend(alice, bob) as (process, ready):
        assert ready["peer_id"] == alice.peer_id
        assert ready["grants"] == [{"peer_id": bob.peer_id, "server": "default"}]
        (addr,) = ready["addrs"]
        done = bob.talos("mcp-connect", addr, input=PING)
        assert (done.returncode, done.stderr) == (0, b"")
        (line,) = done.stdout.splitlines()
        answer = json.loads(line)
        assert (answer["id"], answer["result"]["method"]) == (1, "ping")
        assert not [name for name in answer["result"]["environment"] if name.startswith("TALOS")]
        done = bob.talos(
            "mcp-connect", alice.peer_id, "--addr", addr.partition("/p2p/")[0], "--server", "default", input=PING
        )
        assert done.returncode == 0

        done = mallory.talos("--json", "mcp-connect", addr, input=PING)
        assert error_of(done)["code"] == "refused"
        assert mallory.peer_id in error_of(done)["hint"]
        assert json.loads(done.stdout)["error"]["code"] == 5031
        done = bob.talos("--json", "mcp-connect", addr, "--server", "other", input=PING)
        assert (done.returncode, error_of(done)["code"]) == (3, "refused")

        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 143
        assert b"Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_server_and_the_client(alice: Agent, bob: Agent, number: signal.Signals) -> None:
    with lend(alice, bob) as (process, ready):
        client = bob.start("mcp-connect", ready["addrs"][0])
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(PING)
        client.stdin.flush()
        assert client.stdout.readline()
        client.send_signal(number)
        out, said = client.communicate(timeout=SECONDS)
        assert client.returncode == 128 + number
        assert (out, said) == (b"", b"")
        process.send_signal(number)
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 128 + number
        assert b"Traceback" not in said


def test_an_ignored_signal_stays_ignored(alice: Agent, bob: Agent) -> None:
    """`nohup talos mcp-serve` outlives its terminal."""
    command = shlex.join([*TALOS, "--data-dir", str(alice.home), "mcp-serve", "--listen", "/ip4/127.0.0.1/tcp/0",
                          "--authorized-peer", bob.peer_id, "--command", "cat", "--json"])  # fmt: skip
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"trap '' HUP; exec {command}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 143


def test_the_configured_entry_works_in_a_bare_environment(alice: Agent, bob: Agent) -> None:
    """As desktop clients start it: hardly any environment, another directory."""
    with lend(alice, bob) as (_, ready):
        done = bob.talos("mcp-config", ready["addrs"][0], "--client", "claude-desktop")
        entry = json.loads(done.stdout)["mcpServers"]["talos"]
        done = subprocess.run(
            [entry["command"], *entry["args"]],
            input=PING, capture_output=True, env={"PATH": "/usr/bin:/bin"}, cwd="/", timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["id"] == 1


def test_a_policy_file_is_read_again(alice: Agent, bob: Agent, tmp_path: Path) -> None:
    policy = tmp_path / "mcp.toml"
    text = f"""version = 1
[servers.echo]
command = {json.dumps([sys.executable, "-c", SERVER])}
[peers.bob]
id = "{bob.peer_id}"
[[grants]]
peer = "bob"
server = "echo"
"""
    policy.write_text(text)
    policy.chmod(0o600)
    with serving(alice, "--policy", str(policy)) as (process, ready):
        assert ready["grants"] == [{"peer_id": bob.peer_id, "server": "echo"}]
        assert process.stderr is not None
        policy.write_text(text + "nonsense = 1\n")
        process.send_signal(signal.SIGHUP)
        assert process.stderr.readline().startswith(b"talos: warning: everything stays as it was: ")
        policy.write_text(text.replace(bob.peer_id, PEER))
        process.send_signal(signal.SIGHUP)
        assert process.stderr.readline() == b"policy reloaded\n"
        done = bob.talos("--json", "mcp-connect", ready["addrs"][0], input=PING)
        assert error_of(done)["code"] == "refused"


def test_a_home_serves_once(alice: Agent, bob: Agent) -> None:
    with lend(alice, bob) as (process, ready):
        done = alice.talos("--json", "up", "--port", "0")
        refused = error_of(done)
        assert refused["code"] == "home_in_use"
        assert f"pid {process.pid}" in refused["message"]
        twice = alice.talos("--json", "mcp-serve", "--authorized-peer", PEER, "--command", "cat")
        assert "lent already" in error_of(twice)["message"]
        # A connection out of the same home works beside it.
        done = alice.talos("--json", "mcp-connect", ready["addrs"][0].replace(alice.peer_id, PEER), input=PING)
        assert error_of(done)["exit"] != 9


def test_a_port_in_use(bob: Agent) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        done = bob.talos("--json", "mcp-serve", "--authorized-peer", PEER, "--command", "cat", "--listen", listen)
    refused = error_of(done)
    assert (refused["code"], refused["exit"]) == ("port_in_use", 9)
    assert "--port 0" in refused["hint"]


SERVE = ["mcp-serve", "--port", "0"]


@pytest.mark.parametrize(
    ("arguments", "code", "exit"),
    [
        (["mcp-connect", "bbo"], "peer_unknown", 2),
        (["mcp-connect", "talos1aexg7"], "ticket_damaged", 2),
        (["mcp-connect", PEER, "--addr", "/ip4/300.1.1.1/tcp/1"], "config_invalid", 5),
        (["mcp-connect", PEER, "--audit", "some"], "usage", 2),
        ([*SERVE], "usage", 2),
        ([*SERVE, "--command", "cat"], "config_invalid", 5),
        ([*SERVE, "--command", "cat", "--authorized-peer", "bbo"], "peer_unknown", 2),
        ([*SERVE, "--command", "no-such-program", "--authorized-peer", PEER], "config_invalid", 5),
        ([*SERVE, "--command", "cat", "--policy", "x"], "usage", 2),
        ([*SERVE, "--policy", "/nowhere/mcp.toml"], "config_invalid", 5),
        ([*SERVE, "--command", "cat", "--authorized-peer", PEER, "--listen", "/ip4/127.0.0.1/tcp/0"], "usage", 2),
        ([*SERVE, "--command", "cat", "--authorized-peer", PEER, "--env", "X"], "usage", 2),
        ([*SERVE, "--command", "cat", "--authorized-peer", PEER, "--pass-env", "TALOS_DIR"], "config_invalid", 5),
    ],
)
def test_each_mistake_has_its_code(bob: Agent, arguments: list[str], code: str, exit: int) -> None:  # noqa: A002
    refused = error_of(bob.talos("--json", *arguments))
    assert (refused["code"], refused["exit"]) == (code, exit)
    assert refused["message"][0] != refused["message"][0].upper() or not refused["message"][0].isalpha()
    assert not refused["message"].endswith(".")


def test_nobody_at_the_address(bob: Agent) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, not listening: refused
        addr = f"/ip4/127.0.0.1/tcp/{free.getsockname()[1]}"
        done = bob.talos("--json", "mcp-connect", PEER, "--addr", addr, input=PING)
    refused = error_of(done)
    assert (refused["code"], refused["exit"]) == ("unreachable", 4)
    assert json.loads(done.stdout)["error"]["data"]["reason"] == "unreachable"


def test_no_address_is_known(bob: Agent) -> None:
    done = bob.talos("--json", "mcp-connect", PEER, input=PING)
    assert error_of(done)["exit"] == 4
    assert bob.talos("mcp-connect", PEER).returncode == 0  # the client has gone before anything was asked


def test_a_record_that_cannot_be_written_stops_the_call(tmp_path: Path, alice: Agent) -> None:
    carol = make(tmp_path / "carol", "carol")
    (carol.home / "mcp").write_bytes(b"")  # a file where the records belong
    with lend(alice, carol) as (_, ready):
        done = carol.talos("--json", "mcp-connect", ready["addrs"][0], input=PING)
    assert error_of(done)["exit"] == 7
    assert "error" in json.loads(done.stdout)


def test_no_identity(tmp_path: Path) -> None:
    done = talos("--data-dir", str(tmp_path / "none"), "--json", "mcp-connect", PEER, input=PING)
    assert error_of(done)["code"] == "no_identity"
    assert json.loads(done.stdout)["error"]["code"] == 5031
    assert not (tmp_path / "none").exists()


# -- accidents ------------------------------------------------------------------------------------------


def test_a_bug_shows_no_traceback(alice: Agent) -> None:
    program = (
        "import sys, talos.cli.names\n"
        "talos.cli.names.parse_name = lambda *_: 1 // 0\n"
        "from talos.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--data-dir", str(alice.home), "mcp-config", PEER],
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    first, hint = done.stderr.splitlines()
    assert first.startswith("talos: error: a bug in talos: ZeroDivisionError; saved as ")
    saved = Path(first.rpartition(" ")[2])
    assert "ZeroDivisionError" in saved.read_text()
    assert hint.startswith("talos: hint: ")


def test_racing_starts_make_one_identity(tmp_path: Path) -> None:
    home = Agent(tmp_path / "home", "")
    racers = [home.start("--json", "init", "--name", f"n{number}") for number in range(6)]
    codes = sorted((racer.communicate(timeout=SECONDS), racer.returncode)[1] for racer in racers)
    assert codes == [0, 9, 9, 9, 9, 9]
    assert home.talos("id", "--json").returncode == 0


DEAF = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.stdin.readline()
print(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"pid": os.getpid()}}), flush=True)
while True:
    time.sleep(1)
"""


def test_a_second_signal_kills_a_server_that_will_not_stop(alice: Agent, bob: Agent) -> None:
    command = shlex.join([sys.executable, "-c", DEAF])
    with serving(alice, "--authorized-peer", bob.peer_id, "--command", command, "--drain", "600") as (process, ready):
        client = bob.start("mcp-connect", ready["addrs"][0])
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(PING)
        client.stdin.flush()
        child = json.loads(client.stdout.readline())["result"]["pid"]
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        client.communicate(timeout=SECONDS)  # the session is closed: the first signal has come
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 143
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_secrets_are_nowhere_but_in_the_wallet(tmp_path: Path, bob: Agent) -> None:
    marker = "marker-c0ffee-passphrase"
    (tmp_path / "p").write_text(marker)
    (tmp_path / "p").chmod(0o600)
    given = ("--passphrase-file", str(tmp_path / "p"))
    made = talos("--data-dir", str(tmp_path / "dave"), "init", "--name", "dave", "--json", *given)
    dave = Agent(tmp_path / "dave", json.loads(made.stdout)["peer_id"])
    heard = made.stdout + made.stderr
    with lend(dave, bob, "-v", *given) as (process, ready):
        heard += Path(f"/proc/{process.pid}/cmdline").read_bytes() if Path("/proc/self").exists() else b""
        done = bob.talos("mcp-connect", ready["addrs"][0], input=PING)
        assert done.returncode == 0
        heard += done.stdout + done.stderr  # the server's whole environment among it
        process.send_signal(signal.SIGTERM)
        heard += b"".join(process.communicate(timeout=SECONDS))
    wrong = tmp_path / "wrong"
    wrong.write_text(marker + "!")
    wrong.chmod(0o600)
    heard += dave.talos(
        "mcp-serve", "--debug", "--authorized-peer", PEER, "--command", "cat", "--passphrase-file", str(wrong)
    ).stderr
    assert b"wrong passphrase" in heard
    heard += b"".join(path.read_bytes() for path in dave.home.rglob("*") if path.is_file())
    assert marker.encode() not in heard
