"""A DHT of many nodes, simulated: the real routing tables and lookups over a virtual clock.

`python -m tests.simulation.dht --nodes 1000 10000 --write-docs` measures everything and writes docs/dht-simulation.md.
The same seed gives the same numbers. A request takes a seeded time; to a dead node it fails after the dial deadline.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import statistics
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from multiaddr import Multiaddr

from talos.dht.key import KAD_BITS, kad_id, preimage
from talos.dht.peer import PeerInfo
from talos.dht.query import Lookup, LookupConfig, Purpose
from talos.dht.region import RegionQuery
from talos.dht.routing_table import RoutingTable, RoutingTableConfig
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

DIAL_SECONDS = 5.0
ONE_WAY_SECONDS = (0.01, 0.1)
K = 20
TRUE_ADDRS = (Multiaddr("/ip4/10.0.0.1/tcp/4001"),)
FALSE_ADDRS = (Multiaddr("/ip4/10.6.6.6/tcp/4001"),)


class Role(Enum):
    HONEST = "honest"
    DROPPER = "dropper"
    """Takes requests and never answers."""
    LIAR = "liar"
    """Names only liars, has no records, and gives false addresses of who is looked for."""
    INVENTOR = "inventor"
    """Names peers near the target that do not exist."""


class Clock:
    """Calls functions at their virtual times."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, fn: Callable[..., None], *args: object) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._numbers), fn, args))

    def run(self) -> None:
        while self._queue:
            self.now, _, fn, args = heapq.heappop(self._queue)
            fn(*args)


class SimNode:
    """One node: its table, what it stores, and how it behaves."""

    __slots__ = ("alive", "info", "kad", "peer", "role", "stored", "table")

    def __init__(self, peer: PeerId, role: Role = Role.HONEST) -> None:
        self.peer = peer
        self.kad = kad_id(peer.raw)
        self.table = RoutingTable(peer)
        self.info = PeerInfo(peer, TRUE_ADDRS)
        self.role = role
        self.alive = True
        self.stored: set[bytes] = set()


def random_peer(rng: random.Random) -> PeerId:
    return PeerId(b"\x12\x20" + rng.randbytes(32))


class Network:
    """Nodes whose tables are what they would be after a while: k random peers of each bucket, or all there are."""

    def __init__(self, count: int, rng: random.Random, *, learning: bool = False) -> None:
        self.rng = rng
        self.clock = Clock()
        self.learning = learning
        """Whether requests change tables; without, each lookup meets the same network."""
        self.nodes: dict[bytes, SimNode] = {}
        self.sent = 0
        for _ in range(count):
            self.join(random_peer(rng))
        self._fill()

    def join(self, peer: PeerId, role: Role = Role.HONEST) -> SimNode:
        node = self.nodes[peer.raw] = SimNode(peer, role)
        return node

    def honest(self) -> list[SimNode]:
        return [node for node in self.nodes.values() if node.alive and node.role is Role.HONEST]

    def liars_near(self, target: int) -> list[PeerInfo]:
        liars = (node for node in self.nodes.values() if node.role is Role.LIAR and node.alive)
        return [node.info for node in heapq.nsmallest(K, liars, key=lambda node: node.kad ^ target)]

    def _fill(self) -> None:
        """In the order of kad ids, each bucket is one run of nodes."""
        ordered = sorted(self.nodes.values(), key=lambda node: node.kad)
        kads = [node.kad for node in ordered]
        for node in ordered:
            for bits in range(KAD_BITS):
                shift = KAD_BITS - 1 - bits
                low = (node.kad >> shift ^ 1) << shift
                first, end = bisect_left(kads, low), bisect_left(kads, low + (1 << shift))
                members = ordered[first:end]
                for member in self.rng.sample(members, K) if len(members) > K else members:
                    node.table.add(member.peer, 0.0)
                inside = (node.kad >> shift) << shift
                if bisect_left(kads, inside + (1 << shift)) - bisect_left(kads, inside) == 1:
                    break  # nobody else shares as much

    # ------------------------------------------------------------------------------------ requests

    def request(self, origin: SimNode, to: PeerId, key: bytes, search: Search) -> None:
        self.sent += 1
        node = self.nodes.get(to.raw)
        if node is None or not node.alive:
            self.clock.after(DIAL_SECONDS, search.failed, to)
        elif node.role is Role.DROPPER:
            self.clock.after(2 * DIAL_SECONDS, search.failed, to)
        else:
            low, high = ONE_WAY_SECONDS
            self.clock.after(self.rng.uniform(low, high) * 2, self._answer, origin, node, key, search)

    def _answer(self, origin: SimNode, node: SimNode, key: bytes, search: Search) -> None:
        """At the time of the answer: a node that has died meanwhile gives none."""
        if not node.alive:
            search.failed(node.peer)
            return
        target = kad_id(key)
        if node.role is Role.HONEST:
            closer = [self.nodes[peer.raw].info for peer in node.table.nearest(target, exclude=(origin.peer,))]
            if self.learning:
                node.table.add(origin.peer, self.clock.now)
            search.answered(node.peer, closer, key in node.stored)
            return
        if node.role is Role.INVENTOR:
            lies = [PeerInfo(PeerId(preimage(target, 10, self.rng, exact=False)), TRUE_ADDRS) for _ in range(4)]
        else:
            lies = [*search.false_target(), *self.liars_near(target)]
        search.answered(node.peer, lies, False)


