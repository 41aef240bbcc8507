"""The wall around everything that touches a peer's input: the one place that swallows an exception."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import trio

from talos.abc import Event, HandlerFailed, ServiceFault
from talos.errors import LimitExceeded, RemoteProtocolError, StreamCode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from talos.abc import ProtocolId
    from talos.identity.peer_id import PeerId

__all__ = ["Owner", "contain", "contain_sync", "is_expected_end", "printable", "reset_code"]

T = TypeVar("T")

LOG_SECONDS = 60.0
MAX_LOGGED_KINDS = 1024
MAX_LOGGED_CHARACTERS = 300

_log = logging.getLogger(__name__)
_EXPECTED_ENDS = (
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.EndOfChannel,
    trio.TooSlowError,
    EOFError,
)


@dataclass(slots=True)
class Owner:
    """Who is ended by an exception, and who is told.

    `name` is one of a bounded set (a protocol id, a service), never a peer's text. With neither peer nor
    protocol a fault is told as ServiceFault, else as HandlerFailed.
    """

    name: str
    emit: Callable[[Event], None]
    peer: PeerId | None = None
    protocol: ProtocolId | None = None


async def contain(owner: Owner, fn: Callable[..., Awaitable[T]], *args: object) -> T | None:
    """Awaits `fn(*args)`; an exception of it ends here, is reported to `owner`, and None is returned.

    Cancelled, KeyboardInterrupt and SystemExit pass, also out of an exception group.
    """
    result: T | None = None
    try:
        result = await fn(*args)
    except* Exception as group:  # noqa: BLE001 - this is the wall
        _report(owner, _unwrapped(group))
    return result


def contain_sync(owner: Owner, fn: Callable[..., T], *args: object) -> T | None:
    """`contain` for a function that does not wait: observers, gates, validators."""

    async def call() -> T:
        return fn(*args)

    wall = contain(owner, call)
    try:
        wall.send(None)
    except StopIteration as end:
        result: T | None = end.value
        return result
    raise AssertionError("a function that is not async waited")


def reset_code(error: BaseException) -> StreamCode:
    """What the peer is told when `error` ends its stream."""
    kinds = [type(leaf) for leaf in _leaves(error)]
    if any(issubclass(kind, RemoteProtocolError) for kind in kinds):
        return StreamCode.PROTOCOL_VIOLATION
    if any(issubclass(kind, LimitExceeded) for kind in kinds):
        return StreamCode.RESOURCE_LIMIT
    return StreamCode.NONE


def is_expected_end(error: BaseException) -> bool:
    """Closed, reset or timed out: the way of networks, and nobody's fault."""
    return all(isinstance(leaf, _EXPECTED_ENDS) for leaf in _leaves(error))


def printable(text: str) -> str:
    """`text` on one line of ASCII, cut to a bearable length."""
    return text[:MAX_LOGGED_CHARACTERS].encode("unicode_escape", "backslashreplace").decode("ascii")


def _report(owner: Owner, error: Exception) -> None:
    if is_expected_end(error):
        _log.debug("%s ended: %s", owner.name, type(error).__name__)
    else:
        _lines.write(owner, error, time.monotonic())
    if owner.peer is None and owner.protocol is None:
        owner.emit(ServiceFault(owner.name, error))
    else:
        owner.emit(HandlerFailed(owner.name, owner.peer, owner.protocol, error))


class _FaultLines:
    """One line per (owner, class of exception) and minute, which says how many it stands for."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def write(self, owner: Owner, error: Exception, now: float) -> None:
        kind = (owner.name, type(next(_leaves(error))).__name__)
        silent_until, suppressed = self._kinds.pop(kind, (now, 0))
        if now < silent_until:
            self._kinds[kind] = (silent_until, suppressed + 1)
        else:
            self._kinds[kind] = (now + LOG_SECONDS, 0)
            more = f" ({suppressed} more since the last such line)" if suppressed else ""
            _log.warning("%s failed: %s: %s%s", *kind, printable(str(error)), more)
        if len(self._kinds) > MAX_LOGGED_KINDS:
            self._kinds.popitem(last=False)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s failed", owner.name, exc_info=error)


_lines = _FaultLines()


def _unwrapped(group: ExceptionGroup[Exception]) -> Exception:
    """The exception itself where the group holds but one."""
    error: Exception = group
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    pending = [error]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending.extend(reversed(error.exceptions))
        else:
            yield error
