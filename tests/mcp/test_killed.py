"""Either side killed at any moment: nothing of the server is left within ten seconds."""

from __future__ import annotations

import json
import random
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.mcp.harness import FAST, call, error_of, text_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
SEED = "7"
LEFT_SECONDS = 10


class End:
    """One end of a tunnel as a process; its lines come one by one."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.stdin = process.stdin
        self._stdout = process.stdout
        self._buffer = b""

    async def line(self) -> bytes:
        with trio.fail_after(20):
            while b"\n" not in self._buffer:
                data = await self._stdout.receive_some()
                if not data:
                    return b""
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def call(self, tool: str, **arguments: object) -> str:
        await self.stdin.send_all(call(tool, 1, **arguments) + b"\n")
        return text_of(await self.line())

    async def ended(self) -> int:
        with trio.fail_after(20):
            return await self.process.wait()


@asynccontextmanager
async def end(*arguments: str) -> AsyncIterator[End]:
    command = [sys.executable, "-m", "tests.mcp.end", *arguments]
    process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1, stderr=-3, cwd=ROOT)
    try:
        yield End(process)
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await pipe.aclose()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


async def gone(*pids: int) -> None:
    with trio.fail_after(LEFT_SECONDS):
        while any(alive(pid) for pid in pids):  # noqa: ASYNC110 - foreign processes: nothing tells when they end
            await trio.sleep(0.05)


async def test_serve_killed_leaves_nothing_and_is_told_to_the_client() -> None:
    async with end("serve", SEED, *FAST, "--deaf") as serve:
        addr = (await serve.line()).decode()
        async with end("connect", SEED, addr) as connect:
            pids = [int(await connect.call("pid"))]
            pids += [int(await connect.call("grandchild", daemon=daemon)) for daemon in (False, True)]
            await connect.stdin.send_all(call("sleep", "s", seconds=60) + b"\n")
            serve.process.send_signal(signal.SIGKILL)
            assert error_of(await connect.line()) == (5021, "connection-lost")
            assert await connect.ended() == 4
        await gone(*pids)


async def test_connect_killed_ends_the_server() -> None:
    async with end("serve", SEED, *FAST, "--deaf") as serve:
        addr = (await serve.line()).decode()
        async with end("connect", SEED, addr) as connect:
            pids = [int(await connect.call("pid")), int(await connect.call("grandchild", daemon=True))]
            connect.process.send_signal(signal.SIGKILL)
            await connect.ended()
        await gone(*pids)
        async with end("connect", SEED, addr) as connect:
            assert await connect.call("echo", text="the next one works") == "the next one works"
            await connect.stdin.aclose()
            assert await connect.ended() == 0


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def cycles(count: int, kills: set[int], serve: End, addr: str, rng: random.Random) -> None:
    """Connects, calls and ends; in the cycles of `kills` by SIGKILL at some moment."""
    for number in range(count):
        async with end("connect", SEED, addr) as connect:
            if number in kills:
                await connect.stdin.send_all(
                    call("grandchild", 1, daemon=True) + b"\n" + call("sleep", 2, seconds=60) + b"\n"
                )
                await trio.sleep(rng.uniform(0, 1.0))
                connect.process.send_signal(signal.SIGKILL)
                await connect.ended()
            else:
                assert await connect.call("echo", text=str(number)) == str(number)
                await connect.stdin.aclose()
                assert await connect.ended() == 0


def servers_of(mark: Path) -> list[int]:
    return [int(line) for line in mark.read_text().split()] if mark.exists() else []


@pytest.mark.parametrize(("count", "kills"), [(6, 2), pytest.param(100, 20, marks=pytest.mark.long, id="long")])
async def test_cycles_and_kills_leave_nothing(tmp_path: Path, count: int, kills: int) -> None:
    rng = random.Random(20261123)
    mark = tmp_path / "mark"
    async with end("serve", SEED, *FAST, "--mark", str(mark)) as serve:
        addr = (await serve.line()).decode()
        await cycles(2, set(), serve, addr, rng)
        await gone(*servers_of(mark))
        before = descriptors(serve.process.pid), resident(serve.process.pid)
        await cycles(count, set(rng.sample(range(count), kills)), serve, addr, rng)
        await gone(*servers_of(mark))
        with trio.fail_after(LEFT_SECONDS):
            while descriptors(serve.process.pid) > before[0] * 1.05:  # noqa: ASYNC110 - as above
                await trio.sleep(0.05)
        if count >= 100:
            assert resident(serve.process.pid) <= before[1] * 1.05 + (2 << 20)
        async with end("connect", SEED, addr) as connect:
            pid = int(await connect.call("pid"))
            serve.process.send_signal(signal.SIGKILL)
            assert await connect.ended() == 4
        await gone(pid)


async def runaway(connect: End, size: int) -> None:
    head = b'{"jsonrpc":"2.0","id":"big","method":"tools/call","params":{"name":"count","arguments":{"text":"'
    await connect.stdin.send_all(head)
    for _ in range(size >> 20):
        await connect.stdin.send_all(b"z" * (1 << 20))
    await connect.stdin.send_all(b'"}}}\n')


@pytest.mark.parametrize("size", [64 << 20, pytest.param(1 << 30, marks=pytest.mark.long, id="1GiB")])
async def test_a_runaway_line_up_costs_no_memory(size: int) -> None:
    async with end("serve", SEED, *FAST) as serve:
        addr = (await serve.line()).decode()
        async with end("connect", SEED, addr) as connect:
            await connect.call("echo", text="warm")
            before = resident(connect.process.pid)
            await runaway(connect, size)
            line = await connect.line()
            assert error_of(line) == (4131, "too-large")
            assert json.loads(line)["id"] == "big"
            assert resident(connect.process.pid) - before <= 4 * (16 << 20)
            assert await connect.call("echo", text="next") == "next"


async def test_a_blob_down_over_the_limit_costs_no_memory() -> None:
    async with end("serve", SEED, *FAST) as serve:
        addr = (await serve.line()).decode()
        async with end("connect", SEED, addr) as connect:
            await connect.call("echo", text="warm")
            before = resident(serve.process.pid)
            await connect.stdin.send_all(call("big", "b", bytes=64 << 20) + b"\n")
            assert error_of(await connect.line()) == (4131, "too-large")
            assert resident(serve.process.pid) - before <= 4 * (16 << 20)
            assert len(await connect.call("big", bytes=15 << 20)) == 15 << 20
