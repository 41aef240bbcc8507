"""Runs the console blocks of a page, as its reader would: each prompt names a machine, each machine has a home.

    alice$ talos id                a command on alice's machine; ALICE, BOB in a command are their peer ids
    12D3KooWCwdo…1Mjs              what it prints: figures may be others, a word with `…` may be any other word
    …                              any lines

A command that goes on by itself (`talos up`, `listen`, `mcp-serve`, `talos-server`) runs until the page ends, or until
`^C` stands at the end of its output. All machines are this one: `hub:8765` is a port here, and the checkout lies in
`talos` of each home.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 90.0
"""A bound for what hangs; nothing that works comes near it."""

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PROMPT = re.compile(r"([a-z]*)\$ (.*)")
_NAME = re.compile(r"\b[A-Z]{3,}\b")
_PORT = re.compile(r"\b87\d\d\b")
_WORDS = {
    **dict.fromkeys(("B", "KiB", "MiB", "GiB"), "(?:[KMG]i)?B"),
    **dict.fromkeys(("B/s", "KiB/s", "MiB/s", "GiB/s"), "(?:[KMG]i)?B/s"),
    **dict.fromkeys(("ms", "s"), "m?s"),
    **dict.fromkeys(("entry", "entries"), "entr(?:y|ies)"),
    **dict.fromkeys(("block", "blocks"), "blocks?"),
    **dict.fromkeys(("peer", "peers"), "peers?"),
}
"""What another run may tell in another unit, or of one where a page has more."""
_GOES_ON = re.compile(r"talos-server|talos (?:up(?! -d)|listen|mcp-serve|server)\b")


@dataclass
class Step:
    """A command and what its reader expects to see."""

    machine: str
    command: str
    expected: list[str] = field(default_factory=list)


def blocks(page: str, *languages: str) -> Iterator[str]:
    """The fenced blocks of these languages."""
    for found in _FENCE.finditer(page):
        if found.group(1) in languages:
            yield found.group(2)


def steps(page: str) -> list[Step]:
    """All commands of a page in their order; continued lines are joined."""
    found: list[Step] = []
    for block in blocks(page, "console"):
        lines = iter(block.splitlines())
        for line in lines:
            prompt = _PROMPT.fullmatch(line)
            if prompt is None:
                found[-1].expected.append(line)
                continue
            command = prompt.group(2)
            while command.endswith("\\"):
                command = f"{command}\n{next(lines).removeprefix('>').strip()}"
            found.append(Step(prompt.group(1) or "you", command))
    return found


def pattern(expected: list[str]) -> re.Pattern[str]:
    """What output fits the lines of a page."""
    return re.compile(
        "".join(r"(?:[^\n]*\n)*?" if line.strip() == "…" else _line(line) + r"\s*\n" for line in expected)
    )


def _line(line: str) -> str:
    parts = []
    for part in re.split(r"(\s+)", line.rstrip()):
        if part.isspace():
            parts.append(r"\s+")
        elif part == "…":
            parts.append(r"[^\n]*?")
        elif "…" in part:
            parts.append(r"\S+")
        elif part in _WORDS:
            parts.append(_WORDS[part])
        else:
            parts.append(re.sub(r"\d+(?:\\\.\d+)?", r"\\d+(?:\\.\\d+)?", re.escape(part)))
    return "".join(parts)


class Desk:
    """The machines of one page."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._ports: dict[str, str] = {}
        self._running: list[_Running] = []

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what runs: in the foreground, and agents in the background."""
        for running in self._running:
            running.end()
        for machine in self._base.iterdir():
            if (machine / ".talos" / "run" / "agent.json").exists():
                self._bash(machine.name, "talos down")

    def do(self, step: Step) -> None:
        """Runs a step; AssertionError where its page tells something else."""
        command = self._translated(step.command)
        if _GOES_ON.match(step.command):
            running = _Running(self._popen(step.machine, f"exec {command}"), self._at_home)
            self._running.append(running)
            stopped = step.expected[-1:] == ["^C"]
            running.shows(step, step.expected[:-1] if stopped else step.expected)
            if stopped:
                running.end()
            return
        shown = self._bash(step.machine, command)
        assert pattern(step.expected).fullmatch(shown), told(step, shown)

    def _bash(self, machine: str, command: str) -> str:
        process = self._popen(machine, command)
        try:
            shown = self._at_home(process.communicate(timeout=SECONDS)[0])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == 0, f"{machine}$ {command}\nexit {process.returncode}\n{shown}"
        return shown

    def _popen(self, machine: str, command: str) -> subprocess.Popen[str]:
        home = self._base / machine
        if not home.exists():
            home.mkdir()
            (home / "talos").symlink_to(ROOT)
        environment = {
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "TALOS_NODE_PORT": "0",
        }
        return subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=home, env=environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def _at_home(self, shown: str) -> str:
        """With the home directories that a page has."""
        return shown.replace(f"{self._base}/", "/home/")

    def _translated(self, command: str) -> str:
        """With the peer ids of this run and ports that are free."""
        command = _PORT.sub(lambda found: self._port(found.group()), command).replace("hub:", "127.0.0.1:")
        return _NAME.sub(lambda found: self._peer(found.group()), command)

    def _port(self, written: str) -> str:
        if written not in self._ports:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._ports[written] = str(free.getsockname()[1])
        return self._ports[written]

    def _peer(self, word: str) -> str:
        identity = self._base / word.lower() / ".talos" / "identity.json"
        return str(json.loads(identity.read_text())["peer_id"]) if identity.exists() else word


class _Running:
    """A command that goes on, and what it has said."""

    def __init__(self, process: subprocess.Popen[str], rendered: Callable[[str], str]) -> None:
        self._process = process
        self._rendered = rendered
        self._shown = ""
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def shows(self, step: Step, expected: list[str]) -> None:
        """Returns when it has said that."""
        wanted = pattern(expected)
        deadline = time.monotonic() + SECONDS
        with self._news:
            while not wanted.match(self._shown):
                assert self._reader.is_alive(), told(step, self._shown)
                assert self._news.wait(deadline - time.monotonic()), told(step, self._shown)

    def end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(SECONDS)
        self._reader.join(SECONDS)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._shown += self._rendered(line)
                self._news.notify_all()
        self._process.stdout.close()
        with self._news:
            self._news.notify_all()


def told(step: Step, shown: str) -> str:
    """What differs."""
    expected = "\n".join(step.expected)
    return f"{step.machine}$ {step.command}\n--- the page says\n{expected}\n--- it says\n{shown}"


def words(command: str) -> list[str]:
    """The first word of each command in a line."""
    return [shlex.split(part)[0] for part in re.split(r"&&|\|\||;|\|", command) if part.strip()]
