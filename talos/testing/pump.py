"""Joins two byte machines without any IO, cutting what they say into arbitrary pieces."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ByteMachine", "Pump", "random_pieces"]

E_co = TypeVar("E_co", covariant=True)
L = TypeVar("L")
R = TypeVar("R")


class ByteMachine(Protocol[E_co]):
    """What the pump needs of a machine: bytes in with their events, bytes out."""

    def receive_data(self, data: bytes, /) -> Sequence[E_co]: ...

    def data_to_send(self) -> bytes: ...


def random_pieces(data: bytes, rng: random.Random, max_piece: int = 4096) -> list[bytes]:
    """`data` cut at random: many single bytes, many short pieces, some of `max_piece` bytes."""
    pieces: list[bytes] = []
    position = 0
    while position < len(data):
        size = rng.choice((1, 1, rng.randint(1, 16), rng.randint(1, max_piece), max_piece))
        pieces.append(data[position : position + size])
        position += size
    return pieces


class Pump(Generic[L, R]):
    """Carries bytes between `left` and `right` until both are quiet.

    `seed` decides how the bytes are cut and whose turn it is, so that a failure can be repeated. `on_left` and
    `on_right` see each event at once and may use the machines, as an application would. What both sides reported
    is in `left_events` and `right_events`. What a machine raises goes through.
    """

    def __init__(
        self,
        left: ByteMachine[L],
        right: ByteMachine[R],
        *,
        seed: int = 0,
        max_piece: int = 4096,
        on_left: Callable[[L], object] | None = None,
        on_right: Callable[[R], object] | None = None,
    ) -> None:
        self.left, self.right = left, right
        self.left_events: list[L] = []
        self.right_events: list[R] = []
        self._rng = random.Random(seed)
        self._max_piece = max_piece
        self._on_left, self._on_right = on_left, on_right
        self._to_left: list[bytes] = []
        self._to_right: list[bytes] = []

    def run(self, *, max_pieces: int = 1_000_000) -> None:
        """Until neither side has anything to say. AssertionError when `max_pieces` do not suffice."""
        for _ in range(max_pieces):
            self._collect()
            if not self._to_left and not self._to_right:
                return
            if self._to_right and (not self._to_left or self._rng.random() < 0.5):
                for right_event in self.right.receive_data(self._to_right.pop(0)):
                    self.right_events.append(right_event)
                    if self._on_right is not None:
                        self._on_right(right_event)
            else:
                for left_event in self.left.receive_data(self._to_left.pop(0)):
                    self.left_events.append(left_event)
                    if self._on_left is not None:
                        self._on_left(left_event)
        raise AssertionError(f"the machines still talk after {max_pieces} pieces")

    def _collect(self) -> None:
        # In random order and not always, so that several answers may gather behind one another.
        if not self._to_right or self._rng.random() < 0.3:
            self._to_right += random_pieces(self.left.data_to_send(), self._rng, self._max_piece)
        if not self._to_left or self._rng.random() < 0.3:
            self._to_left += random_pieces(self.right.data_to_send(), self._rng, self._max_piece)
