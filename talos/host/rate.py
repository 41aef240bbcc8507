"""Token buckets by key, a bounded number of them: how often one peer or network may do something."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["KeyedRate"]

K = TypeVar("K", bound="Hashable")


class KeyedRate(Generic[K]):
    """`burst` at once for each key, regained evenly within `seconds`. The key unused for longest is forgotten."""

    __slots__ = ("_buckets", "_burst", "_max", "_per_second")

    def __init__(self, burst: int, seconds: float, *, max_keys: int) -> None:
        self._burst = float(burst)
        self._per_second = burst / seconds
        self._max = max_keys
        self._buckets: OrderedDict[K, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: K, now: float) -> bool:
        """Takes a token; False when there is none."""
        tokens, updated = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - updated) * self._per_second)
        taken = tokens >= 1
        self._buckets[key] = (tokens - taken, now)
        if len(self._buckets) > self._max:
            self._buckets.popitem(last=False)
        return taken
