"""QUIC v1 as a whole transport: `/ip4/…/udp/…/quic-v1`, with security and streams of its own."""

from __future__ import annotations

import secrets
import socket
from collections import deque
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio
from multiaddr import Multiaddr

from talos.abc import Role, Transport
from talos.addr import names_of
from talos.errors import DialError, ListenError, NotSupported
from talos.identity.certificate import IdentityCertificate
from talos.identity.peer_id import PeerId
from talos.muxed.budget import BudgetLedger
from talos.transport.quic.config import QuicConfig
from talos.transport.quic.endpoint import PUNCH_BYTES, PUNCH_SECONDS, Endpoint, Newcomer, place_of
from talos.transport.quic.packet import CID_BYTES
from talos.transport.quic.udp import UdpSocket
from talos.transport.resolve import Resolver, needs_resolving
from talos.transport.sockets import ip_and_port, ip_component, os_errors_as

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from talos.abc import Budget, Connection
    from talos.identity.keys import PrivateKey
    from talos.transport.quic.connection import QuicConnection
    from talos.transport.quic.machine import QuicMachine
    from talos.transport.quic.udp import Address

__all__ = ["Quic"]

_SHAPES = frozenset(
    (*host, "udp", "quic-v1") for host in (("ip4",), ("ip6",), ("ip6zone", "ip6"), ("dns",), ("dns4",), ("dns6",))
)


