"""A leaky bucket on the caller's clock."""

from __future__ import annotations

__all__ = ["Rate"]


class Rate:
    """Admits `per_second` on the mean and `burst` at once.

    A caller without a clock, whose `now` never moves, gets `burst` in all.
    """

    __slots__ = ("_burst", "_level", "_per_second", "_since")

    def __init__(self, *, per_second: float, burst: float, now: float = 0.0) -> None:
        self._per_second = per_second
        self._burst = burst
        self._level = 0.0
        self._since = now

    def admits(self, now: float) -> bool:
        """Counts one more; False when that is over the limit."""
        if now > self._since:
            self._level = max(0.0, self._level - (now - self._since) * self._per_second)
            self._since = now
        self._level += 1.0
        return self._level <= self._burst
