"""Row P14: an MCP server through the tunnel, beside the same server on stdio and behind a plain TCP pipe."""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from bench.measure import TALOS, Goal, Metric, Reading, Series
from interop.harness.statistics import percentile
from interop.process import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.report import Results

__all__ = ["METRICS", "run"]

SERVER = [sys.executable, "-I", "-S", str(Path(__file__).with_name("echo_server.py"))]
CALLS = 1000
WARM_UP = 100
PIPELINED = 5000
WINDOW = 64
LARGE = 10
MIB = 1 << 20
PIPE, DIRECT = "pipe", "direct"


def _metric(name: str, title: str, unit: str, *goals: Goal, cpu_unit: str = "") -> Metric:
    return Metric(row="P14", name=f"P14 {name}", title=title, unit=unit, goals=goals, cpu_unit=cpu_unit)


def _most(bound: float, peer: str) -> Goal:
    return Goal(bound=bound, kind="at most", peer=peer)


METRICS = (
    _metric("p50", "one tool call of 64 bytes, p50", "ms", _most(2.5, PIPE), _most(6, DIRECT)),
    _metric("p99", "the same, p99", "ms", _most(6, PIPE)),
    _metric(
        "pipelined", "64 calls at once", "calls/s",
        *(Goal(bound=0.4, kind="at least", peer=peer) for peer in (PIPE, DIRECT)), Goal(bound=2500, kind="at least"),
    ),
    _metric("1 MiB", "echo of 1 MiB", "ms", _most(3.75, PIPE), _most(3.75, DIRECT), Goal(bound=45, kind="at most")),
    _metric("cold", "first answer of a new client process", "ms", _most(4, PIPE), Goal(bound=800, kind="at most")),
    _metric("CPU", "CPU of both ends for one call", "ms", _most(4, PIPE)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Way:
    """How a client reaches the server, and the process at the other end, if there is one."""

    name: str
    command: list[str]
    far: int | None = None


async def run(rounds: int) -> Results:
    """Every way once a round."""
    results: Results = {metric.name: (metric, {}) for metric in METRICS}
    with tempfile.TemporaryDirectory(prefix="talos-bench-") as room, ExitStack() as stack:
        ways = [
            stack.enter_context(tunnel(Path(room))),
            stack.enter_context(pipe()),
            Way(DIRECT, SERVER),
        ]
        for _ in range(rounds):
            for way in ways:
                for name, value in (await measure(way)).items():
                    series = results[f"P14 {name}"][1].setdefault(way.name, Series())
                    series.readings.append(Reading(value=value))
    return results


@contextmanager
def tunnel(room: Path) -> Iterator[Way]:
    """Two homes, audit on, a policy: as a user has it."""
    friend, lender = room / "friend", room / "lender"
    peer = json.loads(_talos(friend, "init", "--name", "friend", then="id"))["peer_id"]
    _talos(lender, "init", "--name", "lender", then="id")
    words = [
        "mcp-serve",
        "--authorized-peer",
        peer,
        "--command",
        shlex.join(SERVER),
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
    ]
    with _serving([*_command(lender), *words, "--json"]) as (serving, line):
        address = json.loads(line)["addrs"][0]
        yield Way(TALOS, [*_command(friend), "mcp-connect", address], serving.pid)


@contextmanager
def pipe() -> Iterator[Way]:
    """The same bytes without anything that Talos does."""
    program = [sys.executable, "-m", "bench.pipe"]
    with _serving([*program, "serve", *SERVER]) as (serving, line):
        yield Way(PIPE, [*program, "connect", line.decode().strip()], serving.pid)


@contextmanager
def _serving(command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], bytes]]:
    """A process and the line by which it says that it is ready."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline()
        finally:
            process.terminate()


async def measure(way: Way) -> dict[str, float]:
    """One client process from its start to its end."""
    started = time.perf_counter()
    client = await trio.lowlevel.open_process(way.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    async with trio.open_nursery() as nursery:
        wire = _Wire(client)
        nursery.start_soon(wire.read)
        await wire.ask("hello")
        found = {"cold": _ms(started)}
        for _ in range(WARM_UP):
            await wire.ask("x" * 64)
        before = _cpu(client.pid, way.far)
        times = sorted([await wire.timed("x" * 64) for _ in range(CALLS)])
        found |= {"p50": percentile(times, 0.5), "p99": percentile(times, 0.99)}
        if way.far is not None:
            found["CPU"] = (_cpu(client.pid, way.far) - before) * 1000 / CALLS
        found["pipelined"] = await wire.pipelined()
        found["1 MiB"] = statistics.median([await wire.timed("x" * MIB) for _ in range(LARGE)])
        await wire.close()
    await client.wait()
    return found


class _Wire:
    """A client as programs have one: calls are tasks, one reader wakes them."""

    def __init__(self, client: trio.Process) -> None:
        assert client.stdin is not None
        assert client.stdout is not None
        self._out, self._in = client.stdin, client.stdout
        self._number = 0
        self._waiting: dict[int, trio.Event] = {}
        self._sending = trio.Lock()

    async def read(self) -> None:
        """Wakes each caller by the id of its answer, until the server's output ends."""
        pieces: list[bytes] = []
        async for data in self._in:
            pieces.append(bytes(data))
            if b"\n" not in data:
                continue
            *lines, rest = b"".join(pieces).split(b"\n")
            pieces = [rest]
            for line in lines:
                message = json.loads(line)
                if "result" not in message:
                    raise RuntimeError(f"an answer without result: {str(message)[:200]}")
                self._waiting.pop(message["id"]).set()

    async def ask(self, text: str) -> None:
        self._number += 1
        number = self._number
        self._waiting[number] = answered = trio.Event()
        params = {"name": "echo", "arguments": {"text": text}}
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        async with self._sending:
            await self._out.send_all(json.dumps(message).encode() + b"\n")
        await answered.wait()

    async def timed(self, text: str) -> float:
        started = time.perf_counter()
        await self.ask(text)
        return _ms(started)

    async def pipelined(self) -> float:
        """Calls a second of as many tasks as the window is wide."""

        async def caller() -> None:
            for _ in range(PIPELINED // WINDOW):
                await self.ask("x" * 64)

        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(WINDOW):
                nursery.start_soon(caller)
        return PIPELINED // WINDOW * WINDOW / (time.perf_counter() - started)

    async def close(self) -> None:
        await self._out.aclose()


def _ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _cpu(near: int, far: int | None) -> float:
    return cpu_seconds(near) + (cpu_seconds(far) if far is not None else 0.0)


def _command(home: Path) -> list[str]:
    return [sys.executable, "-m", "talos", "--data-dir", str(home)]


def _talos(home: Path, *words: str, then: str) -> bytes:
    """Runs one command, and answers what another then says as JSON."""
    subprocess.run([*_command(home), *words, "-q"], check=True, capture_output=True)
    return subprocess.run([*_command(home), then, "--json"], check=True, capture_output=True).stdout
