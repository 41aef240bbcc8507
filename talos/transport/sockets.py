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

DEFAULT_RECEIVE_BYTES = 64 * 1024
UNSENT_BYTES = 128 * 1024
"""What the kernel takes before it calls a socket full: a small message then never queues behind megabytes."""
_NOTSENT_LOWAT = socket.TCP_NOTSENT_LOWAT
_IP4 = b"\x04"
_TCP = b"\x06"
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
    """A connected stream socket that knows its own address; the contract is that of `trio.SocketStream`.

    It talks to the socket itself, for half of what a small message costs above trio's stream is layers, and trio's
    stream holds back bulk: it keeps what the kernel has unsent below 16 KiB (docs/decisions/0004).
    """

    def __init__(self, sock: trio.socket.SocketType, to_multiaddr: ToMultiaddr) -> None:
        self._to_multiaddr = to_multiaddr
        self.socket = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        """The socket below, not blocking."""
        self.socket.settimeout(0)
        if sock.family is not socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT_BYTES)
        self._sending = self._receiving = self._ended = False

    @property
    def local_addr(self) -> Multiaddr:
        """This end of the connection; OSError when it is closed."""
        return self._to_multiaddr(self.socket.getsockname())

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As `trio.SocketStream`."""
        self._enter_sending()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            with memoryview(data) as view:
                sent = self._try_send(view)
                if sent == len(view):
                    await trio.lowlevel.cancel_shielded_checkpoint()
                while sent < len(view):
                    await trio.lowlevel.wait_writable(self.socket)
                    sent += self._try_send(view[sent:])
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """As `trio.SocketStream`."""
        self._enter_sending()
        try:
            await trio.lowlevel.wait_writable(self.socket)
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """As `trio.SocketStream`."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        if not self._ended:
            with _stream_errors():
                self.socket.shutdown(socket.SHUT_WR)
            self._ended = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As `trio.SocketStream`; without `max_bytes` at most 64 KiB."""
        if max_bytes is None:
            max_bytes = DEFAULT_RECEIVE_BYTES
        elif max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            data = self._try_receive(max_bytes)
            if data is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data
            while data is None:
                await trio.lowlevel.wait_readable(self.socket)
                data = self._try_receive(max_bytes)
            return data
        finally:
            self._receiving = False

    async def send_some(self, data: bytes | memoryview) -> int:
        """Waits for room and says how many bytes it took; when it is cancelled, nothing was sent."""
        self._enter_sending()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            view = memoryview(data)
            if sent := self._try_send(view):
                await trio.lowlevel.cancel_shielded_checkpoint()
            while not sent:
                await trio.lowlevel.wait_writable(self.socket)
                sent = self._try_send(view)
            return sent
        finally:
            self._sending = False

    def send_nowait(self, data: bytes) -> int:
        """How many bytes the kernel took at once; none while it is full or another task is sending."""
        if self._sending:
            return 0
        self._enter_sending()
        try:
            return self._try_send(memoryview(data))
        finally:
            self._sending = False

    def close(self) -> None:
        """Closes at once, without a checkpoint."""
        if self.socket.fileno() != -1:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    async def aclose(self) -> None:
        """As `trio.SocketStream`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _enter_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._ended or self.socket.fileno() == -1:
            raise trio.ClosedResourceError("this stream was closed for sending")
        self._sending = True

    def _try_send(self, data: memoryview) -> int:
        """How many bytes the kernel took; none when it would block."""
        try:
            return self.socket.send(data) if data else 0
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _as_stream_error(error) from error

    def _try_receive(self, max_bytes: int) -> bytes | None:
        """What has come; None when nothing has."""
        try:
            return self.socket.recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _as_stream_error(error) from error


def _as_stream_error(error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
    if error.errno == errno.EBADF:
        return trio.ClosedResourceError("this stream was closed")
    return trio.BrokenResourceError(f"the connection broke: {os.strerror(error.errno or 0).lower()}")


@contextmanager
def _stream_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _as_stream_error(error) from error


class SocketListener:
    """A `ByteListener` over a socket that already listens."""

    def __init__(self, sock: trio.socket.SocketType, addr: Multiaddr, to_multiaddr: ToMultiaddr) -> None:
        self.socket = sock
        self._addr = addr
        self._to_multiaddr = to_multiaddr
        self._expected: dict[SockAddr, trio.MemorySendChannel[trio.socket.SocketType]] = {}

    @property
    def addr(self) -> Multiaddr:
        """Where it listens, port filled in."""
        return self._addr

    @contextmanager
    def expecting(self, remote: SockAddr) -> Iterator[trio.MemoryReceiveChannel[trio.socket.SocketType]]:
        """Who comes from that host and port comes out here, and not by `accept`, for the length of the block."""
        sender, receiver = trio.open_memory_channel[trio.socket.SocketType](1)
        self._expected[remote[:2]] = sender
        try:
            yield receiver
        finally:
            del self._expected[remote[:2]]
            sender.close()
            for unclaimed in _waiting(receiver):
                unclaimed.close()

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
            expected = self._expected.get(remote[:2]) if self._expected else None
            if expected is not None and _handed_over(expected, sock):
                continue
            return SocketStream(sock, self._to_multiaddr), self._to_multiaddr(remote)

    async def aclose(self) -> None:
        """Stops listening; accepted streams live on."""
        self.socket.close()
        await trio.lowlevel.checkpoint()


def _handed_over(expected: trio.MemorySendChannel[trio.socket.SocketType], sock: trio.socket.SocketType) -> bool:
    try:
        expected.send_nowait(sock)
    except (trio.WouldBlock, trio.BrokenResourceError):
        return False
    return True


def _waiting(channel: trio.MemoryReceiveChannel[trio.socket.SocketType]) -> Iterator[trio.socket.SocketType]:
    """What came and was not taken."""
    while True:
        try:
            yield channel.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return


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
    if ":" not in host:  # by far the most: no text, no parsing
        return Multiaddr(_IP4 + socket.inet_aton(host) + _TCP + port.to_bytes(2, "big"))
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
