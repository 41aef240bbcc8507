"""The demonstration's world: homes in a directory of their own, and processes on 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

__all__ = ["Agent", "Done", "Lent", "Setback", "World"]

COMMAND_SECONDS = 30.0
NPX_SECONDS = 20.0
READY_SECONDS = 15.0
END_SECONDS = 10.0
PACKAGE = "@modelcontextprotocol/server-filesystem"
NOTE = "hello.txt"
HERE = Path(__file__).resolve().parent
# Appends its process id to a file, then becomes the server: one line for each start, whoever caused it.
MARKED = "import os,sys; open(sys.argv[1],'a').write(f'{os.getpid()}\\n'); os.execvp(sys.argv[2], sys.argv[2:])"
HELLO = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
    b'"clientInfo":{"name":"demo","version":"1"}}}\n'
    b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
    b'{"jsonrpc":"2.0","id":2,"method":"tools/list"}\n'
)


class Setback(Exception):
    """Something that the demonstration needs did not come about; the message says what."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended."""

    code: int
    out: bytes
    err: str


@dataclass(frozen=True, slots=True)
class Agent:
    """One identity in its home."""

    name: str
    home: Path
    peer_id: str


@dataclass(frozen=True, slots=True)
class Lent:
    """The server that is lent."""

    title: str
    command: tuple[str, ...]
    calls: tuple[tuple[str, dict[str, Any]], ...]
    spoken: str
    """The last call in words."""


