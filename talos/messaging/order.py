"""The order of one sender's messages in one conversation and epoch: gaps wait a while, forks are marked.

No clock, no IO: `now` is monotonic seconds. What is held here is durable and acknowledged already; after a restart it
is placed again.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from talos.messaging.payload import NONE

__all__ = ["Mark", "Order", "OrderLimits", "Placed"]

T = TypeVar("T")


class Mark(enum.Enum):
    """What is odd about a message's place."""

    NONE = ""
    GAP = "gap"
    """Messages before it are missing, or it comes after ones that were shown already."""
    FORK = "fork"
    """Its number was used before, or it points back to another message than the one before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderLimits:
    """What is held while a gap is open."""

    messages: int = 256
    bytes: int = 4 * 1024 * 1024
    seconds: float = 30.0
    digests: int = 1024
    """Of messages shown, to judge late ones by."""


@dataclass(frozen=True, slots=True)
class Placed(Generic[T]):
    """A message whose turn it is."""

    item: T
    mark: Mark


@dataclass(slots=True)
class _Held(Generic[T]):
    item: T
    digest: bytes
    prev: bytes
    size: int
    since: float


class Order(Generic[T]):
    """The place of each message; `next_seq` and `last` are what is persisted of it."""

    def __init__(self, limits: OrderLimits | None = None, *, next_seq: int = 1, last: bytes = NONE) -> None:
        self._limits = limits or OrderLimits()
        self.next_seq = next_seq
        self.last = last
        self._held: dict[int, _Held[T]] = {}
        self._held_bytes = 0
        self._shown: dict[int, bytes] = {next_seq - 1: last} if next_seq > 1 else {}
        self._order: deque[int] = deque(self._shown)

    def place(self, item: T, seq: int, digest: bytes, prev: bytes, size: int, now: float) -> list[Placed[T]]:  # noqa: PLR0917
        """Those whose turn has come by this message, in order; none while a gap before it is open."""
        if seq < self.next_seq:
            return [Placed(item, self._judged_late(seq, digest, prev))]
        if seq in self._held:
            return [Placed(item, Mark.FORK)]
        self._held[seq] = _Held(item, digest, prev, size, now)
        self._held_bytes += size
        placed = self._run()
        while len(self._held) > self._limits.messages or self._held_bytes > self._limits.bytes:
            placed += self._skip()
        return placed

    def next_deadline(self) -> float | None:
        """When the oldest gap is given up; None without one."""
        if not self._held:
            return None
        return next(iter(self._held.values())).since + self._limits.seconds  # they are in the order of their coming

    @property
    def held(self) -> list[T]:
        """What waits for those before it."""
        return [held.item for held in self._held.values()]

    def give_up(self) -> list[Placed[T]]:
        """All that is held, marked, without more patience."""
        return self.deadline_passed(math.inf)

    def deadline_passed(self, now: float) -> list[Placed[T]]:
        """What waited long enough, marked."""
        placed: list[Placed[T]] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            placed += self._skip()
        return placed

    def _run(self) -> list[Placed[T]]:
        placed = []
        while (held := self._held.pop(self.next_seq, None)) is not None:
            placed.append(self._show(held, Mark.NONE if held.prev == self.last else Mark.FORK))
        return placed

    def _skip(self) -> list[Placed[T]]:
        """Goes on behind the gap: what `prev` of the next one points to is among the missing."""
        self.next_seq = min(self._held)
        held = self._held.pop(self.next_seq)
        return [self._show(held, Mark.GAP), *self._run()]

    def _show(self, held: _Held[T], mark: Mark) -> Placed[T]:
        self._held_bytes -= held.size
        self._remember(self.next_seq, held.digest)
        self.next_seq += 1
        self.last = held.digest
        return Placed(held.item, mark)

    def _judged_late(self, seq: int, digest: bytes, prev: bytes) -> Mark:
        if seq in self._shown:
            return Mark.FORK
        before = self._shown.get(seq - 1)
        self._remember(seq, digest)
        return Mark.GAP if before is None or before == prev else Mark.FORK

    def _remember(self, seq: int, digest: bytes) -> None:
        self._shown[seq] = digest
        self._order.append(seq)
        if len(self._order) > self._limits.digests:
            del self._shown[self._order.popleft()]
