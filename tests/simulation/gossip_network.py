"""A network of gossip routers in virtual time: links with latency and loss, churn, partitions.

What runs is the router itself, with real signatures. A link is a pair of streams: RPCs arrive in order, each `latency`
after it was sent. Loss takes single RPCs, as a full queue or a reset stream would; the one that opens a stream is
never lost, for without it there is no stream.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Protocol

from talos.errors import RemoteProtocolError
from talos.gossip.event import Connect, Deliver, Disconnect, Effect, Send, Validate, ValidationResult
from talos.gossip.router import Router
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.wire.length_prefix import LengthPrefixDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from random import Random

    from talos.gossip.config import GossipConfig

TOPIC = "talos/simulation"
MAX_RPC_BYTES = 1 << 20
REDIAL_SECONDS = 5.0
"""Who was thrown out comes again."""
FORBIDDEN = b"forbidden"
"""Data that every honest validator rejects."""


class Machine(Protocol):
    """What the network drives: a router, or somebody who only looks like one."""

    def peer_joined(
        self, peer: PeerId, protocol: str, now: float, *, ip: IPv4Address | None, outbound: bool
    ) -> list[Effect]: ...
    def peer_left(self, peer: PeerId, now: float) -> list[Effect]: ...
    def receive(self, peer: PeerId, rpc: bytes, now: float) -> list[Effect]: ...
    def heartbeat(self, now: float) -> list[Effect]: ...
    def data_to_send(self, peer: PeerId) -> bytes: ...


@dataclass(eq=False)
class Node:
    """A machine with a place in the network."""

    peer: PeerId
    machine: Machine
    ip: IPv4Address
    honest: bool
    links: dict[PeerId, float] = field(default_factory=dict)
    """Neighbours, and how long an RPC takes to them."""
    met: set[PeerId] = field(default_factory=set)
    """Whom it has ever been linked to."""
    up: bool = True


@dataclass
class Publication:
    """A message of an honest node: who was up at that time, and when each of them got it."""

    at: float
    expected: set[PeerId]
    arrived: dict[PeerId, float] = field(default_factory=dict)


class Network:
    """Nodes, links, and the queue of what happens next."""

    def __init__(self, random: Random, *, loss: float = 0.0) -> None:
        self.random = random
        self.loss = loss
        self.now = 0.0
        self.nodes: dict[PeerId, Node] = {}
        self.published: dict[bytes, Publication] = {}
        self.measuring = False
        """Whether messages are counted. There must be some before and after, too: peers are scored by them."""
        self.rpcs = self.resets = 0
        self._numbers = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []

    # ------------------------------------------------------------------------- nodes and links

    def add_router(self, number: int, config: GossipConfig, *, honest: bool = True) -> Node:
        """A node with a router and a public address of its own."""
        key = PrivateKey.from_seed(number.to_bytes(32, "big"))
        peer = PeerId.from_key(key.public_key)
        router = Router(config, peer_id=peer, key=key, random=self.random, now=self.now, first_seqno=1)
        node = self.add(Node(peer, router, IPv4Address(0x2E000000 + number), honest))
        self._apply(node, router.subscribe(TOPIC, self.now, validate=True))
        return node

    def add(self, node: Node) -> Node:
        """A node; its heartbeat begins within a second."""
        self.nodes[node.peer] = node
        self.at(self.now + self.random.random(), lambda: self._beat(node))
        return node

    def honest(self) -> list[Node]:
        """Those that are up."""
        return [node for node in self.nodes.values() if node.honest and node.up]

    def connect(self, a: Node, b: Node, latency: float | None = None) -> None:
        """`a` dials `b`, unless they are linked."""
        if a is b or b.peer in a.links or not (a.up and b.up):
            return
        latency = self.random.uniform(0.01, 0.1) if latency is None else latency
        a.links[b.peer] = b.links[a.peer] = latency
        a.met.add(b.peer)
        b.met.add(a.peer)
        for node, other, outbound in ((a, b, True), (b, a, False)):
            effects = node.machine.peer_joined(other.peer, "/meshsub/1.2.0", self.now, ip=other.ip, outbound=outbound)
            self._apply(node, effects, opening=True)

    def disconnect(self, a: Node, b: Node) -> None:
        if b.peer not in a.links:
            return
        del a.links[b.peer], b.links[a.peer]
        self._apply(a, a.machine.peer_left(b.peer, self.now))
        self._apply(b, b.machine.peer_left(a.peer, self.now))

    def leave(self, node: Node) -> None:
        """The node is gone for good."""
        for peer in list(node.links):
            self.disconnect(node, self.nodes[peer])
        node.up = False

    def wire_up(self, nodes: Sequence[Node], dials: int) -> None:
        """Each dials so many of the others, by chance."""
        for node in nodes:
            for other in self.random.sample(nodes, min(dials, len(nodes))):
                self.connect(node, other)

    # ------------------------------------------------------------------------- time

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._numbers), action))

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """From now on."""

        def step() -> None:
            action()
            self.at(self.now + seconds, step)

        self.at(self.now + seconds, step)

    def run(self, until: float) -> None:
        """Lets happen what happens before `until`."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, action = heapq.heappop(queue)
            action()
        self.now = until

    def _beat(self, node: Node) -> None:
        if node.up:
            self._apply(node, node.machine.heartbeat(self.now))
            self.at(self.now + 1.0, lambda: self._beat(node))

    # ------------------------------------------------------------------------- messages

    def publish(self, node: Node, data: bytes, expected: Iterable[Node] | None = None) -> None:
        """A message of `node`; `expected` are to get it, all honest nodes if they are not named."""
        assert isinstance(node.machine, Router)
        message, effects = node.machine.publish(TOPIC, data, self.now)
        readers = self.honest() if expected is None else expected
        if self.measuring:
            self.published[message.id] = Publication(self.now, {one.peer for one in readers if one is not node})
        self._apply(node, effects)

    def _apply(self, node: Node, effects: list[Effect], *, opening: bool = False) -> None:
        for effect in effects:
            match effect:
                case Send(peers):
                    for peer in peers:
                        self._carry(node, peer, opening=opening)
                case Deliver(message):
                    publication = self.published.get(message.id)
                    if publication is not None:
                        publication.arrived.setdefault(node.peer, self.now)
                case Validate(message):
                    assert isinstance(node.machine, Router)
                    result = ValidationResult.REJECT if message.data == FORBIDDEN else ValidationResult.ACCEPT
                    self._apply(node, node.machine.validated(message, result, self.now))
                case Connect(candidates):
                    for candidate in candidates[:2]:
                        other = self.nodes.get(candidate.peer)
                        if other is not None:
                            self.connect(node, other)
                case Disconnect(peer):
                    other = self.nodes[peer]
                    self.disconnect(node, other)
                    self.at(self.now + REDIAL_SECONDS, functools.partial(self.connect, other, node))

    def _carry(self, node: Node, peer: PeerId, *, opening: bool) -> None:
        latency = node.links.get(peer)
        if latency is None:
            return
        other = self.nodes[peer]
        while data := node.machine.data_to_send(peer):
            for rpc in LengthPrefixDecoder(MAX_RPC_BYTES).receive_data(data):
                self.rpcs += 1
                if opening or self.random.random() >= self.loss:
                    self.at(self.now + latency, lambda rpc=rpc: self._arrive(other, node.peer, rpc))  # type: ignore[misc]

    def _arrive(self, node: Node, sender: PeerId, rpc: bytes) -> None:
        if sender not in node.links:
            return
        try:
            effects = node.machine.receive(sender, rpc, self.now)
        except RemoteProtocolError:
            self.resets += 1
            self.disconnect(node, self.nodes[sender])
            return
        self._apply(node, effects)
