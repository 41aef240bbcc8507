"""The last events of an agent or of an operation, numbered, for those who follow."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import trio

from talos.control.kinds import KEPT_BYTES, KEPT_EVENTS
from talos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EventLog", "EventLogConfig", "Logged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLogConfig:
    """How much is kept; the oldest goes first."""

    events: int = KEPT_EVENTS
    size: int = KEPT_BYTES
    """Bytes of the events as JSON; the newest is kept whatever its size."""

    def __post_init__(self) -> None:
        if self.events < 1 or self.size < 1:
            raise ConfigError("an event log keeps at least one event")


class Logged(NamedTuple):
    """An event as it is sent."""

    number: int
    """From 1; without gaps."""
    kind: str
    data: str
    """A JSON object on one line of ASCII."""


class EventLog:
    """Appending never waits; a reader that is too slow learns how many events it missed."""

    def __init__(self, config: EventLogConfig | None = None) -> None:
        self._config = config or EventLogConfig()
        self._events: deque[Logged] = deque()
        self._bytes = 0
        self._more = trio.Event()
        self.last = 0
        """The number of the newest event; 0 before the first."""
        self.closed = False

    def append(self, kind: str, fields: Mapping[str, object]) -> None:
        """TypeError for fields that JSON has no word for."""
        data = json.dumps({"kind": kind, **fields})
        self.last += 1
        self._events.append(Logged(self.last, kind, data))
        self._bytes += len(data)
        while len(self._events) > self._config.events or (self._bytes > self._config.size and len(self._events) > 1):
            self._bytes -= len(self._events.popleft().data)
        self._wake()

    def close(self) -> None:
        """Nothing comes any more: nobody waits longer."""
        self.closed = True
        self._wake()

    def after(self, number: int) -> tuple[int, list[Logged]]:
        """How many events after `number` are lost, and those that are kept. A number of the future is the newest."""
        first = self._events[0].number if self._events else self.last + 1
        missed = max(0, first - number - 1)
        start = max(0, number + 1 - first)
        return missed, [self._events[index] for index in range(start, len(self._events))]

    def over_after(self, number: int) -> bool:
        """Whether nothing comes after `number` any more."""
        return self.closed and self.last <= number

    async def wait_after(self, number: int) -> None:
        """Returns when there is an event after `number`, or never will be."""
        while self.last <= number and not self.closed:
            await self._more.wait()

    def _wake(self) -> None:
        self._more.set()
        self._more = trio.Event()
