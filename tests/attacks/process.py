"""Processes under test: started with a pipe for commands and one for answers, one JSON object a line each way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from talos.host.block import background

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parents[2]
MAX_STDERR_LINES = 1000


@dataclass
class Child:
    """A running program of ours."""

    process: trio.Process
    stderr_lines: list[str] = field(default_factory=list)
    _buffer: bytearray = field(default_factory=bytearray)
    _turn: trio.Lock = field(default_factory=trio.Lock)

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Sends one command, returns its answer."""
        assert self.process.stdin is not None
        async with self._turn:
            await self.process.stdin.send_all(json.dumps({"command": command, **arguments}).encode() + b"\n")
            return await self.answer()

    async def answer(self) -> dict[str, Any]:
        """The next line that the child prints."""
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            chunk = await self.process.stdout.receive_some()
            assert chunk, f"the process ended: {self.stderr_lines[-20:]}"
            self._buffer += chunk
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def collect_stderr(self) -> None:
        assert self.process.stderr is not None
        text = b""
        async for chunk in self.process.stderr:
            *lines, text = (text + chunk).split(b"\n")
            room = MAX_STDERR_LINES - len(self.stderr_lines)
            self.stderr_lines += [line.decode("utf-8", "replace") for line in lines[:room]]

    async def finish(self, seconds: float) -> None:
        """Closes its standard input and waits; what does not end by itself is killed."""
        with trio.CancelScope(deadline=trio.current_time() + seconds, shield=True):
            assert self.process.stdin is not None
            await self.process.stdin.aclose()
            await self.process.wait()
        if self.process.returncode is None:
            self.process.kill()
            with trio.CancelScope(deadline=trio.current_time() + seconds, shield=True):
                await self.process.wait()


@asynccontextmanager
async def running(module: str, **settings: object) -> AsyncIterator[Child]:
    """`python -m module SETTINGS` for the length of the block; its standard input closes at the end."""
    async with background() as nursery:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", module, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )
        child = Child(process)
        nursery.start_soon(child.collect_stderr)
        try:
            yield child
        finally:
            await child.finish(10)
