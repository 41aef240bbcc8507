"""TCP: /ip4 or /ip6 with /tcp, dialled by /dns names as well."""

from __future__ import annotations

import errno
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from talos.abc import ByteTransport
from talos.addr import names_of
from talos.errors import ConfigError, DialError, ListenError
from talos.transport.resolve import Resolver, needs_resolving
from talos.transport.sockets import SocketListener, SocketStream, ip_and_port, os_errors_as, tcp_addr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiaddr import Multiaddr

    from talos.transport.sockets import SockAddr

__all__ = ["Tcp", "TcpConfig"]

_SHAPES = frozenset(
    {("ip4", "tcp"), ("ip6", "tcp"), ("ip6zone", "ip6", "tcp"), ("dns", "tcp"), ("dns4", "tcp"), ("dns6", "tcp")}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpConfig:
    """Settings of the TCP transport."""

    backlog: int = 1024
    """Connections that the kernel keeps for `accept`; the system's own bound (somaxconn) holds as well."""

    def __post_init__(self) -> None:
        if self.backlog < 1:
            raise ConfigError(f"backlog {self.backlog} is below 1")


class Tcp(ByteTransport):
    """Dials and listens on TCP ports.

    Names are resolved when dialled, IPv6 first, and tried one after the other; whoever wants to stagger resolves
    them beforehand. One instance belongs to one node, for `punch` dials from its listen ports.
    """

    def __init__(self, config: TcpConfig | None = None, resolver: Resolver | None = None) -> None:
        self._config = config or TcpConfig()
        self._resolver = resolver or Resolver()
        self._listeners: list[SocketListener] = []

    def matches(self, addr: Multiaddr) -> bool:
        """Whether it is an IP address or a name, with a TCP port and nothing behind."""
        return names_of(addr) in _SHAPES

    async def dial(self, addr: Multiaddr) -> SocketStream:
        """Opens a connection; DialError names each address that was tried."""
        if not needs_resolving(addr):
            return await self._connect(addr)
        causes: dict[object, BaseException] = {}
        for resolved in await self._resolver.resolve(addr):
            try:
                return await self._connect(resolved)
            except DialError as error:
                causes[resolved] = error.__cause__ or error
        raise DialError(f"no address of {addr} answers", causes)

    async def _connect(self, addr: Multiaddr) -> SocketStream:
        with os_errors_as(DialError, addr):
            family, sockaddr = ip_and_port(addr)
            sock = trio.socket.socket(family, socket.SOCK_STREAM)
            with _closed_on_failure(sock):
                await sock.connect(sockaddr)
                return SocketStream(sock, tcp_addr)

    async def listen(self, addr: Multiaddr) -> SocketListener:
        """Listens on an IP address; port 0 takes a free one. An IPv6 listener takes no IPv4 connections."""
        with os_errors_as(ListenError, addr):
            family, sockaddr = ip_and_port(addr)
            sock = trio.socket.socket(family, socket.SOCK_STREAM)
            with _closed_on_failure(sock):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family is socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                await sock.bind(sockaddr)
                sock.listen(self._config.backlog)
                listener = SocketListener(sock, tcp_addr(sock.getsockname()), tcp_addr)
        self._listeners = [*(old for old in self._listeners if old.socket.fileno() != -1), listener]
        return listener

    async def punch(self, addr: Multiaddr) -> SocketStream:
        """Dials from a port that is listened on, in the same address family; DialError when there is none.

        Whoever comes from `addr` to that port meanwhile is the answer too: the other side was let through first.
        """
        with os_errors_as(DialError, addr):
            family, sockaddr = ip_and_port(addr)
            listener = next((each for each in self._listeners if _listens(each.socket, family)), None)
            if listener is None:
                raise DialError(f"no port is listened on to punch from, to {addr}")
            with listener.expecting(sockaddr) as coming:
                sock = trio.socket.socket(family, socket.SOCK_STREAM)
                with _closed_on_failure(sock):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    with _port_shared(listener.socket):
                        await sock.bind(listener.socket.getsockname())
                    return SocketStream(await _first(sock, sockaddr, coming), tcp_addr)


async def _first(
    sock: trio.socket.SocketType, sockaddr: SockAddr, coming: trio.MemoryReceiveChannel[trio.socket.SocketType]
) -> trio.socket.SocketType:
    """`sock` once it is connected, or who came in its place; OSError when neither will be."""
    came: list[trio.socket.SocketType] = []
    failed: list[OSError] = []

    async def receive(scope: trio.CancelScope) -> None:
        came.append(await coming.receive())
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, nursery.cancel_scope)
        try:
            await sock.connect(sockaddr)
        except OSError as error:
            failed.append(error)
            if error.errno == errno.EADDRNOTAVAIL:  # the other side's connection is there, and about to be accepted
                await trio.sleep_forever()
        nursery.cancel_scope.cancel()
    if came:
        sock.close()
        return came[0]
    if failed:
        raise failed[0]
    return sock


def _listens(sock: trio.socket.SocketType, family: socket.AddressFamily) -> bool:
    return sock.fileno() != -1 and sock.family is family


@contextmanager
def _port_shared(listening: trio.socket.SocketType) -> Iterator[None]:
    """Lets another socket of ours bind to the same port, for the block only: else a second node could by mistake."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


@contextmanager
def _closed_on_failure(sock: trio.socket.SocketType) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sock.close()
        raise
