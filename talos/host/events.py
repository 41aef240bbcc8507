"""Events of a node: bounded subscriptions for tasks, observers for metrics."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import trio

from talos.abc import Dropped, Event, HandlerFailed, ServiceFault
from talos.host.contain import Owner, contain_sync, is_expected_end
from talos.host.limits_config import LimitsConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

__all__ = ["EventBus"]


class EventBus:
    """Fans events out; emitting never waits and never raises.

    `queue` is how many events wait for one subscriber. `faults` counts contained exceptions by owner and class.
    """

    def __init__(self, queue: int = LimitsConfig().event_queue) -> None:
        self.faults: Counter[tuple[str, str]] = Counter()
        self._queue = queue
        self._subscriptions: list[_Subscription] = []
        self._observers: tuple[Callable[[Event], None], ...] = ()
        self._observer_owner = Owner("observer", self._observer_failed)

    def emit(self, event: Event) -> None:
        """Tells all subscribers and observers, observers first."""
        self._count(event)
        self.tell(event)
        self._queue_for_subscribers(event)

    def tell(self, event: Event) -> None:
        """Tells observers only: for what is too frequent to be queued."""
        for observer in self._observers:
            contain_sync(self._observer_owner, observer, event)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[trio.MemoryReceiveChannel[Event]]:
        """All events from now on; when the queue is full, `Dropped` stands in for what is lost."""
        subscription = _Subscription(self._queue)
        self._subscriptions.append(subscription)
        try:
            yield subscription.receiver
        finally:
            self._subscriptions.remove(subscription)
            subscription.close()

    @contextmanager
    def observe(self, observer: Callable[[Event], None]) -> Iterator[None]:
        """Calls `observer` for each event within the block; what it raises is contained and skips that call."""
        self._observers = (*self._observers, observer)
        try:
            yield
        finally:
            observers = list(self._observers)
            observers.remove(observer)
            self._observers = tuple(observers)

    def _observer_failed(self, event: Event) -> None:
        """Subscribers hear of it; observers do not, or a bad one would be called for its own failure for ever."""
        self._count(event)
        self._queue_for_subscribers(event)

    def _queue_for_subscribers(self, event: Event) -> None:
        for subscription in self._subscriptions:
            subscription.push(event)

    def _count(self, event: Event) -> None:
        if isinstance(event, HandlerFailed | ServiceFault) and not is_expected_end(event.exception):
            self.faults[event.owner, type(event.exception).__name__] += 1


class _Subscription:
    """A channel with one slot more than the queue is long, which only a `Dropped` may take."""

    def __init__(self, queue: int) -> None:
        self._queue = queue
        self._sender, self.receiver = trio.open_memory_channel[Event](queue + 1)
        self._dropped: Dropped | None = None

    def push(self, event: Event) -> None:
        try:
            if self._sender.statistics().current_buffer_used < self._queue:
                self._dropped = None
                self._sender.send_nowait(event)
            elif self._dropped is not None:  # still the last one in the queue
                self._dropped.count += 1
            else:
                self._dropped = Dropped(1)
                self._sender.send_nowait(self._dropped)
        except trio.BrokenResourceError:
            pass  # the subscriber closed its end and has not left the block yet

    def close(self) -> None:
        self._sender.close()
        self.receiver.close()