@dataclass(slots=True)
class World:
    """Everything the story acts on; leaving the block ends every process that it started."""

    python: str = sys.executable
    path: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="talos-demo-")).resolve())
    serving: subprocess.Popen[bytes] | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    meeting: subprocess.Popen[bytes] | None = None
    """Bob's agent, where the others meet."""
    met: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.notes.mkdir()
        (self.notes / NOTE).write_text(f"good morning, this is note {secrets.token_hex(4)} of toolhost")
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.serving, self.meeting):
            if process is not None:
                self.stop(process)

    @property
    def notes(self) -> Path:
        return self.path / "notes"

    @property
    def marks(self) -> Path:
        return self.path / "starts"

    @property
    def note(self) -> str:
        return (self.notes / NOTE).read_text()

    def home(self, name: str) -> Path:
        return self.path / name

    def talos(self, name: str, *words: str, stdin: bytes = b"") -> Done:
        """Runs one command in the named home."""
        return self._run([*self.command(name), *words], stdin, COMMAND_SECONDS)

    def command(self, name: str) -> tuple[str, ...]:
        return (self.python, "-m", "talos", "--data-dir", str(self.home(name)))

    def answer(self, name: str, *words: str) -> list[Any]:
        """The JSON lines of a command that has to succeed."""
        done = self.talos(name, *words, "--json")
        if done.code != 0:
            raise Setback(f"`talos {' '.join(words)}` ended with {done.code}: {done.err.strip()}")
        return [json.loads(line) for line in done.out.splitlines()]

    def make(self, name: str) -> Agent:
        """A new identity, as `talos id` of that home tells it."""
        self.answer(name, "init", "--name", name)
        (found,) = self.answer(name, "id")
        return Agent(name, self.home(name), found["peer_id"])

    def choose(self) -> Lent:
        """The official file server if npx starts it in time, else the example of this project."""
        note = str(self.notes / NOTE)
        npx = shutil.which("npx")
        if npx is not None:
            lent = Lent(
                f"the official MCP file server ({PACKAGE})",
                self._marked(npx, "-y", PACKAGE, str(self.notes)),
                (("read_text_file", {"path": note}),),
                f"read_text_file({NOTE})",
            )
            with contextlib.suppress(Setback):
                if len(self.direct(lent).splitlines()) == 2:
                    return lent
        server = str(next(path for path in _example_servers() if path.is_file()))
        return Lent(
            "the example MCP server of this project, in Python",
            self._marked(self.python, "-I", server, "--root", str(self.notes)),
            (("add", {"a": 2, "b": 40}), ("read_note", {"name": NOTE})),
            f"read_note({NOTE})",
        )

    def direct(self, lent: Lent) -> bytes:
        """What the server itself says to the first lines of every session."""
        return self._run(lent.command, HELLO, NPX_SECONDS).out

    def client(self, command: tuple[str, ...], lent: Lent) -> dict[str, Any]:
        """What an MCP client gets from a server command."""
        request = json.dumps({"command": command, "calls": lent.calls})
        done = self._run([self.python, str(HERE / "client.py"), request], b"", COMMAND_SECONDS)
        if done.code != 0:
            raise Setback(f"the MCP client failed: {(done.err.strip().splitlines() or ['no reason given'])[-1]}")
        answer: dict[str, Any] = json.loads(done.out)
        return answer

    def meet(self, *others: str) -> None:
        """Starts bob's agent, and gives his address to the others: no other one is ever typed."""
        self.meeting, self.met = self._start("bob", "up", "--no-mdns")
        for name in others:
            file = self.home(name) / "config.toml"
            file.touch(mode=0o600)
            file.write_text(f'[node]\nbootstrap = ["{self.met["addrs"][0]}"]\n')

    def serve(self, lent: Lent, authorized: Agent) -> None:
        """Starts toolhost's `mcp-serve` and waits until it says that it is ready."""
        words = ("mcp-serve", "--authorized-peer", authorized.peer_id, "--command", _joined(lent.command))
        self.serving, self.ready = self._start("toolhost", *words)

    def _start(self, name: str, *words: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
        """What listens for as long as the story goes on, and the line that it is ready with."""
        with (self.path / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own words, no shell
                [*self.command(name), *words, "--listen", "/ip4/127.0.0.1/tcp/0", "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
            )
        return process, json.loads(_first_line(process, name, READY_SECONDS))

    def listen_for(self, name: str, topic: str, count: int) -> subprocess.Popen[bytes]:
        """A subscriber at an agent; it ends when it has heard so many messages."""
        return subprocess.Popen(  # noqa: S603 - the same
            [*self.command(name), "gossip", "sub", topic, "-n", str(count), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )

    def heard(self, subscriber: subprocess.Popen[bytes]) -> list[Any]:
        """What a subscriber has printed when it ends."""
        try:
            out, _ = subscriber.communicate(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            subscriber.kill()
            out, _ = subscriber.communicate()
        return [json.loads(line) for line in out.splitlines()]

    def until_in_mesh(self, name: str, topic: str, peer_id: str) -> None:
        """Waits until the agent of `name` has that neighbour in its mesh."""
        deadline = time.monotonic() + COMMAND_SECONDS
        while time.monotonic() < deadline:
            done = self.talos(name, "gossip", "mesh", topic, "--json")
            if done.code == 0 and any(
                peer["in_mesh"] and peer["peer_id"] == peer_id for peer in json.loads(done.out)["peers"]
            ):
                return
            time.sleep(0.1)  # each look is a process of its own
        raise Setback(f"{name}'s mesh of {topic} never had the other subscriber")

    @property
    def address(self) -> str:
        """Where toolhost listens, its key at the end."""
        address: str = self.ready["addrs"][0]
        return address

    def starts(self) -> list[int]:
        """Process ids of every server that was started."""
        return [int(line) for line in self.marks.read_text().split()] if self.marks.exists() else []

    def copy_of(self, name: str) -> str:
        """A copy of a home, to be tampered with; its name."""
        copy = Path(tempfile.mkdtemp(prefix=f"copy-of-{name}-", dir=self.path))
        shutil.copytree(self.home(name), copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run"))  # no sockets
        return copy.name

    def tamper(self, chain: Path) -> int:
        """Flips one byte of the last entry in a block; which entry of the log it is."""
        with contextlib.closing(sqlite3.connect(chain / "chain.db", isolation_level=None)) as db:
            height, first, items = db.execute(
                "SELECT height, first_index, items FROM header JOIN body USING(height) ORDER BY height DESC LIMIT 1"
            ).fetchone()
            data, at, number = bytearray(items), 0, -1
            while at < len(data):
                start, number = at + 2, number + 1
                middle = start + int.from_bytes(data[at:start], "big")
                at = middle + 4 + int.from_bytes(data[middle : middle + 4], "big")
            data[start + 30] ^= 0x01
            db.execute("UPDATE body SET items=? WHERE height=?", (bytes(data), height))
        return int(first) + number

    def stop(self, process: subprocess.Popen[bytes]) -> int | None:
        """Ends it as a service manager would; its exit code, None when it had to be killed."""
        if process is self.serving:
            self.serving = None
        elif process is self.meeting:
            self.meeting = None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None
        finally:
            if process.stdout is not None:
                process.stdout.close()

    def left(self) -> list[str]:
        """Processes that the story started and that live on after the time that ending may take."""
        deadline = time.monotonic() + END_SECONDS
        while (found := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.05)  # nobody tells us when a process that is not our child ends
        return found

    def reachable(self) -> bool:
        """Whether somebody still listens where toolhost or bob did."""
        return any(map(_answers, (self.address, self.met["addrs"][0])))

    def forget(self) -> None:
        """Removes the homes and all else."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _alive(self) -> list[str]:
        found = [f"process {pid}" for pid in self.starts() if _lives(pid)]
        proc = Path("/proc")
        if not proc.is_dir():
            return found
        for process in proc.glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes()
                if str(self.path).encode() in words and int(process.name) != os.getpid():
                    found.append(f"process {process.name}")
        return sorted(set(found))

    def _marked(self, *command: str) -> tuple[str, ...]:
        return (self.python, "-I", "-c", MARKED, str(self.marks), *command)

    def _run(self, command: tuple[str, ...] | list[str], stdin: bytes, seconds: float) -> Done:
        try:
            done = subprocess.run(  # noqa: S603 - the same
                command, input=stdin, capture_output=True, timeout=seconds, check=False, env=_environment()
            )
        except subprocess.TimeoutExpired as error:
            raise Setback(f"{Path(command[0]).name} did not answer in {seconds:.0f} s") from error
        return Done(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def _environment() -> dict[str, str]:
    """Ours without what is meant for the user's own Talos."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TALOS_")}


def _example_servers() -> tuple[Path, ...]:
    """Where the example is: packed beside this file, or in a clone."""
    return HERE / "mcp_server.py", HERE.parents[2] / "examples" / "mcp_server.py"


def _joined(command: tuple[str, ...]) -> str:
    return shlex.join(command)


def _answers(address: str) -> bool:
    parts = address.split("/")
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((parts[2], int(parts[4]))) == 0


def _first_line(process: subprocess.Popen[bytes], name: str, seconds: float) -> bytes:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(seconds) else b""
    if not line:
        raise Setback(f"{name} was not ready in {seconds:.0f} s" if process.poll() is None else f"{name} ended")
    return line


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # another user's: the number was used again
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False