class Search:
    """Drives one lookup, as a service does: requests, deadlines, and what it tells the table."""

    def __init__(self, network: Network, origin: SimNode, lookup: Lookup, then: Callable[[Search], None]) -> None:
        self.network = network
        self.origin = origin
        self.lookup = lookup
        self.started = network.clock.now
        self.seconds = 0.0
        self.hits = 0
        self.steps = 0
        self._then: Callable[[Search], None] | None = then
        self._go_on()

    def answered(self, peer: PeerId, closer: list[PeerInfo], has: bool) -> None:
        if self._then is None:
            return
        if self.network.learning:
            self.origin.table.add(peer, self.network.clock.now)
        self.hits += has
        self.lookup.answered(peer, closer, hits=has)
        found = self.lookup.found
        if found is not None and found.addrs == FALSE_ADDRS:
            self.lookup.refute()  # dialling it fails
        self._go_on()

    def failed(self, peer: PeerId) -> None:
        if self.network.learning:
            self.origin.table.failed(peer)
        if self._then is not None:
            self.lookup.failed(peer)
            self._go_on()

    def false_target(self) -> list[PeerInfo]:
        if self.lookup.purpose is not Purpose.FIND_PEER:
            return []
        return [PeerInfo(PeerId(self.lookup.key), FALSE_ADDRS)]

    def _go_on(self) -> None:
        for peer in self.lookup.to_ask():
            self.network.request(self.origin, peer, self.lookup.key, self)
        if self.lookup.done and self._then is not None:
            self.seconds = self.network.clock.now - self.started
            then, self._then = self._then, None
            then(self)


@dataclass(slots=True)
class Row:
    """What a number of lookups of one kind came to."""

    name: str
    successes: int = 0
    hops: list[int] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def take(self, success: bool, hops: int, messages: int, seconds: float) -> None:
        self.successes += success
        self.hops.append(hops)
        self.messages.append(messages)
        self.seconds.append(seconds)

    @property
    def rate(self) -> float:
        return self.successes / len(self.hops)

    @property
    def median_hops(self) -> float:
        return statistics.median(self.hops)


def begin(
    network: Network, origin: SimNode, key: bytes, purpose: Purpose, then: Callable[[Search], None], quorum: int = 0
) -> Search:
    lookup = Lookup(key, origin.table.nearest(kad_id(key)), own=origin.peer, purpose=purpose, quorum=quorum)
    return Search(network, origin, lookup, then)


def run(network: Network, origin: SimNode, key: bytes, purpose: Purpose, quorum: int = 0) -> Search:
    """One lookup from beginning to end, alone in the network."""
    search = begin(network, origin, key, purpose, lambda search: None, quorum)
    network.clock.run()
    return search


# ---------------------------------------------------------------------------------------------- scenarios


