"""What peers are worth (gossipsub v1.1, "Peer scoring").

score = cap(Σ over topics of weight × (P1 + P2 + P3 + P3b + P4)) + P5 + P6 + P7, each term with its weight.
P1 time in mesh · P2 first deliveries · P3 deficit of mesh deliveries, squared · P3b what such a deficit was when a
peer left the mesh · P4 invalid messages, squared · P5 the application's word · P6 surplus of peers on one address,
squared · P7 misbehaviour, squared.

A bad score outlives its connection for a while, so that nobody washes it off by dialling again; a good one does not.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from talos.gossip.score_config import ScoreConfig, TopicScore
    from talos.identity.peer_id import PeerId

__all__ = ["PeerScores"]


class _TopicStats:
    __slots__ = (
        "first_message_deliveries", "grafted_at", "invalid_message_deliveries", "mesh_active", "mesh_failure_penalty",
        "mesh_message_deliveries", "mesh_time",
    )  # fmt: skip

    def __init__(self) -> None:
        self.grafted_at: float | None = None
        self.mesh_time = 0.0
        self.mesh_active = False
        self.first_message_deliveries = 0.0
        self.mesh_message_deliveries = 0.0
        self.mesh_failure_penalty = 0.0
        self.invalid_message_deliveries = 0.0

    def deficit(self, topic: TopicScore) -> float:
        """Of mesh deliveries; 0 while the peer owes none."""
        if not self.mesh_active:
            return 0.0
        return max(0.0, topic.mesh_message_deliveries_threshold - self.mesh_message_deliveries)

    def score(self, topic: TopicScore) -> float:
        total = 0.0
        if self.grafted_at is not None:
            quanta = self.mesh_time / topic.time_in_mesh_quantum
            total += min(quanta, topic.time_in_mesh_cap) * topic.time_in_mesh_weight
        total += self.first_message_deliveries * topic.first_message_deliveries_weight
        total += self.deficit(topic) ** 2 * topic.mesh_message_deliveries_weight
        total += self.mesh_failure_penalty * topic.mesh_failure_penalty_weight
        total += self.invalid_message_deliveries**2 * topic.invalid_message_deliveries_weight
        return total * topic.topic_weight

    def left_mesh(self, topic: TopicScore) -> None:
        """P3b: what the peer still owed sticks to it."""
        self.mesh_failure_penalty += self.deficit(topic) ** 2
        self.grafted_at = None
        self.mesh_time = 0.0
        self.mesh_active = False

    def decay(self, topic: TopicScore, zero: float, now: float) -> None:
        def decayed(value: float, left: float) -> float:
            value *= left
            return value if value >= zero else 0.0

        self.first_message_deliveries = decayed(self.first_message_deliveries, topic.first_message_deliveries_decay)
        self.mesh_message_deliveries = decayed(self.mesh_message_deliveries, topic.mesh_message_deliveries_decay)
        self.mesh_failure_penalty = decayed(self.mesh_failure_penalty, topic.mesh_failure_penalty_decay)
        self.invalid_message_deliveries = decayed(
            self.invalid_message_deliveries, topic.invalid_message_deliveries_decay
        )
        if self.grafted_at is not None:
            self.mesh_time = now - self.grafted_at
            if self.mesh_time > topic.mesh_message_deliveries_activation:
                self.mesh_active = True


class _PeerStats:
    __slots__ = ("application", "behaviour", "ip", "topics")

    def __init__(self) -> None:
        self.topics: dict[str, _TopicStats] = {}
        self.application = 0.0
        self.behaviour = 0.0
        self.ip: object = None


class PeerScores:
    """Counters of all peers. Without a configuration everybody scores 0.

    `kept_topics` bounds the topics counted of one peer: those beyond it are not counted.
    """

    __slots__ = ("_by_ip", "_config", "_kept_topics", "_next_decay", "_peers", "_retained", "_scores")

    def __init__(self, config: ScoreConfig | None, *, now: float, kept_topics: int) -> None:
        self._config = config
        self._kept_topics = kept_topics
        self._peers: dict[PeerId, _PeerStats] = {}
        self._retained: OrderedDict[PeerId, tuple[float, _PeerStats]] = OrderedDict()
        self._by_ip: dict[object, int] = {}
        self._scores: dict[PeerId, float] = {}
        self._next_decay = now + config.decay_interval if config else 0.0

    def score(self, peer: PeerId) -> float:
        """The score now; 0 of a peer that nothing is known of."""
        if self._config is None:
            return 0.0
        known = self._scores.get(peer)
        if known is None:
            stats = self._peers.get(peer) or self._retained.get(peer, (0.0, None))[1]
            known = self._scores[peer] = 0.0 if stats is None else self._compute(stats, self._config)
            if stats is None:
                del self._scores[peer]
        return known

    def _compute(self, stats: _PeerStats, config: ScoreConfig) -> float:
        total = 0.0
        for name, counters in stats.topics.items():
            topic = config.of(name)
            assert topic is not None  # else it has no counters
            total += counters.score(topic)
        if config.topic_score_cap:
            total = min(total, config.topic_score_cap)
        total += stats.application * config.app_specific_weight
        surplus = self._by_ip.get(stats.ip, 0) - config.ip_colocation_factor_threshold
        if surplus > 0:
            total += surplus**2 * config.ip_colocation_factor_weight
        excess = stats.behaviour - config.behaviour_penalty_threshold
        if excess > 0:
            total += excess**2 * config.behaviour_penalty_weight
        return total

    # ------------------------------------------------------------------------- coming and going

    def joined(self, peer: PeerId, ip: IPv4Address | IPv6Address | None) -> None:
        """A connection; `ip` counts where it is a public address."""
        if self._config is None:
            return
        stats = self._retained.pop(peer, (0.0, _PeerStats()))[1]
        self._peers[peer] = stats
        stats.ip = ip if ip is not None and ip.is_global else None
        if stats.ip is not None:
            self._count_ip(stats.ip, 1)
        self._scores.pop(peer, None)

    def left(self, peer: PeerId, now: float) -> None:
        """The peer is gone: a good score goes with it, a bad one stays for `retain_score`."""
        stats = self._peers.get(peer)
        if self._config is None or stats is None:
            return
        score = self.score(peer)
        del self._peers[peer]
        self._scores.pop(peer, None)
        if stats.ip is not None:
            self._count_ip(stats.ip, -1)
            stats.ip = None
        if score > 0:
            return
        for name, counters in stats.topics.items():
            topic = self._config.of(name)
            assert topic is not None
            counters.first_message_deliveries = 0.0
            counters.left_mesh(topic)
        if score == 0 and not stats.topics and not stats.behaviour:
            return
        self._retained[peer] = now + self._config.retain_score, stats
        if len(self._retained) > self._config.retained_scores:
            self._scores.pop(self._retained.popitem(last=False)[0], None)

    def _count_ip(self, ip: object, change: int) -> None:
        count = self._by_ip.get(ip, 0) + change
        if count:
            self._by_ip[ip] = count
        else:
            del self._by_ip[ip]
        self._scores.clear()  # all peers of that address changed; joining is rare

    # ------------------------------------------------------------------------- what they did

    def _topic(self, peer: PeerId, name: str) -> tuple[_TopicStats, TopicScore] | None:
        if self._config is None or (topic := self._config.of(name)) is None:
            return None
        stats = self._peers.get(peer)
        if stats is None:
            return None
        counters = stats.topics.get(name)
        if counters is None:
            if len(stats.topics) >= self._kept_topics:
                return None
            counters = stats.topics[name] = _TopicStats()
        self._scores.pop(peer, None)
        return counters, topic

    def grafted(self, peer: PeerId, name: str, now: float) -> None:
        """P1 begins."""
        if found := self._topic(peer, name):
            counters = found[0]
            counters.grafted_at, counters.mesh_time, counters.mesh_active = now, 0.0, False

    def pruned(self, peer: PeerId, name: str) -> None:
        """P1 ends, and P3 becomes P3b."""
        if found := self._topic(peer, name):
            counters, topic = found
            counters.left_mesh(topic)

    def first_delivery(self, peer: PeerId, name: str) -> None:
        """P2, and P3 where the peer is in the mesh."""
        if found := self._topic(peer, name):
            counters, topic = found
            counters.first_message_deliveries = min(
                counters.first_message_deliveries + 1, topic.first_message_deliveries_cap
            )
            self._mesh_delivery(counters, topic)

    def near_first_delivery(self, peer: PeerId, name: str, *, late_by: float = 0.0) -> None:
        """P3 of a duplicate; `late_by`: seconds after the message was found valid."""
        if found := self._topic(peer, name):
            counters, topic = found
            if late_by <= topic.mesh_message_deliveries_window:
                self._mesh_delivery(counters, topic)

    @staticmethod
    def _mesh_delivery(counters: _TopicStats, topic: TopicScore) -> None:
        if counters.grafted_at is not None:
            counters.mesh_message_deliveries = min(
                counters.mesh_message_deliveries + 1, topic.mesh_message_deliveries_cap
            )

    def invalid_delivery(self, peer: PeerId, name: str) -> None:
        """P4."""
        if found := self._topic(peer, name):
            found[0].invalid_message_deliveries += 1

    def misbehaved(self, peer: PeerId, count: int = 1) -> None:
        """P7."""
        if stats := self._peers.get(peer):
            stats.behaviour += count
            self._scores.pop(peer, None)

    def set_application(self, peer: PeerId, score: float) -> None:
        """P5."""
        if stats := self._peers.get(peer):
            stats.application = score
            self._scores.pop(peer, None)

    # ------------------------------------------------------------------------- time

    def refresh(self, now: float) -> None:
        """Decays the counters for each interval that has passed, and forgets retained scores."""
        config = self._config
        if config is None:
            return
        while self._retained and next(iter(self._retained.values()))[0] <= now:
            self._scores.pop(self._retained.popitem(last=False)[0], None)
        if now < self._next_decay:
            return
        # After a long sleep one decay must do: the machine does not make up for the time it was not asked.
        self._next_decay += config.decay_interval
        if self._next_decay <= now:
            self._next_decay = now + config.decay_interval
        self._scores.clear()
        for stats in self._peers.values():
            for name, counters in stats.topics.items():
                topic = config.of(name)
                assert topic is not None
                counters.decay(topic, config.decay_to_zero, now)
            stats.behaviour *= config.behaviour_penalty_decay
            if stats.behaviour < config.decay_to_zero:
                stats.behaviour = 0.0
