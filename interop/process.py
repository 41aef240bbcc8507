"""Peers as processes: the contract of `interop/peers/README.md`, from the side that starts them.

A listener prints one address a line and then `ready`, and runs until its stdin closes. A dialer prints one
JSON object and exits with 0, or says why on stderr and exits with another code.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

__all__ = [
    "Adapter",
    "ListenerProcess",
    "PeerFailed",
    "cpu_seconds",
    "dial",
    "holding",
    "listener",
    "network",
    "open_files",
    "private_bytes",
]

READY_SECONDS = 30.0
STOP_SECONDS = 3.0
MAX_LINE_BYTES = 64 * 1024
MAX_OUTPUT_BYTES = 4 * 1024 * 1024
"""A dialer's JSON: latencies of many operations are long, a flood is a fault."""
TAIL_BYTES = 16 * 1024
REASON_LINES = 3
RECEIVE_BYTES = 64 * 1024


class PeerFailed(Exception):
    """A peer's process did not do what was asked; the text says why, as far as the peer told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """How to start one implementation."""

    name: str
    command: tuple[str, ...]
    version: str = ""
    cwd: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set for its processes, above what they inherit."""

    def arguments(self, *words: str, **options: object) -> list[str]:
        """The command with `words`, then each option as `--name value`.

        A list's as often as it has members; one that is true by its name alone.
        """
        named = [
            part
            for name, value in options.items()
            for each in (value if isinstance(value, list) else [value])
            for part in ((f"--{name}",) if each is True else (f"--{name}", str(each)))
        ]
        return [*self.command, *words, *named]


@dataclass(slots=True)
class ListenerProcess:
    """A peer that listens."""

    addr: str
    pid: int
    _process: trio.Process
    _lines: _Lines
    _stderr: IO[bytes]

    def said(self) -> list[str]:
        """The last lines of its stderr."""
        return _tail(self._stderr)

    async def line(self) -> str | None:
        """The next line that it prints after `ready`, None at its end."""
        return await self._lines.next()

    async def end(self) -> None:
        """Tells it to end; what it still has to say stands in its lines."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()


@dataclass(slots=True)
class _Lines:
    """Whole lines of a pipe."""

    stream: trio.abc.ReceiveStream
    _buffer: bytearray = field(default_factory=bytearray)

    async def next(self) -> str | None:
        """The next line, or None at the end."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise PeerFailed(f"a line over {MAX_LINE_BYTES} bytes")
            data = await self.stream.receive_some(RECEIVE_BYTES)
            if not data:
                return None
            self._buffer += data
        line = self._buffer[:end].decode("utf-8", "replace").rstrip("\r")
        del self._buffer[: end + 1]
        return line


@asynccontextmanager
async def listener(
    adapter: Adapter, stack: str, listen: str | None = None, **more: object
) -> AsyncIterator[ListenerProcess]:
    """A listening peer for the length of the block; PeerFailed when it does not become ready."""
    options = {"stack": stack} | ({} if listen is None else {"listen": listen}) | more
    async with _ready(adapter, adapter.arguments("listen", **options)) as peer:
        yield peer


@asynccontextmanager
async def holding(adapter: Adapter, addr: str, stack: str, count: int) -> AsyncIterator[None]:
    """Keeps `count` connections to `addr` open for the length of the block; only Talos's adapter can."""
    async with _ready(adapter, adapter.arguments("hold", addr, stack=stack, count=count)):
        yield


@asynccontextmanager
async def _ready(adapter: Adapter, command: list[str]) -> AsyncIterator[ListenerProcess]:
    async with _started(adapter, command, grace=STOP_SECONDS) as (process, stderr):
        assert process.stdout is not None
        lines = _Lines(process.stdout)
        addr = None
        with trio.move_on_after(READY_SECONDS) as waiting:
            addr = await _first_addr(lines)
        if addr is None:
            why = (
                f"is not ready within {READY_SECONDS:.0f} s"
                if waiting.cancelled_caught
                else "ended before it was ready"
            )
            raise PeerFailed(f"{adapter.name}: {command[len(adapter.command)]} {why}{_reason(stderr)}")
        yield ListenerProcess(addr, process.pid, process, lines, stderr)