def find_peers(network: Network, count: int, name: str) -> Row:
    """Living honest nodes that one of them looks for."""
    row, honest = Row(name), network.honest()
    for _ in range(count):
        origin, wanted = network.rng.sample(honest, 2)
        if wanted.peer in origin.table:
            row.take(True, 1, 0, 0.0)
            continue
        search = run(network, origin, wanted.peer.raw, Purpose.FIND_PEER)
        row.take(search.lookup.found is not None, search.lookup.hops, search.lookup.asked, search.seconds)
    return row


def store_and_get(network: Network, count: int, name: str, trouble: Callable[[], None] | None = None) -> Row:
    """Records stored by one node, then got by another, with `trouble` between the two."""
    row, honest, keys = Row(name), network.honest(), []
    for _ in range(count):
        keys.append(key := network.rng.randbytes(34))
        search = run(network, network.rng.choice(honest), key, Purpose.STORE)
        for peer in search.lookup.closest():
            network.nodes[peer.raw].stored.add(key)
    if trouble is not None:
        trouble()
    honest = network.honest()
    for key in keys:
        search = run(network, network.rng.choice(honest), key, Purpose.GET, quorum=1)
        row.take(search.hits > 0, search.lookup.hops, search.lookup.asked, search.seconds)
    return row


def kill(network: Network, share: float) -> None:
    nodes = list(network.nodes.values())
    for node in network.rng.sample(nodes, round(share * len(nodes))):
        node.alive = False


def corrupt(network: Network, share: float, roles: Sequence[Role]) -> None:
    nodes = list(network.nodes.values())
    for number, node in enumerate(network.rng.sample(nodes, round(share * len(nodes)))):
        node.role = roles[number % len(roles)]


def misbehaving(network: Network, count: int, name: str, roles: Sequence[Role], *, share: float = 0.3) -> list[Row]:
    """Records and peers looked for while a share of the nodes does not do as it should."""
    stored = store_and_get(network, count, f"get, {name}", lambda: corrupt(network, share, roles))
    return [stored, find_peers(network, count, f"find, {name}")]


