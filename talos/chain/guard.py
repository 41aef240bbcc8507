"""The guard of a feed's own copy at its start: a restored backup must not write what its author has written already.

Until one of those who keep the chain has said how much they know of it, nothing newer than at the opening is shown to
anybody; and for some seconds no block is signed, though entries become durable. Who is offline goes on, unheard.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from talos.chain.effects import Now, Peer, Stored

__all__ = ["Guard"]


class Guard:
    """Of no effect until `begin`."""

    def __init__(self) -> None:
        self.shown: Stored | None = None
        """The tip that others are told of; None when they may know all."""
        self.note = b""
        """The newest checkpoint that they may see."""
        self._peers: frozenset[Peer] = frozenset()
        self._until = -math.inf

    def begin(self, peers: frozenset[Peer], tip: Stored, note: bytes, until: float) -> None:
        self.shown, self.note, self._peers, self._until = tip, note, peers, until

    def heard(self, peer: Peer, height: int) -> bool:
        """True when this ends it: one who keeps the chain knows it up to this height, which we do too."""
        if self.shown is not None and peer in self._peers and height <= self.shown.header.height:
            self.shown = None
            return True
        return False

    def forbids_sealing(self, now: Now) -> bool:
        return self.shown is not None and now.seconds < self._until

    def sealing_time(self, due: float) -> float:
        """When what is due at this time may be sealed."""
        return due if self.shown is None else max(due, self._until)
