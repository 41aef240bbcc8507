"""Identify on every connection of a host, both ways, and push when we change."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from talos import __version__
from talos import addr as addresses
from talos.abc import (
    AddressesChanged,
    Event,
    PeerConnected,
    PeerDisconnected,
    PeerIdentified,
    ProtocolsChanged,
)
from talos.errors import ConfigError, ConnectionCode, StreamCode, TalosError
from talos.host.block import background
from talos.host.contain import Owner, contain
from talos.identify.machine import IdentifyReader, ReadLimits, WrongIdentity, judge
from talos.identify.observed import ObservedAddrs
from talos.identify.own import OwnState
from talos.identify.rate import PushLimiter, PushLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from multiaddr import Multiaddr

    from talos.abc import Connection, Host, Stream
    from talos.identify.machine import Accepted
    from talos.identify.wire import Identify
    from talos.identity.peer_id import PeerId

__all__ = ["IDENTIFY", "PUSH", "AddressObserved", "IdentifyConfig", "IdentifyService", "open_identify"]

IDENTIFY = "/ipfs/id/1.0.0"
PUSH = "/ipfs/id/push/1.0.0"
RECEIVE_BYTES = 16_384

_log = logging.getLogger(__name__)
_ENDS = (TalosError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
"""How an exchange may fail without anybody's fault but the peer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifyConfig:
    """What is told of the node, and how much is taken of others."""

    agent_version: str = f"talos/{__version__}"
    protocol_version: str = "/talos/1.0.0"
    """Never a reason to disconnect."""
    seconds: float = 5.0
    """For one exchange, in all."""
    push_seconds: float = 1.0
    """Between two rounds of pushes of ours, so that no peer gets more than one in that time."""
    pushes_at_once: int = 32
    """Pushes of ours that run at the same time."""
    read: ReadLimits = field(default_factory=ReadLimits)
    push: PushLimits = field(default_factory=PushLimits)
    observer_groups: int = 4
    """Address groups that have to agree where we are seen."""
    observed_addrs: int = 64
    """Addresses on which reports are counted."""

    def __post_init__(self) -> None:
        for name in ("agent_version", "protocol_version"):
            if not 0 < len(getattr(self, name).encode()) <= 256:
                raise ConfigError(f"{name} is 1 to 256 bytes long")
        if self.seconds <= 0 or self.push_seconds <= 0 or self.pushes_at_once < 1:
            raise ConfigError("identify needs time, and at least one push at once")


@dataclass(slots=True)
class AddressObserved(Event):
    """Peers of enough networks see us at `addr`; whether it can be dialled is not known yet."""

    addr: Multiaddr


@asynccontextmanager
async def open_identify(host: Host, config: IdentifyConfig | None = None) -> AsyncIterator[IdentifyService]:
    """Answers and asks on each connection, those that stand already included, for the length of the block."""
    async with background() as nursery:
        service = IdentifyService(host, config or IdentifyConfig(), nursery)
        with (
            host.mounted(IDENTIFY, service.answer, limited=True),
            host.mounted(PUSH, service.take_push, limited=True),
            host.observe(service.observe),
        ):
            for connection in host.connections:
                service.start(connection)
            nursery.start_soon(service.push_changes)
            yield service


