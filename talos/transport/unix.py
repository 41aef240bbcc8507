"""Unix-domain sockets: /unix/<path>."""

from __future__ import annotations

import errno
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from talos.abc import ByteTransport
from talos.addr import is_exactly, path_of
from talos.errors import ConfigError, DialError, ListenError
from talos.transport.sockets import SocketListener, SocketStream, os_errors_as

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from multiaddr import Multiaddr

__all__ = ["Unix", "UnixConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixConfig:
    """Settings of the Unix-socket transport."""

    backlog: int = 1024
    """Connections that the kernel keeps for `accept`; the system's own bound (somaxconn) holds as well."""

    def __post_init__(self) -> None:
        if self.backlog < 1:
            raise ConfigError(f"backlog {self.backlog} is below 1")


class UnixListener(SocketListener):
    """Takes its socket file away when it closes, unless another listener has replaced it."""

    def __init__(self, sock: trio.socket.SocketType, addr: Multiaddr, path: Path) -> None:
        super().__init__(sock, addr, _always(addr))
        self._path = path
        self._identity = _identity(path.lstat())

    async def aclose(self) -> None:
        """Stops listening and removes the socket file; accepted streams live on."""
        if self.socket.fileno() != -1:
            self.socket.close()
            try:
                if _identity(self._path.lstat()) == self._identity:
                    self._path.unlink()
            except OSError:
                pass  # it is gone, or its directory no longer ours to write: nothing is left to do
        await trio.lowlevel.checkpoint()


class Unix(ByteTransport):
    """Dials and listens on local sockets.

    A socket file on which nobody listens any more is replaced; one in use, or a file of another kind, is not.
    """

    def __init__(self, config: UnixConfig | None = None) -> None:
        self._config = config or UnixConfig()

    def matches(self, addr: Multiaddr) -> bool:
        """Whether it is a path and nothing else."""
        return is_exactly(addr, "unix")

    async def dial(self, addr: Multiaddr) -> SocketStream:
        """Connects to the socket file; both ends know each other by its path."""
        with os_errors_as(DialError, addr):
            sock = await _connect(path_of(addr))
        return SocketStream(sock, _always(addr))

    async def listen(self, addr: Multiaddr) -> UnixListener:
        """Makes the socket file, with the permissions that the process's umask leaves."""
        path = Path(path_of(addr))
        with os_errors_as(ListenError, addr):
            sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                await _bind(sock, path)
                sock.listen(self._config.backlog)
                return UnixListener(sock, addr, path)
            except BaseException:
                sock.close()
                raise


async def _connect(path: str) -> trio.socket.SocketType:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await sock.connect(_fitting(path))
        sock.getpeername()  # a full backlog shows here: connect(2) gave EAGAIN, which waits for nothing
    except BaseException:
        sock.close()
        raise
    return sock


async def _bind(sock: trio.socket.SocketType, path: Path) -> None:
    try:
        await sock.bind(_fitting(str(path)))
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_socket(path) or await _answers(path):
            raise
        _remove(path)
        await sock.bind(str(path))


async def _answers(path: Path) -> bool:
    try:
        probe = await _connect(str(path))
    except OSError as error:
        return error.errno != errno.ECONNREFUSED
    probe.close()
    return True


def _is_socket(path: Path) -> bool:
    return stat.S_ISSOCK(path.lstat().st_mode)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _fitting(path: str) -> str:
    """`path`, where the system can hold it: its own error for that is no OSError with a number."""
    if not path or len(path.encode()) > 107 or "\0" in path:  # sun_path, with its final zero
        raise OSError(errno.ENAMETOOLONG, "path does not fit a socket address")
    return path


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _always(addr: Multiaddr) -> Callable[[object], Multiaddr]:
    return lambda _sockaddr: addr
