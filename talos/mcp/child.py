"""The server process: started from the owner's words alone, and ended with all that it started."""

from __future__ import annotations

import fcntl
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from talos.errors import ConfigError, HandshakeError
from talos.host.block import background
from talos.mcp import reaper
from talos.mcp.pipes import PipeReader, PipeWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

__all__ = ["Child", "Reaper", "StderrLog", "environment", "open_child", "open_reaper", "printable_line", "resolve"]

PASSED_VARIABLES = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG", "LC_ALL", "TMPDIR")
GRACE_SECONDS = reaper.GRACE_SECONDS
KILL_SECONDS = 5.0
"""How long a killed process may take to end; one that hangs in the kernel is left to the reaper."""
POLL_SECONDS = 0.05
RESTART_SECONDS = 1.0
PIPE_BYTES = 256 * 1024
F_SETPIPE_SZ = 1031

STDERR_LINE_BYTES = 4096
STDERR_LINES_PER_SECOND = 100
STDERR_KEPT_BYTES = 64 * 1024


def resolve(argv: Sequence[str], cwd: str | None) -> tuple[str, ...]:
    """`argv` with the path of its program; ConfigError when there is none or `cwd` is no directory."""
    if cwd is not None and not Path(cwd).is_dir():
        raise ConfigError(f"the server's directory {cwd!r} does not exist")
    program = argv[0] if argv else ""
    if os.sep in program and cwd is not None:
        program = str(Path(cwd, program))
    found = shutil.which(program)
    if found is None:
        raise ConfigError(f"the server's program {program!r} is not found or not executable")
    return (str(Path(found).absolute()), *argv[1:])


def environment(
    source: Mapping[str, str], env: Mapping[str, str], pass_env: Sequence[str], tag: str = ""
) -> dict[str, str]:
    """What a server gets to see of `source`: a short list, what the owner passes on and sets, and its tag."""
    result = {name: source[name] for name in (*PASSED_VARIABLES, *pass_env) if name in source}
    result |= env
    result = {name: value for name, value in result.items() if not name.upper().startswith("TALOS_")}
    return result | {reaper.TAG_VARIABLE: tag}


def printable_line(data: bytes) -> str:
    """One line for a terminal or a log: whatever could steer one is escaped."""
    text = data.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class StderrLog:
    """Cuts a server's stderr into printable lines, at most 100 a second of 4 KiB, and keeps its last 64 KiB."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = trio.current_time) -> None:
        self.tail = b""
        self.dropped = 0
        """Lines that were over the rate."""
        self._write = write
        self._clock = clock
        self._partial = b""
        self._second = -math.inf
        self._lines = 0
        self._unsaid = 0

    def feed(self, data: bytes) -> None:
        """Takes over what the server wrote."""
        self.tail = (self.tail + data)[-STDERR_KEPT_BYTES:]
        data = self._partial + data
        start = 0
        while self._may_write():
            end = data.find(b"\n", start)
            if end < 0 and len(data) - start < STDERR_LINE_BYTES:
                break
            end = min(end, start + STDERR_LINE_BYTES) if end >= 0 else start + STDERR_LINE_BYTES
            self._line(data[start:end])
            start = end + (data[end : end + 1] == b"\n")
        else:
            last = data.rfind(b"\n", start) + 1
            self._drop(data.count(b"\n", start))
            start = max(start, last, len(data) - STDERR_LINE_BYTES + 1)
        self._partial = data[start:]

    def end(self) -> None:
        """The server's stderr has ended: says what is left."""
        if self._partial and self._may_write():
            self._line(self._partial)
        self._partial = b""
        self._say_dropped()

    def _line(self, line: bytes) -> None:
        self._lines += 1
        if line := line.removesuffix(b"\r"):
            self._write(printable_line(line))

    def _may_write(self) -> bool:
        now = self._clock()
        if now - self._second >= 1.0:
            self._second, self._lines = now, 0
            self._say_dropped()
        return self._lines < STDERR_LINES_PER_SECOND

    def _drop(self, lines: int) -> None:
        self.dropped += lines
        self._unsaid += lines

    def _say_dropped(self) -> None:
        if self._unsaid:
            self._write(f"({self._unsaid} lines of stderr left out)")
            self._unsaid = 0


# ----------------------------------------------------------------------------------- the watch process


