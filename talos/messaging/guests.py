"""What peers cause runs in tasks of the host, and uses stores that are closed sooner than those tasks end."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Guests"]

X = TypeVar("X")
T = TypeVar("T")


class Guests:
    """Tasks of others inside a service; `leave` ends them before what they use is closed."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._scopes: set[trio.CancelScope] = set()
        self._empty = trio.Event()
        self._closed = False

    async def inside(self, function: Callable[[X], Awaitable[T]], argument: X) -> T:
        """Awaits `function(argument)` while the service is open; trio.ClosedResourceError once it is closed."""
        if self._closed:
            raise trio.ClosedResourceError(f"{self._what} are closed")
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                return await function(argument)
            finally:
                self._scopes.discard(scope)
                if not self._scopes:
                    self._empty.set()
        raise trio.ClosedResourceError(f"{self._what} are closed")

    async def leave(self) -> None:
        """Ends what peers have begun, and waits for it."""
        self._closed = True
        for scope in self._scopes:
            scope.cancel()
        with trio.CancelScope(shield=True):
            while self._scopes:
                self._empty = trio.Event()
                await self._empty.wait()
