"""Random early drop: who brings little of use is heard less while validation is throttled.

As deployed by go-libp2p-pubsub's peer gater. Control is always heard; only messages are left unread.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

    from talos.gossip.config import GaterConfig
    from talos.identity.peer_id import PeerId

__all__ = ["Gater"]


class _Source:
    __slots__ = ("delivered", "duplicate", "ignored", "rejected")

    def __init__(self) -> None:
        self.delivered = self.duplicate = self.ignored = self.rejected = 0.0


class Gater:
    """Counters of all and of each peer that is connected, or left within the retention; bounded."""

    __slots__ = ("_config", "_last_throttled", "_limit", "_random", "_sources", "_throttled", "_validated")

    def __init__(self, config: GaterConfig | None, *, random: Random, limit: int) -> None:
        self._config = config
        self._random = random
        self._limit = limit
        self._sources: OrderedDict[PeerId, _Source] = OrderedDict()
        self._validated = 0.0
        self._throttled = 0.0
        self._last_throttled: float | None = None

    def __len__(self) -> int:
        return len(self._sources)

    def accepts(self, peer: PeerId, now: float) -> bool:
        """Whether the messages of an RPC are read."""
        config = self._config
        if config is None or self._last_throttled is None or now - self._last_throttled > config.quiet:
            return True
        if self._validated and self._throttled / self._validated < config.threshold:
            return True
        source = self._source(peer)
        useless = (
            config.duplicate_weight * source.duplicate
            + config.ignore_weight * source.ignored
            + config.reject_weight * source.rejected
        )
        return self._random.random() < (1 + source.delivered) / (1 + source.delivered + useless)

    def _source(self, peer: PeerId) -> _Source:
        source = self._sources.get(peer)
        if source is None:
            source = self._sources[peer] = _Source()
            if len(self._sources) > self._limit:
                self._sources.popitem(last=False)
        return source

    def validated(self) -> None:
        self._validated += 1

    def throttled(self, now: float) -> None:
        self._throttled += 1
        self._last_throttled = now

    def delivered(self, peer: PeerId) -> None:
        self._source(peer).delivered += 1

    def duplicate(self, peer: PeerId) -> None:
        self._source(peer).duplicate += 1

    def ignored(self, peer: PeerId) -> None:
        self._source(peer).ignored += 1

    def rejected(self, peer: PeerId) -> None:
        self._source(peer).rejected += 1

    def beat(self) -> None:
        """A heartbeat: counters decay, sources without any leave."""
        config = self._config
        if config is None:
            self._sources.clear()
            return
        self._validated *= config.global_decay
        self._throttled *= config.global_decay
        if self._throttled < config.decay_to_zero:
            self._throttled = 0.0
        empty = []
        for peer, source in self._sources.items():
            for name in _Source.__slots__:
                setattr(source, name, getattr(source, name) * config.source_decay)
            if source.delivered + source.duplicate + source.ignored + source.rejected < config.decay_to_zero:
                empty.append(peer)
        for peer in empty:
            del self._sources[peer]
