"""What a relay grants: reservations and circuits, without IO or a clock.

Rules (libp2p relay, circuit-v2; security.md 5.3 and 7):

- A reservation is made over a direct connection, holds until it expires or the last direct connection of its peer
  ends, and a second one of that peer takes the place of the first.
- Reservations are counted in all, by IP address and by group of addresses. A refreshed one is counted at the address
  it is asked from now. Peers without an IP address (memory, unix) are bounded by the total alone.
- A circuit needs a reservation of its target, and both of its ends are counted. Nothing leads to oneself, nothing is
  relayed twice.
- Requests are rated by peer and by IP address before anything else is looked at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from talos.addr.ip import ip_group, limit_blocks
from talos.errors import ConfigError, LocalProtocolError
from talos.host.rate import KeyedRate
from talos.relay.wire import Limit, Status

if TYPE_CHECKING:
    from talos.addr.ip import IP, IpBlock
    from talos.identity.peer_id import PeerId

__all__ = ["RelayLimits", "RelayMachine"]

MAX_RATED_KEYS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """What a relay gives away. The defaults are go-libp2p's."""

    reservations: int = 128
    reservations_per_ip: int = 8
    reservations_per_group: int = 32
    """Of one IPv4 /16 or IPv6 /32."""
    reservation_seconds: int = 3600
    circuits_per_peer: int = 16
    """That begin or end at one peer."""
    circuits: int = 256
    """In all."""
    circuit_seconds: int = 120
    """How long one may last; 0: for as long as it likes."""
    circuit_bytes: int = 128 * 1024
    """Each way; 0: as many as it likes."""
    requests_per_peer: int = 30
    """Within two minutes."""
    requests_per_ip: int = 60
    """Within a minute."""

    def __post_init__(self) -> None:
        for name in ("reservations", "reservations_per_ip", "reservations_per_group", "reservation_seconds",
                     "circuits_per_peer", "circuits", "requests_per_peer", "requests_per_ip"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of a relay is at least 1")
        if self.circuit_seconds < 0 or self.circuit_bytes < 0:
            raise ConfigError("a circuit's limits are not negative")

    @property
    def limit(self) -> Limit | None:
        """As peers are told; None where there is none."""
        limit = Limit(self.circuit_seconds, self.circuit_bytes)
        return None if limit == Limit() else limit


@dataclass(slots=True)
class _Reserved:
    until: float
    blocks: tuple[IpBlock, ...]
    """The narrow block and the group that it counts in."""


class RelayMachine:
    """The books of one relay. `now` is any clock that only goes forward."""

    def __init__(self, limits: RelayLimits) -> None:
        self.limits = limits
        self._reserved: dict[PeerId, _Reserved] = {}
        self._blocks: Counter[IpBlock] = Counter()
        self._circuits: Counter[PeerId] = Counter()
        self.circuits = 0
        """Open now."""
        self._by_peer: KeyedRate[PeerId] = KeyedRate(limits.requests_per_peer, 120.0, max_keys=MAX_RATED_KEYS)
        self._by_ip: KeyedRate[IpBlock] = KeyedRate(limits.requests_per_ip, 60.0, max_keys=MAX_RATED_KEYS)

    @property
    def reservations(self) -> int:
        """That stand now."""
        return len(self._reserved)

    def holds(self, peer: PeerId, now: float) -> bool:
        """Whether `peer` has a reservation."""
        found = self._reserved.get(peer)
        return found is not None and now < found.until

    def reserve(self, peer: PeerId, ip: IP | None, *, limited: bool, now: float) -> Status:
        """OK, and the reservation stands for `reservation_seconds`; else why not. `limited`: asked through a relay."""
        if limited:
            return Status.PERMISSION_DENIED
        if not self._rated(peer, ip, now):
            return Status.RESERVATION_REFUSED
        self.expire(now)
        blocks = () if ip is None else (limit_blocks(ip)[0], ip_group(ip))
        standing = self._reserved.get(peer)
        freed = standing.blocks if standing is not None else ()
        if standing is None and len(self._reserved) >= self.limits.reservations:
            return Status.RESERVATION_REFUSED
        bounds = (self.limits.reservations_per_ip, self.limits.reservations_per_group)
        for block, most in zip(blocks, bounds, strict=False):
            if self._blocks[block] - (block in freed) >= most:
                return Status.RESERVATION_REFUSED
        self._drop(peer)
        self._reserved[peer] = _Reserved(now + self.limits.reservation_seconds, blocks)
        self._blocks.update(blocks)
        return Status.OK

    def connect(self, source: PeerId, target: PeerId, ip: IP | None, *, limited: bool, now: float) -> Status:
        """OK, and a circuit is counted until `ended`; else why not. `ip` is the source's."""
        if limited or source == target:
            return Status.PERMISSION_DENIED
        if not self._rated(source, ip, now):
            return Status.RESOURCE_LIMIT_EXCEEDED
        if not self.holds(target, now):
            return Status.NO_RESERVATION
        most = self.limits.circuits_per_peer
        if self._circuits[source] >= most or self._circuits[target] >= most or self.circuits >= self.limits.circuits:
            return Status.RESOURCE_LIMIT_EXCEEDED
        self.circuits += 1
        self._circuits[source] += 1
        self._circuits[target] += 1
        return Status.OK

    def ended(self, source: PeerId, target: PeerId) -> None:
        """A circuit that `connect` counted is over; LocalProtocolError for one that it did not."""
        if not (self._circuits[source] and self._circuits[target]):
            raise LocalProtocolError("no such circuit was open")
        self.circuits -= 1
        for peer in (source, target):
            self._circuits[peer] -= 1
            if not self._circuits[peer]:
                del self._circuits[peer]

    def disconnected(self, peer: PeerId) -> None:
        """The last direct connection of `peer` ended, and its reservation with it."""
        self._drop(peer)

    def expire(self, now: float) -> list[PeerId]:
        """Those whose reservation ran out, which are gone now."""
        gone = [peer for peer, found in self._reserved.items() if found.until <= now]
        for peer in gone:
            self._drop(peer)
        return gone

    def next_deadline(self) -> float | None:
        """When the next reservation runs out."""
        return min((found.until for found in self._reserved.values()), default=None)

    def _rated(self, peer: PeerId, ip: IP | None, now: float) -> bool:
        if not self._by_peer.take(peer, now):
            return False
        return ip is None or ip.is_loopback or self._by_ip.take(limit_blocks(ip)[0], now)

    def _drop(self, peer: PeerId) -> None:
        found = self._reserved.pop(peer, None)
        for block in found.blocks if found is not None else ():
            self._blocks[block] -= 1
            if not self._blocks[block]:
                del self._blocks[block]
