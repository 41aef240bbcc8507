"""Whose turn it is on the way to one peer: classes by weight, so that a text is not stuck behind a file.

Deficit round robin: in each turn a class may send 64 KiB times its weight, and what it does not use of that because
its next item is larger counts for its next turn. Control goes before all, at most 64 KiB a turn. Nobody starves. No
clock, no IO: `now` is monotonic seconds.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

from talos.errors import LimitExceeded

__all__ = ["QUANTUM_BYTES", "Priority", "Schedule", "Turn"]

T = TypeVar("T")

QUANTUM_BYTES: Final = 64 * 1024


class Priority(enum.IntEnum):
    """The classes, most urgent first; the numbers are those of `StreamStart.priority`."""

    CONTROL = 0
    """Acknowledgements."""
    REALTIME = 1
    """Chunks of live streams that are worth nothing when they are late."""
    INTERACTIVE = 2
    """Texts, and what begins and ends streams."""
    BULK = 3
    """Slices of files, and chunks of live streams of which none may be missing."""
    BACKGROUND = 4
    """What has waited for more than an hour."""


_WEIGHTS: Final = {Priority.REALTIME: 8, Priority.INTERACTIVE: 4, Priority.BULK: 2, Priority.BACKGROUND: 1}
_MOST: Final = {
    Priority.CONTROL: 1024,
    Priority.REALTIME: 64,
    Priority.INTERACTIVE: 1024,
    Priority.BULK: 128,
    Priority.BACKGROUND: 256,
}


class _Waiting(NamedTuple, Generic[T]):
    item: T
    size: int
    deadline: float


@dataclass(slots=True)
class Turn(Generic[T]):
    """What goes now, in order, and what is too late to go at all."""

    items: list[T] = field(default_factory=list)
    late: list[T] = field(default_factory=list)


class Schedule(Generic[T]):
    """What waits to be sent to one peer."""

    def __init__(self) -> None:
        self._queues: dict[Priority, deque[_Waiting[T]]] = {priority: deque() for priority in Priority}
        self._deficits = dict.fromkeys(_WEIGHTS, 0)

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def waiting(self, priority: Priority) -> int:
        """How many of a class."""
        return len(self._queues[priority])

    def add(self, priority: Priority, item: T, size: int, *, deadline: float = float("inf")) -> T | None:
        """Puts it behind others of its class.

        Of a full REALTIME queue the oldest one leaves, and is returned; every other class is LimitExceeded then.
        """
        queue = self._queues[priority]
        oldest: T | None = None
        if len(queue) >= _MOST[priority]:
            if priority is not Priority.REALTIME:
                raise LimitExceeded(
                    f"{len(queue)} of class {priority.name} wait", limit=_MOST[priority], kind="envelopes"
                )
            oldest = queue.popleft().item
        queue.append(_Waiting(item, size, deadline))
        return oldest

    def turn(self, now: float) -> Turn[T]:
        """One round over all classes; empty only when nothing waits."""
        turn = Turn[T]()
        self._take(turn, Priority.CONTROL, QUANTUM_BYTES, now)
        self._round(turn, now)
        while not turn.items and not turn.late and len(self):
            self._round(turn, now)  # what waits is larger than its share
        return turn

    def _round(self, turn: Turn[T], now: float) -> None:
        for priority, weight in _WEIGHTS.items():
            if self._queues[priority]:
                credit = self._deficits[priority] + QUANTUM_BYTES * weight
                self._deficits[priority] = self._take(turn, priority, credit, now)
            if not self._queues[priority]:
                self._deficits[priority] = 0

    def clear(self) -> list[T]:
        """Empties it; returns what waited."""
        left = [waiting.item for queue in self._queues.values() for waiting in queue]
        for queue in self._queues.values():
            queue.clear()
        self._deficits = dict.fromkeys(_WEIGHTS, 0)
        return left

    def _take(self, turn: Turn[T], priority: Priority, credit: int, now: float) -> int:
        """The credit that is left. Of control the first one goes whatever its size."""
        queue = self._queues[priority]
        first = priority is Priority.CONTROL
        while queue and (first or queue[0].size <= credit or queue[0].deadline <= now):
            waiting = queue.popleft()
            if waiting.deadline <= now:
                turn.late.append(waiting.item)
                continue
            turn.items.append(waiting.item)
            credit -= waiting.size
            first = False
        return credit
