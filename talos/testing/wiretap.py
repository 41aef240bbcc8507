"""A pair of streams with somebody in between, who may change what passes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import trio
import trio.testing

from talos.abc import Role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

__all__ = ["Tamper", "pass_on", "tapped_pair"]

Tamper: TypeAlias = "Callable[[Role, int, bytes], Iterable[bytes | None]]"
"""What to pass on of piece `n` that a side sent; None cuts that direction off."""


def pass_on(_sender: Role, _n: int, piece: bytes) -> Iterable[bytes | None]:
    """Changes nothing."""
    return (piece,)


@asynccontextmanager
async def tapped_pair(tamper: Tamper = pass_on) -> AsyncIterator[tuple[trio.abc.Stream, trio.abc.Stream]]:
    """The dialer's and the listener's end, for the length of the block; every byte passes through `tamper`.

    A piece is all that had been sent when the tap looked, so a side that waits for answers sends one a turn.
    """
    dialer, dialer_tap = trio.testing.memory_stream_pair()
    listener, listener_tap = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_relay, dialer_tap, listener_tap, Role.DIALER, tamper)
        nursery.start_soon(_relay, listener_tap, dialer_tap, Role.LISTENER, tamper)
        yield dialer, listener
        nursery.cancel_scope.cancel()


async def _relay(
    source: trio.abc.ReceiveStream, target: trio.abc.HalfCloseableStream, sender: Role, tamper: Tamper
) -> None:
    n = 0
    try:
        async for piece in source:
            for data in tamper(sender, n, bytes(piece)):
                if data is None:
                    await target.send_eof()
                    return
                await target.send_all(data)
            n += 1
        await target.send_eof()
    except trio.BrokenResourceError:
        pass  # the receiver has gone
