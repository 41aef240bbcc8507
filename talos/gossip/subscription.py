"""Bounded subscriptions: a slow reader loses the oldest messages, and nobody waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.abc import TopicMessage

if TYPE_CHECKING:
    from talos.abc import Validator

__all__ = ["Subscription", "TopicDesk"]


class Subscription:
    """One channel of messages. `lost` counts those that its reader was too slow for."""

    __slots__ = ("_sender", "lost", "receiver")

    def __init__(self, max_queued: int) -> None:
        self._sender, self.receiver = trio.open_memory_channel[TopicMessage](max_queued)
        self.lost = 0

    def push(self, message: TopicMessage) -> None:
        """Queues it; the oldest makes room."""
        try:
            try:
                self._sender.send_nowait(message)
            except trio.WouldBlock:
                self.receiver.receive_nowait()
                self.lost += 1
                self._sender.send_nowait(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the reader closed its end and has not left the block yet

    def close(self) -> None:
        self._sender.close()
        self.receiver.close()


class TopicDesk:
    """What we have to do with one topic: who reads it here, and who judges it."""

    __slots__ = ("_lost_before", "subscriptions", "users", "validator")

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []
        self.validator: Validator | None = None
        self.users = 0
        """Blocks that keep us in the topic."""
        self._lost_before = 0

    @property
    def lost(self) -> int:
        """Messages that readers here were too slow for."""
        return self._lost_before + sum(subscription.lost for subscription in self.subscriptions)

    def push(self, message: TopicMessage) -> None:
        """Gives it to all readers."""
        for subscription in self.subscriptions:
            subscription.push(message)

    def leave(self, subscription: Subscription) -> None:
        """The reader is gone."""
        self.subscriptions.remove(subscription)
        self._lost_before += subscription.lost
        subscription.close()
