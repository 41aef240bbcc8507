"""The figures of the resource manager: fixed for 512 MiB and 1,024 descriptors, scaled for more.

Each field is a limit of this node. Where a protocol has a cap of its own, whichever is reached first acts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from types import MappingProxyType
from typing import TYPE_CHECKING

from talos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.abc import ProtocolId
    from talos.identity.peer_id import PeerId

__all__ = [
    "UNLIMITED",
    "DialLimits",
    "IpLimits",
    "LimitsConfig",
    "ManagerLimits",
    "PeerstoreLimits",
    "Rate",
    "ScopeLimits",
    "ServiceLimits",
]

UNLIMITED = 1 << 62
MIB = 1 << 20
GIB = 1 << 30
BASE_MEMORY = 512 * MIB
BASE_DESCRIPTORS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeLimits:
    """What one scope may hold at once; a field that is left out is not limited there."""

    connections_in: int = UNLIMITED
    connections_out: int = UNLIMITED
    connections: int = UNLIMITED
    """Both directions together."""
    streams_in: int = UNLIMITED
    streams_out: int = UNLIMITED
    streams: int = UNLIMITED
    """Both directions together."""
    memory: int = UNLIMITED
    """Bytes held for the peer."""
    descriptors: int = UNLIMITED

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 0:
                raise ConfigError(f"limit {name} is negative")

    def plus(self, units: float, more: ScopeLimits) -> ScopeLimits:
        """These limits and `units` times `more`, except where there is none."""
        grown = {
            name: value if (value := getattr(self, name)) >= UNLIMITED else value + int(units * getattr(more, name))
            for name in self.__slots__
        }
        return ScopeLimits(**grown)


def _streams(inbound: int, outbound: int, both: int, memory: int = UNLIMITED) -> ScopeLimits:
    return ScopeLimits(streams_in=inbound, streams_out=outbound, streams=both, memory=memory)


def _more(connections: int = 0, streams: int = 0, memory: int = 0) -> ScopeLimits:
    """An increment: in every direction the same."""
    return ScopeLimits(
        connections_in=connections,
        connections_out=connections,
        connections=connections,
        streams_in=streams,
        streams_out=streams,
        streams=streams,
        memory=memory,
        descriptors=0,
    )


_PROTOCOL = _streams(512, 2048, 2048, 64 * MIB)
_PROTOCOL_PEER = _streams(64, 128, 256, 16 * MIB)
_SERVICE = _streams(1024, 2048, 2048, 64 * MIB)
_SERVICE_PEER = _streams(128, 256, 256, 16 * MIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """Streams of one service: of all peers together, and of each."""

    all: ScopeLimits
    per_peer: ScopeLimits


def _service(total: int | tuple[int, int, int], per_peer: int | tuple[int, int, int], memory: int) -> ServiceLimits:
    total = (total,) * 3 if isinstance(total, int) else total
    per_peer = (per_peer,) * 3 if isinstance(per_peer, int) else per_peer
    return ServiceLimits(all=_streams(*total, memory), per_peer=_streams(*per_peer, min(memory, 16 * MIB)))


def _default_services() -> Mapping[str, ServiceLimits]:
    services = {
        "identify": _service((64, 64, 128), (16, 16, 32), 64 * MIB),
        "ping": _service(64, (2, 3, 4), 64 * MIB),
        "autonat": _service(64, 2, 64 * MIB),
        "dcutr": _service((32, 32, 64), 2, 64 * MIB),
        "relay": _service(256, 64, 64 * MIB),
        "hop": _service(640, 128, 64 * MIB),
        "kad": _service((256, 512, 512), (32, 32, 64), 64 * MIB),
        "gossip": _service((384, 384, 768), (2, 2, 4), 64 * MIB),
        "chain": _service(16, 2, 64 * MIB),
        "messaging": _service(256, 16, 64 * MIB),
        "files": _service(32, 4, 64 * MIB),
    }
    tunnel = ServiceLimits(all=_streams(64, 64, 64, 256 * MIB), per_peer=_streams(8, 8, 8, 128 * MIB))
    return MappingProxyType({**services, "mcp": tunnel})


_SERVICE_OF: Mapping[ProtocolId, str] = MappingProxyType(
    {
        "/ipfs/id/1.0.0": "identify",
        "/ipfs/id/push/1.0.0": "identify",
        "/ipfs/ping/1.0.0": "ping",
        "/libp2p/autonat/1.0.0": "autonat",
        "/libp2p/autonat/2/dial-request": "autonat",
        "/libp2p/autonat/2/dial-back": "autonat",
        "/libp2p/dcutr": "dcutr",
        "/libp2p/circuit/relay/0.2.0/hop": "hop",
        "/libp2p/circuit/relay/0.2.0/stop": "hop",
        "/ipfs/kad/1.0.0": "kad",
        "/ipfs/lan/kad/1.0.0": "kad",
        "/talos/kad/1.0.0": "kad",
        "/meshsub/1.0.0": "gossip",
        "/meshsub/1.1.0": "gossip",
        "/meshsub/1.2.0": "gossip",
        "/meshsub/1.3.0": "gossip",
        "/floodsub/1.0.0": "gossip",
        "/talos/mcp/1.0.0": "mcp",
        "/talos/chain/1.0.0": "chain",
        "/talos/message/1.0.0": "messaging",
        "/talos/file/1.0.0": "files",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A token bucket: `burst` at once, then so many a second."""

    per_second: float
    burst: float

    def __post_init__(self) -> None:
        if not (0 < self.per_second < UNLIMITED and 1 <= self.burst < UNLIMITED):
            raise ConfigError("a rate needs more than 0 a second and a burst of at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class IpLimits:
    """Inbound connections by source: narrow is an IPv4 address or IPv6 /56, wide an IPv6 /48."""

    half_open: int = 8
    """Not yet authenticated, per narrow source."""
    half_open_wide: int = 64
    authenticated: int = 32
    authenticated_wide: int = 128
    rate: Rate = Rate(per_second=0.2, burst=16)
    """New connections of a narrow public source."""
    rate_wide: Rate = Rate(per_second=0.5, burst=80)
    rate_private: Rate = Rate(per_second=5.0, burst=64)
    """New connections from RFC 1918, ULA and link-local ranges."""
    buckets: int = 65_536
    """Sources whose rate is remembered; the one not seen for longest leaves."""
    exempt_loopback: bool = True
    """Off, loopback is a public source like any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerLimits:
    """When the connection manager trims, and down to what."""

    low: int = 160
    high: int = 192
    grace_seconds: float = 60.0
    """A connection younger than that is not trimmed."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ConfigError("the connection manager's low mark is above its high mark")


@dataclass(frozen=True, slots=True, kw_only=True)
class DialLimits:
    """Dials at once, and how much one of them may look up."""

    parallel: int = 64
    per_peer: int = 8
    queued: int = 500
    """Dials that wait; past it LimitExceeded."""
    addrs: int = 25
    """Addresses tried for one peer."""
    resolver_threads: int = 16
    names: int = 16
    """Names resolved for one dial."""
    results: int = 100
    """Addresses taken of one resolution."""
    dnsaddr_depth: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerstoreLimits:
    """What is remembered of peers."""

    peers: int = 8192
    """Known, but not connected and no contact; the least useful leaves."""
    addrs: int = 64
    """Addresses of a peer that is not connected."""
    connected_addrs: int = 128
    kept_addrs: int = 20
    """Addresses kept of a peer that left."""
    protocols: int = 1000
    record_bytes: int = 8192
    """Size of the one signed record of a peer."""
    ttl_seconds: float = 3600.0
    """How long a hint lives that nothing confirmed; our choice, as go-libp2p's for recent peers times four."""
    connected_ttl_seconds: float = 86_400.0
    """How long the addresses of a peer live that we were connected to, from its leaving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """All limits of a node that are not one protocol's own."""

    system: ScopeLimits = ScopeLimits(
        connections_in=256,
        connections_out=256,
        connections=384,
        streams_in=1024,
        streams_out=2048,
        streams=2048,
        memory=512 * MIB,
        descriptors=BASE_DESCRIPTORS,
    )
    """Everything. Allow-listed peers and prefixes have a second budget of the same size."""
    transient: ScopeLimits = ScopeLimits(
        connections_in=64,
        connections_out=64,
        connections=128,
        streams_in=128,
        streams_out=256,
        streams=256,
        memory=16 * MIB,
        descriptors=128,
    )
    """Connections before authentication, streams before negotiation."""
    peer: ScopeLimits = ScopeLimits(
        connections_in=12,
        connections_out=12,
        connections=12,
        streams_in=256,
        streams_out=512,
        streams=512,
        memory=64 * MIB,
        descriptors=12,
    )
    connection: ScopeLimits = ScopeLimits(streams_in=256, streams_out=512, streams=512, memory=32 * MIB, descriptors=1)
    stream: ScopeLimits = ScopeLimits(memory=16 * MIB, descriptors=0)
    protocol: ScopeLimits = _PROTOCOL
    protocol_peer: ScopeLimits = _PROTOCOL_PEER
    service: ScopeLimits = _SERVICE
    """A service without an entry in `services`."""
    service_peer: ScopeLimits = _SERVICE_PEER
    services: Mapping[str, ServiceLimits] = field(default_factory=_default_services)
    service_of: Mapping[ProtocolId, str] = field(default_factory=lambda: _SERVICE_OF)
    """Which service a protocol id belongs to; another one counts as a protocol only."""
    background: frozenset[str] = frozenset({"identify", "ping"})
    """Services whose streams do not make a connection one that is in use."""
    ip: IpLimits = IpLimits()
    manager: ManagerLimits = ManagerLimits()
    dialing: DialLimits = DialLimits()
    peerstore: PeerstoreLimits = PeerstoreLimits()
    connections_per_peer: int = 8
    """One more closes the peer's oldest connection that is not in use; `peer` leaves room for those still closing."""
    preauth_bytes: int = 64 * 1024
    """Bytes taken from a connection that is not authenticated."""
    event_queue: int = 1024
    """Events that wait for one subscriber."""
    log_rate: Rate = Rate(per_second=1.0, burst=10)
    """Log lines of one category."""
    allowed_peers: frozenset[PeerId] = frozenset()
    allowed_prefixes: tuple[str, ...] = ()
    """Like `10.0.0.0/8`; exempt from the rates, not from the counts per source."""

    def __post_init__(self) -> None:
        if self.connections_per_peer < 1 or self.event_queue < 1:
            raise ConfigError("connections_per_peer and event_queue are at least 1")
        for prefix in self.allowed_prefixes:
            try:
                ip_network(prefix)
            except ValueError as error:
                raise ConfigError(f"allowed prefix {prefix!r}: {error}") from error

    @classmethod
    def scaled(cls, memory: int, descriptors: int) -> LimitsConfig:
        """The defaults for a node that may use `memory` bytes and so many descriptors.

        Counts grow with each GiB past the 512 MiB of the defaults and never fall below them; the memory of the
        node itself is exactly what is given, so a small machine gets less.
        """
        if memory < 16 * MIB or descriptors < 16:
            raise ConfigError("limits need at least 16 MiB and 16 descriptors")
        base = cls()
        units = max(0, memory - BASE_MEMORY) / GIB
        shrink = min(1.0, memory / BASE_MEMORY)
        system = base.system.plus(units, _more(connections=1024, streams=2048, memory=GIB))
        return replace(
            base,
            system=replace(system, memory=memory, descriptors=descriptors),
            transient=_fit(base.transient.plus(units, _more(connections=32, streams=256, memory=8 * MIB)), shrink),
            peer=_fit(base.peer.plus(units, _more(streams=128, memory=64 * MIB)), shrink),
            connection=_fit(base.connection, shrink),
            stream=_fit(base.stream, shrink),
            protocol=base.protocol.plus(units, _more(memory=64 * MIB)),
            service=base.service.plus(units, _more(memory=64 * MIB)),
            services=MappingProxyType(
                {
                    name: replace(service, all=service.all.plus(units, _more(memory=64 * MIB)))
                    for name, service in base.services.items()
                }
            ),
        )


def _fit(limits: ScopeLimits, shrink: float) -> ScopeLimits:
    """Less memory for a node that has less than the defaults were made for."""
    return replace(limits, memory=int(limits.memory * shrink))
