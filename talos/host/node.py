"""A running node: transports, connections and handlers, for the length of a block."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from random import SystemRandom
from typing import TYPE_CHECKING, TypeVar

import trio

from talos.abc import (
    AddressesChanged,
    ByteTransport,
    GateStep,
    Handler,
    PeerConnected,
    PeerDisconnected,
    ProtocolsChanged,
    Role,
    ServiceFault,
    Transport,
)
from talos.addr import is_relayed, split_peer, with_peer
from talos.errors import ConfigError, ConnectionCode, DialError, ListenError, LocalProtocolError, RefusedByGate
from talos.host import gate as gates
from talos.host import log
from talos.host.block import background
from talos.host.config import NodeConfig
from talos.host.connection import HostConnection
from talos.host.contain import Owner, contain
from talos.host.dialer import Dialer
from talos.host.events import EventBus
from talos.host.limits import Limits
from talos.host.listener import ListenerTask, reachable_addrs
from talos.host.peerstore import MemoryPeerstore
from talos.host.routes import Routes
from talos.host.trimmer import Trimmer
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.upgrade import Upgrade, UpgradeConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from multiaddr import Multiaddr

    from talos.abc import Connection, Event, PeerRouting, ProtocolId, Stream
    from talos.host.dialer import Wanted
    from talos.host.limits import ConnectionScope

__all__ = ["Node", "open_node"]

_log = logging.getLogger(__name__)

H = TypeVar("H", bound=Handler)


@asynccontextmanager
async def open_node(config: NodeConfig | None = None) -> AsyncIterator[Node]:
    """A node for the length of the block; it listens when the block is entered.

    ConfigError, NotSupported, or ListenError when none of the addresses to listen on can be had. Leaving says
    good-bye to all peers, which takes no longer than `timeouts.flush` and what muxers need to close: at most 5 s.
    What the block raises comes out as it is, a Ctrl-C alone.
    """
    config = config or NodeConfig()
    log.install(config.limits.log_rate)
    async with background() as nursery:
        node = Node(config, nursery)
        try:
            await node._open()  # noqa: SLF001 - its own module
            yield node
        finally:
            await node._close()  # noqa: SLF001 - its own module


class Node:
    """`abc.Host`, made by `open_node`. All methods are for the tasks of one event loop."""

    def __init__(self, config: NodeConfig, nursery: trio.Nursery) -> None:
        self.config = config
        self.key = config.key or PrivateKey.generate()
        self.peer_id = PeerId.from_key(self.key.public_key)
        self.peerstore = MemoryPeerstore(config.limits.peerstore)
        self._nursery = nursery
        self._bus = EventBus(config.limits.event_queue)
        self._gate = gates.join(*config.gates) if config.gates else None
        self.limits = Limits(config.limits, gate=self._gate, emit=self._bus.emit)
        self._transports = [
            self._as_transport(part if isinstance(part, ByteTransport | Transport) else part(self.key))
            for part in config.stack.transports
        ]
        self._routings: list[PeerRouting] = []
        self._routes = Routes(self._routes_changed)
        for routes in config.routes:
            self._routes.include(routes)
        self._connections: dict[PeerId, list[HostConnection]] = {}
        self._listeners: list[ListenerTask] = []
        self._addrs: tuple[Multiaddr, ...] = ()
        self._further: list[tuple[Multiaddr, ...]] = []
        self._own_addrs: frozenset[Multiaddr] = frozenset()
        self._listened: tuple[Multiaddr, ...] = ()
        self._trimmer = Trimmer(config.limits.manager, lambda: self.connections, self._close_soon, nursery)
        self._dialer = Dialer(
            config,
            local_peer=self.peer_id,
            limits=self.limits,
            gate=self._gate,
            bus=self._bus,
            peerstore=self.peerstore,
            random=SystemRandom(),
            nursery=nursery,
            transport_for=self._transport_for,
            own_addrs=lambda: self._own_addrs,
            routings=self._routings,
            run_connection=self._run_connection,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.peer_id}>"

    # -- who and where

    @property
    def addrs(self) -> Sequence[Multiaddr]:
        """What others may dial, each ending in our `/p2p/…`."""
        return self._addrs

    @property
    def listened(self) -> Sequence[Multiaddr]:
        """Where connections come in, without `/p2p/…`, whether others are told or not."""
        return self._listened

    @property
    def connections(self) -> Sequence[HostConnection]:
        """All that stand now, oldest first for each peer."""
        return [connection for those in self._connections.values() for connection in those]

    @property
    def protocols(self) -> Sequence[ProtocolId]:
        """What is mounted."""
        return self._routes.protocols

    # -- dialling

    async def connect(
        self, peer: PeerId | None, addrs: Iterable[Multiaddr] = (), *, punch: Role | None = None
    ) -> HostConnection:
        """As `abc.Host.connect`."""
        addrs = tuple(addrs)
        if peer is None:
            named = {split_peer(addr)[1] for addr in addrs}
            peer = named.pop() if len(named) == 1 else None
        if peer is not None and (standing := self._best(peer, limited_ok=False)) is not None:
            await trio.lowlevel.checkpoint()
            return standing
        relayed = None if peer is None or punch is not None else self._best(peer, limited_ok=True)
        if relayed is None:
            return await self._dialer.dial(peer, addrs, punch)
        try:
            return await self._dialer.dial(peer, addrs, None, direct=True)
        except DialError:
            if relayed.draining:
                raise
            return relayed

    def is_used(self, connection: Connection) -> bool:
        """As `abc.Host.is_used`."""
        return isinstance(connection, HostConnection) and connection.in_use

    async def open_stream(self, to: PeerId | Connection, *protocols: ProtocolId, limited_ok: bool = False) -> Stream:
        """As `abc.Host.open_stream`; a peer without a connection is dialled."""
        if not protocols:
            raise ConfigError("open_stream needs at least one protocol")
        if isinstance(to, PeerId):
            connection = self._best(to, limited_ok=limited_ok) or await self.connect(to)
        elif isinstance(to, HostConnection):
            connection = to
        else:
            raise LocalProtocolError(f"{to!r} is not a connection of this node")
        if connection.limited and not limited_ok:
            raise DialError(f"{connection.remote_peer} is reached by a relay only, and limited_ok is not set")
        return await connection.open(protocols)

    def _best(self, peer: PeerId, *, limited_ok: bool) -> HostConnection | None:
        """The newest direct connection, else the newest relayed one where that will do."""
        relayed = None
        for connection in reversed(self._connections.get(peer, ())):
            if connection.draining:
                continue
            if not connection.limited:
                return connection
            relayed = relayed or connection
        return relayed if limited_ok else None

    # -- handlers, parts, events

    def handle(self, *protocols: ProtocolId, limited: bool = False) -> Callable[[H], H]:
        """As `abc.Host.handle`."""
        return self._routes.handle(*protocols, limited=limited)

    def mounted(self, protocol: ProtocolId, handler: Handler, *, limited: bool = False) -> AbstractContextManager[None]:
        """As `abc.Host.mounted`."""
        return self._routes.mounted(protocol, handler, limited=limited)

    @contextmanager
    def using(self, part: PeerRouting | ByteTransport | Transport, listen: Sequence[Multiaddr] = ()) -> Iterator[None]:
        """As `abc.Host.using`; listening begins soon, and goes on being tried where it fails."""
        if not isinstance(part, ByteTransport | Transport):
            self._routings.append(part)
            try:
                yield
            finally:
                self._routings.remove(part)
            return
        transport = self._as_transport(part)
        self._transports.append(transport)
        listeners = [self._listener(transport, addr) for addr in listen]
        for listener in listeners:
            self._nursery.start_soon(self._run_listener, listener)
        try:
            yield
        finally:
            for listener in listeners:
                listener.scope.cancel()
            self._transports.remove(transport)

    def events(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Event]]:
        """As `abc.Host.events`."""
        return self._bus.subscribe()

    def observe(self, observer: Callable[[Event], None]) -> AbstractContextManager[None]:
        """As `abc.Host.observe`."""
        return self._bus.observe(observer)

    def emit(self, event: Event) -> None:
        """As `abc.Host.emit`."""
        self._bus.emit(event)

    @contextmanager
    def announcing(self, addrs: Iterable[Multiaddr]) -> Iterator[None]:
        """As `abc.Host.announcing`."""
        further = tuple(addrs)
        self._further.append(further)
        self._listeners_changed()
        try:
            yield
        finally:
            self._further.remove(further)
            self._listeners_changed()

    def keeping(self, peer: PeerId) -> AbstractContextManager[None]:
        """Exempts the peer's connections from being trimmed, for the length of the block."""
        return self._trimmer.keeping(peer)

    def _routes_changed(self) -> None:
        self._bus.emit(ProtocolsChanged(self._routes.protocols))

    # -- transports

    def can_dial(self, addr: Multiaddr) -> bool:
        """Whether a transport of the stack carries `addr`; whether anybody answers there is another matter."""
        return self._transport_for(addr) is not None

    def _as_transport(self, part: ByteTransport | Transport) -> Transport:
        if isinstance(part, Transport):
            return part
        stack, timeouts = self.config.stack, self.config.timeouts
        return Upgrade(
            part,
            security=stack.securities(self.key, insecure=self.config.insecure),
            muxers=stack.muxers,
            local_peer=self.peer_id,
            config=UpgradeConfig(
                connect_seconds=timeouts.connect,
                authenticate_seconds=timeouts.authenticate,
                total_seconds=timeouts.upgrade,
                preauth_bytes=self.config.limits.preauth_bytes,
            ),
        )

    def _transport_for(self, addr: Multiaddr) -> Transport | None:
        return next((transport for transport in self._transports if transport.matches(addr)), None)

    def _listener(self, transport: Transport, addr: Multiaddr) -> ListenerTask:
        return ListenerTask(
            transport,
            addr,
            limits=self.limits,
            bus=self._bus,
            nursery=self._nursery,
            run_connection=self._run_connection,
            changed=self._listeners_changed,
        )

    async def _run_listener(self, listener: ListenerTask) -> None:
        self._listeners.append(listener)
        try:
            await listener.run()
        finally:
            self._listeners.remove(listener)

    def _listeners_changed(self) -> None:
        """The addresses to tell others, and those that are never dialled."""
        listened = [addr for one in self._listeners if one.addr is not None for addr in reachable_addrs(one.addr)]
        announced = listened if self.config.announce is None else self.config.announce
        announced = [*announced, *(addr for those in self._further for addr in those)]
        addrs = tuple(dict.fromkeys(with_peer(addr, self.peer_id) for addr in announced))
        self._listened = tuple(listened)
        own = (*listened, *(split_peer(addr)[0] for addr in addrs))
        self._own_addrs = frozenset(addr for addr in own if not is_relayed(addr))  # others have the same relay
        if addrs != self._addrs:
            self._addrs = addrs
            self._bus.emit(AddressesChanged(addrs))

    # -- life

    async def _open(self) -> None:
        """Listens; nothing is accepted before all addresses had their try."""
        listening = []
        causes: list[ListenError] = []
        for addr in self.config.listen:
            transport = self._transport_for(addr)
            if transport is None:
                raise ConfigError(f"no transport of the stack listens on {addr}")
            task = self._listener(transport, addr)
            self._listeners.append(task)
            try:
                listening.append((task, await task.listen()))
            except ListenError as error:
                self._listeners.remove(task)
                causes.append(error)
                _log.warning("cannot listen: %s", error)
                self._bus.emit(ServiceFault("listener", error))
        if causes and not listening:
            raise ListenError(f"none of the addresses can be listened on: {'; '.join(map(str, causes))}") from causes[0]
        for task, listener in listening:
            self._nursery.start_soon(task.run, listener)

    async def _close(self) -> None:
        """Stops accepting, then says good-bye to all peers at once and sends what is queued, within the deadline."""
        for listener in self._listeners:
            listener.scope.cancel()
        deadline = trio.current_time() + self.config.timeouts.flush
        with trio.CancelScope(shield=True, deadline=deadline):
            async with trio.open_nursery() as nursery:
                for connection in self.connections:
                    nursery.start_soon(self._say_goodbye, connection, ConnectionCode.SHUTDOWN)

    async def _say_goodbye(self, connection: HostConnection, code: ConnectionCode) -> None:
        await contain(Owner("connection", self._bus.emit, connection.remote_peer), connection.aclose, code)

    def _close_soon(self, connection: HostConnection, code: ConnectionCode) -> None:
        connection.draining = True
        self._nursery.start_soon(self._say_goodbye, connection, code)

    # -- connections

    async def _run_connection(self, muxed: Connection, scope: ConnectionScope, wanted: Wanted | None = None) -> None:
        """The life of a connection, from the upgrade to its end, in the task that made it."""
        peer = muxed.remote_peer
        if peer == self.peer_id:
            raise DialError("this node itself")
        step = GateStep.UPGRADED_OUT if wanted is not None else GateStep.UPGRADED_IN
        try:
            gates.check(self._gate, step, peer, muxed.remote_addr, self._bus.emit)
        except RefusedByGate:
            await muxed.aclose(ConnectionCode.GATED)
            raise
        connection = HostConnection(
            muxed, scope, routes=self._routes, emit=self._bus.emit, timeouts=self.config.timeouts
        )
        if wanted is not None and not wanted(connection):
            return
        self._add(connection)
        try:
            await connection.serve()
        finally:
            self._remove(connection)

    def _add(self, connection: HostConnection) -> None:
        peer = connection.remote_peer
        those = self._connections.setdefault(peer, [])
        those.append(connection)
        if len(those) == 1:
            self.peerstore.connected(peer)
        if connection.role is Role.DIALER:
            self.peerstore.add_addrs(peer, (connection.remote_addr,))
        self._bus.emit(PeerConnected(connection))
        self._trimmer.added()

    def _remove(self, connection: HostConnection) -> None:
        peer = connection.remote_peer
        those = self._connections[peer]
        those.remove(connection)
        if not those:
            del self._connections[peer]
            self.peerstore.disconnected(peer)
        self._trimmer.removed()
        self._bus.emit(PeerDisconnected(connection, last=not those))
