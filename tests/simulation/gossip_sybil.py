"""Those who look like peers: they join, are grafted, and then do harm."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from talos.errors import RemoteProtocolError
from talos.gossip import wire
from talos.gossip.config import GossipLimits
from talos.gossip.event import Send
from talos.gossip.message import from_seqno
from talos.gossip.router import Router
from talos.identity.peer_id import PeerId
from tests.simulation.gossip_network import FORBIDDEN, TOPIC, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from random import Random

    from talos.gossip.config import GossipConfig
    from talos.gossip.event import Effect
    from talos.gossip.message import Message
    from talos.identity.keys import PrivateKey

_LIMITS = GossipLimits()
_IHAVE_IDS = 200


class Silent:
    """Subscribes, asks into every mesh, takes every GRAFT, and passes nothing on. The base of the others."""

    regraft_seconds = 65.0
    """It minds the back-off, so that nothing but its silence tells."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._outbox: dict[PeerId, list[bytes]] = defaultdict(list)
        self._next_graft: dict[PeerId, float] = {}
        self.seen_ids: dict[bytes, None] = {}

    def peer_joined(
        self, peer: PeerId, protocol: str, now: float, *, ip: IPv4Address | None, outbound: bool
    ) -> list[Effect]:
        self._outbox[peer].append(wire.assemble((wire.subscription(TOPIC, wanted=True),), ()))
        self._next_graft[peer] = now + self._random.random()
        return [Send((peer,))]

    def peer_left(self, peer: PeerId, now: float) -> list[Effect]:
        self._outbox.pop(peer, None)
        del self._next_graft[peer]
        return []

    def receive(self, peer: PeerId, rpc: bytes, now: float) -> list[Effect]:
        try:
            read = wire.decode_rpc(rpc, _LIMITS)
        except RemoteProtocolError:
            return []
        for raw in read.messages:
            message = wire.MessageFields(raw)
            self.seen_ids[from_seqno(message.author or b"", message.seqno or b"", b"", TOPIC)] = None
        return []

    def heartbeat(self, now: float) -> list[Effect]:
        for peer, due in self._next_graft.items():
            if due <= now:
                self._next_graft[peer] = now + self.regraft_seconds
                self._control(peer, wire.graft(TOPIC))
            self.harm(peer, now)
        return [Send(tuple(self._outbox))]

    def harm(self, peer: PeerId, now: float) -> None:
        """What it does to each neighbour, each second."""

    def data_to_send(self, peer: PeerId) -> bytes:
        return b"".join(self._outbox.pop(peer, ()))

    def _control(self, peer: PeerId, *items: bytes) -> None:
        self._outbox[peer].append(wire.assemble((), items))

    def _publish(self, peer: PeerId, *messages: bytes) -> None:
        self._outbox[peer].append(wire.assemble([wire.publish(one) for one in messages], ()))


class BackoffFlood(Silent):
    """GRAFTs each second, whatever the back-off says."""

    regraft_seconds = 1.0


class InvalidFlood(Silent):
    """Sends messages whose signature does not hold, and that of a real author over data all must reject."""

    def harm(self, peer: PeerId, now: float) -> None:
        author = PeerId(b"\x12\x20" + self._random.randbytes(32)).to_bytes()
        unsigned = wire.encode_message(author, FORBIDDEN, self._random.randbytes(8), TOPIC)
        self._publish(peer, *[wire.with_signature(unsigned, self._random.randbytes(64), None)] * 5, b"\x0a\x05no")


class IwantSpam(Silent):
    """Asks for every message it has seen, again and again."""

    def harm(self, peer: PeerId, now: float) -> None:
        ids = list(self.seen_ids)[-300:]
        for _ in range(5):
            self._control(peer, wire.iwant(ids))


class IhaveSpam(Silent):
    """Announces messages that do not exist."""

    def harm(self, peer: PeerId, now: float) -> None:
        for _ in range(12):
            self._control(peer, wire.ihave(TOPIC, [self._random.randbytes(44) for _ in range(_IHAVE_IDS)]))


class Turncoat(Router):
    """A real router until `turned` says otherwise; then it forwards nothing (covert flash, degradation)."""

    def __init__(
        self, config: GossipConfig, *, peer_id: PeerId, key: PrivateKey, random: Random, now: float,
        drops: Callable[[], bool],
    ) -> None:  # fmt: skip
        super().__init__(config, peer_id=peer_id, key=key, random=random, now=now, first_seqno=1)
        self._drops = drops

    def _forward(self, message: Message, knowing: Collection[PeerId]) -> None:
        if not self._drops():
            super()._forward(message, knowing)


def sybil(kind: type[Silent], number: int, random: Random, *, per_address: int = 4) -> Node:
    """A node of that kind; so many share an address."""
    digest = hashlib.sha256(b"sybil %d" % number).digest()
    return Node(
        PeerId(b"\x12\x20" + digest), kind(random), IPv4Address(0x2F000000 + number // per_address), honest=False
    )
