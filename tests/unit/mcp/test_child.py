"""The server process: what it is given, how it ends, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.errors import ConfigError, HandshakeError
from talos.mcp.child import Child, Reaper, StderrLog, environment, open_child, open_reaper, printable_line, resolve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVER = str(Path(__file__).parents[2] / "mcp" / "servers" / "fault_server.py")
GRACE = 0.4
FAST = [sys.executable, "-I", "-S", SERVER]


@asynccontextmanager
async def server(*options: str, env: dict[str, str] | None = None, watch: Reaper | None = None) -> AsyncIterator[Child]:
    log = StderrLog(lambda line: None)
    passed = environment(os.environ, env or {}, ())
    async with open_child([*FAST, *options], cwd=None, env=passed, stderr=log, watch=watch, grace=GRACE) as child:
        yield child


async def tool(child: Child, name: str, **arguments: Any) -> str:
    line = json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    )
    await child.stdin.send_all(line.encode() + b"\n")
    data = b""
    while not data.endswith(b"\n"):
        data += await child.stdout.receive_some(65536)
    text = json.loads(data)["result"]["content"][0]["text"]
    assert isinstance(text, str)
    return text


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


async def test_a_child_sees_only_what_the_owner_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "s3cret")
    monkeypatch.setenv("TALOS_DIR", "/nowhere")
    async with server(env={"LOG_LEVEL": "warn", "TALOS_DIR": "/elsewhere"}) as child:
        seen = json.loads(await tool(child, "environment"))
        assert seen["LOG_LEVEL"] == "warn"
        assert seen["MCP_TUNNEL_TAG"] == child.tag
        assert "SECRET_OF_OURS" not in seen
        assert "TALOS_DIR" not in seen
        assert set(json.loads(await tool(child, "descriptors"))) <= {0, 1, 2, 3}  # 3: the listing itself
        assert json.loads(await tool(child, "group")) == [child.pid, child.pid]


def test_passed_variables_are_taken_from_the_source() -> None:
    source = {"PATH": "/bin", "NODE_EXTRA_CA_CERTS": "/ca", "OTHER": "1", "TALOS_PASSPHRASE_FILE": "/p"}
    made = environment(source, {"A": "b"}, ("NODE_EXTRA_CA_CERTS", "MISSING", "TALOS_PASSPHRASE_FILE"), "t")
    assert made == {"PATH": "/bin", "NODE_EXTRA_CA_CERTS": "/ca", "A": "b", "MCP_TUNNEL_TAG": "t"}


async def test_inherited_descriptors_are_closed() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        async with server() as child:
            assert writing not in json.loads(await tool(child, "descriptors"))
    finally:
        os.close(reading)
        os.close(writing)


async def test_a_server_that_hears_the_end_of_its_stdin_is_not_signalled() -> None:
    async with server() as child:
        await child.stop()
    assert child.status == 0
    assert not child.signalled


async def test_a_deaf_server_is_killed() -> None:
    async with server("--deaf") as child:
        assert await tool(child, "echo", text="here") == "here"
    assert child.status == -signal.SIGKILL
    assert child.signalled


async def test_a_server_gets_the_patience_it_is_given() -> None:
    async with server() as child:
        await child.stdin.send_all(
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"stuck","arguments":{"seconds":1}}}\n'
        )
        await child.stop(10)
        assert child.status == 0


@pytest.mark.parametrize("daemon", [False, True])
async def test_grandchildren_do_not_outlive_the_server(daemon: bool) -> None:
    async with server() as child:
        pid = int(await tool(child, "grandchild", daemon=daemon))
        assert alive(pid)
    assert not alive(pid)
    assert child.status == 0


async def test_kill_does_not_wait() -> None:
    async with server("--deaf") as child:
        await tool(child, "echo", text="x")
        child.kill()
        assert await child.wait() == -signal.SIGKILL


async def test_a_program_that_cannot_run_is_told() -> None:
    with pytest.raises(HandshakeError, match="cannot be started"):
        async with open_child(["/nonexistent/program"], cwd=None, env={}, stderr=StderrLog(print), watch=None):
            pass


def test_the_program_is_resolved(tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert resolve(["sh", "-c", "x"], None)[0].startswith("/")
    assert resolve(["./server", "a"], str(tmp_path)) == (str(program), "a")
    for argv, cwd in (([], None), (["no-such-program-at-all"], None), (["sh"], str(tmp_path / "none"))):
        with pytest.raises(ConfigError):
            resolve(argv, cwd)


# ----------------------------------------------------------------------------------- stderr


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_stderr_is_cut_escaped_and_kept() -> None:
    lines: list[str] = []
    log = StderrLog(lines.append, Clock())
    log.feed(b"plain\r\nesc \x1b[31m \xff\n\nha")
    log.feed(b"lf\n" + b"x" * 5000 + b"\nend")
    log.end()
    assert lines == ["plain", "esc \\x1b[31m \\xff", "half", "x" * 4096, "x" * 904, "end"]
    assert log.tail.startswith(b"plain\r\n")


def test_a_flood_on_stderr_is_rated_and_counted() -> None:
    lines: list[str] = []
    clock = Clock()
    log = StderrLog(lines.append, clock)
    for _ in range(10):
        log.feed(b"".join(b"line %d\n" % number for number in range(1000)) + b"y" * 10_000)
    assert len(lines) == 100
    assert log.dropped >= 9_900
    assert len(log.tail) <= 64 * 1024
    assert len(log._partial) < 4096
    clock.now = 1.5
    log.feed(b"\nafter\n")
    assert "lines of stderr left out)" in lines[100]
    assert lines[-1] == "after"


def test_nothing_printed_can_steer_a_terminal() -> None:
    assert printable_line("grüße \u202e\x07".encode()) == "grüße \\u202e\\x07"


# ----------------------------------------------------------------------------------- the watch process


async def gone(pid: int, seconds: float = 10) -> bool:
    with trio.move_on_after(seconds):
        while alive(pid):  # noqa: ASYNC110 - a foreign process: nothing tells when it ends
            await trio.sleep(0.02)
    return not alive(pid)


async def test_the_watch_process_ends_with_us_and_knows_nothing_then() -> None:
    async with open_reaper() as watch:
        pid = watch.pid
        assert pid is not None
        async with server(watch=watch) as child:
            assert child.tag in watch._known
        assert not watch._known
    assert not alive(pid)


async def test_a_dead_watch_process_has_a_successor_that_knows_all() -> None:
    async with open_reaper(GRACE) as watch:
        first = watch.pid
        assert first is not None
        async with server("--deaf", watch=watch) as child:
            os.kill(first, signal.SIGKILL)
            with trio.fail_after(8):
                while watch.pid in (None, first):  # noqa: ASYNC110 - nobody but a test waits for it
                    await trio.sleep(0.02)
            second = watch.pid
            assert second is not None
            # It is the second one that stops the child when our end of its pipe is closed.
            process = watch._process
            assert process is not None
            assert process.stdin is not None
            await process.stdin.aclose()
            assert await gone(child.pid)
            assert await gone(second)


MOTHER = """
import os, sys, trio
sys.path.insert(0, {root!r})
from talos.mcp.child import StderrLog, environment, open_child, open_reaper

