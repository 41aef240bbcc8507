"""The region query (SR-DHT-Store, arXiv 2505.01139): finds every live peer around a key, not only the k nearest.

Who wants to hide a key puts k peers of its own nearest to it, and each lookup ends among them. Honest peers are spread
evenly, though, so the prefix of the key that about k honest peers share can be told from the size of the network, and a
record that all peers of that region hold is found by asking all of them.

An honest peer that is asked for the key itself names only the k nearest, the attacker's. So besides the key, the query
looks up one random place in each part of the region: where the prefix ends, one bit further, and so on to where less
than one honest peer is expected. What lies nearest to those places is honest in proportion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.dht.key import KAD_BITS, MAX_SEARCH_BITS, kad_id, preimage
from talos.dht.query import Lookup, LookupConfig, Purpose

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from multiaddr import Multiaddr

    from talos.dht.peer import PeerInfo
    from talos.identity.peer_id import PeerId

__all__ = ["RegionQuery"]

PARTS = 5
"""Parts of the region that are looked up: of 20 to 40 peers, the last one holds about one."""
MAX_PEERS = 512
"""Of a region. Who floods it with names has the honest ones crowded out no sooner."""


class RegionQuery:
    """Lookups that together find the peers whose kad id begins with the first `bits` bits of the key's.

    Run all lookups of `to_run()` to their ends, FIND_NODE with each one's own `key`, and call it again until it gives
    none. `nearest` is the routing table's. Take `bits` from `RoutingTable.region_bits`.
    """

    def __init__(
        self,
        key: bytes,
        nearest: Callable[[int], list[PeerId]],
        *,
        own: PeerId,
        bits: int,
        rng: random.Random,
        config: LookupConfig | None = None,
    ) -> None:
        self.key = key
        self.target = kad_id(key)
        self.bits = min(bits, MAX_SEARCH_BITS - PARTS)
        self._nearest = nearest
        self._own = own
        self._rng = rng
        self._config = config or LookupConfig()
        self._lookups: list[Lookup] = []

    def to_run(self) -> list[Lookup]:
        """First the lookup of the key itself, then those of the region's parts, then none.

        The second call hashes about 2^(bits + 5) times: some ten milliseconds in a network of ten thousand.
        """
        if not self._lookups:
            self._lookups = [self._lookup(self.key, [], Purpose.STORE)]
            return self._lookups
        if len(self._lookups) > 1:
            return []
        known = self._lookups[0].closest()
        parts = range(self.bits, self.bits + PARTS)
        keys = [preimage(self.target, bits, self._rng, exact=True) for bits in parts]
        lookups = [self._lookup(key, known, Purpose.REFRESH) for key in keys]
        self._lookups += lookups
        return lookups

    def peers(self) -> list[PeerInfo]:
        """Who lies in the region and did not fail, nearest first: to be sent the request itself, all of them."""
        shift = KAD_BITS - self.bits
        found: dict[int, PeerInfo] = {}
        for lookup in self._lookups:
            for info in lookup.reachable():
                distance = kad_id(info.peer.raw) ^ self.target
                if not distance >> shift:
                    found.setdefault(distance, info)
        return [found[distance] for distance in sorted(found)][:MAX_PEERS]

    def addrs(self, peer: PeerId) -> tuple[Multiaddr, ...]:
        """Where answers say that `peer` is."""
        return next((addrs for lookup in self._lookups if (addrs := lookup.addrs(peer))), ())

    def _lookup(self, key: bytes, known: list[PeerId], purpose: Purpose) -> Lookup:
        seeds = dict.fromkeys([*self._nearest(kad_id(key)), *known])
        return Lookup(key, seeds, own=self._own, purpose=purpose, config=self._config)