class Quic(Transport):
    """Dials and listens on UDP ports. One instance belongs to one node, whose `key` it proves.

    Dials go out from a socket that is listened on where there is one in the address family, so that peers see the
    port that they can dial. NotSupported when the extra `talos[quic]` is not installed, or when the libraries that
    came do not ask dialers for a certificate any more, which is tried here.
    """

    def __init__(self, key: PrivateKey, config: QuicConfig | None = None, resolver: Resolver | None = None) -> None:
        try:
            from talos.transport.quic import connection, handshake, machine, proof
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] not in {"aioquic", "qh3"}:
                raise
            raise NotSupported("QUIC needs aioquic and qh3: install talos[quic]") from error
        self.config = config or QuicConfig()
        self.local_peer = PeerId.from_key(key.public_key)
        self._resolver = resolver or Resolver()
        self._credentials = handshake.Credentials.of(IdentityCertificate.make(key, now=datetime.now(UTC)))
        self._machine = machine.QuicMachine
        self._connection = connection.QuicConnection
        self._run = connection.open_connection
        self._endpoints: list[Endpoint] = []
        self._listeners: dict[Endpoint, _Listener] = {}
        proof.prove(self._credentials)

    def matches(self, addr: Multiaddr) -> bool:
        """Whether it is an IP address or a name, with a UDP port and QUIC v1, and nothing behind."""
        return names_of(addr) in _SHAPES

    # ------------------------------------------------------------------------------- dialling

    @asynccontextmanager
    async def dial(
        self, addr: Multiaddr, peer: PeerId | None, *, budget: Budget | None = None, punch: Role | None = None
    ) -> AsyncIterator[Connection]:
        """As `Transport.dial`. Punching as listener sends packets until the other side's come, which then dials us."""
        resolved = await self._resolver.resolve(addr) if needs_resolving(addr) else (addr,)
        causes: dict[object, BaseException] = {}
        for one in resolved:
            stands = False
            try:
                async with self._connection_to(one, peer, budget, punch) as connection:
                    stands = True
                    yield connection
            except DialError as error:
                if stands or len(resolved) == 1:
                    raise
                causes[one] = error
            if stands:
                return
        raise DialError(f"no address of {addr} answers", causes)

    def _connection_to(
        self, addr: Multiaddr, peer: PeerId | None, budget: Budget | None, punch: Role | None
    ) -> AbstractAsyncContextManager[Connection]:
        if punch is Role.LISTENER:
            return self._punched(addr, peer, budget)
        return self._dialled(addr, peer, budget, listening_only=punch is not None)

    @asynccontextmanager
    async def _dialled(
        self, addr: Multiaddr, peer: PeerId | None, budget: Budget | None, *, listening_only: bool
    ) -> AsyncIterator[Connection]:
        await trio.lowlevel.checkpoint()
        with os_errors_as(DialError, addr):
            family, remote = _ip_and_port(addr)
            endpoint = self._endpoint_to(family, remote, listening_only=listening_only)
        with endpoint.used():
            ledger = BudgetLedger(budget) if budget is not None else None
            source = secrets.token_bytes(CID_BYTES)
            machine = self._machine(
                self.config,
                self._credentials,
                dialer=True,
                remote=remote,
                source=source,
                destination=secrets.token_bytes(CID_BYTES),
                now=trio.current_time(),
                wall_clock=datetime.now(UTC),
                expected=peer,
                ledger=ledger,
            )
            connection = self._connected(machine, endpoint, Role.DIALER, addr)
            endpoint.route(source, connection)
            async with self._run(connection, budget, ledger):
                yield connection

    @asynccontextmanager
    async def _punched(self, addr: Multiaddr, peer: PeerId | None, budget: Budget | None) -> AsyncIterator[Connection]:
        with os_errors_as(DialError, addr):
            family, remote = _ip_and_port(addr)
            endpoint = self._endpoint_to(family, remote, listening_only=True)
        with endpoint.used():
            newcomer = await self._opened_hole(endpoint, remote, addr)
            async with _Inbound(self, endpoint, newcomer).open(budget) as connection:
                if peer is not None and connection.remote_peer != peer:
                    from talos.errors import PeerIdMismatch

                    raise PeerIdMismatch(peer, connection.remote_peer)
                yield connection

    async def _opened_hole(self, endpoint: Endpoint, remote: Address, addr: Multiaddr) -> Newcomer:
        """Sends packets to `remote` until a newcomer arrives from there."""
        place = place_of(remote)
        if place in endpoint.awaited:
            raise DialError(f"{addr}: a hole to there is being punched already")
        came: list[Newcomer] = []
        arrival = trio.Event()

        def take(newcomer: Newcomer) -> bool:
            if came:
                return False
            came.append(newcomer)
            arrival.set()
            return True

        endpoint.awaited[place] = take
        try:
            with trio.move_on_after(self.config.punch_seconds):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(endpoint.pump)
                    nursery.start_soon(_knock, endpoint, remote)
                    await arrival.wait()
                    nursery.cancel_scope.cancel()
        finally:
            del endpoint.awaited[place]
        if not came:
            raise DialError(f"{addr}: nothing came through within {self.config.punch_seconds:g} s")
        return came[0]

    def _endpoint_to(self, family: socket.AddressFamily, remote: Address, *, listening_only: bool) -> Endpoint:
        """A socket that reaches `remote`: one that is listened on, one that is open, a new one."""
        self._endpoints = [endpoint for endpoint in self._endpoints if not endpoint.closed]
        fitting = [each for each in self._endpoints if each.udp.family is family and _reaches(each.address, remote)]
        for endpoint in fitting:
            if endpoint.door is not None:
                return endpoint
        if listening_only:
            raise DialError(f"no port is listened on to punch from, to {remote[0]} port {remote[1]}")
        return fitting[0] if fitting else self._opened(family, ("::" if family is socket.AF_INET6 else "0.0.0.0", 0))  # noqa: S104 - to dial from

    def _opened(self, family: socket.AddressFamily, bind: Address) -> Endpoint:
        endpoint = Endpoint(UdpSocket(family, bind, self.config), self.config)
        self._endpoints.append(endpoint)
        return endpoint

    def _connected(
        self, machine: QuicMachine, endpoint: Endpoint, role: Role, remote_addr: Multiaddr
    ) -> QuicConnection:
        return self._connection(
            machine,
            endpoint,
            self.config,
            role=role,
            local_peer=self.local_peer,
            local_addr=quic_addr(endpoint.address),
            remote_addr=remote_addr,
        )

    # ------------------------------------------------------------------------------- listening

    async def listen(self, addr: Multiaddr) -> _Listener:
        """As `Transport.listen`; port 0 takes a free one. An IPv6 listener takes no IPv4 connections."""
        await trio.lowlevel.checkpoint()
        with os_errors_as(ListenError, addr):
            family, bind = _ip_and_port(addr)
            endpoint = self._left_open(family, bind) or self._opened(family, bind)
        listener = _Listener(self, endpoint)
        endpoint.retain()
        endpoint.door = listener.admit
        return listener

    def _left_open(self, family: socket.AddressFamily, bind: Address) -> Endpoint | None:
        """The socket of a listener that was closed while connections went on."""
        for endpoint in self._endpoints:
            same = endpoint.udp.family is family and endpoint.address[:2] == bind[:2]
            if not endpoint.closed and same and endpoint.door is None:
                return endpoint
        return None

    @asynccontextmanager
    async def accepted(
        self, endpoint: Endpoint, newcomer: Newcomer, budget: Budget | None
    ) -> AsyncIterator[Connection]:
        """The connection of a newcomer; entering runs the handshake."""
        with endpoint.used():
            ledger = BudgetLedger(budget) if budget is not None else None
            machine = self.answering(newcomer, ledger)
            connection = self._connected(machine, endpoint, Role.LISTENER, quic_addr(newcomer.address))
            endpoint.route(newcomer.source, connection)
            endpoint.route(newcomer.destination, connection)
            try:
                for data, segment in newcomer.datagrams:
                    connection.receive(data, segment, newcomer.address)
                async with self._run(connection, budget, ledger):
                    endpoint.done_with(newcomer)
                    yield connection
            finally:
                endpoint.done_with(newcomer)

    def answering(self, newcomer: Newcomer, ledger: BudgetLedger | None) -> QuicMachine:
        """The machine of a newcomer's connection."""
        return self._machine(
            self.config,
            self._credentials,
            dialer=False,
            remote=newcomer.address,
            source=newcomer.source,
            destination=newcomer.destination,
            now=trio.current_time(),
            wall_clock=datetime.now(UTC),
            retry=newcomer.proven,
            ledger=ledger,
        )


