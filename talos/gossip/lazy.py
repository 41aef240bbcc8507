"""Lazy push: announcing what we have, asking for what we lack, saying what we do not want (v1.0, v1.2).

Everything is counted by peer and heartbeat; what is over a limit, or from a peer without the score, is ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.gossip import wire
from talos.gossip.version import Version

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from random import Random

    from talos.gossip.config import GossipConfig
    from talos.gossip.message import Message
    from talos.gossip.message_cache import MessageCache
    from talos.gossip.neighbour import EffectSink, Neighbour
    from talos.gossip.promise import Promises
    from talos.gossip.score import PeerScores
    from talos.gossip.score_config import ScoreThresholds
    from talos.gossip.seen import SeenCache
    from talos.gossip.stats import RouterStats

__all__ = ["LazyPush"]

_SLACK_BYTES = 512
"""Of the control part that an item leaves free: a topic, tags and lengths."""


class LazyPush:
    """IHAVE, IWANT and IDONTWANT."""

    def __init__(
        self, config: GossipConfig, *, scores: PeerScores, thresholds: ScoreThresholds, cache: MessageCache,
        seen: SeenCache, promises: Promises, stats: RouterStats, effects: EffectSink, random: Random,
    ) -> None:  # fmt: skip
        self._config = config
        self._scores = scores
        self._thresholds = thresholds
        self._cache = cache
        self._seen = seen
        self._promises = promises
        self._stats = stats
        self._effects = effects
        self._random = random

    def _hears(self, neighbour: Neighbour) -> bool:
        return self._scores.score(neighbour.peer) >= self._thresholds.gossip_threshold

    # ------------------------------------------------------------------------- received

    def ihave_received(
        self, neighbour: Neighbour, items: Iterable[tuple[str, Sequence[bytes]]], topics: Collection[str], now: float
    ) -> None:
        """Asks for what is new, up to the peer's share; one id is remembered as promised."""
        config = self._config
        neighbour.ihaves += 1
        room = config.max_ihave_length - neighbour.asked_ids
        if neighbour.ihaves > config.max_ihave_messages or room <= 0 or not self._hears(neighbour):
            self._stats.ignored_control += 1
            return
        wanted: dict[bytes, None] = {}
        longest = config.limits.message_id_bytes
        for topic, ids in items:
            if topic in topics:
                wanted.update((one, None) for one in ids if len(one) <= longest and one not in self._seen)
        if not wanted:
            return
        chosen = self._random.sample(list(wanted), min(room, len(wanted)))
        neighbour.asked_ids += len(chosen)
        self._promises.add(chosen[0], neighbour.peer, now + config.iwant_followup_time)
        for part in self._parts(chosen):
            neighbour.outbox.put_prompt(wire.iwant(part))
        self._stats.iwant_sent += len(chosen)
        self._effects.wake(neighbour.peer)

    def iwant_received(self, neighbour: Neighbour, ids: Iterable[bytes]) -> None:
        """Sends what is cached, each message so many times and no more."""
        if not self._hears(neighbour):
            self._stats.ignored_control += 1
            return
        times = self._config.gossip_retransmission
        for message_id in dict.fromkeys(ids):
            message = self._cache.answer(message_id, neighbour.peer, times)
            if message is None or message_id in neighbour.dont_want:
                self._stats.ignored_control += 1
                continue
            self._stats.iwant_answered += 1
            neighbour.outbox.put_message(message_id, wire.publish(message.raw))
            self._effects.wake(neighbour.peer)

    def idontwant_received(self, neighbour: Neighbour, items: Iterable[Sequence[bytes]]) -> None:
        """Remembers what the peer has, for a few heartbeats."""
        config = self._config
        for ids in items:
            neighbour.idontwants += 1
            if neighbour.idontwants > config.idontwant_messages or len(ids) > config.idontwant_length:
                self._stats.ignored_control += 1
                continue
            for message_id in ids:
                if len(message_id) <= config.limits.message_id_bytes:
                    neighbour.has(message_id)

    # ------------------------------------------------------------------------- sent

    def announce_unwanted(self, message: Message, mesh: Iterable[Neighbour], *, waits: bool) -> None:
        """Tells the mesh that a large message is here.

        Where the message itself is about to follow at once (`waits` is not set and nothing stands before it) it
        says the same: that peer is left out.
        """
        if len(message.data) < self._config.idontwant_threshold:
            return
        item = wire.idontwant((message.id,))
        for neighbour in mesh:
            if (
                neighbour.version >= Version.V1_2
                and neighbour.peer != message.source
                and (waits or neighbour.outbox.has_messages)
                and message.id not in neighbour.dont_want
            ):
                neighbour.outbox.put_prompt(item)
                self._effects.wake(neighbour.peer)

    def gossip(self, topic: str, ids: list[bytes], candidates: Iterable[Neighbour]) -> None:
        """Announces `ids` to a random part of those outside the mesh."""
        config = self._config
        hearers = [one for one in candidates if one.meshes and self._hears(one)]
        count = max(config.d_lazy, int(config.gossip_factor * len(hearers)))
        chosen = self._random.sample(hearers, min(count, len(hearers)))
        parts: list[bytes] | None = None
        for neighbour in chosen:
            named = ids
            if len(ids) > config.max_ihave_length:
                # Each hears of others, so that together they hear of all.
                named, parts = self._random.sample(ids, config.max_ihave_length), None
            if parts is None:
                parts = [wire.ihave(topic, part) for part in self._parts(named)]
            for item in parts[: config.max_ihave_messages]:
                neighbour.outbox.put_announcement(item)
            self._stats.ihave_sent += len(named)
            self._effects.wake(neighbour.peer)

    def _parts(self, ids: list[bytes]) -> list[list[bytes]]:
        """Cut so that each item fits the control part of an RPC."""
        room = self._config.limits.control_bytes - _SLACK_BYTES
        parts: list[list[bytes]] = [[]]
        size = 0
        for message_id in ids:
            size += len(message_id) + 4
            if size > room and parts[-1]:
                parts.append([])
                size = len(message_id) + 4
            parts[-1].append(message_id)
        return parts
