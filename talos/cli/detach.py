"""`talos up -d`: the agent as a process of its own session, whose output goes to files of the home."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from talos.cli.exits import Failure
from talos.control.client import Client
from talos.identity import private_file

if TYPE_CHECKING:
    from pathlib import Path

    from talos.cli.session import Session
    from talos.identity.home import Home

__all__ = ["KEPT_FILES", "detach", "log_file"]

READY_SECONDS = 15.0
POLL_SECONDS = 0.05
KEPT_FILES = 5
MAX_LOG_BYTES = 5 << 20
MAX_TOLD_LINES = 12


def log_file(home: Home, number: int = 0) -> Path:
    """The newest log of an agent in the background, or an older one."""
    return home.log / (f"agent.log.{number}" if number else "agent.log")


def detach(session: Session, arguments: list[str]) -> int:
    """Starts `talos up` with these arguments and returns when it answers; its exit code if it ends before."""
    home = session.home
    running = session.agent()
    if running is not None:
        session.out.note(f"an agent is up already (pid {running['pid']})")
        return _tell(session, running)
    private_file.make_directory(home.log)
    _rotate(home)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    log = os.open(log_file(home), flags, private_file.FILE_MODE)
    try:
        began = os.fstat(log).st_size
        child = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "talos", "up", "--data-dir", str(home.path), "--no-input", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(log)
    return _wait(session, child, began)


def _wait(session: Session, child: subprocess.Popen[bytes], began: int) -> int:
    until = time.monotonic() + (session.timeout or READY_SECONDS)
    while time.monotonic() < until:
        running = session.agent()
        if running is not None:
            child.returncode = 0  # it goes on without us: nobody is to wait for it, or to warn that nobody did
            return _tell(session, running)
        code = child.poll()
        if code is not None:
            sys.stderr.write(_last_words(session.home, began))
            return code
        time.sleep(POLL_SECONDS)
    child.terminate()
    raise Failure("timeout", "the agent was not ready in time", hint="talos logs")


def _tell(session: Session, running: dict[str, Any]) -> int:
    if session.json:
        session.out.emit("status", **Client(session.home).get("status"))
    else:
        session.out.line(str(running["pid"]))
    return 0


def _rotate(home: Home) -> None:
    """A log that has grown makes place for a new one; so many are kept."""
    if not log_file(home).exists() or log_file(home).stat().st_size < MAX_LOG_BYTES:
        return
    for number in range(KEPT_FILES - 1, 0, -1):
        older = log_file(home, number - 1)
        if older.exists():
            older.replace(log_file(home, number))


def _last_words(home: Home, began: int) -> str:
    with log_file(home).open("rb") as file:
        file.seek(began)
        lines = file.read(1 << 16).decode(errors="replace").splitlines(keepends=True)
    return "".join(lines[-MAX_TOLD_LINES:])
