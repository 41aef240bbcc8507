"""A lock that costs no turn of the scheduler while it is free."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio

__all__ = ["turn"]


class turn:  # noqa: N801 - reads as what it is: `async with turn(lock):`
    """Holds `lock` for the block. Taking a free one is no checkpoint; tasks that wait get it in their order."""

    __slots__ = ("_lock",)

    def __init__(self, lock: trio.Lock) -> None:
        self._lock = lock

    async def __aenter__(self) -> None:
        if self._lock.locked():
            await self._lock.acquire()
        else:
            self._lock.acquire_nowait()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