async def main():
    async with open_reaper() as watch:
        command = {command!r}
        env = environment(os.environ, {{}}, ())
        async with open_child(command, cwd=None, env=env, stderr=StderrLog(lambda line: None), watch=watch) as child:
            for daemon in ("false", "true"):
                line = (b'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"grandchild",'
                        b'"arguments":{{"daemon":%s}}}}}}\\n' % daemon.encode())
                await child.stdin.send_all(line)
                sys.stdout.buffer.write(bytes(await child.stdout.receive_some()))
            print(watch.pid, child.pid, flush=True)
            await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_however_we_die_nothing_is_left(number: int) -> None:
    code = MOTHER.format(root=str(Path(__file__).parents[3]), command=[*FAST, "--deaf"])
    mother = await trio.lowlevel.open_process([sys.executable, "-c", code], stdout=-1, stderr=-3)
    assert mother.stdout is not None
    data = b""
    while data.count(b"\n") < 3:
        data += await mother.stdout.receive_some()
    *answers, pids = data.splitlines()
    grandchildren = [int(json.loads(line)["result"]["content"][0]["text"]) for line in answers]
    left = [*grandchildren, *map(int, pids.split())]
    assert all(alive(pid) for pid in left)
    mother.send_signal(number)
    await mother.wait()
    with trio.fail_after(10):
        for pid in left:
            assert await gone(pid)
