"""One UDP socket and what goes over it: packets to their connections, newcomers to the door.

Nobody owns the reading: each connection, and whoever accepts, runs `pump`, and one of them at a time reads for all.
So the socket is read for as long as somebody needs it, and no task outlives the block that opened it.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections import Counter, OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from talos.errors import RemoteProtocolError
from talos.transport.quic.packet import (
    CID_BYTES,
    INITIAL,
    MIN_INITIAL_BYTES,
    VERSION,
    RetryTokens,
    Validated,
    read_header,
    retry_packet,
    version_negotiation,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from talos.transport.quic.config import QuicConfig
    from talos.transport.quic.packet import Header
    from talos.transport.quic.udp import Address, Received, UdpSocket

__all__ = ["Endpoint", "Newcomer"]

logger = logging.getLogger(__name__)

MAX_LINGERING = 1024
"""Closed connections whose farewell is kept."""
FAREWELLS = 8
"""How often one of them is repeated."""
PUNCH_BYTES = 64
PUNCH_SECONDS = (0.01, 0.2)
"""Between the packets that open a hole: random within this (libp2p dcutr)."""


class _Receiver(Protocol):
    cids: set[bytes]

    def receive(self, data: bytes, segment: int, address: Address) -> None: ...

    def not_delivered(self, reason: str) -> None: ...


class Newcomer:
    """A connection that somebody else opens: its first datagrams, and what their header says."""

    def __init__(
        self, endpoint: Endpoint, header: Header, address: Address, source: bytes, proven: Validated | None
    ) -> None:
        self.endpoint = endpoint
        self.address = address
        self.destination = header.destination
        self.source = source
        self.proven = proven
        self.cids: set[bytes] = set()
        self.datagrams: list[tuple[bytes, int]] = []
        self.counted = True

    def receive(self, data: bytes, segment: int, address: Address) -> None:
        """Keeps a few, until somebody opens it."""
        if address == self.address and len(self.datagrams) < self.endpoint.config.pending_datagrams:
            self.datagrams.append((data, segment))

    def not_delivered(self, _reason: str) -> None:
        """Nothing was sent yet."""


class Endpoint:
    """A socket that is open for as long as it is `used`."""

    def __init__(self, udp: UdpSocket, config: QuicConfig) -> None:
        self.udp = udp
        self.config = config
        self.address = udp.address
        self._routes: dict[bytes, _Receiver] = {}
        self._turn = trio.Lock()
        self._users = 0
        self._tokens = RetryTokens(secrets.token_bytes(32), seconds=config.token_seconds)
        self._half_open: Counter[str] = Counter()
        self._lingering: OrderedDict[bytes, tuple[bytes, float, int]] = OrderedDict()
        self.door: Callable[[Newcomer], bool] | None = None
        """Takes newcomers, or says no. None while nobody listens."""
        self.awaited: dict[str, Callable[[Newcomer], bool]] = {}
        """Hosts and ports from where a newcomer is for somebody else than the door: holes that are being punched."""

    # ------------------------------------------------------------------------------- whose it is

    def retain(self) -> None:
        """Somebody needs the socket."""
        self._users += 1

    def release(self) -> None:
        """Somebody does no more; the last one closes it."""
        self._users -= 1
        if not self._users:
            self.udp.close()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keeps the socket open for the block."""
        self.retain()
        try:
            yield
        finally:
            self.release()

    @property
    def closed(self) -> bool:
        return self.udp.closed

    @property
    def half_open(self) -> int:
        """Newcomers whose handshake is not done."""
        return self._half_open.total()

    # ------------------------------------------------------------------------------- routes

    def route(self, cid: bytes, receiver: _Receiver) -> None:
        """Packets to `cid` are for `receiver`."""
        self._routes[cid] = receiver
        receiver.cids.add(cid)

    def forget(self, cid: bytes, receiver: _Receiver) -> None:
        """They are no more."""
        receiver.cids.discard(cid)
        if self._routes.get(cid) is receiver:
            del self._routes[cid]

    def forget_all(self, receiver: _Receiver) -> None:
        """The connection is over."""
        for cid in tuple(receiver.cids):
            self.forget(cid, receiver)

    def linger(self, receiver: _Receiver, farewell: bytes, now: float) -> None:
        """Answers what still comes for a closed connection with `farewell`, a few times."""
        for cid in receiver.cids:
            self._lingering[cid] = (farewell, now + self.config.linger_seconds, FAREWELLS)
        while len(self._lingering) > MAX_LINGERING:
            self._lingering.popitem(last=False)

    # ------------------------------------------------------------------------------- sending, receiving

    async def send(self, datagrams: Sequence[tuple[bytes, Address]]) -> None:
        """As `UdpSocket.send`."""
        await self.udp.send(datagrams)

    async def pump(self) -> None:
        """Reads for all, or waits for its turn to. OSError, ClosedResourceError: the socket is gone."""
        async with self._turn:
            while True:
                received = await self.udp.receive()
                for one in received:
                    self._dispatch(one)
                if not received:
                    self._look_at_errors()
                await trio.lowlevel.checkpoint()

    def _dispatch(self, received: Received) -> None:
        data, segment = received.data, received.segment
        if len(data) <= segment:
            self._deliver(data, len(data), received.address)
            return
        # Datagrams of several connections with one peer may come together.
        start = 0
        first = _destination(data, 0)
        for at in range(segment, len(data), segment):
            cid = _destination(data, at)
            if cid != first:
                self._deliver(data[start:at], segment, received.address)
                start, first = at, cid
        self._deliver(data[start:] if start else data, segment, received.address)

    def _deliver(self, data: bytes, segment: int, address: Address) -> None:
        cid = _destination(data, 0)
        receiver = self._routes.get(cid) if cid else None
        if receiver is not None:
            receiver.receive(data, segment, address)
        elif data[0] & 0x80:
            self._meet(data[:segment], address)
            newcomer = self._routes.get(cid)
            if newcomer is not None and len(data) > segment:  # a hello of several packets
                newcomer.receive(data[segment:], segment, address)
        else:
            self._answer_late(cid, address)

    def _answer_late(self, cid: bytes, address: Address) -> None:
        entry = self._lingering.get(cid)
        if entry is None:
            return
        farewell, until, left = entry
        if left and trio.current_time() < until:
            self._lingering[cid] = (farewell, until, left - 1)
            self.udp.send_nowait(farewell, address)
        else:
            del self._lingering[cid]

    def _look_at_errors(self) -> None:
        """ICMP: believed only for a packet that carries a connection id which nobody else knows."""
        for returned in self.udp.undelivered():
            cid = _source(returned.data)
            receiver = self._routes.get(cid) if cid else None
            if receiver is not None:
                receiver.not_delivered(os.strerror(returned.errno).lower())

    # ------------------------------------------------------------------------------- newcomers

    def _meet(self, datagram: bytes, address: Address) -> None:
        """A long header of nobody's: a newcomer's Initial, or nothing. Never answers with more than it got."""
        awaited = self.awaited.get(place_of(address))
        door = awaited or self.door
        if door is None or len(datagram) < MIN_INITIAL_BYTES:
            return
        try:
            header = read_header(datagram)
        except RemoteProtocolError:
            return
        if header is None or not header.version:
            return
        if header.version != VERSION:
            self.udp.send_nowait(version_negotiation(header, secrets.randbits(7)), address)
        elif header.kind == INITIAL and len(header.destination) >= CID_BYTES:
            self._admit(datagram, header, address, door)

    def _admit(self, datagram: bytes, header: Header, address: Address, door: Callable[[Newcomer], bool]) -> None:
        config, now, place = self.config, trio.current_time(), place_of(address)
        proven = None
        if header.token:
            proven = self._tokens.check(header.token, place, header.destination, now)
        block = block_of(address)
        if self.half_open >= config.max_half_open or self._half_open[block] >= config.half_open_per_ip:
            logger.debug("too many handshakes under way, %s is not answered", block)
            return
        source = secrets.token_bytes(CID_BYTES)
        if proven is None and self.half_open >= config.retry_above:
            token = self._tokens.make(place, header.destination, source, now)
            self.udp.send_nowait(retry_packet(header, source, token), address)
            return
        newcomer = Newcomer(self, header, address, source, proven)
        newcomer.receive(datagram, len(datagram), address)
        self._half_open[block] += 1
        self.route(header.destination, newcomer)
        if not door(newcomer):
            self.done_with(newcomer)

    def done_with(self, newcomer: Newcomer) -> None:
        """Its handshake is over, one way or the other."""
        self.forget_all(newcomer)
        if newcomer.counted:
            newcomer.counted = False
            block = block_of(newcomer.address)
            self._half_open[block] -= 1
            if not self._half_open[block]:
                del self._half_open[block]


def place_of(address: Address) -> str:
    """Host and port, as a key."""
    return f"{address[0]}|{address[1]}"


def block_of(address: Address) -> str:
    """What counts as one sender: an IPv4 address, or a /64 of IPv6."""
    host: str = address[0]
    if ":" not in host:
        return host
    import ipaddress

    return str(ipaddress.IPv6Network((host.partition("%")[0], 64), strict=False).network_address)


def _destination(data: bytes, at: int) -> bytes:
    """The connection id that a packet goes to; empty when it is cut."""
    if data[at] & 0x80:
        size = data[at + 5] if at + 5 < len(data) else 0
        return data[at + 6 : at + 6 + size]
    return data[at + 1 : at + 1 + CID_BYTES]


def _source(data: bytes) -> bytes:
    """The connection id that a long header of ours came from."""
    if len(data) < 7 or not data[0] & 0x80:
        return b""
    at = 6 + data[5]
    return data[at + 1 : at + 1 + data[at]] if at < len(data) else b""