class _Listener:
    """A `Listener` on an endpoint, which stays open while connections go on."""

    def __init__(self, transport: Quic, endpoint: Endpoint) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._queue: deque[Newcomer] = deque()
        self._waiting = trio.CancelScope()
        """Of whoever accepts; left when somebody comes."""
        self._closed = False
        self.addr = quic_addr(endpoint.address)

    def admit(self, newcomer: Newcomer) -> bool:
        """Whether there is a place for it."""
        if len(self._queue) >= self._transport.config.backlog:
            return False
        self._queue.append(newcomer)
        self._waiting.cancel()
        return True

    async def accept(self) -> _Inbound:
        """The next one. Cancelling it loses no connection. OSError when the socket is gone."""
        await trio.lowlevel.checkpoint()
        while not self._queue:
            self._raise_if_closed()
            try:
                with trio.CancelScope() as self._waiting:
                    await self._endpoint.pump()
            except trio.ClosedResourceError:
                self._closed = True
        self._raise_if_closed()
        return _Inbound(self._transport, self._endpoint, self._queue.popleft())

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError(f"{self.addr} is closed")

    async def aclose(self) -> None:
        """Stops listening; open connections live on."""
        if not self._closed:
            self._closed = True
            self._endpoint.door = None
            while self._queue:
                self._endpoint.done_with(self._queue.popleft())
            self._waiting.cancel()
            self._endpoint.release()
        await trio.lowlevel.checkpoint()


class _Inbound:
    """An `Inbound` of which only headers were read."""

    def __init__(self, transport: Quic, endpoint: Endpoint, newcomer: Newcomer) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._newcomer = newcomer
        self.remote_addr = quic_addr(newcomer.address)

    def open(self, budget: Budget | None = None) -> AbstractAsyncContextManager[Connection]:
        return self._transport.accepted(self._endpoint, self._newcomer, budget)

    def refuse(self) -> None:
        """Says no, in one datagram."""
        newcomer, now = self._newcomer, trio.current_time()
        self._endpoint.done_with(newcomer)
        machine = self._transport.answering(newcomer, None)
        machine.turn_away(newcomer.datagrams[0][0], newcomer.address, now)
        for data, address in machine.datagrams_to_send(now, 1):
            self._endpoint.udp.send_nowait(data, address)


async def _knock(endpoint: Endpoint, remote: Address) -> None:
    """Packets that mean nothing, so that the way back is open."""
    shortest, longest = PUNCH_SECONDS
    while True:
        endpoint.udp.send_nowait(bytes((0x40,)) + secrets.token_bytes(PUNCH_BYTES), remote)
        await trio.sleep(shortest + (longest - shortest) * secrets.randbelow(1000) / 1000)


def _ip_and_port(addr: Multiaddr) -> tuple[socket.AddressFamily, Address]:
    return ip_and_port(addr)


def _reaches(bound: Address, remote: Address) -> bool:
    """Whether packets from a socket bound there get to `remote`."""
    ours, theirs = ip_address(bound[0].partition("%")[0]), ip_address(remote[0].partition("%")[0])
    return ours.is_unspecified or ours.is_loopback == theirs.is_loopback


def quic_addr(address: Address) -> Multiaddr:
    """The multiaddr of a UDP address."""
    scope = address[3] if len(address) == 4 else 0
    return ip_component(address[0], scope).encapsulate(Multiaddr(f"/udp/{address[1]}/quic-v1"))
