"""Looks for a direct way to everybody who came, or was reached, through a relay."""

from __future__ import annotations

import logging
import math
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from talos import addr as addresses
from talos.abc import Event, PeerConnected, PeerDisconnected, PeerIdentified, Role
from talos.dcutr.machine import HolePunchMachine, Punch, Send, Side, usable
from talos.dcutr.wire import DCUTR, MAX_MESSAGE_BYTES, HolePunch, decode, encode
from talos.errors import ConfigError, StreamCode, TalosError
from talos.host.block import background
from talos.host.contain import Owner, contain
from talos.host.direct import direct_connection
from talos.wire.message_stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from multiaddr import Multiaddr

    from talos.abc import Connection, Host, Stream
    from talos.identity.peer_id import PeerId

__all__ = ["Dcutr", "DcutrConfig", "HolePunched", "open_dcutr"]

_log = logging.getLogger(__name__)
_ENDS = (TalosError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError, trio.TooSlowError)


@dataclass(frozen=True, slots=True, kw_only=True)
class DcutrConfig:
    """How a direct way is looked for."""

    attempts: int = 3
    identify_seconds: float = 10.0
    """For the peer to say where it listens, before anything is tried."""
    direct_seconds: float = 10.0
    """For the public addresses that it names to answer a plain dial."""
    exchange_seconds: float = 60.0
    """For the messages of one attempt."""
    punch_seconds: float = 8.0
    """For both sides' dials to meet."""
    grace_seconds: float = 10.0
    """A relayed connection that is idle for as long, beside a direct one, is closed."""
    peers: int = 32
    """Exchanges that run at once."""
    allow_private: bool = False
    """Dials and names private addresses too: for networks of one's own, and tests."""

    def __post_init__(self) -> None:
        times = (self.identify_seconds, self.direct_seconds, self.exchange_seconds, self.punch_seconds)
        if min(times) <= 0 or self.grace_seconds < 0 or self.attempts < 1 or self.peers < 1:
            raise ConfigError("hole punching needs time, and at least one attempt")


@dataclass(slots=True)
class HolePunched(Event):
    """How the search for a direct way to a peer ended."""

    peer: PeerId
    succeeded: bool
    attempts: int
    """Exchanges that were needed; none where a plain dial was enough."""


@asynccontextmanager
async def open_dcutr(
    host: Host, config: DcutrConfig | None = None, observed: Callable[[], Iterable[Multiaddr]] = tuple
) -> AsyncIterator[Dcutr]:
    """Moves to direct connections where there is a way, for the length of the block.

    `observed` gives further addresses at which others see us.
    """
    async with background() as nursery:
        service = Dcutr(host, config or DcutrConfig(), observed, nursery)
        with host.mounted(DCUTR, service.answer, limited=True), host.observe(service.observe):
            for connection in host.connections:
                service.consider(connection)
            yield service


