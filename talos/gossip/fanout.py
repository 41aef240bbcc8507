"""Topics that we publish to without subscribing: to whom (gossipsub v1.0, "Fanout")."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from talos.gossip.config import GossipConfig
    from talos.gossip.neighbour import Neighbour, Neighbours
    from talos.identity.peer_id import PeerId

__all__ = ["Fanout"]


class Fanout:
    """Up to d peers for each such topic, until nothing was published for `fanout_ttl`. Bounded, oldest use leaves."""

    __slots__ = ("_config", "_last_use", "_neighbours", "_random", "_takes", "_topics")

    def __init__(
        self, config: GossipConfig, *, neighbours: Neighbours, random: Random, takes: Callable[[Neighbour], bool]
    ) -> None:
        """`takes` says whether a peer may be sent our messages."""
        self._config = config
        self._neighbours = neighbours
        self._random = random
        self._takes = takes
        self._topics: dict[str, dict[PeerId, Neighbour]] = {}
        self._last_use: dict[str, float] = {}  # in the order of use

    def __len__(self) -> int:
        return len(self._topics)

    def topics(self) -> Iterable[str]:
        return self._topics.keys()

    def peers(self, topic: str) -> dict[PeerId, Neighbour]:
        """Whom we publish to; not to be changed."""
        return self._topics.get(topic, {})

    def use(self, topic: str, now: float) -> dict[PeerId, Neighbour]:
        """The same, chosen now if there is nobody."""
        self._last_use.pop(topic, None)
        self._last_use[topic] = now
        if topic not in self._topics:
            self._topics[topic] = {}
            if len(self._topics) > self._config.limits.fanout_topics:
                self.remove(next(iter(self._last_use)))
        if not self._topics[topic]:
            self._fill(topic)
        return self._topics[topic]

    def remove(self, topic: str) -> list[Neighbour]:
        """The topic is subscribed to, or over; who was in it."""
        self._last_use.pop(topic, None)
        return list(self._topics.pop(topic, {}).values())

    def forget(self, peer: PeerId, topic: str) -> None:
        """The peer has left, or does not want the topic."""
        if topic in self._topics:
            self._topics[topic].pop(peer, None)

    def heartbeat(self, now: float) -> None:
        """Ends what is over; replaces peers that do not serve any more."""
        for topic in [one for one, used in self._last_use.items() if used + self._config.fanout_ttl < now]:
            self.remove(topic)
        for topic, peers in self._topics.items():
            for peer in [one.peer for one in peers.values() if not self._takes(one)]:
                del peers[peer]
            self._fill(topic)

    def _fill(self, topic: str) -> None:
        peers = self._topics[topic]
        candidates = [
            one
            for one in self._neighbours.in_topic(topic).values()
            if one.peer not in peers and one.meshes and self._takes(one)
        ]
        count = min(self._config.d - len(peers), len(candidates))
        for neighbour in self._random.sample(candidates, count):
            peers[neighbour.peer] = neighbour
