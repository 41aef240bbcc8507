"""Dialling: one dial per peer that all callers share, its addresses in the order and at the pace of `DialMachine`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import trio
from multiaddr import Multiaddr

from talos.abc import GateStep
from talos.addr import host_port, ip_of, is_public, is_relayed, names_of, parse, split_peer
from talos.errors import DialError, HandshakeError, LimitExceeded, NegotiationError, PeerIdMismatch, TalosError
from talos.host import gate as gates
from talos.host.contain import Owner, contain
from talos.host.dial_machine import AddressGroup, Backoff, DialMachine, Rank, Stagger, plan
from talos.host.trace import Trace
from talos.transport.resolve import Resolver, ResolverConfig, needs_resolving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable
    from random import Random

    from talos.abc import Connection, Gate, PeerRouting, Role, Transport
    from talos.host.config import NodeConfig
    from talos.host.connection import HostConnection
    from talos.host.events import EventBus
    from talos.host.limits import ConnectionScope, Limits
    from talos.host.peerstore import MemoryPeerstore
    from talos.identity.peer_id import PeerId

__all__ = ["Dialer", "Wanted", "rank"]

WRONG_PEER_SECONDS = 3600.0
_ALL_AT_ONCE = Stagger(private_seconds=0.0, public_seconds=0.0, relayed_seconds=0.0)
"""Both sides of a hole dial at the same moment."""

Wanted: TypeAlias = "Callable[[HostConnection], bool]"
"""Takes a new connection, or says that nobody waits for it any more."""


def rank(addr: Multiaddr) -> Rank:
    """The place of an address among those of its peer."""
    names = names_of(addr)
    if is_relayed(addr):
        return Rank(AddressGroup.RELAYED)
    group = AddressGroup.PUBLIC if is_public(addr) else AddressGroup.PRIVATE
    ip = ip_of(addr)
    port = host_port(addr)[1] if ip is not None and ("tcp" in names or "udp" in names) else 0
    return Rank(group, ipv6=ip is not None and ip.version == 6, quic="quic-v1" in names, port=port)


@dataclass(slots=True, eq=False)
class _Attempt:
    """One address being tried; its scope is the connection's once it stands."""

    addr: Multiaddr
    transport: Transport
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class _Dial:
    """One dial: who waits for it, what was tried, and how it ended."""

    def __init__(self, peer: PeerId | None, punch: Role | None, *, direct: bool = False) -> None:
        self.peer = peer
        self.punch = punch
        self.direct = direct or punch is not None
        """No relay is asked: there is a relayed connection already."""
        self.scope = trio.CancelScope()
        self.over = trio.Event()
        self.waiters = 0
        self.connection: HostConnection | None = None
        self.reason = ""
        self.causes: dict[object, BaseException] = {}
        self.attempts: dict[Multiaddr, _Attempt] = {}
        self.moved = trio.Event()
        self.routing: trio.CancelScope | None = None
        """While peer routing is asked; `told` are addresses that somebody brought meanwhile."""
        self.told: tuple[Multiaddr, ...] = ()
        self.asked = False
        """Whether peer routing was asked; once is enough."""

    def tell(self, addrs: tuple[Multiaddr, ...]) -> None:
        """Another caller knows addresses: routing need not be waited for, which may itself be waiting for this dial.

        DialError for one who knows no other than those that have failed: what he asks for may be what is waited for.
        """
        if not addrs or self.routing is None:
            return
        if self.causes.keys() >= {split_peer(addr)[0] for addr in addrs}:
            raise self.error()
        self.told += addrs
        self.routing.cancel()

    def error(self) -> DialError:
        """A new one for each who waited."""
        whom = "" if self.peer is None else f" {self.peer}"
        return DialError(f"cannot dial{whom}{self.reason}", self.causes)

    async def join(self) -> HostConnection:
        """Waits for the end; when nobody waits any more, the dial is given up."""
        self.waiters += 1
        try:
            await self.over.wait()
        finally:
            self.waiters -= 1
            if not self.waiters:
                self.scope.cancel()
        if self.connection is None:
            raise self.error()
        return self.connection

    def finish(self) -> None:
        """Ends what is still being tried and wakes all."""
        for attempt in self.attempts.values():
            attempt.scope.cancel()
        self.attempts.clear()
        self.over.set()
        self.moved.set()


