"""How much a peer may send: token buckets by key, a bounded number of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["Buckets"]

K = TypeVar("K")

MAX_BUCKETS = 16_384


class Buckets(Generic[K]):
    """Each lets `rate` a second through, and `burst` at once; the one not seen for longest is forgotten."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[K, tuple[float, float]] = OrderedDict()

    def delay(self, key: K, now: float, amount: float = 1.0) -> float:
        """Seconds until so much can be taken; `amount` is no more than the burst."""
        level, since = self._buckets.get(key, (self._burst, now))
        return max(0.0, (amount - level) / self._rate - max(0.0, now - since))

    def take(self, key: K, now: float, amount: float = 1.0) -> bool:
        """Takes `amount`; False, and nothing is taken, when there is less."""
        level, since = self._buckets.pop(key, (self._burst, now))
        level = min(self._burst, level + max(0.0, now - since) * self._rate)
        allowed = level >= amount
        self._buckets[key] = (level - amount if allowed else level, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return allowed