class IdentifyService:
    """The running service; made by `open_identify`. `failed` counts exchanges by class, `ignored` parts of messages."""

    def __init__(self, host: Host, config: IdentifyConfig, nursery: trio.Nursery) -> None:
        self.failed: Counter[str] = Counter()
        self.ignored = 0
        self._host = host
        self._config = config
        self._nursery = nursery
        self._own = OwnState(host, agent_version=config.agent_version, protocol_version=config.protocol_version)
        self._observed = ObservedAddrs(groups_needed=config.observer_groups, max_addrs=config.observed_addrs)
        self._limiter: PushLimiter[PeerId] = PushLimiter(config.push)
        self._told: dict[Connection, int] = {}
        """Which generation of our state each connection was told."""
        self._changed = trio.Event()

    @property
    def candidates(self) -> tuple[Multiaddr, ...]:
        """Addresses at which enough peers see us; to be confirmed before they are told to others."""
        return self._observed.candidates

    async def identify(self, connection: Connection) -> PeerIdentified:
        """Asks the peer, as is done on each new connection anyway, and gives what was taken over.

        Raises TooSlowError after `seconds`, and what opening the stream or reading it raises: TalosError or
        a broken stream. A wrong key also closes the connection.
        """
        with trio.fail_after(self._config.seconds):
            async with await self._host.open_stream(connection, IDENTIFY, limited_ok=True) as stream:
                message = await self._read(stream)
        return await self._take(connection, message)

    # ------------------------------------------------------------------------------- what the host calls

    def observe(self, event: Event) -> None:
        """Follows the host."""
        match event:
            case PeerConnected(connection=connection):
                self.start(connection)
            case PeerDisconnected(connection=connection):
                self._told.pop(connection, None)
            case AddressesChanged() | ProtocolsChanged():
                self._own.changed()
                self._changed.set()

    def start(self, connection: Connection) -> None:
        """Identifies the peer of a connection in the background."""
        self._told[connection] = -1
        owner = Owner("identify", self._host.emit, connection.remote_peer, IDENTIFY)
        self._nursery.start_soon(contain, owner, self._identify_quietly, connection)

    async def answer(self, stream: Stream) -> None:
        """The peer asks: says who we are."""
        with trio.fail_after(self._config.seconds):
            await self._tell(stream)

    async def take_push(self, stream: Stream) -> None:
        """The peer tells what changed; too often, and the stream is reset as rate limited."""
        connection = stream.connection
        network = _network_of(connection.remote_addr)
        if not self._limiter.enter(connection.remote_peer, network, trio.current_time()):
            self.failed["RateLimited"] += 1
            stream.reset(StreamCode.RATE_LIMITED)
            return
        try:
            with trio.fail_after(self._config.seconds):
                message = await self._read(stream)
        finally:
            self._limiter.leave()
        await self._take(connection, message)

    # ------------------------------------------------------------------------------- pushing

    async def push_changes(self) -> None:
        """Tells everybody what changed; changes within `push_seconds` go together."""
        limiter = trio.CapacityLimiter(self._config.pushes_at_once)
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            owner = Owner("identify push", self._host.emit)
            await contain(owner, self._push_to_all, limiter)
            await trio.sleep(self._config.push_seconds)

    async def _push_to_all(self, limiter: trio.CapacityLimiter) -> None:
        """One round. A peer that has not been asked yet gets the new state when it asks."""
        async with trio.open_nursery() as nursery:
            for connection in self._outdated():
                nursery.start_soon(self._push, connection, limiter)

    def _outdated(self) -> list[Connection]:
        """One connection of each peer that takes pushes and knows an older state."""
        known = self._host.peerstore.protocols
        newest: dict[PeerId, Connection] = {}
        for connection, told in self._told.items():
            if told < self._own.generation and PUSH in known(connection.remote_peer):
                newest[connection.remote_peer] = connection
        return list(newest.values())

    async def _push(self, connection: Connection, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            try:
                with trio.fail_after(self._config.seconds):
                    async with await self._host.open_stream(connection, PUSH, limited_ok=True) as stream:
                        await self._tell(stream)
            except _ENDS as error:
                self._failed(connection, error)

    # ------------------------------------------------------------------------------- inside

    async def _tell(self, stream: Stream) -> None:
        connection = stream.connection
        generation = self._own.generation
        await stream.send_all(self._own.messages_for(connection.remote_addr))
        await stream.send_eof()
        if connection in self._told:
            self._told[connection] = generation

    async def _identify_quietly(self, connection: Connection) -> None:
        try:
            await self.identify(connection)
        except _ENDS as error:
            self._failed(connection, error)

    def _failed(self, connection: Connection, error: BaseException) -> None:
        self.failed[type(error).__name__] += 1
        _log.debug("identify of %s failed: %s", connection.remote_peer, error)

    async def _read(self, stream: Stream) -> Identify:
        reader = IdentifyReader(self._config.read)
        while not reader.full and (data := await stream.receive_some(RECEIVE_BYTES)):
            reader.receive_data(data)
        return reader.end()

    async def _take(self, connection: Connection, message: Identify) -> PeerIdentified:
        """Judges a message and takes over what counts."""
        store, peer = self._host.peerstore, connection.remote_peer
        envelope, seq = store.signed_record(peer), store.record_seq(peer)
        try:
            accepted = judge(
                message,
                peer=peer,
                key=connection.remote_key,
                remote_addr=connection.remote_addr,
                limits=self._config.read,
                known_record=None if envelope is None or seq is None else (envelope, seq),
            )
        except WrongIdentity:
            await connection.aclose(ConnectionCode.PROTOCOL_VIOLATION)
            raise
        if accepted.ignored:
            self.ignored += len(accepted.ignored)
            _log.debug("identify of %s: ignored %d parts", peer, len(accepted.ignored))
        return self._learn(connection, accepted)

    def _learn(self, connection: Connection, accepted: Accepted) -> PeerIdentified:
        host, peer = self._host, connection.remote_peer
        record = accepted.record
        host.peerstore.update(
            peer,
            addrs=accepted.addrs,
            protocols=accepted.protocols,
            agent_version=accepted.agent_version,
            record=None if record is None else (record.envelope.raw, record.record.seq),
        )
        event = PeerIdentified(
            connection,
            protocols=tuple(sorted(host.peerstore.protocols(peer))),
            listen_addrs=tuple(host.peerstore.addrs(peer)) if accepted.addrs is None else accepted.addrs,
            observed_addr=accepted.observed_addr,
            agent_version=host.peerstore.agent_version(peer),
            protocol_version=accepted.protocol_version or "",
        )
        host.emit(event)
        observed = accepted.observed_addr
        if observed is not None and self._observed.report(observed, connection.remote_addr):
            host.emit(AddressObserved(observed))
        if -1 < self._told.get(connection, -1) < self._own.generation:
            self._changed.set()  # it was told before we changed, and only now do we know that it takes pushes
        return event


def _network_of(addr: Multiaddr) -> object | None:
    ip = addresses.ip_of(addr)
    if ip is None or ip.is_loopback:
        return None
    return addresses.ip_block(ip, 24 if ip.version == 4 else 48)
