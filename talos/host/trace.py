"""Steps that take time (dial, handshake, query), told as they start and end, to log and observers at once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import trio

from talos.abc import Event
from talos.host.contain import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Trace", "TraceComplete", "TraceFailed", "TraceStarted"]


@dataclass(slots=True)
class TraceStarted(Event):
    """A step began."""

    trace: Trace


@dataclass(slots=True)
class TraceComplete(Event):
    """A step ended well."""

    trace: Trace
    seconds: float


@dataclass(slots=True)
class TraceFailed(Event):
    """A step ended with an exception, or was cancelled."""

    trace: Trace
    seconds: float
    exception: BaseException


class Trace:
    """`with Trace("dial", bus.tell, peer=peer):`; `facts` are told along and may be added to within the block."""

    __slots__ = ("_log", "_started", "_tell", "facts", "name")

    def __init__(self, name: str, tell: Callable[[Event], None], **facts: object) -> None:
        self.name = name
        self.facts = facts
        self._tell = tell
        self._log = logging.getLogger(f"talos.trace.{name}")
        self._started = 0.0

    def __enter__(self) -> Self:
        self._started = trio.current_time()
        self._tell(TraceStarted(self))
        if self._log.isEnabledFor(logging.DEBUG):
            self._log.debug("started %s", self._details())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = trio.current_time() - self._started
        self._tell(TraceComplete(self, seconds) if error is None else TraceFailed(self, seconds, error))
        if not self._log.isEnabledFor(logging.DEBUG):
            return
        if error is None:
            self._log.debug("complete in %.1f ms %s", seconds * 1000, self._details())
        else:
            reason = printable(f"{type(error).__name__}: {error}")
            self._log.debug("failed in %.1f ms (%s) %s", seconds * 1000, reason, self._details())

    def _details(self) -> str:
        return " ".join(f"{name}={printable(str(value))}" for name, value in self.facts.items())
