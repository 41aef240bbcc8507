"""The peers that we exchange RPCs with, and the effects that come of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.gossip.event import Effect, Send
from talos.gossip.outbox import Outbox
from talos.gossip.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv6Address

    from talos.gossip.config import GossipConfig
    from talos.gossip.stats import RouterStats
    from talos.identity.peer_id import PeerId

__all__ = ["EffectSink", "Neighbour", "Neighbours"]


class EffectSink:
    """Gathers what one call into the router brings about; a peer is woken once."""

    __slots__ = ("_effects", "_woken")

    def __init__(self) -> None:
        self._effects: list[Effect] = []
        self._woken: dict[PeerId, None] = {}

    def add(self, effect: Effect) -> None:
        self._effects.append(effect)

    def wake(self, peer: PeerId) -> None:
        """Something was put into the peer's outbox."""
        self._woken[peer] = None

    def drain(self) -> list[Effect]:
        """All of it, and the sink is empty again."""
        effects = self._effects
        if self._woken:
            effects.append(Send(tuple(self._woken)))
            self._woken = {}
        if effects:
            self._effects = []
        return effects


class Neighbour:
    """One peer, from `peer_joined` to `peer_left`."""

    __slots__ = (
        "_config", "_forgets_at", "asked_ids", "dont_want", "extensions", "graylisted", "idontwants", "ihaves", "ip",
        "outbound", "outbox", "peer", "topics", "version",
    )  # fmt: skip

    def __init__(
        self, peer: PeerId, version: Version, *, ip: IPv4Address | IPv6Address | None, outbound: bool,
        config: GossipConfig, stats: RouterStats, tick: int,
    ) -> None:  # fmt: skip
        self._config = config
        self._forgets_at = tick + config.idontwant_ticks
        self.peer = peer
        self.version = version
        self.outbound = outbound
        self.ip = ip
        self.topics: set[str] = set()
        self.dont_want: dict[bytes, int] = {}
        """Ids of messages that it has, and the heartbeat at which that is forgotten."""
        self.outbox = Outbox(config.limits, stats, self.dont_want.__contains__)
        self.extensions = False
        """Whether it has sent its extensions."""
        self.graylisted = 0
        """Heartbeats in a row at which its score was that low."""
        self.ihaves = 0
        """RPCs with IHAVE since the last heartbeat."""
        self.asked_ids = 0
        """Ids asked of it since the last heartbeat."""
        self.idontwants = 0
        """IDONTWANT items since the last heartbeat."""

    @property
    def meshes(self) -> bool:
        """Whether it speaks gossipsub at all."""
        return self.version is not Version.FLOODSUB

    def has(self, message_id: bytes) -> None:
        """It has the message, by its own word or because it brought it; the oldest such id leaves."""
        kept = self.dont_want
        if message_id not in kept:
            kept[message_id] = self._forgets_at
            if len(kept) > self._config.limits.idontwant_kept:
                del kept[next(iter(kept))]

    def beat(self, tick: int) -> None:
        """A heartbeat: what is counted by it begins anew."""
        self.ihaves = self.asked_ids = self.idontwants = 0
        self._forgets_at = tick + self._config.idontwant_ticks
        if self.dont_want:
            over = [message_id for message_id, until in self.dont_want.items() if until <= tick]
            for message_id in over:
                del self.dont_want[message_id]


class Neighbours:
    """All of them, and who wants which topic. Sets of a topic without peers are deleted."""

    __slots__ = ("_by_peer", "_by_topic")

    def __init__(self) -> None:
        self._by_peer: dict[PeerId, Neighbour] = {}
        self._by_topic: dict[str, dict[PeerId, Neighbour]] = {}

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._by_peer

    def __iter__(self) -> Iterator[Neighbour]:
        return iter(self._by_peer.values())

    def __len__(self) -> int:
        return len(self._by_peer)

    def get(self, peer: PeerId) -> Neighbour | None:
        return self._by_peer.get(peer)

    def add(self, neighbour: Neighbour) -> None:
        self._by_peer[neighbour.peer] = neighbour

    def remove(self, neighbour: Neighbour) -> None:
        """It has left, its topics with it."""
        del self._by_peer[neighbour.peer]
        for topic in tuple(neighbour.topics):
            self.unsubscribed(neighbour, topic)

    def in_topic(self, topic: str) -> dict[PeerId, Neighbour]:
        """Who wants the topic; not to be changed."""
        return self._by_topic.get(topic, {})

    def subscribed(self, neighbour: Neighbour, topic: str) -> None:
        neighbour.topics.add(topic)
        self._by_topic.setdefault(topic, {})[neighbour.peer] = neighbour

    def unsubscribed(self, neighbour: Neighbour, topic: str) -> None:
        neighbour.topics.discard(topic)
        peers = self._by_topic[topic]
        del peers[neighbour.peer]
        if not peers:
            del self._by_topic[topic]