async def _first_addr(lines: _Lines) -> str | None:
    addrs: list[str] = []
    while (line := await lines.next()) is not None:
        if line == "ready" and addrs:
            return addrs[0]
        if line.startswith("/") and "/p2p/" in line:
            addrs.append(line)
    return None


async def dial(
    adapter: Adapter,
    addr: str,
    stack: str,
    operation: str,
    options: Mapping[str, object] | None = None,
    *,
    words: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs one operation against `addr`; the caller sets the deadline, and cancelling kills the dialer."""
    return await answer(
        adapter, operation, adapter.arguments("dial", addr, operation, *words, stack=stack, **(options or {}))
    )


async def network(adapter: Adapter, stack: str, **options: object) -> dict[str, Any]:
    """Runs a whole network in one process and returns what it measured."""
    return await answer(adapter, "network", adapter.arguments("network", stack=stack, **options))


async def answer(adapter: Adapter, operation: str, command: list[str]) -> dict[str, Any]:
    """The JSON object that a command prints before it ends well."""
    output = bytearray()
    async with _started(adapter, command, grace=0) as (process, stderr):
        assert process.stdout is not None
        while data := await process.stdout.receive_some(RECEIVE_BYTES):
            output += data
            if len(output) > MAX_OUTPUT_BYTES:
                raise PeerFailed(f"{adapter.name}: {operation} printed over {MAX_OUTPUT_BYTES} bytes")
        await process.wait()
        if process.returncode != 0:
            raise PeerFailed(f"{adapter.name}: {operation} exited with {process.returncode}{_reason(stderr)}")
    try:
        result = json.loads(output)
    except ValueError:
        raise PeerFailed(f"{adapter.name}: {operation} printed no JSON: {bytes(output[:200])!r}") from None
    if not isinstance(result, dict):
        raise PeerFailed(f"{adapter.name}: {operation} printed no JSON object")
    return result


@asynccontextmanager
async def _started(
    adapter: Adapter, command: list[str], *, grace: float
) -> AsyncIterator[tuple[trio.Process, IO[bytes]]]:
    # stderr goes to a file: nobody has to read it along, and a chatty peer never blocks on a full pipe.
    with tempfile.TemporaryFile() as stderr:
        pipe = subprocess.PIPE
        try:
            process = await trio.lowlevel.open_process(
                command,
                stdin=pipe,
                stdout=pipe,
                stderr=stderr,
                cwd=adapter.cwd,
                env={**os.environ, **adapter.environment},
            )
        except OSError as error:
            raise PeerFailed(f"{adapter.name}: cannot start: {error}") from None
        try:
            yield process, stderr
        finally:
            await _stop(process, grace)


async def _stop(process: trio.Process, grace: float) -> None:
    """Closes stdin, which a listener takes as the end, and kills what is not gone after `grace` seconds."""
    with trio.CancelScope(shield=True):
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.aclose()
        with trio.move_on_after(grace):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
        await process.stdout.aclose()


def _tail(stderr: IO[bytes]) -> list[str]:
    # pread leaves the offset alone, which the child shares with us.
    size = os.fstat(stderr.fileno()).st_size
    data = os.pread(stderr.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES))
    return data.decode("utf-8", "replace").splitlines()


def _reason(stderr: IO[bytes]) -> str:
    said = [line.strip() for line in _tail(stderr) if line.strip()]
    return ": " + " | ".join(said[-REASON_LINES:]) if said else ""


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used, from /proc (Linux); LookupError when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        raise LookupError(f"no process {pid}") from None
    # The name, in parentheses, may hold spaces; utime and stime are fields 14 and 15, counted from 1.
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> int:
    """How many descriptors a process has open, from /proc (Linux)."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def private_bytes(pid: int) -> int:
    """Memory that the process shares with nobody, from /proc (Linux): what one more of it would cost."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    sizes = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return sum(int(sizes[name].split()[0]) * 1024 for name in ("Private_Clean", "Private_Dirty"))
