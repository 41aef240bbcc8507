"""A network of DHT nodes on a virtual clock: the real routing tables and lookups, no wire.

The same seed gives the same numbers. A request takes a seeded time; to a dead node it fails after the dial deadline.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left
from enum import Enum
from typing import TYPE_CHECKING

from multiaddr import Multiaddr

from talos.dht.key import KAD_BITS, kad_id, preimage
from talos.dht.peer import PeerInfo
from talos.dht.query import Lookup, Purpose
from talos.dht.routing_table import RoutingTable
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["Clock", "K", "Network", "Role", "Search", "SimNode", "begin", "random_peer", "run"]

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
        self._invented: tuple[int, list[PeerInfo]] = (-1, [])
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

    def _inventions(self, target: int) -> list[PeerInfo]:
        """What all inventors draw from, so that they bear each other out; made anew for another target."""
        if self._invented[0] != target:
            peers = (PeerId(preimage(target, 9, self.rng, exact=False)) for _ in range(30))
            self._invented = target, [PeerInfo(peer, TRUE_ADDRS) for peer in peers]
        return self._invented[1]

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
            lies = self.rng.sample(self._inventions(target), 10)
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
