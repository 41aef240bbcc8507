"""Which topics the neighbours want, by their own word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.gossip.event import PeerSubscribed, PeerUnsubscribed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from talos.gossip.config import GossipConfig
    from talos.gossip.fanout import Fanout
    from talos.gossip.mesh import Mesh
    from talos.gossip.neighbour import EffectSink, Neighbour, Neighbours
    from talos.gossip.score import PeerScores
    from talos.gossip.stats import RouterStats

__all__ = ["Interest"]


class Interest:
    """Takes subscriptions, as many of a peer as it may have; what is over is misbehaviour."""

    __slots__ = ("_effects", "_fanout", "_limit", "_mesh", "_neighbours", "_scores", "_stats")

    def __init__(
        self, config: GossipConfig, *, neighbours: Neighbours, mesh: Mesh, fanout: Fanout, scores: PeerScores,
        stats: RouterStats, effects: EffectSink,
    ) -> None:  # fmt: skip
        self._limit = config.limits.topics
        self._neighbours = neighbours
        self._mesh = mesh
        self._fanout = fanout
        self._scores = scores
        self._stats = stats
        self._effects = effects

    def received(self, neighbour: Neighbour, changes: Iterable[tuple[bool, str]], surplus: int) -> None:
        """The subscriptions of one RPC; `surplus` of them were not even read."""
        for wanted, topic in changes:
            if not wanted:
                self._ends(neighbour, topic)
            elif not self.begins(neighbour, topic):
                surplus += 1
        if surplus:
            self._stats.ignored_control += surplus
            self._scores.misbehaved(neighbour.peer)

    def begins(self, neighbour: Neighbour, topic: str) -> bool:
        """It wants the topic; False when it has as many as it may."""
        if topic in neighbour.topics:
            return True
        if len(neighbour.topics) >= self._limit:
            return False
        self._neighbours.subscribed(neighbour, topic)
        self._effects.add(PeerSubscribed(topic, neighbour.peer))
        return True

    def _ends(self, neighbour: Neighbour, topic: str) -> None:
        if topic not in neighbour.topics:
            return
        self._mesh.unsubscribed(neighbour, topic)
        self._fanout.forget(neighbour.peer, topic)
        self._neighbours.unsubscribed(neighbour, topic)
        self._effects.add(PeerUnsubscribed(topic, neighbour.peer))
