"""Bytes that wait for their frame, kept as the pieces that the application handed in."""

from __future__ import annotations

from collections import deque

__all__ = ["Piece", "SendQueue"]

Piece = bytes | memoryview
"""Immutable bytes, or a view of such: they are not copied until the frame goes out."""


class SendQueue:
    """First in, first out; small pieces leave together, large ones in parts."""

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()
        self.size = 0

    def add(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self.size += len(piece)

    def take(self, limit: int, parts: list[Piece | bytearray]) -> int:
        """Moves at most `limit` bytes to the end of `parts`; how many it were."""
        pieces = self._pieces
        if self.size <= limit:
            taken = self.size
            parts.extend(pieces)
            pieces.clear()
            self.size = 0
            return taken
        left = limit
        while left:
            piece = pieces[0]
            if len(piece) <= left:
                parts.append(pieces.popleft())
                left -= len(piece)
            else:
                view = memoryview(piece)
                parts.append(view[:left])
                pieces[0] = view[left:]
                left = 0
        self.size -= limit
        return limit

    def clear(self) -> int:
        """Drops everything; how many bytes that were."""
        dropped, self.size = self.size, 0
        self._pieces.clear()
        return dropped
