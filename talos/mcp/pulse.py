"""When a tunnel's link is taken for alive (docs/protocols/mcp.md, liveness)."""

from __future__ import annotations

from collections import deque

__all__ = ["PING_AFTER_SECONDS", "SERVE_SILENCE_SECONDS", "Pulse"]

PING_AFTER_SECONDS = 10.0
"""Connect asks after so long without a byte from the peer and without a byte of a line to it."""
ANSWER_SECONDS = 10.0
SERVE_SILENCE_SECONDS = 30.0
"""Serve, which does not ask, waits so long."""
JUMP_SECONDS = 10.0
"""A deadline that is noticed so much too late means that the machine slept."""
ANSWER_AFTER_JUMP_SECONDS = 3.0
PING_SPAN_SECONDS = 10.0


class Pulse:
    """Counts silence. Bytes of a line that the peer takes are a sign of life too: it may be long and the link slow."""

    __slots__ = ("_answer_until", "_asks", "_last_life", "_max_pings", "_pings")

    def __init__(self, *, asks: bool, max_pings: int, now: float) -> None:
        self._asks = asks
        self._last_life = now
        self._answer_until: float | None = None
        self._max_pings = max_pings
        self._pings: deque[float] = deque()

    def alive(self, now: float) -> None:
        """A byte came, or a byte of a line went."""
        self._last_life = now
        self._answer_until = None

    def pinged(self, now: float) -> bool:
        """A PING came; False when that is one too many."""
        pings = self._pings
        while pings and pings[0] <= now - PING_SPAN_SECONDS:
            pings.popleft()
        pings.append(now)
        return len(pings) <= self._max_pings

    def next_deadline(self) -> float:
        """When `deadline_passed` wants to know."""
        if self._answer_until is not None:
            return self._answer_until
        return self._last_life + (PING_AFTER_SECONDS if self._asks else SERVE_SILENCE_SECONDS)

    def is_silent(self, now: float) -> bool:
        """Whether the peer is to be taken for dead; asked before `asks_now`."""
        if now < self.next_deadline():
            return False
        return not self._asks or (self._answer_until is not None and not self._jumped(now))

    def asks_now(self, now: float) -> bool:
        """Whether a PING is due; then its answer is waited for."""
        if not self._asks or now < self.next_deadline():
            return False
        self._answer_until = now + (ANSWER_AFTER_JUMP_SECONDS if self._jumped(now) else ANSWER_SECONDS)
        return True

    def _jumped(self, now: float) -> bool:
        return now > self.next_deadline() + JUMP_SECONDS
