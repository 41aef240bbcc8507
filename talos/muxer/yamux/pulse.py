"""The pings of one yamux connection: keep-alive, round trips, and how many answers wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from talos.muxer.yamux.config import YamuxConfig

__all__ = ["Pulse"]


class Pulse:
    """At most one ping of ours is out at a time."""

    __slots__ = ("_answer_seconds", "_asked", "_due", "_keep_alive_seconds", "_value", "answers", "rtt", "shortest_rtt")

    def __init__(self, config: YamuxConfig, now: float) -> None:
        self._keep_alive_seconds = config.keep_alive_seconds
        self._answer_seconds = config.answer_seconds
        self._due = now + config.keep_alive_seconds
        self._asked: float | None = None
        self._value = 0
        self.answers = 0
        """Answers of ours that wait to be sent."""
        self.rtt = 0.0
        """Newest round trip in seconds: with what was queued before it, so also a measure of load. 0: unknown."""
        self.shortest_rtt = 0.0
        """The shortest so far: nearest to that of an idle path."""

    def ask(self, now: float) -> int | None:
        """The value of a new ping, or None while one is out."""
        if self._asked is not None:
            return None
        self._asked = now
        self._value = self._value + 1 & 0xFFFFFFFF
        return self._value

    def answered(self, value: int, now: float) -> None:
        """Takes the answer to our ping; others, which nobody asked for, mean nothing."""
        if self._asked is None or value != self._value:
            return
        self.rtt = now - self._asked
        self.shortest_rtt = min(self.rtt, self.shortest_rtt or self.rtt)
        self._asked = None

    def overdue(self, now: float) -> bool:
        return self._asked is not None and now >= self._asked + self._answer_seconds

    def due(self, now: float) -> bool:
        """Whether a keep-alive is due; then the next one is a whole pause away."""
        if now < self._due:
            return False
        self._due = now + self._keep_alive_seconds
        return True

    def next_deadline(self) -> float:
        return self._due if self._asked is None else min(self._due, self._asked + self._answer_seconds)
