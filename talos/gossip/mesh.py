"""The mesh of each topic: who is in it, who is asked in, who is sent out (gossipsub v1.0, v1.1).

GRAFT received      answer
topic not ours      none, and nothing is remembered
in the mesh         none
direct peer         PRUNE
within its back-off PRUNE, the back-off begins anew, P7 (twice soon after the PRUNE)
score below 0       PRUNE without peers to try
mesh full           PRUNE, unless we dialled the peer
else                it is in

each heartbeat      who scores below 0 leaves; below d_lo more are asked in, up to d; above d_hi all but d leave
                    (d_score best stay, d_out that we dialled); too few that we dialled: some of those are asked
                    in; now and then, where the median is poor: some that are better
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from talos.gossip import wire
from talos.gossip.event import Grafted, Pruned

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from random import Random

    from talos.gossip.backoff import Backoffs
    from talos.gossip.config import GossipConfig
    from talos.gossip.exchange import PeerExchange
    from talos.gossip.neighbour import EffectSink, Neighbour, Neighbours
    from talos.gossip.score import PeerScores
    from talos.gossip.score_config import ScoreThresholds
    from talos.gossip.stats import RouterStats
    from talos.gossip.wire import Prune
    from talos.identity.peer_id import PeerId

__all__ = ["Mesh"]

_BACKOFF_TICKS = 15
"""Heartbeats between two searches for back-offs that are over."""


class Mesh:
    """Our meshes by topic. `direct` is shared with the router: those peers are in none."""

    def __init__(
        self, config: GossipConfig, *, neighbours: Neighbours, scores: PeerScores, thresholds: ScoreThresholds,
        backoffs: Backoffs, exchange: PeerExchange, stats: RouterStats, effects: EffectSink, random: Random,
        direct: Collection[PeerId],
    ) -> None:  # fmt: skip
        self._config = config
        self._neighbours = neighbours
        self._scores = scores
        self._thresholds = thresholds
        self._backoffs = backoffs
        self._exchange = exchange
        self._stats = stats
        self._effects = effects
        self._random = random
        self._direct = direct
        self._topics: dict[str, dict[PeerId, Neighbour]] = {}

    def __contains__(self, topic: str) -> bool:
        return topic in self._topics

    def peers(self, topic: str) -> dict[PeerId, Neighbour]:
        """Who is in the mesh; not to be changed."""
        return self._topics.get(topic, {})

    # ------------------------------------------------------------------------- our topics

    def join(self, topic: str, preferred: Iterable[Neighbour], now: float) -> None:
        """Makes the mesh of a topic that is ours from now on; `preferred`: whom we sent to without it."""
        self._topics[topic] = {}
        usable = [one for one in preferred if self._grafts(one, topic, now)]
        for neighbour in usable[: self._config.d]:
            self._graft(neighbour, topic, now)
        self._fill(topic, self._config.d - len(usable), now)

    def leave(self, topic: str, now: float) -> None:
        """Takes the mesh apart: everybody is told, with the short back-off."""
        for neighbour in self._topics.pop(topic).values():
            self._left(neighbour, topic)
            self._send_prune(neighbour, topic, now, self._config.unsubscribe_backoff, exchange=True)

    def peer_left(self, neighbour: Neighbour) -> None:
        """It is in no mesh any more."""
        for topic in neighbour.topics:
            self.unsubscribed(neighbour, topic)

    def unsubscribed(self, neighbour: Neighbour, topic: str) -> None:
        """It does not want the topic any more."""
        if neighbour.peer in self.peers(topic):
            self._remove(neighbour, topic)

    # ------------------------------------------------------------------------- what peers ask

    def graft_received(self, neighbour: Neighbour, topic: str, now: float) -> None:
        """The table above."""
        mesh = self._topics.get(topic)
        if mesh is None or neighbour.peer in mesh:
            return
        peer = neighbour.peer
        if peer in self._direct:
            self._refuse(neighbour, topic, now, exchange=False)
            return
        until = self._backoffs.until(topic, peer)
        if until is not None and now < until:
            config = self._config
            flooding = now < until + config.graft_flood_threshold - config.prune_backoff
            self._scores.misbehaved(peer, 2 if flooding else 1)
            self._refuse(neighbour, topic, now, exchange=False)
        elif self._scores.score(peer) < 0:
            self._refuse(neighbour, topic, now, exchange=False)
        elif len(mesh) >= self._config.d_hi and not neighbour.outbound:
            self._refuse(neighbour, topic, now, exchange=True)
        else:
            self._add(neighbour, topic, now)

    def _refuse(self, neighbour: Neighbour, topic: str, now: float, *, exchange: bool) -> None:
        self._stats.grafts_refused += 1
        self._send_prune(neighbour, topic, now, self._config.prune_backoff, exchange=exchange)

    def prune_received(self, neighbour: Neighbour, prune: Prune, now: float) -> None:
        """It left our mesh; its back-off holds within our bounds."""
        topic, config = prune.topic, self._config
        if topic not in self._topics:
            return
        if neighbour.peer in self._topics[topic]:
            self._remove(neighbour, topic)
        seconds = config.prune_backoff
        if prune.backoff is not None:
            seconds = min(max(prune.backoff, config.backoff_min), config.backoff_max)
        self._backoffs.add(topic, neighbour.peer, now + seconds)
        if prune.peers and self._scores.score(neighbour.peer) >= self._thresholds.accept_px_threshold:
            self._exchange.received(prune.peers)

    # ------------------------------------------------------------------------- heartbeat

    def heartbeat(self, tick: int, now: float) -> None:
        """Brings each mesh into its bounds."""
        if tick % _BACKOFF_TICKS == 0:
            self._backoffs.expire(now - self._config.backoff_slack)
        for topic in self._topics:
            self._maintain(topic, tick, now)

    def _maintain(self, topic: str, tick: int, now: float) -> None:
        mesh, config, score = self._topics[topic], self._config, self._scores.score
        for neighbour in [one for one in mesh.values() if score(one.peer) < 0]:
            self._remove(neighbour, topic)
            self._send_prune(neighbour, topic, now, config.prune_backoff, exchange=False)
        if len(mesh) < config.d_lo:
            self._fill(topic, config.d - len(mesh), now)
        elif len(mesh) > config.d_hi:
            self._cut(topic, now)
        missing = config.d_out - sum(one.outbound for one in mesh.values())
        if len(mesh) >= config.d_lo and missing > 0:
            self._fill(topic, missing, now, lambda one: one.outbound)
        if tick % config.opportunistic_graft_ticks == 0 and len(mesh) > 1:
            middle = median(map(score, mesh))
            if middle < self._thresholds.opportunistic_graft_threshold:
                self._fill(topic, config.opportunistic_graft_peers, now, lambda one: score(one.peer) > middle)

    def _cut(self, topic: str, now: float) -> None:
        """Down to d: the best stay, then whom we dialled up to d_out, then whom chance favours."""
        config, score = self._config, self._scores.score
        ranked = list(self._topics[topic].values())
        self._random.shuffle(ranked)
        ranked.sort(key=lambda one: score(one.peer), reverse=True)
        stay, rest = ranked[: config.d_score], ranked[config.d_score :]
        self._random.shuffle(rest)
        missing = config.d_out - sum(one.outbound for one in stay)
        ours = [one for one in rest if one.outbound][: max(0, missing)]
        chosen = {one.peer for one in (*stay, *ours)}
        for neighbour in rest:
            if neighbour.peer in chosen:
                continue
            if len(chosen) < config.d:
                chosen.add(neighbour.peer)
                continue
            self._remove(neighbour, topic)
            self._send_prune(neighbour, topic, now, config.prune_backoff, exchange=True)

    def _fill(self, topic: str, count: int, now: float, fits: Callable[[Neighbour], bool] | None = None) -> None:
        """Asks `count` more in, where there are some that fit."""
        if count <= 0:
            return
        candidates = [
            one
            for one in self._neighbours.in_topic(topic).values()
            if (fits is None or fits(one)) and self._grafts(one, topic, now)
        ]
        for neighbour in self._random.sample(candidates, min(count, len(candidates))):
            self._graft(neighbour, topic, now)

    def _grafts(self, neighbour: Neighbour, topic: str, now: float) -> bool:
        """Whether the peer may be asked in."""
        peer = neighbour.peer
        if not neighbour.meshes or peer in self._topics[topic] or peer in self._direct:
            return False
        until = self._backoffs.until(topic, peer)
        return (until is None or now >= until + self._config.backoff_slack) and self._scores.score(peer) >= 0

    # ------------------------------------------------------------------------- steps

    def _graft(self, neighbour: Neighbour, topic: str, now: float) -> None:
        self._add(neighbour, topic, now)
        neighbour.outbox.put_mesh(topic, wire.graft(topic))
        self._effects.wake(neighbour.peer)

    def _add(self, neighbour: Neighbour, topic: str, now: float) -> None:
        self._topics[topic][neighbour.peer] = neighbour
        self._scores.grafted(neighbour.peer, topic, now)
        self._effects.add(Grafted(topic, neighbour.peer))

    def _remove(self, neighbour: Neighbour, topic: str) -> None:
        del self._topics[topic][neighbour.peer]
        self._left(neighbour, topic)

    def _left(self, neighbour: Neighbour, topic: str) -> None:
        self._scores.pruned(neighbour.peer, topic)
        self._effects.add(Pruned(topic, neighbour.peer))

    def _send_prune(self, neighbour: Neighbour, topic: str, now: float, seconds: float, *, exchange: bool) -> None:
        self._backoffs.add(topic, neighbour.peer, now + seconds)
        prune = self._exchange.prune(neighbour, topic, seconds, exchange=exchange)
        neighbour.outbox.put_mesh(topic, wire.prune(prune))
        self._effects.wake(neighbour.peer)
