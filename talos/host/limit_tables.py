"""Who is present: the sources and the peers that a node holds connections of."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from talos.errors import LimitExceeded
from talos.host.limits_config import ServiceLimits
from talos.host.scope import Holder, Scope, as_tuple
from talos.host.source import Rates

if TYPE_CHECKING:
    from talos.abc import ProtocolId
    from talos.addr import IpBlock
    from talos.host.limits_config import IpLimits, LimitsConfig
    from talos.host.source import Source
    from talos.identity.peer_id import PeerId

__all__ = ["PeerScope", "PeerTable", "SourceScope", "SourceTable"]


class Member(Protocol):
    """What the tables ask of a connection."""

    @property
    def in_use(self) -> bool: ...


C = TypeVar("C", bound=Member)

MAX_PROTOCOLS = 4096
"""Protocols that are remembered although they have no stream; a node serves at most a thousand."""


class SourceScope(Holder, Generic[C]):
    """One narrow source: its half-open connections in order, and how many authenticated ones."""

    __slots__ = ("authenticated", "half_open")

    def __init__(self, kin: dict[IpBlock, SourceScope[C]]) -> None:
        super().__init__("source", kin, guaranteed=False)
        self.half_open: dict[C, None] = {}
        self.authenticated = 0


class SourceTable(Generic[C]):
    """Rates and counts of inbound connections by where they come from."""

    __slots__ = ("_limits", "_rates", "_sources", "_wide")

    def __init__(self, limits: IpLimits) -> None:
        self._limits = limits
        self._rates = Rates(limits)
        self._sources: dict[IpBlock, SourceScope[C]] = {}
        self._wide: Counter[tuple[IpBlock, bool]] = Counter()

    def __len__(self) -> int:
        return len(self._sources)

    def admit(self, source: Source, now: float, *, rated: bool) -> None:
        """LimitExceeded when one more connection is too many, or too soon (`rated`, which takes a token)."""
        if source.exempt:
            return
        limits = self._limits
        if rated and (rate := self._rates.take(source, now)) is not None:
            raise _refusal(source, rate.burst, "connection rate")
        narrow = self._sources.get(source.narrow)
        half_open = 0 if narrow is None else len(narrow.half_open)
        self._check(source, half_open, limits.half_open, limits.half_open_wide, authenticated=False)

    def admit_authenticated(self, source: Source) -> None:
        """LimitExceeded when the source holds its number of authenticated connections."""
        if source.exempt:
            return
        limits = self._limits
        authenticated = self._sources[source.narrow].authenticated
        self._check(source, authenticated, limits.authenticated, limits.authenticated_wide, authenticated=True)

    def scope(self, source: Source) -> SourceScope[C]:
        """The scope of a source; a new one joins the table with its first connection."""
        return self._sources.get(source.narrow) or SourceScope(self._sources)

    def enter(self, source: Source, scope: SourceScope[C], connection: C) -> None:
        """One half-open connection more."""
        self._sources[source.narrow] = scope
        scope.half_open[connection] = None
        if source.wide is not None:
            self._wide[source.wide, False] += 1

    def authenticated(self, source: Source, connection: C) -> None:
        """A half-open connection became an authenticated one."""
        scope = self._sources[source.narrow]
        del scope.half_open[connection]
        scope.authenticated += 1
        if source.wide is not None:
            self._leave_wide(source.wide, authenticated=False)
            self._wide[source.wide, True] += 1

    def leave(self, source: Source, connection: C) -> None:
        """A connection is gone."""
        scope = self._sources[source.narrow]
        authenticated = connection not in scope.half_open
        if authenticated:
            scope.authenticated -= 1
        else:
            del scope.half_open[connection]
        if not scope.authenticated and not scope.half_open:
            del self._sources[source.narrow]
        if source.wide is not None:
            self._leave_wide(source.wide, authenticated=authenticated)

    def give_back(self, source: Source) -> None:
        """Returns the rate token: whoever came is allow-listed."""
        self._rates.give_back(source)

    def oldest_of_the_crowd(self) -> C | None:
        """The oldest half-open connection of the source that has most of them."""
        crowd = max(self._sources.values(), key=lambda scope: len(scope.half_open), default=None)
        return None if crowd is None else next(iter(crowd.half_open), None)

    def _check(self, source: Source, held: int, limit: int, wide_limit: int, *, authenticated: bool) -> None:
        kind = "authenticated connections" if authenticated else "half-open connections"
        if held >= limit:
            raise _refusal(source, limit, kind)
        if source.wide is not None and self._wide[source.wide, authenticated] >= wide_limit:
            raise _refusal(source, wide_limit, kind)

    def _leave_wide(self, key: IpBlock, *, authenticated: bool) -> None:
        self._wide[key, authenticated] -= 1
        if not self._wide[key, authenticated]:
            del self._wide[key, authenticated]


class PeerScope(Holder, Generic[C]):
    """One authenticated peer, for as long as it has a connection."""

    __slots__ = ("connections", "groups", "negotiating", "peer")

    def __init__(self, peer: PeerId, limits: tuple[int, ...], kin: dict[PeerId, PeerScope[C]]) -> None:
        super().__init__("peer", kin, limits, peer, guaranteed=True)
        self.peer = peer
        self.connections: dict[C, None] = {}
        """Oldest first."""
        self.negotiating = Holder("peer", kin, subject=peer, guaranteed=True)
        """Its streams on which no protocol is agreed."""
        self.groups: dict[ProtocolId, tuple[Scope, ...]] = {}


class PeerTable(Generic[C]):
    """The peers, and what their streams are for."""

    __slots__ = ("_config", "_limits", "_peers", "protocols", "services")

    def __init__(self, config: LimitsConfig) -> None:
        self._config = config
        self._limits = as_tuple(config.peer)
        self._peers: dict[PeerId, PeerScope[C]] = {}
        self.protocols: dict[ProtocolId, Scope] = {}
        self.services: dict[str, Scope] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def scope(self, peer: PeerId) -> PeerScope[C]:
        """The scope of a peer; a new one joins the table with its first connection."""
        return self._peers.get(peer) or PeerScope(peer, self._limits, self._peers)

    def enter(self, scope: PeerScope[C], connection: C) -> None:
        """One connection more."""
        self._peers[scope.peer] = scope
        scope.connections[connection] = None

    def leave(self, scope: PeerScope[C], connection: C) -> None:
        """A connection is gone."""
        del scope.connections[connection]
        if not scope.connections:
            del self._peers[scope.peer]

    def to_supplant(self, scope: PeerScope[C]) -> C | None:
        """Who goes before one more comes: None while there is room, else the oldest that is not in use."""
        limit = self._config.connections_per_peer
        if len(scope.connections) < limit:
            return None
        for connection in scope.connections:
            if not connection.in_use:
                return connection
        text = f"limit of {limit} connections in use reached by peer {scope.peer}"
        raise LimitExceeded(text, limit=limit, scope="peer", kind="connections")

    def groups(self, scope: PeerScope[C], protocol: ProtocolId) -> tuple[Scope, ...]:
        """Where a stream of `protocol` counts: protocol, protocol-peer and, if it has one, service, service-peer."""
        groups = scope.groups.get(protocol)
        if groups is None:
            groups = scope.groups[protocol] = self._make_groups(scope, protocol)
        return groups

    def _make_groups(self, scope: PeerScope[C], protocol: ProtocolId) -> tuple[Scope, ...]:
        config = self._config
        every = self.protocols.get(protocol)
        if every is None:
            if len(self.protocols) >= MAX_PROTOCOLS:
                self._forget_idle()
            every = self.protocols[protocol] = Scope("protocol", as_tuple(config.protocol), protocol)
        groups: tuple[Scope, ...] = (every, Scope("protocol-peer", as_tuple(config.protocol_peer), protocol))
        service = config.service_of.get(protocol)
        if service is None:
            return groups
        figures = config.services.get(service) or ServiceLimits(all=config.service, per_peer=config.service_peer)
        if service not in self.services:
            self.services[service] = Scope("service", as_tuple(figures.all), service)
        siblings = (known[3] for other, known in scope.groups.items() if config.service_of.get(other) == service)
        per_peer = next(siblings, None) or Scope("service-peer", as_tuple(figures.per_peer), service)
        return (*groups, self.services[service], per_peer)

    def _forget_idle(self) -> None:
        """Drops the scopes of protocols without a stream, here and at every peer."""
        self.protocols = {protocol: scope for protocol, scope in self.protocols.items() if any(scope.used)}
        for peer in self._peers.values():
            peer.groups = {protocol: known for protocol, known in peer.groups.items() if protocol in self.protocols}


def _refusal(source: Source, limit: float, kind: str) -> LimitExceeded:
    return LimitExceeded(f"limit of {limit:g} reached: {kind} of {source.ip}", limit=limit, scope="source", kind=kind)