class Reaper:
    """Our side of the watch process: it is told of every child, and started anew should it die."""

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self._grace = grace
        self._known: dict[str, str] = {}
        self._process: trio.Process | None = None

    def expect(self, tag: str) -> None:
        """A child with that tag may be started from now on."""
        self._known[tag] = f"+{tag}\n"
        self._tell(self._known[tag])

    def started(self, tag: str, pid: int, start: str) -> None:
        """It runs."""
        self._known[tag] = f"={tag} {pid} {start}\n"
        self._tell(self._known[tag])

    def gone(self, tag: str) -> None:
        """It and all it left are gone."""
        del self._known[tag]
        self._tell(f"-{tag}\n")

    @property
    def pid(self) -> int | None:
        """The watch process; None for the moment in which it is started anew."""
        return self._process.pid if self._process else None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps a watch process running until cancelled; then it ends with its stdin."""
        while True:
            process = await _start_watch(self._grace)
            self._process = process
            self._tell("".join(self._known.values()))
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            try:
                await process.wait()
                self._process = None
                await trio.sleep(RESTART_SECONDS)  # so that one which cannot run does not take the machine
            finally:
                self._process = None
                assert process.stdin is not None
                await _close(process.stdin)
                with trio.move_on_after(3 * self._grace + KILL_SECONDS, shield=True):
                    await process.wait()

    def _tell(self, text: str) -> None:
        if self._process is not None and text:
            assert isinstance(self._process.stdin, trio.lowlevel.FdStream)
            try:
                os.write(self._process.stdin.fileno(), text.encode())
            except OSError:
                self._process.kill()  # dead or deaf: its successor hears it all

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._known)} children>"


@asynccontextmanager
async def open_reaper(grace: float = GRACE_SECONDS) -> AsyncIterator[Reaper]:
    """The watch process, for the length of the block: should this process die, it stops the children.

    `grace` is the number of seconds between the end of their stdin, SIGTERM and SIGKILL.
    """
    watch = Reaper(grace)
    async with background() as nursery:
        await nursery.start(watch.run)
        yield watch


async def _start_watch(grace: float) -> trio.Process:
    try:
        return await trio.lowlevel.open_process(
            [sys.executable, "-I", "-S", reaper.__file__, str(grace)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"the watch process cannot be started: {error}") from error


# ----------------------------------------------------------------------------------- the child


class Child:
    """A running server, the leader of its own group and session."""

    def __init__(self, process: trio.Process, tag: str, grace: float = GRACE_SECONDS) -> None:
        assert isinstance(process.stdin, trio.lowlevel.FdStream)
        assert isinstance(process.stdout, trio.lowlevel.FdStream)
        assert isinstance(process.stderr, trio.lowlevel.FdStream)
        self.pid = process.pid
        self.grace = grace
        self.tag = tag
        self.start = reaper.start_time(process.pid) or ""
        self.stdin = PipeWriter(process.stdin)
        self.stdout = PipeReader(process.stdout)
        self.stderr = process.stderr
        self.signalled = False
        """Whether we sent it a signal: then its status says nothing about the server."""
        self._process = process
        self._stopping = trio.Lock()
        for pipe in (process.stdin, process.stdout):
            _widen(pipe.fileno())

    async def wait(self) -> int:
        """Its exit status; negative: the signal that ended it."""
        return await self._process.wait()

    @property
    def status(self) -> int | None:
        """Its exit status, once it ended."""
        return self._process.returncode

    def kill(self) -> None:
        """SIGKILL to its group at once."""
        self._signal(signal.SIGKILL)

    async def stop(self, patience: float | None = None) -> None:
        """Ends its stdin, after `patience` seconds (or its grace) the process, then whatever it has left behind.

        To be called under a shield: cancelled half-way it leaves the rest undone. At most one task does it at a time.
        """
        async with self._stopping:
            await _close(self.stdin)
            if not await self._ended_within(self.grace if patience is None else patience):
                self._signal(signal.SIGTERM)
                if not await self._ended_within(self.grace):
                    self._signal(signal.SIGKILL)
                    await self._ended_within(KILL_SECONDS)
            await self._stop_group()
            await trio.to_thread.run_sync(reaper.sweep, self.tag)

    async def _stop_group(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not await self._group_alive():
                return
            self._signal(number)
            with trio.move_on_after(self.grace):
                while await self._group_alive():  # noqa: ASYNC110 - not our children: nothing tells when they end
                    await trio.sleep(POLL_SECONDS)

    async def _group_alive(self) -> bool:
        return await trio.to_thread.run_sync(reaper.group_alive, self.pid, self.start)

    async def _ended_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self._process.wait()
        return self._process.returncode is not None

    def _signal(self, number: int) -> None:
        self.signalled = self.signalled or self._process.returncode is None
        reaper.signal_group(self.pid, self.start, number)


@asynccontextmanager
async def open_child(
    argv: Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str],
    stderr: StderrLog,
    watch: Reaper | None,
    grace: float = GRACE_SECONDS,
) -> AsyncIterator[Child]:
    """Starts a server for the length of the block; `env` is all it gets, and its tag.

    HandshakeError when it cannot be started. Leaving the block stops it, in some seconds that nothing cuts short.
    """
    tag = secrets.token_hex(16)
    if watch is not None:
        watch.expect(tag)
    child = None
    try:
        child = Child(await _start(argv, cwd, env, tag), tag, grace)
        if watch is not None:
            watch.started(tag, child.pid, child.start)
        try:
            async with background() as nursery:
                nursery.start_soon(_read_stderr, child.stderr, stderr)
                try:
                    yield child
                finally:
                    with trio.CancelScope(shield=True):
                        await child.stop()
        finally:
            for stream in (child.stdin, child.stdout, child.stderr):
                await _close(stream)
            stderr.end()
    finally:
        if watch is not None and (child is None or child.status is not None):
            watch.gone(tag)


async def _start(argv: Sequence[str], cwd: str | None, env: Mapping[str, str], tag: str) -> trio.Process:
    try:
        return await trio.lowlevel.open_process(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**env, reaper.TAG_VARIABLE: tag},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise HandshakeError(f"the server cannot be started: {error}") from error


async def _read_stderr(source: trio.abc.ReceiveStream, log: StderrLog) -> None:
    while data := await source.receive_some(STDERR_KEPT_BYTES):
        log.feed(bytes(data))


async def _close(stream: trio.abc.AsyncResource) -> None:
    with trio.CancelScope(shield=True):  # closing a pipe does not wait
        await stream.aclose()


def _widen(descriptor: int) -> None:
    """Room for a large line, so that it crosses in few wake-ups; a system that refuses is only slower."""
    if sys.platform == "linux":
        try:
            fcntl.fcntl(descriptor, F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            pass
