"""Blocks with background tasks: what every `open_…` is made of."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["background"]


@asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks are cancelled when the block is left.

    What the block raises comes out as it is and not as a group of one, as long as no task raises too. Ctrl-C comes up
    in whatever task is running, and others fail because that one ends: it comes out as KeyboardInterrupt alone.
    """
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error = _sole(group)
        if error is None:
            raise
    else:
        return
    raise error


def _sole(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """What a nursery has wrapped: the order to stop, however deep it is, else the one exception of the block."""
    stop = group.subgroup((KeyboardInterrupt, SystemExit))
    if stop is not None:
        return _first_leaf(stop)
    return group.exceptions[0] if len(group.exceptions) == 1 else None


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