class Dcutr:
    """The running service; made by `open_dcutr`. `outcomes` counts how searches ended."""

    def __init__(
        self,
        host: Host,
        config: DcutrConfig,
        observed: Callable[[], Iterable[Multiaddr]],
        nursery: trio.Nursery,
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        self._host = host
        self._config = config
        self._observed = observed
        self._nursery = nursery
        self._running: set[PeerId] = set()
        self._seen_at: dict[Connection, Multiaddr] = {}
        """Where the other end of each direct connection sees us."""
        self._changed = trio.Event()

    # -- what the host tells

    def observe(self, event: Event) -> None:
        """Follows the host."""
        match event:
            case PeerConnected(connection=connection):
                self.consider(connection)
                self._wake()
            case PeerDisconnected(connection=connection):
                self._seen_at.pop(connection, None)
                self._wake()
            case PeerIdentified(connection=connection, observed_addr=observed):
                if observed is not None and not connection.limited:
                    self._seen_at[connection] = observed
                self._wake()

    def consider(self, connection: Connection) -> None:
        """Whoever was dialled through the relay begins; either side closes what is no longer needed."""
        if not connection.limited:
            return
        owner = Owner("dcutr", self._host.emit, connection.remote_peer)
        self._nursery.start_soon(contain, owner, self._retire, connection)
        if connection.role is Role.LISTENER and len(self._running) < self._config.peers:
            self._nursery.start_soon(contain, owner, self._seek, connection)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- addresses

    def own_addrs(self) -> list[Multiaddr]:
        """Where others may see us: as they told, then our own ports at the IP addresses that they told."""
        ours = dict.fromkeys((*self._host.listened, *(addresses.split_peer(addr)[0] for addr in self._host.addrs)))
        direct = [addr for addr in ours if not addresses.is_relayed(addr)]
        seen = dict.fromkeys(self._seen_at.values())
        ips = [ip for told in seen if (ip := addresses.ip_of(told)) is not None]
        ports = [at for ip in ips for addr in direct if (at := addresses.at_ip(addr, ip)) is not None]
        return [*dict.fromkeys((*self._observed(), *seen, *ports, *direct))]

    # -- side B

    async def _seek(self, relayed: Connection) -> None:
        peer = relayed.remote_peer
        if peer in self._running or self._is_reached(peer):
            return
        self._running.add(peer)
        attempts = 0
        try:
            succeeded = await self._dial_plainly(relayed)
            if not succeeded:  # some serve it only once they know where they are seen
                await self._until(lambda: DCUTR in self._host.peerstore.protocols(peer), self._config.identify_seconds)
            while not succeeded and attempts < self._config.attempts and relayed in self._host.connections:
                attempts += 1
                succeeded = await self._attempt(relayed)
        finally:
            self._running.discard(peer)
        self.outcomes["direct" if succeeded else "relayed"] += 1
        self._host.emit(HolePunched(peer, succeeded, attempts))

    async def _dial_plainly(self, relayed: Connection) -> bool:
        """What the peer says of itself may be all that is needed."""
        peer = relayed.remote_peer
        await self._until(lambda: bool(self._host.peerstore.protocols(peer)), self._config.identify_seconds)
        listed = usable(self._host.peerstore.addrs(peer), allow_private=self._config.allow_private)
        if listed:
            with trio.move_on_after(self._config.direct_seconds):
                try:
                    return not (await self._host.connect(peer, listed)).limited
                except TalosError as error:
                    _log.debug("%s cannot be dialled plainly: %s", peer, error)
        return self._is_reached(peer)

    async def _attempt(self, relayed: Connection) -> bool:
        try:
            with trio.fail_after(self._config.exchange_seconds):
                async with await self._host.open_stream(relayed, DCUTR, limited_ok=True) as stream:
                    return await self._exchange(stream, Side.B)
        except _ENDS as error:
            _log.debug("no hole punched to %s: %s", relayed.remote_peer, error)
            return self._is_reached(relayed.remote_peer)

    # -- side A

    async def answer(self, stream: Stream) -> None:
        """The other side begins, over a relayed connection; anything else is refused."""
        if not stream.connection.limited or stream.connection.role is not Role.DIALER:
            stream.reset(StreamCode.PROTOCOL_VIOLATION)
            return
        with trio.fail_after(self._config.exchange_seconds):
            await self._exchange(stream, Side.A)

    # -- both

    async def _exchange(self, stream: Stream, side: Side) -> bool:
        machine = HolePunchMachine(side, self.own_addrs(), allow_private=self._config.allow_private)
        line = MessageStream[HolePunch, HolePunch](stream, decode=decode, encode=encode, max_size=MAX_MESSAGE_BYTES)
        peer = stream.connection.remote_peer
        if side is Side.B:
            await line.send(machine.begin(trio.current_time()).message)
        while True:
            for step in machine.receive(await line.receive(), trio.current_time()):
                match step:
                    case Send(message):
                        await line.send(message)
                    case Punch(addrs, seconds):
                        await trio.sleep(seconds)
                        return await self._punch(peer, addrs, side)

    async def _punch(self, peer: PeerId, addrs: tuple[Multiaddr, ...], side: Side) -> bool:
        """Whether a direct connection stands afterwards, whoever's dial it was."""
        role = Role.DIALER if side is Side.A else Role.LISTENER
        with trio.move_on_after(self._config.punch_seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._dial, peer, addrs, role)
                await self._until(lambda: self._is_reached(peer), math.inf)
                nursery.cancel_scope.cancel()
        return self._is_reached(peer)

    async def _dial(self, peer: PeerId, addrs: tuple[Multiaddr, ...], role: Role) -> None:
        try:
            await self._host.connect(peer, addrs, punch=role)
        except TalosError as error:
            _log.debug("punching to %s as %s: %s", peer, role.value, error)

    def _is_reached(self, peer: PeerId) -> bool:
        """Without a relay."""
        return direct_connection(self._host, peer) is not None

    async def _until(self, holds: Callable[[], bool], seconds: float) -> None:
        """Looks again whenever a peer comes, goes or is identified."""
        with trio.move_on_after(seconds):
            while not holds():
                await self._changed.wait()

    async def _retire(self, relayed: Connection) -> None:
        """Closes a relayed connection once there is a direct one and nothing used it for the grace."""
        host, peer = self._host, relayed.remote_peer
        while True:
            await self._until(lambda: relayed not in host.connections or self._is_reached(peer), math.inf)
            if relayed not in host.connections:
                return
            before = relayed.stats.streams_in, relayed.stats.streams_out
            await trio.sleep(self._config.grace_seconds)
            idle = before == (relayed.stats.streams_in, relayed.stats.streams_out) and not host.is_used(relayed)
            if idle and relayed in host.connections and self._is_reached(peer):
                await relayed.aclose()
                return
