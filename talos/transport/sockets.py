"""What the transports on operating-system sockets share: their stream, their listener, their errors."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio
from multiaddr import Multiaddr

from talos.addr import host_port
from talos.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    SockAddr: TypeAlias = Any
    """An address as `socket` gives it: a tuple or a path."""
    ToMultiaddr: TypeAlias = Callable[[SockAddr], Multiaddr]

__all__ = ["SocketListener", "SocketStream", "ip_and_port", "ip_component", "os_errors_as", "tcp_addr"]

PASSING_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED})
# accept(2): errors of the connection that was about to be accepted, which says nothing about the listener.
_NEWCOMER_ERRNOS = frozenset(
    {
        errno.ENETDOWN,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.EPERM,
        errno.ETIMEDOUT,
    }
)


@contextmanager
def os_errors_as(kind: type[Exception], addr: Multiaddr) -> Iterator[None]:
    """Turns an OSError into `kind`, naming the address and the reason."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise kind(f"{addr}: {reason.lower()}") from error


class SocketStream(trio.abc.HalfCloseableStream):
    """A connected socket that knows its own address.

    Sending and receiving are trio's own methods, put on the instance: they cost no further call.
    """

    def __init__(self, sock: trio.socket.SocketType, to_multiaddr: ToMultiaddr) -> None:
        self._stream = trio.SocketStream(sock)
        self._to_multiaddr = to_multiaddr
        vars(self).update(send_all=self._stream.send_all, receive_some=self._stream.receive_some)

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket below."""
        return self._stream.socket

    @property
    def local_addr(self) -> Multiaddr:
        """This end of the connection; OSError when it is closed."""
        return self._to_multiaddr(self._stream.socket.getsockname())

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As `trio.SocketStream`."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As `trio.SocketStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As `trio.SocketStream`."""
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As `trio.SocketStream`."""
        return await self._stream.receive_some(max_bytes)

    def close(self) -> None:
        """Closes at once, without a checkpoint."""
        self._stream.socket.close()

    async def aclose(self) -> None:
        """As `trio.SocketStream`."""
        await self._stream.aclose()


class SocketListener:
    """A `ByteListener` over a socket that already listens."""

    def __init__(self, sock: trio.socket.SocketType, addr: Multiaddr, to_multiaddr: ToMultiaddr) -> None:
        self.socket = sock
        self._addr = addr
        self._to_multiaddr = to_multiaddr

    @property
    def addr(self) -> Multiaddr:
        """Where it listens, port filled in."""
        return self._addr

    async def accept(self) -> tuple[SocketStream, Multiaddr]:
        """As `ByteListener.accept`; ListenError when the socket is gone, ClosedResourceError after `aclose`."""
        while True:
            try:
                sock, remote = await self.socket.accept()
            except OSError as error:
                if error.errno in _NEWCOMER_ERRNOS:
                    continue
                if error.errno in PASSING_ERRNOS:
                    raise
                if self.socket.fileno() == -1:
                    raise trio.ClosedResourceError(f"{self._addr} is closed") from None
                raise ListenError(f"{self._addr}: {error.strerror}") from error
            return SocketStream(sock, self._to_multiaddr), self._to_multiaddr(remote)

    async def aclose(self) -> None:
        """Stops listening; accepted streams live on."""
        self.socket.close()
        await trio.lowlevel.checkpoint()


def ip_component(host: str, scope: int = 0) -> Multiaddr:
    """`host` as /ip4, /ip6, or /ip6zone with /ip6 where a scope id names an interface."""
    if ":" not in host:
        return Multiaddr(f"/ip4/{host}")
    host = host.partition("%")[0]
    if not scope:
        return Multiaddr(f"/ip6/{host}")
    try:
        zone = socket.if_indextoname(scope)
    except OSError:  # the interface left meanwhile
        zone = str(scope)
    return Multiaddr(f"/ip6zone/{zone}/ip6/{host}")


def tcp_addr(sockaddr: SockAddr) -> Multiaddr:
    """The multiaddr of an AF_INET or AF_INET6 address."""
    host, port = sockaddr[:2]
    scope = sockaddr[3] if len(sockaddr) == 4 else 0
    return ip_component(host, scope).encapsulate(Multiaddr(f"/tcp/{port}"))


def ip_and_port(addr: Multiaddr) -> tuple[socket.AddressFamily, SockAddr]:
    """Family and socket address of an /ip4, /ip6 or /ip6zone address with /tcp; OSError on an unknown zone."""
    host, port = host_port(addr)
    if ":" not in host:
        return socket.AF_INET, (host, port)
    host, _, zone = host.partition("%")
    if not zone:
        return socket.AF_INET6, (host, port)
    scope = int(zone) if zone.isdecimal() and len(zone) < 10 else socket.if_nametoindex(zone)
    return socket.AF_INET6, (host, port, 0, scope)
