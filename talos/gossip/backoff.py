"""Until when a peer and we keep out of each other's mesh, by topic (gossipsub v1.1, "Prune backoff")."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from talos.identity.peer_id import PeerId

__all__ = ["Backoffs"]


class Backoffs:
    """Deadlines by topic and peer; bounded, the one added first leaves. They outlive a connection."""

    __slots__ = ("_deadlines", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._deadlines: dict[tuple[str, PeerId], float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, topic: str, peer: PeerId, until: float) -> None:
        """Keeps the later of two deadlines."""
        key = topic, peer
        until = max(until, self._deadlines.pop(key, until))
        self._deadlines[key] = until
        if len(self._deadlines) > self._limit:
            del self._deadlines[next(iter(self._deadlines))]

    def until(self, topic: str, peer: PeerId) -> float | None:
        """The deadline; None where there never was one, or it is long over."""
        return self._deadlines.get((topic, peer))

    def expire(self, now: float) -> None:
        """Forgets deadlines before `now`."""
        over = [key for key, until in self._deadlines.items() if until <= now]
        for key in over:
            del self._deadlines[key]
