"""Messages that neighbours announced and we asked for: who does not bring them is blamed (v1.1, P7)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from talos.identity.peer_id import PeerId

__all__ = ["Promises"]


class Promises:
    """One tracked id for each IWANT; bounded, further ones are not tracked."""

    __slots__ = ("_count", "_limit", "_promised")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._promised: dict[bytes, dict[PeerId, float]] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, message_id: bytes, peer: PeerId, until: float) -> None:
        """The peer is to bring the message, unless somebody else does; a second promise changes nothing."""
        if self._count >= self._limit:
            return
        by_peer = self._promised.setdefault(message_id, {})
        if peer not in by_peer:
            by_peer[peer] = until
            self._count += 1

    def kept(self, message_id: bytes) -> None:
        """The message came, from whomever."""
        if self._promised:
            self._count -= len(self._promised.pop(message_id, ()))

    def forget_peer(self, peer: PeerId) -> None:
        """It left."""
        self._remove([(message_id, peer) for message_id, peers in self._promised.items() if peer in peers])

    def broken(self, now: float) -> Counter[PeerId]:
        """How many promises of each peer are over, and forgets them."""
        over = [
            (message_id, peer)
            for message_id, peers in self._promised.items()
            for peer, until in peers.items()
            if until < now
        ]
        self._remove(over)
        return Counter(peer for _, peer in over)

    def _remove(self, promises: list[tuple[bytes, PeerId]]) -> None:
        self._count -= len(promises)
        for message_id, peer in promises:
            peers = self._promised[message_id]
            del peers[peer]
            if not peers:
                del self._promised[message_id]
