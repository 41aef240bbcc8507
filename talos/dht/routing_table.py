"""The routing table (kad-dht, routing table): who to begin a lookup with, and who to name to others.

One bucket for each length of prefix that a peer's kad id shares with ours, so bucket 0 holds half of the network.
The `kademlia` package gives a bucket's mechanics: most recently seen order, the replacement cache and promotion out
of it. What is decided here:

- A live member is never replaced: newcomers to a full bucket wait in its cache until a member has gone.
- A member unheard for a while is quiet and to be asked; the second failure in a row removes it.
- No address group has more than a few peers in the table and in a bucket (Diversity). That is checked for who is added
  and again for who is promoted, since the table has changed meanwhile.

`now` is the driver's clock, in seconds of any epoch. Not for several threads.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from kademlia.node import Node
from kademlia.routing import KBucket

from talos import addr as addresses
from talos.dht.key import KAD_BITS, MAX_SEARCH_BITS, common_prefix, kad_id, preimage
from talos.errors import ConfigError

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Iterable, Iterator

    from multiaddr import Multiaddr

    from talos.addr import IpBlock
    from talos.identity.peer_id import PeerId

__all__ = ["Added", "Remembered", "RoutingTable", "RoutingTableConfig", "address_group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingTableConfig:
    """How much the table holds, and how long it trusts."""

    bucket_size: int = 20
    """The specification's k. A bucket's cache holds five times as many."""
    quiet_seconds: float = 300.0
    """A member unheard for so long is to be asked."""
    failures: int = 2
    """So many in a row remove a member."""
    per_group: int = 3
    """Peers of one address group in the table."""
    per_group_in_bucket: int = 2
    """The same in one bucket."""
    max_refresh_bits: int = 10
    """The deepest bucket that gets a refresh key of its own; a lookup of our own id fills those beyond."""

    def __post_init__(self) -> None:
        if not (self.bucket_size > 0 and self.quiet_seconds > 0 and self.failures > 0):
            raise ConfigError("a routing table needs room for a peer, time before it is quiet, and a failure")
        if not 0 < self.per_group_in_bucket <= self.per_group:
            raise ConfigError("per_group_in_bucket is 1 to per_group")
        if not 0 <= self.max_refresh_bits < MAX_SEARCH_BITS:
            raise ConfigError(f"max_refresh_bits is 0 to {MAX_SEARCH_BITS - 1}")


class Added(Enum):
    """What became of a peer that was to be added."""

    MEMBER = "member"
    CACHED = "cached"
    """Its bucket is full; it takes the place of a member that fails."""
    REFUSED = "refused"
    """Ourselves, or one too many of an address group."""


class Remembered(NamedTuple):
    """What is kept of a member across restarts."""

    peer: PeerId
    group: IpBlock | None


def address_group(addr: Multiaddr) -> IpBlock | None:
    """The group that a peer connected from `addr` counts for; None where it counts for none.

    Private and loopback addresses are exempt, and those that begin with no IP address.
    """
    address = addresses.ip_of(addr)
    if address is None or addresses.is_loopback(addr) or addresses.is_private(addr):
        return None
    return addresses.ip_group(address)


class _Member(Node):  # type: ignore[misc]  # the package has no types
    """A node of the package's buckets with what we know of the peer."""

    id: bytes
    long_id: int

    def __init__(self, peer: PeerId, kad: int, now: float, group: IpBlock | None) -> None:
        super().__init__(kad.to_bytes(KAD_BITS // 8, "big"))
        self.peer = peer
        self.group = group
        self.heard_at = now
        self.failures = 0


class RoutingTable:
    """Servers that have answered us, by distance."""

    def __init__(self, own: PeerId, config: RoutingTableConfig | None = None) -> None:
        self.own = own
        self.own_kad = kad_id(own.raw)
        self._config = config or RoutingTableConfig()
        self._buckets: dict[int, KBucket] = {}
        """By shared prefix length; made when first used, and those that became empty stay."""
        self._members: dict[bytes, _Member] = {}
        """By the bytes of the peer id: members, without those that wait in a cache."""
        self._kads: list[int] = []
        """Kad ids of the members, sorted."""
        self._peers: dict[int, PeerId] = {}
        """Members by kad id."""
        self._groups: Counter[IpBlock] = Counter()

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, peer: PeerId) -> bool:
        return peer.raw in self._members

    def __iter__(self) -> Iterator[PeerId]:
        return iter([member.peer for member in self._members.values()])

    # ------------------------------------------------------------------------------------ who is in it

    def add(self, peer: PeerId, now: float, group: IpBlock | None = None) -> Added:
        """Takes a server that has answered us, connected from `group`; one that is a member was heard."""
        if peer.raw in self._members:
            self.heard(peer, now)
            return Added.MEMBER
        kad = kad_id(peer.raw)
        if kad == self.own_kad:
            return Added.REFUSED
        number = common_prefix(kad, self.own_kad)
        bucket = self._buckets.get(number) or self._new_bucket(number)
        if not self._is_diverse(bucket, group):
            return Added.REFUSED
        member = _Member(peer, kad, now, group)
        if not bucket.add_node(member):
            return Added.CACHED
        self._joined(member)
        return Added.MEMBER

    def heard(self, peer: PeerId, now: float) -> None:
        """A member has answered; of another peer this says nothing."""
        member = self._members.get(peer.raw)
        if member is not None:
            member.heard_at, member.failures = now, 0
            self._bucket_of(member).add_node(member)  # the package's way to say: most recently seen

    def failed(self, peer: PeerId) -> bool:
        """A member did not answer. True when it leaves the table with that. Out of a cache it goes at once."""
        member = self._members.get(peer.raw)
        if member is None:
            self.remove(peer)
            return False
        member.failures += 1
        if member.failures < self._config.failures:
            return False
        self.remove(peer)
        return True

    def remove(self, peer: PeerId) -> None:
        """Takes a peer out at once, also out of a cache; the newest of the cache moves up."""
        kad = kad_id(peer.raw)
        bucket = self._buckets.get(common_prefix(kad, self.own_kad))
        if bucket is None:
            return
        member = self._members.pop(peer.raw, None)
        if member is None:
            bucket.remove_node(_Member(peer, kad, 0.0, None))
            return
        self._left(member)
        while (promoted := _replaced(bucket, member)) is not None:
            if self._is_diverse(bucket, promoted.group, besides=1):
                self._joined(promoted)
                return
            member = promoted

    def quiet(self, now: float) -> list[PeerId]:
        """Members to be asked whether they are still there, the longest unheard first."""
        since = now - self._config.quiet_seconds
        found = [member for member in self._members.values() if member.heard_at <= since]
        found.sort(key=lambda member: member.heard_at)
        return [member.peer for member in found]

    # ------------------------------------------------------------------------------------ what it tells

    def nearest(self, target: int, count: int | None = None, *, exclude: Collection[PeerId] = ()) -> list[PeerId]:
        """The `count` (k by default) members nearest to the kad id `target`: exactly these, nearest first."""
        wanted = self._config.bucket_size if count is None else count
        kads, needed = self._kads, wanted + len(exclude)
        # Members that begin with the same bits as the target are a run of the sorted list, and nearer than all others.
        first, end = 0, len(kads)
        shift = KAD_BITS
        while end - first > needed and shift:
            shift -= 1
            low = target >> shift << shift
            inner = bisect_left(kads, low, first, end)
            after = bisect_left(kads, low + (1 << shift), inner, end)
            if after - inner < needed:
                break
            first, end = inner, after
        distances = [kad ^ target for kad in kads[first:end]]
        if exclude:
            without = {kad_id(peer.raw) ^ target for peer in exclude}
            distances = [distance for distance in distances if distance not in without]
        distances.sort()
        peers = self._peers
        return [peers[distance ^ target] for distance in distances[:wanted]]

    def refresh_keys(self, rng: random.Random) -> list[bytes]:
        """Keys whose lookups fill the table: one in each bucket up to the last that has members, then our own id.

        Hashes about two thousand times for a big table.
        """
        last = max((number for number, bucket in self._buckets.items() if len(bucket)), default=-1)
        deepest = min(last, self._config.max_refresh_bits)
        keys = [preimage(self.own_kad, bits, rng, exact=True) for bits in range(deepest + 1)]
        return [*keys, self.own.raw]

    def network_size(self) -> int:
        """How many servers there are, ourselves included, judged by how dense the network is around us.

        Buckets beyond the last full one hold all that there are with so long a prefix.
        """
        deeper = 0
        for number in sorted(self._buckets, reverse=True):
            members = len(self._buckets[number])
            if members >= self._config.bucket_size:  # cut off at k: only what lies deeper was counted whole
                return max(deeper << number + 1, len(self._members)) + 1
            deeper += members
        return deeper + 1

    def region_bits(self, peers: int = 20) -> int:
        """The longest prefix that at least `peers` servers are expected to share with any key."""
        return max(0, (self.network_size() // peers).bit_length() - 1)

    def heard_at(self, peer: PeerId) -> float | None:
        """When a member last answered; None where the peer is not one."""
        member = self._members.get(peer.raw)
        return None if member is None else member.heard_at

    def bucket_sizes(self) -> dict[int, int]:
        """Members by the length of the prefix that they share with us; no bucket that is empty."""
        return {number: len(self._buckets[number]) for number in sorted(self._buckets) if len(self._buckets[number])}

    # ------------------------------------------------------------------------------------ across restarts

    def snapshot(self) -> list[Remembered]:
        """The members, those of the longest standing first."""
        return [Remembered(member.peer, member.group) for member in self._members.values()]

    def restore(self, remembered: Iterable[Remembered]) -> None:
        """Takes over a snapshot. Its peers are quiet at once, since nobody knows whether they are still there."""
        for peer, group in remembered:
            self.add(peer, -math.inf, group)

    # ------------------------------------------------------------------------------------ inside

    def _new_bucket(self, number: int) -> KBucket:
        low = (self.own_kad >> (KAD_BITS - 1 - number) ^ 1) << (KAD_BITS - 1 - number)
        high = low + (1 << (KAD_BITS - 1 - number)) - 1
        bucket = self._buckets[number] = KBucket(low, high, self._config.bucket_size)
        return bucket

    def _bucket_of(self, member: _Member) -> KBucket:
        return self._buckets[common_prefix(member.long_id, self.own_kad)]

    def _is_diverse(self, bucket: KBucket, group: IpBlock | None, *, besides: int = 0) -> bool:
        """Whether one more of `group` is allowed; `besides` of it stand in the bucket already without being counted."""
        if group is None:
            return True
        in_bucket = sum(node.group == group for node in bucket.get_nodes()) - besides
        return in_bucket < self._config.per_group_in_bucket and self._groups[group] < self._config.per_group

    def _joined(self, member: _Member) -> None:
        self._members[member.peer.raw] = member
        self._peers[member.long_id] = member.peer
        insort(self._kads, member.long_id)
        if member.group is not None:
            self._groups[member.group] += 1

    def _left(self, member: _Member) -> None:
        del self._peers[member.long_id]
        del self._kads[bisect_left(self._kads, member.long_id)]
        if member.group is not None:
            self._groups[member.group] -= 1
            if not self._groups[member.group]:
                del self._groups[member.group]


def _replaced(bucket: KBucket, member: _Member) -> _Member | None:
    """Takes `member` out of its bucket; who took its place, if anybody did.

    The package promotes by itself and does not say whom: the newest, if the bucket has not shrunk.
    """
    before = len(bucket)
    bucket.remove_node(member)
    promoted: _Member | None = bucket.get_nodes()[-1] if len(bucket) == before else None
    return promoted