class Dialer:
    """Dials peers for one node.

    Bounds: `DialLimits`. A failed address of a peer rests for a while (`Backoff`); success forgets it.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        local_peer: PeerId,
        limits: Limits,
        gate: Gate | None,
        bus: EventBus,
        peerstore: MemoryPeerstore,
        random: Random,
        nursery: trio.Nursery,
        transport_for: Callable[[Multiaddr], Transport | None],
        own_addrs: Callable[[], Collection[Multiaddr]],
        routings: Collection[PeerRouting],
        run_connection: Callable[[Connection, ConnectionScope, Wanted], Awaitable[None]],
    ) -> None:
        self._timeouts = config.timeouts
        self._stagger = config.stagger
        self._bounds = config.limits.dialing
        self._local_peer = local_peer
        self._limits = limits
        self._gate = gate
        self._bus = bus
        self._peerstore = peerstore
        self._nursery = nursery
        self._transport_for = transport_for
        self._own_addrs = own_addrs
        self._routings = routings
        self._run_connection = run_connection
        self._resolver = Resolver(
            ResolverConfig(
                threads=self._bounds.resolver_threads,
                max_results=self._bounds.results,
                max_names=self._bounds.names,
                max_depth=self._bounds.dnsaddr_depth,
            )
        )
        self._backoff: Backoff[tuple[PeerId, Multiaddr]] = Backoff(random)
        self._slots = trio.Semaphore(self._bounds.parallel)
        self._dials: dict[tuple[PeerId, Role | None], _Dial] = {}
        self._under_way: set[_Dial] = set()

    async def dial(
        self, peer: PeerId | None, addrs: Iterable[Multiaddr], punch: Role | None, *, direct: bool = False
    ) -> HostConnection:
        """A new connection, or the one that a dial under way brings; `direct` asks no relay.

        DialError, LimitExceeded when too many dials wait, RefusedByGate.
        """
        addrs = tuple(addrs)
        if peer is None:
            return await self._start(peer, addrs, punch).join()
        if peer == self._local_peer:
            raise DialError(f"{peer} is this node itself")
        if self._gate is not None:
            gates.check(self._gate, GateStep.DIAL_PEER, peer, parse(f"/p2p/{peer}"), self._bus.emit)
        dial = self._dials.get((peer, punch))
        if dial is not None:
            dial.tell(addrs)
            try:
                return await dial.join()
            except DialError:
                if dial.causes.keys() >= {split_peer(addr)[0] for addr in addrs}:
                    raise
            # The others knew fewer addresses than this caller.
            dial = self._dials.get((peer, punch))
        return await (dial or self._start(peer, addrs, punch, direct=direct)).join()

    def _start(
        self, peer: PeerId | None, addrs: tuple[Multiaddr, ...], punch: Role | None, *, direct: bool = False
    ) -> _Dial:
        bound = self._bounds.parallel + self._bounds.queued
        if len(self._under_way) >= bound:
            raise LimitExceeded(f"limit of {bound} dials under way reached", limit=bound, scope="dialer", kind="dials")
        dial = _Dial(peer, punch, direct=direct)
        if peer is not None:
            self._dials[peer, punch] = dial
        self._under_way.add(dial)
        self._nursery.start_soon(self._conduct, dial, addrs)
        return dial

    async def _conduct(self, dial: _Dial, addrs: tuple[Multiaddr, ...]) -> None:
        try:
            await contain(Owner("dialer", self._bus.emit, dial.peer), self._run, dial, addrs)
        finally:
            self._forget(dial)
            dial.finish()

    def _forget(self, dial: _Dial) -> None:
        self._under_way.discard(dial)
        if dial.peer is not None and self._dials.get((dial.peer, dial.punch)) is dial:
            del self._dials[dial.peer, dial.punch]

    async def _run(self, dial: _Dial, addrs: tuple[Multiaddr, ...]) -> None:
        dial.scope.deadline = trio.current_time() + self._timeouts.dial
        try:
            with dial.scope, Trace("dial", self._bus.tell, peer=dial.peer):
                await self._race(dial, await self._candidates(dial, addrs))
                if dial.connection is None and not addrs:
                    await self._race(dial, await self._elsewhere(dial))
                if dial.connection is None:
                    raise dial.error()
        except DialError:
            return  # the trace has told; those who wait get one of their own
        if dial.scope.cancelled_caught and dial.waiters:
            dial.reason = f": not done within {self._timeouts.dial:g} s"
            for attempt in dial.attempts.values():
                self._record(dial, attempt.addr, DialError("not done in time"))

    # -- which addresses

    async def _candidates(self, dial: _Dial, addrs: tuple[Multiaddr, ...]) -> list[Multiaddr]:
        """All that may be tried now, in no order; why the others may not is in `dial.causes`."""
        peer = dial.peer
        if peer is not None and dial.punch is None:
            known = (*addrs, *self._peerstore.addrs(peer))
            addrs = known or await self._routed(dial, peer)
        return await self._usable(dial, addrs)

    async def _elsewhere(self, dial: _Dial) -> list[Multiaddr]:
        """Where peer routing finds a peer that is no longer where it was; nothing new for a caller who said where.

        So who asks on behalf of routing, and names addresses, never waits for routing.
        """
        if dial.peer is None or dial.asked or not self._routings:
            return []
        routed = await self._routed(dial, dial.peer)
        return await self._usable(dial, (addr for addr in routed if split_peer(addr)[0] not in dial.causes))

    async def _usable(self, dial: _Dial, addrs: Iterable[Multiaddr]) -> list[Multiaddr]:
        usable: dict[Multiaddr, None] = {}
        names = 0
        for addr in dict.fromkeys(addrs):
            if not needs_resolving(addr):
                self._consider(dial, addr, usable)
            elif names < self._bounds.names:
                names += 1
                await self._resolve(dial, addr, usable)
        return list(usable)

    async def _routed(self, dial: _Dial, peer: PeerId) -> tuple[Multiaddr, ...]:
        found: tuple[Multiaddr, ...] = ()
        dial.asked = True
        with trio.CancelScope() as dial.routing:
            found = await self._ask_routing(dial, peer)
        dial.routing = None
        return dial.told or found

    async def _ask_routing(self, dial: _Dial, peer: PeerId) -> tuple[Multiaddr, ...]:
        for routing in tuple(self._routings):
            try:
                if found := await routing.find_peer(peer):
                    return tuple(found)
            except TalosError as error:
                dial.causes[type(routing).__name__] = error
        if not any(isinstance(cause, Multiaddr) for cause in dial.causes):
            dial.reason = ": no address is known"
        return ()

    async def _resolve(self, dial: _Dial, addr: Multiaddr, usable: dict[Multiaddr, None]) -> None:
        try:
            for resolved in await self._resolver.resolve(addr):
                self._consider(dial, resolved, usable)
        except TalosError as error:
            dial.causes[addr] = error

    def _consider(self, dial: _Dial, addr: Multiaddr, usable: dict[Multiaddr, None]) -> None:
        """Files `addr` under what is usable or under why it is not."""
        bare, named = split_peer(addr)
        try:
            self._check(dial, bare, named)
        except TalosError as error:
            dial.causes[bare] = error
        else:
            usable[bare] = None

    def _check(self, dial: _Dial, addr: Multiaddr, named: PeerId | None) -> None:
        peer = dial.peer
        if peer is not None:
            if named is not None and named != peer:
                raise PeerIdMismatch(peer, named)
            seconds = self._backoff.remaining((peer, addr), trio.current_time())
            if seconds and dial.punch is None:  # a hole is punched by trying again
                raise DialError(f"backoff for another {seconds:.1f} s")
        if addr in self._own_addrs():
            raise DialError("an address of this node itself")
        if dial.direct and is_relayed(addr):
            raise DialError("not through a relay, where there is a relayed connection")
        if self._transport_for(addr) is None:
            raise DialError("no transport for such an address")
        gates.check(self._gate, GateStep.DIAL_ADDR, peer, addr, self._bus.emit)

    # -- the race

    async def _race(self, dial: _Dial, addrs: list[Multiaddr]) -> None:
        stagger = self._stagger if dial.punch is None else _ALL_AT_ONCE
        planned = plan(addrs, rank, stagger)[: self._bounds.addrs]
        machine = DialMachine(planned, max_parallel=self._bounds.per_peer, now=trio.current_time())
        while True:
            for addr in machine.deadline_passed(trio.current_time()):
                self._launch(dial, machine, addr)
            if dial.connection is not None or machine.exhausted:
                return
            deadline = machine.next_deadline()
            dial.moved = trio.Event()
            with trio.CancelScope(deadline=math.inf if deadline is None else deadline):
                await dial.moved.wait()

    def _launch(self, dial: _Dial, machine: DialMachine[Multiaddr], addr: Multiaddr) -> None:
        transport = self._transport_for(addr)
        if transport is None:  # it left the node while names were resolved
            self._failed(dial, machine, addr, DialError("no transport for such an address"))
            return
        attempt = dial.attempts[addr] = _Attempt(addr, transport)
        self._nursery.start_soon(self._attempt, dial, machine, attempt)

    def _failed(self, dial: _Dial, machine: DialMachine[Multiaddr], addr: Multiaddr, error: BaseException) -> None:
        if dial.over.is_set():
            return
        dial.attempts.pop(addr, None)
        self._record(dial, addr, error)
        for start in machine.failed(addr, trio.current_time()):
            self._launch(dial, machine, start)
        dial.moved.set()

    def _record(self, dial: _Dial, addr: Multiaddr, error: BaseException) -> None:
        """Why `addr` failed. What the network or the peer did makes it rest."""
        dial.causes[addr] = error
        peer, now = dial.peer, trio.current_time()
        if peer is None or dial.punch is not None:
            return
        if isinstance(error, PeerIdMismatch):
            self._backoff.banish((peer, addr), now + WRONG_PEER_SECONDS)
            self._peerstore.wrong_peer(peer, addr, now)
        elif isinstance(error, DialError | HandshakeError | NegotiationError):
            self._backoff.failed((peer, addr), now)

    async def _attempt(self, dial: _Dial, machine: DialMachine[Multiaddr], attempt: _Attempt) -> None:
        with attempt.scope:
            owner = Owner("connection", self._bus.emit, dial.peer)
            await contain(owner, self._connect, dial, machine, attempt)
        # Evicted, or broken in a way that is contained: the others go on.
        if attempt.addr in dial.attempts and dial.connection is None:
            self._failed(dial, machine, attempt.addr, LimitExceeded("gave way to another connection"))

    async def _connect(self, dial: _Dial, machine: DialMachine[Multiaddr], attempt: _Attempt) -> None:
        """Tries one address; when it wins, this task is the connection's from then on."""
        stands = False

        def wanted(connection: HostConnection) -> bool:
            nonlocal stands
            if dial.over.is_set() or dial.connection is not None:
                return False
            stands = True
            self._won(dial, machine, attempt, connection)
            return True

        await self._slots.acquire()
        waiting = True
        try:
            with self._limits.outbound(attempt.addr, attempt.scope.cancel) as scope:
                opening = attempt.transport.dial(attempt.addr, dial.peer, budget=scope, punch=dial.punch)
                async with opening as connection:
                    self._slots.release()
                    waiting = False
                    await self._run_connection(connection, scope, wanted)
        except TalosError as error:
            if stands:
                raise
            self._failed(dial, machine, attempt.addr, error)
        finally:
            if waiting:
                self._slots.release()

    def _won(self, dial: _Dial, machine: DialMachine[Multiaddr], attempt: _Attempt, connection: HostConnection) -> None:
        dial.connection = connection
        machine.succeeded(attempt.addr)
        del dial.attempts[attempt.addr]
        if dial.peer is not None:
            self._backoff.succeeded((dial.peer, attempt.addr))
        self._forget(dial)
        dial.finish()