class Churn:
    """Half of the nodes are replaced within an hour while others look for records and peers."""

    SECONDS = 3600.0
    REFRESH_SECONDS = 600.0
    REPUBLISH_SECONDS = 1800.0
    """Deployed networks republish after 22 hours and lose half of their nodes in about as long: here all is faster."""

    def __init__(self, network: Network, lookups: int) -> None:
        self.network = network
        self.find = Row("find, half replaced in an hour")
        self.get = Row("get, half replaced in an hour")
        network.learning = True
        clock, rng, nodes = network.clock, network.rng, list(network.nodes.values())
        for node in nodes:
            clock.after(rng.uniform(0, self.REFRESH_SECONDS), self._refresh, node)
        for node in rng.sample(nodes, len(nodes) // 2):
            clock.after(rng.uniform(0, self.SECONDS), self._replace, node)
        for _ in range(lookups):
            clock.after(rng.uniform(0, self.SECONDS), self._find_one)
        for _ in range(lookups // 2):
            self._publish(rng.choice(nodes), rng.randbytes(34), gets=2)
        clock.run()

    def _publish(self, owner: SimNode, key: bytes, gets: int) -> None:
        """The owner goes on for as long as it lives; then another who has the record does."""
        clock, rng = self.network.clock, self.network.rng
        if clock.now > self.SECONDS:
            return

        def stored(search: Search) -> None:
            for peer in search.lookup.closest():
                self.network.nodes[peer.raw].stored.add(key)
            for _ in range(gets):
                clock.after(rng.uniform(0, self.SECONDS - clock.now), self._get_one, key)
            clock.after(self.REPUBLISH_SECONDS, self._publish, rng.choice(self.network.honest()), key, 0)

        begin(self.network, owner, key, Purpose.STORE, stored)

    def _refresh(self, node: SimNode) -> None:
        clock = self.network.clock
        if not node.alive or clock.now > self.SECONDS:
            return
        for peer in node.table.quiet(clock.now):
            if self.network.nodes[peer.raw].alive:
                node.table.heard(peer, clock.now)
            else:
                node.table.failed(peer)
        for key in node.table.refresh_keys(self.network.rng):
            begin(self.network, node, key, Purpose.REFRESH, lambda search: None)
        clock.after(self.REFRESH_SECONDS, self._refresh, node)

    def _replace(self, node: SimNode) -> None:
        node.alive = False
        self._join()

    def _join(self) -> None:
        """A newcomer knows one peer and looks up itself."""
        network = self.network
        known = network.rng.choice(network.honest())
        node = network.join(random_peer(network.rng))
        node.table.add(known.peer, network.clock.now)
        begin(network, node, node.peer.raw, Purpose.REFRESH, lambda search: self._refresh(node))

    def _settled(self) -> list[SimNode]:
        return [node for node in self.network.honest() if len(node.table) > K]

    def _find_one(self) -> None:
        origin, wanted = self.network.rng.sample(self._settled(), 2)

        def found(search: Search) -> None:
            if wanted.alive:  # else there is nothing to be found
                lookup = search.lookup
                self.find.take(lookup.found is not None, lookup.hops, lookup.asked, search.seconds)

        begin(self.network, origin, wanted.peer.raw, Purpose.FIND_PEER, found)

    def _get_one(self, key: bytes) -> None:
        def got(search: Search) -> None:
            self.get.take(search.hits > 0, search.lookup.hops, search.lookup.asked, search.seconds)

        begin(self.network, self.network.rng.choice(self._settled()), key, Purpose.GET, got, quorum=1)


@dataclass(slots=True)
class Eclipse:
    """One key after another surrounded by sybils: how many are found by lookups alone, and how many by region."""

    sybils: int
    lookup: Row
    region: Row


def eclipse(network: Network, sybils: int, keys: int) -> Eclipse:
    """Providers are told of before and looked for after `sybils` nodes have come nearer to the key than any honest."""
    bits = math.ceil(math.log2(len(network.nodes))) + 3
    result = Eclipse(sybils, Row(f"lookup alone, {sybils} sybils"), Row(f"region query, {sybils} sybils"))
    for _ in range(keys):
        key = network.rng.randbytes(34)
        target = kad_id(key)
        added = [network.join(PeerId(preimage(target, bits, network.rng, exact=False)), Role.LIAR) for _ in range(sybils)]
        for node in network.nodes.values():
            for sybil in added:
                node.table.add(sybil.peer, 0.0)
        provider, seeker = network.rng.sample(network.honest(), 2)
        plain = run(network, provider, key, Purpose.STORE)
        _hand_out(network, key, plain.lookup.closest())
        search = run(network, seeker, key, Purpose.GET, quorum=1)
        result.lookup.take(search.hits > 0, search.lookup.hops, plain.lookup.asked + search.lookup.asked, search.seconds)
        _take_back(network, key)
        _hand_out(network, key, (told := by_region(network, provider, key))[0])
        asked = by_region(network, seeker, key)
        hits = sum(key in network.nodes[peer.raw].stored for peer in asked[0] if peer.raw in network.nodes)
        result.region.take(hits > 0, 0, told[1] + asked[1], asked[2])
        _take_back(network, key)
        for node in network.nodes.values():
            for sybil in added:
                node.table.remove(sybil.peer)
        for sybil in added:
            del network.nodes[sybil.peer.raw]
    return result


def by_region(network: Network, origin: SimNode, key: bytes) -> tuple[list[PeerId], int, float]:
    """All peers of the region of `key`, the messages that finding and asking them takes, and the seconds."""
    table, started, sent = origin.table, network.clock.now, network.sent
    bits = table.region_bits()
    query = RegionQuery(key, table.nearest, own=origin.peer, bits=bits, rng=network.rng)
    while lookups := query.to_run():
        for lookup in lookups:
            Search(network, origin, lookup, lambda search: None)
        network.clock.run()
    peers = [info.peer for info in query.peers()]
    return peers, network.sent - sent + len(peers), network.clock.now - started


def _hand_out(network: Network, key: bytes, peers: Iterable[PeerId]) -> None:
    for peer in peers:
        node = network.nodes.get(peer.raw)
        if node is not None and node.alive and node.role is Role.HONEST:
            node.stored.add(key)


def _take_back(network: Network, key: bytes) -> None:
    for node in network.nodes.values():
        node.stored.discard(key)
