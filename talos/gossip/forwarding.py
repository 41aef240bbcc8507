"""To whom a message goes: ours to all who want the topic, or to mesh and fanout; others' to the mesh.

Floodsub and direct peers are always among them; who has the message already never is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.gossip import wire
from talos.gossip.fanout import Fanout

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from random import Random

    from talos.gossip.config import GossipConfig
    from talos.gossip.mesh import Mesh
    from talos.gossip.message import Message
    from talos.gossip.neighbour import EffectSink, Neighbour, Neighbours
    from talos.gossip.score import PeerScores
    from talos.gossip.score_config import ScoreThresholds
    from talos.identity.peer_id import PeerId

__all__ = ["Forwarding"]


class Forwarding:
    """Puts messages into outboxes; holds the fanout of topics that are not ours. `direct` is shared."""

    def __init__(
        self, config: GossipConfig, *, neighbours: Neighbours, mesh: Mesh, scores: PeerScores,
        thresholds: ScoreThresholds, direct: Collection[PeerId], effects: EffectSink, random: Random,
    ) -> None:  # fmt: skip
        self._config = config
        self._neighbours = neighbours
        self._mesh = mesh
        self._scores = scores
        self._thresholds = thresholds
        self._direct = direct
        self._effects = effects
        self.fanout = Fanout(config, neighbours=neighbours, random=random, takes=self._takes_ours)

    def publish(self, message: Message, now: float) -> None:
        """Ours."""
        self._put(message, self._publish_targets(message.topic, now), ())

    def forward(self, message: Message, knowing: Collection[PeerId]) -> None:
        """Somebody else's; `knowing` brought it, too."""
        targets = dict(self._mesh.peers(message.topic))
        targets.update(self._always(message.topic))
        self._put(message, targets.values(), knowing)

    def _takes_ours(self, neighbour: Neighbour) -> bool:
        peer = neighbour.peer
        return peer in self._direct or self._scores.score(peer) >= self._thresholds.publish_threshold

    def _publish_targets(self, topic: str, now: float) -> Iterable[Neighbour]:
        everybody = self._neighbours.in_topic(topic).values()
        if self._config.flood_publish:
            return [one for one in everybody if self._takes_ours(one)]
        targets = dict(self._always(topic))
        if topic in self._mesh:
            targets.update(self._mesh.peers(topic))
            # A young mesh alone might lead nowhere.
            for one in everybody:
                if len(targets) >= self._config.d:
                    break
                if self._takes_ours(one):
                    targets[one.peer] = one
        else:
            targets.update(self.fanout.use(topic, now))
        return targets.values()

    def _always(self, topic: str) -> Iterable[tuple[PeerId, Neighbour]]:
        """Floodsub and direct peers."""
        for peer, one in self._neighbours.in_topic(topic).items():
            if peer in self._direct or (not one.meshes and self._takes_ours(one)):
                yield peer, one

    def _put(self, message: Message, targets: Iterable[Neighbour], knowing: Collection[PeerId]) -> None:
        fragment = wire.publish(message.raw)
        source, author, message_id = message.source, message.author, message.id
        for neighbour in targets:
            peer = neighbour.peer
            if peer not in (source, author) and peer not in knowing and message_id not in neighbour.dont_want:
                neighbour.outbox.put_message(message_id, fragment)
                self._effects.wake(peer)
