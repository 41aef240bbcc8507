"""Waiting for what a node tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

from talos.abc import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.host.node import Node

__all__ = ["next_of", "until"]

E = TypeVar("E", bound=Event)

PATIENCE_SECONDS = 60.0


async def next_of(events: trio.MemoryReceiveChannel[Event], kind: type[E]) -> E:
    """The next event of that kind."""
    with trio.fail_after(PATIENCE_SECONDS):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError(f"no {kind.__name__} came")


async def until(node: Node, holds: Callable[[], bool]) -> None:
    """Looks again after each event of `node`."""
    with trio.fail_after(PATIENCE_SECONDS):
        async with node.events() as events:
            while not holds():
                await events.receive()
