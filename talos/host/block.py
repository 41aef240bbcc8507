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

    What the block raises comes out as it is and not as a group of one, as long as no task raises too; a Ctrl-C that
    came up in a task comes out as KeyboardInterrupt.
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
    """What a nursery has wrapped: the one exception of the block, or a Ctrl-C however deep it was."""
    if len(group.exceptions) != 1:
        return None
    error: BaseException = group.exceptions[0]
    inner = error
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return inner if isinstance(inner, KeyboardInterrupt | SystemExit) else error
