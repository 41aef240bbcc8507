"""What waits to be sent to one peer, and what is on its way to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import trio

from talos.messaging.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from talos.identity.peer_id import PeerId
    from talos.messaging.frames import Frame
    from talos.messaging.store import OutboxRow, StoredMessage
    from talos.wire.message_stream import MessageStream

__all__ = ["Express", "Item", "Lane", "OnTheWay", "Round", "Slice", "left_out"]


@dataclass(frozen=True, slots=True, eq=False)
class Express:
    """An envelope that is not kept: an acknowledgement of reading, a chunk of a live stream."""

    envelope: bytes
    answered: Callable[[int | None], None] | None = None
    """Told the code of the answer, or None when it was dropped, or nobody knows whether it arrived."""

    def lost(self) -> None:
        if self.answered is not None:
            self.answered(None)


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A part of a file that may go, on a stream of its own, when its turn comes."""

    may_go: trio.Event


Item: TypeAlias = Express | Slice | int
"""An int is the number of a row of the outbox."""


def left_out(items: Iterable[Item]) -> None:
    """They are not sent; rows stay where they are, in the outbox."""
    for item in items:
        if isinstance(item, Express):
            item.lost()
        elif isinstance(item, Slice):
            item.may_go.set()


@dataclass(slots=True, eq=False)
class Lane:
    """One recipient for whom something waits."""

    peer: PeerId
    attempt: int = 0
    due: float = 0.0
    """Monotonic seconds of the next try."""
    running: bool = False
    superseded: float = -math.inf
    """When its messages were last sealed anew."""
    news: trio.Event = field(default_factory=trio.Event)
    """Something was written, or a result came."""
    schedule: Schedule[Item] = field(default_factory=Schedule)
    """What goes next."""
    sending: bool = False
    """Whether it has a stream."""
    queued: set[int] = field(default_factory=set)
    """Numbers of rows in the schedule."""

    def wake(self) -> None:
        self.news.set()
        self.news = trio.Event()

    def drop(self) -> None:
        """What waits in it is not sent; rows are in the store, and others hear of it."""
        self.queued.clear()
        left_out(self.schedule.clear())


@dataclass(slots=True, eq=False)
class OnTheWay:
    """What was sent and is not answered."""

    row: OutboxRow
    message: StoredMessage
    since: float


@dataclass(slots=True, eq=False)
class Round:
    """One stream to one recipient."""

    lane: Lane
    frames: MessageStream[Frame, Frame]
    unanswered: int
    """How many may be."""
    on_the_way: dict[bytes, OnTheWay] = field(default_factory=dict)
    """By the hash of the envelope, oldest first."""
    awaited: dict[bytes, Express] = field(default_factory=dict)
    """What is not kept, and somebody waits for the answer to it."""
