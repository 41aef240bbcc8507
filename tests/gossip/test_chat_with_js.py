"""The chat of the examples, with js-libp2p on the other side."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from interop.peers.build import ToolchainAbsent, command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parents[2]
CHAT = [sys.executable, str(ROOT / "examples" / "chat.py"), "alice"]
JOINED = ["--stack", "tcp/noise/yamux", "--gossip", "chat"]
MORNING = b"good morning from Talos"

pytestmark = pytest.mark.interop


class Program:
    """A process, line by line."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""

    async def say(self, line: bytes) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(line + b"\n")

    async def line(self) -> str:
        """Cancelling it loses nothing."""
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            chunk = await self._process.stdout.receive_some()
            assert chunk, "the program ended"
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()


@asynccontextmanager
async def program(arguments: list[str]) -> AsyncIterator[Program]:
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False)
        process = await nursery.start(run)
        yield Program(process)
        nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def js() -> list[str]:
    try:
        return list(command("js").argv)
    except ToolchainAbsent as absent:
        pytest.skip(f"absent: js: {absent}")


async def test_what_is_typed_here_is_heard_in_js(js: list[str]) -> None:
    with trio.fail_after(60):
        async with program([*js, "listen", "--listen", "/ip4/127.0.0.1/tcp/0", *JOINED]) as listener:
            address = await listener.line()
            while await listener.line() != "ready":
                pass
            async with program([*CHAT, address]) as alice:
                heard = ""
                while not heard:  # until js has told that it is subscribed, nobody is there to hear
                    await alice.say(MORNING)
                    with trio.move_on_after(1):
                        heard = await listener.line()
    message = json.loads(heard)
    assert (message["topic"], message["sha256"]) == ("chat", sha256(MORNING).hexdigest())


async def test_what_js_says_is_heard_here(js: list[str]) -> None:
    with trio.fail_after(60):
        async with program(CHAT) as alice:
            while "127.0.0.1" not in (line := await alice.line()):
                pass
            address = line.removeprefix("alice is at ")
            saying = [*js, "dial", address, *JOINED, "gossip", "--publish", "3", "--size", "20"]
            await trio.run_process(saying, capture_stdout=True)
            heard = 0
            while heard < 3:
                heard += "alice heard" in await alice.line()
