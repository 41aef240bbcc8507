"""How often peers may push: token buckets of a peer, of a network, and of all together."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Buckets", "PushLimiter", "PushLimits", "PushRate"]

K = TypeVar("K", bound="Hashable")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRate:
    """So many a second, and `burst` at once."""

    per_second: float
    burst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PushLimits:
    """What is taken of pushes; one more is reset as rate limited."""

    at_once: int = 32
    per_peer: PushRate = PushRate(per_second=1.0, burst=1.0)
    per_network: PushRate = PushRate(per_second=0.2, burst=10.0)
    """Of an IPv4 /24 or IPv6 /48; loopback is exempt."""
    total: PushRate = PushRate(per_second=2000.0, burst=2000.0)
    buckets: int = 16_384
    """Peers and networks that are remembered, each; the one not seen for longest leaves."""


class Buckets(Generic[K]):
    """Token buckets by key, a bounded number of them."""

    __slots__ = ("_buckets", "_max", "_rate")

    def __init__(self, rate: PushRate, max_buckets: int) -> None:
        self._rate = rate
        self._max = max_buckets
        self._buckets: OrderedDict[K, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: K, now: float) -> bool:
        """Takes a token; False when there is none."""
        rate = self._rate
        tokens, updated = self._buckets.pop(key, (rate.burst, now))
        tokens = min(rate.burst, tokens + (now - updated) * rate.per_second)
        self._buckets[key] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > self._max:
            self._buckets.popitem(last=False)
        return tokens >= 1


class PushLimiter(Generic[K]):
    """Who may push now. `running` is counted by `enter` and `leave`."""

    __slots__ = ("_limits", "_networks", "_peers", "_total", "running")

    def __init__(self, limits: PushLimits) -> None:
        self._limits = limits
        self._peers: Buckets[K] = Buckets(limits.per_peer, limits.buckets)
        self._networks: Buckets[object] = Buckets(limits.per_network, limits.buckets)
        self._total: Buckets[None] = Buckets(limits.total, 1)
        self.running = 0

    def enter(self, peer: K, network: object | None, now: float) -> bool:
        """Whether a push is taken; `network` None has no rate. The narrowest is asked first, so that nobody
        spends what others need."""
        if self.running >= self._limits.at_once or not self._peers.take(peer, now):
            return False
        if network is not None and not self._networks.take(network, now):
            return False
        if not self._total.take(None, now):
            return False
        self.running += 1
        return True

    def leave(self) -> None:
        """A push that was taken has ended."""
        self.running -= 1
