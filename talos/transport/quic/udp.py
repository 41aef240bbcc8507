"""A UDP socket that hands the kernel many datagrams at once, and takes them so (UDP_SEGMENT and UDP_GRO of Linux)."""

from __future__ import annotations

import errno
import logging
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.transport.quic.config import QuicConfig

__all__ = ["BATCH", "Address", "Received", "UdpSocket"]

logger = logging.getLogger(__name__)

Address = tuple[Any, ...]

BATCH = 64
"""Datagrams in one call; the kernel takes no more segments."""
MAX_BATCH_BYTES = 65_000
RECEIVE_BYTES = 65_536
RECEIVES_PER_TURN = 16
"""System calls before other tasks get their turn."""
# Not in the socket module; from linux/udp.h, linux/in.h, linux/in6.h, linux/errqueue.h.
_UDP_SEGMENT, _UDP_GRO = 103, 104
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_MSG_ERRQUEUE = 0x2000
_GRO_SPACE = socket.CMSG_SPACE(4)
_ERROR_SPACE = socket.CMSG_SPACE(64)
_ICMP_ERRNOS = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EPROTO}
)
_LOST_ERRNOS = _ICMP_ERRNOS | {errno.EMSGSIZE, errno.EPERM, errno.ENOBUFS, errno.EINVAL, errno.EADDRNOTAVAIL}
"""A datagram that cannot go out is a lost one."""


@dataclass(slots=True)
class Received:
    """Datagrams of one sender, `segment` bytes each, the last one maybe shorter."""

    data: bytes
    segment: int
    address: Address


@dataclass(slots=True)
class Undelivered:
    """A datagram of ours that came back: the start of it, and where it was to go."""

    data: bytes
    address: Address
    errno: int


class UdpSocket:
    """Bound, not connected, not blocking."""

    def __init__(self, family: socket.AddressFamily, bind: Address, config: QuicConfig) -> None:
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._sending = trio.Lock()
        self.sends = self.receives = self.datagrams_in = self.datagrams_out = 0
        """System calls and datagrams, either way."""
        try:
            self._socket.setblocking(False)  # noqa: FBT003 - the name of that method
            if family is socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                self._try(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
                self._try(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
            else:
                self._try(socket.IPPROTO_IP, _IP_RECVERR, 1)
                self._try(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self._try(socket.SOL_SOCKET, option, config.socket_buffer_bytes)
            self.segments = config.offload and self._try(socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
            """Whether the kernel takes several datagrams at once."""
            self.coalesces = config.offload and self._try(socket.IPPROTO_UDP, _UDP_GRO, 1)
            """Whether the kernel gives several datagrams at once."""
            self._socket.bind(bind)
        except BaseException:
            self._socket.close()
            raise

    def _try(self, level: int, option: int, value: int) -> bool:
        try:
            self._socket.setsockopt(level, option, value)
        except OSError:
            return False
        return True

    @property
    def address(self) -> Address:
        """Where it is bound."""
        bound: Address = self._socket.getsockname()
        return bound

    @property
    def family(self) -> socket.AddressFamily:
        return self._socket.family

    @property
    def closed(self) -> bool:
        return self._socket.fileno() == -1

    def close(self) -> None:
        """At once; tasks that wait for it get trio.ClosedResourceError."""
        if not self.closed:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    # ------------------------------------------------------------------------------- receiving

    async def receive(self) -> list[Received]:
        """What has come; empty when there is only an error to look at. OSError when the socket is gone."""
        await trio.lowlevel.wait_readable(self._socket)
        found: list[Received] = []
        for _ in range(RECEIVES_PER_TURN):
            try:
                data, ancillary, _flags, address = self._socket.recvmsg(RECEIVE_BYTES, _GRO_SPACE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _ICMP_ERRNOS:
                    break
                raise
            self.receives += 1
            segment = len(data)
            for level, kind, value in ancillary:
                if (level, kind) == (socket.IPPROTO_UDP, _UDP_GRO):
                    segment = struct.unpack("i", value)[0]
            if segment:
                self.datagrams_in += -(-len(data) // segment)
                found.append(Received(data, segment, address))
        return found

    def undelivered(self) -> list[Undelivered]:
        """Datagrams that came back by ICMP since the last call."""
        found: list[Undelivered] = []
        while len(found) < BATCH:
            try:
                data, ancillary, _flags, address = self._socket.recvmsg(2048, _ERROR_SPACE, _MSG_ERRQUEUE)
            except OSError:
                break
            number = next((struct.unpack_from("I", value)[0] for _level, _kind, value in ancillary), 0)
            found.append(Undelivered(data, address, number))
        return found

    # ------------------------------------------------------------------------------- sending

    async def send(self, datagrams: Sequence[tuple[bytes, Address]]) -> None:
        """Sends in order, waiting for the kernel where it has no room; what cannot go out is lost."""
        at = 0
        while at < len(datagrams):
            run = self._run(datagrams, at)
            if self._try_send(datagrams, at, run):
                at += run
                continue
            async with self._sending:
                await trio.lowlevel.wait_writable(self._socket)

    def send_nowait(self, data: bytes, address: Address) -> None:
        """Sends one datagram, or loses it where the kernel has no room."""
        self._try_send([(data, address)], 0, 1)

    def _run(self, datagrams: Sequence[tuple[bytes, Address]], start: int) -> int:
        """How many from `start` may go together: one size but for a shorter last one, one address."""
        data, address = datagrams[start]
        size, total, end = len(data), len(data), start + 1
        if not self.segments:
            return 1
        for other, where in datagrams[end : start + BATCH]:
            total += len(other)
            if where != address or len(other) > size or total > MAX_BATCH_BYTES:
                break
            end += 1
            if len(other) < size:
                break
        return end - start

    def _try_send(self, datagrams: Sequence[tuple[bytes, Address]], start: int, run: int) -> bool:
        """False when the kernel has no room."""
        data, address = datagrams[start]
        try:
            if run == 1:
                self._socket.sendto(data, address)
            else:
                size = struct.pack("H", len(data))
                pieces = [piece for piece, _ in datagrams[start : start + run]]
                self._socket.sendmsg(pieces, [(socket.IPPROTO_UDP, _UDP_SEGMENT, size)], 0, address)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lost(error, datagrams[start : start + run])
        self.sends += 1
        self.datagrams_out += run
        return True

    def _lost(self, error: OSError, datagrams: Sequence[tuple[bytes, Address]]) -> None:
        """An old ICMP error is reported once and costs the datagram nothing; a device may refuse segments."""
        if error.errno not in _LOST_ERRNOS | {errno.EIO}:
            raise error
        if len(datagrams) > 1 and error.errno in {errno.EIO, errno.EINVAL}:
            logger.debug("the kernel does not take segments here: %s", error)
            self.segments = False
        if error.errno in _ICMP_ERRNOS or len(datagrams) > 1:
            for data, address in datagrams:
                try:
                    self._socket.sendto(data, address)
                except OSError as again:
                    logger.debug("a datagram to %s is lost: %s", address, again)
