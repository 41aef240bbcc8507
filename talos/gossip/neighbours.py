"""Streams with all peers of a host that speak gossip: opened, read, written, opened again.

A link is both streams: when ours ends, theirs is reset too, for the peer tells its subscriptions only once, at the
beginning of its stream. While the peer stays connected, ours is opened again, some times and after growing pauses.
The peer's stream is read only while ours stands: until then its bytes wait where the muxer bounds them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from talos import addr as addresses
from talos.abc import PeerConnected, PeerDisconnected, PeerIdentified, Role
from talos.errors import NegotiationError, StreamCode, TalosError
from talos.gossip.link import Link, read_rpcs
from talos.host.contain import Owner, contain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ipaddress import IPv4Address, IPv6Address

    from talos.abc import Connection, Event, Host, Stream
    from talos.gossip.driver_config import DriverConfig
    from talos.gossip.event import Effect
    from talos.gossip.router import Router
    from talos.identity.peer_id import PeerId

__all__ = ["Neighbours"]

_log = logging.getLogger(__name__)
_ENDS = (TalosError, trio.BrokenResourceError, trio.ClosedResourceError)
"""How our stream to a peer may end, or not come to be, without anybody's fault but the peer's."""


class Neighbours:
    """The links of one router. `apply` carries out what the router wants, for the peer that made it want it."""

    def __init__(
        self,
        host: Host,
        router: Router,
        config: DriverConfig,
        nursery: trio.Nursery,
        *,
        max_rpc_bytes: int,
        apply: Callable[[Sequence[Effect], PeerId], None],
    ) -> None:
        self._host = host
        self._router = router
        self._config = config
        self._max_rpc_bytes = max_rpc_bytes
        self._apply = apply
        self._nursery = nursery
        self._links: dict[PeerId, Link] = {}
        self._connected: set[PeerId] = set()
        self._room = trio.Event()

    # -- what the host calls

    def observe(self, event: Event) -> None:
        """Follows the connections of the host."""
        match event:
            case PeerConnected(connection=connection):
                self.connected(connection)
            case PeerIdentified(protocols=protocols) if not set(protocols).isdisjoint(self._config.protocols):
                self._meet(event.peer)
            case PeerDisconnected(last=True):
                self._connected.discard(event.peer)
                if (link := self._links.get(event.peer)) is not None:
                    link.scope.cancel()

    def connected(self, connection: Connection) -> None:
        """Begins a link, unless the peer is known not to speak gossip."""
        peer = connection.remote_peer
        self._connected.add(peer)
        known = self._host.peerstore.protocols(peer)
        if not known or not known.isdisjoint(self._config.protocols):
            self._meet(peer)

    async def answer(self, stream: Stream) -> None:
        """The peer opened a stream to us: it takes the place of the one before."""
        peer = stream.connection.remote_peer
        link = self._meet(peer)
        with trio.CancelScope() as scope:
            link.supplant_reader(scope)
            try:
                await link.joined.wait()
                await read_rpcs(stream, self._max_rpc_bytes, self._receiver(peer))
            finally:
                if link.reader is scope:
                    link.reader = None
        if scope.cancelled_caught:
            stream.reset(link.end_code if link.reader is None else StreamCode.SUPPLANTED)

    def end_readers(self) -> None:
        """Stops reading: these tasks are the connections', and outlive our block unless told."""
        for link in self._links.values():
            link.end_code = StreamCode.SHUTDOWN
            link.supplant_reader(None)

    # -- what the service calls

    def wake(self, peers: Sequence[PeerId]) -> None:
        """There is something to be sent to them."""
        links = self._links
        for peer in peers:
            if (link := links.get(peer)) is not None:
                link.wake()

    def dismiss(self, peer: PeerId) -> None:
        """Resets both streams, as a violation; the connection stays."""
        if (link := self._links.get(peer)) is not None:
            link.end_code = StreamCode.PROTOCOL_VIOLATION
            link.scope.cancel()

    async def wait_for_room(self) -> None:
        """Until some writer has taken something out of its queue."""
        await self._room.wait()

    def link(self, peer: PeerId) -> Link | None:
        """The link with a peer."""
        return self._links.get(peer)

    # -- one link

    def _meet(self, peer: PeerId) -> Link:
        link = self._links.get(peer)
        if link is None:
            link = self._links[peer] = Link(peer)
            self._nursery.start_soon(self._run, link)
        return link

    async def _run(self, link: Link) -> None:
        owner = Owner("gossip", self._host.emit, link.peer)
        try:
            with link.scope:
                await contain(owner, self._keep_open, link)
        finally:
            link.supplant_reader(None)
            del self._links[link.peer]

    async def _keep_open(self, link: Link) -> None:
        pause = self._config.reopen_seconds
        for _ in range(self._config.openings):
            try:
                await self._serve(link)
            except NegotiationError:
                return  # it does not speak gossip, or does no longer
            except _ENDS as error:
                _log.debug("gossip with %s: %s", link.peer, error)
            if link.peer not in self._connected:
                return
            await trio.sleep(pause)
            pause *= 2

    async def _serve(self, link: Link) -> None:
        """Our stream, from its opening to its end."""
        stream = await self._host.open_stream(link.peer, *self._config.protocols)
        link.stream = stream
        try:
            outbound = stream.connection.role is Role.DIALER
            now, ip = trio.current_time(), _ip_of(stream.connection)
            effects = self._router.peer_joined(link.peer, stream.protocol, now, ip=ip, outbound=outbound)
            try:
                link.joined.set()
                self._apply(effects, link.peer)
                await self._write_until_end(link, stream)
            finally:
                self._apply(self._router.peer_left(link.peer, trio.current_time()), link.peer)
        finally:
            link.stream = None
            link.joined = trio.Event()
            link.supplant_reader(None)
            stream.reset(link.end_code)

    async def _write_until_end(self, link: Link, stream: Stream) -> None:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await link.watch(stream)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await link.write(stream, self._data_to_send)
            nursery.cancel_scope.cancel()

    def _data_to_send(self, peer: PeerId) -> bytes:
        data = self._router.data_to_send(peer)
        if data:
            self._room.set()
            self._room = trio.Event()
        return data

    def _receiver(self, peer: PeerId) -> Callable[[bytes], None]:
        router, apply, clock = self._router, self._apply, trio.current_time

        def receive(rpc: bytes) -> None:
            if effects := router.receive(peer, rpc, clock()):
                apply(effects, peer)

        return receive


def _ip_of(connection: Connection) -> IPv4Address | IPv6Address | None:
    addr = connection.remote_addr
    return None if addresses.is_relayed(addr) else addresses.ip_of(addr)
