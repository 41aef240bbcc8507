"""Where the socket of a home is, and what stands beside it for those who look for it.

    run/ctl.sock        0600; only the holder of the home's lock makes or removes it
    run/agent.json      pid, started, version, socket of whoever serves it

A path too long for a socket's address moves it to the user's runtime directory, else to a directory of ours among the
temporary files; `agent.json` names the place. Standard library only: every command loads this.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from talos.identity import private_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from talos.identity.home import Home

__all__ = ["MAX_SOCKET_PATH", "AgentFile", "bound", "find_socket", "read_agent_file", "socket_path"]

MAX_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
"""Bytes that the system's address of a unix socket holds, without the final zero."""
MAX_FILE_BYTES = 4096
BACKLOG = 128
SOCKET_UMASK = 0o177
_DIGEST_CHARACTERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFile:
    """Who serves the socket."""

    pid: int
    started: float
    """Unix seconds."""
    version: str
    socket: str


def run_directory(home: Home) -> Path:
    return home.path / "run"


def socket_path(home: Home) -> Path:
    """Where the holder of the lock binds the socket."""
    path = run_directory(home) / "ctl.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(home.path.resolve())).hexdigest()[:_DIGEST_CHARACTERS]
    return _short_directory() / f"{digest}.sock"


def find_socket(home: Home) -> Path | None:
    """Where a client looks: a moved socket is where `agent.json` says, for two environments may differ.

    None where the socket would be moved and nobody says where: nobody serves it.
    """
    path = run_directory(home) / "ctl.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    found = read_agent_file(home)
    return Path(found.socket) if found else None


def read_agent_file(home: Home) -> AgentFile | None:
    """What the last owner wrote; None where nothing readable stands. It may be gone by now."""
    try:
        data = json.loads(private_file.read(run_directory(home) / "agent.json", MAX_FILE_BYTES, "agent file"))
        return AgentFile(
            pid=int(data["pid"]),
            started=float(data["started"]),
            version=str(data["version"]),
            socket=str(data["socket"]),
        )
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


@contextmanager
def bound(home: Home, *, started: float, version: str) -> Iterator[socket.socket]:
    """The listening socket of a home, for the holder of its lock; both files are gone with the block."""
    private_file.make_directory(run_directory(home))
    path = socket_path(home)
    private_file.make_directory(path.parent)
    path.unlink(missing_ok=True)  # of an owner that was killed: the lock is ours, so nobody serves it
    listener = _listen(path)
    file = run_directory(home) / "agent.json"
    described = AgentFile(pid=os.getpid(), started=started, version=version, socket=str(path))
    try:
        private_file.write(file, json.dumps(asdict(described)).encode(), replace=True)
        yield listener
    finally:
        path.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        listener.close()


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(SOCKET_UMASK)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


def _short_directory() -> Path:
    """Of our uid and 0700: `make_directory` checks it where somebody else could have put it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and len(os.fsencode(runtime)) < MAX_SOCKET_PATH - len("/talos/.sock") - _DIGEST_CHARACTERS:
        return Path(runtime) / "talos"
    return Path(tempfile.gettempdir()) / f"talos-{os.geteuid()}"
