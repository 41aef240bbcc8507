"""The right to write, one at a time: on the event loop while the disk is fast, else in a thread.

A lone entry is written without a thread while commits take less than a millisecond, for the hop alone costs as much.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, TypeVar

import trio

from talos.errors import AuditError, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from talos.chain.reading import Row
    from talos.errors import ChainError

__all__ = ["Writer"]

T = TypeVar("T")

FAST_SECONDS = 0.001
"""A lone entry is written on the event loop while the disk is faster than this; the hop alone costs 0.15 ms."""
SAMPLES = 64
SAMPLES_NEEDED = 8


class Writer:
    """Who holds `turn` may write to the store, and nobody else."""

    def __init__(self, append: Callable[[Sequence[Row]], None]) -> None:
        self._append = append
        self.turn = trio.Lock()
        self._thread = trio.CapacityLimiter(1)
        self._slow: deque[bool] = deque(maxlen=SAMPLES)
        self.fast = False
        """The 95th percentile of the last commits: measured, not assumed."""
        self.stopped: ChainError | None = None
        """What ended it: nothing is written any more."""

    def check(self) -> None:
        """Raises what ended the writing."""
        if self.stopped is not None:
            fresh = self.stopped.__class__(*self.stopped.args)  # tracebacks of one error must not grow with every raise
            raise fresh from self.stopped

    def take_turn(self) -> bool:
        """Without waiting: True when the turn is the caller's, to be released."""
        try:
            self.turn.acquire_nowait()
        except (trio.WouldBlock, RuntimeError):
            return False
        return True

    def append(self, rows: Sequence[Row]) -> None:
        """Makes entries durable, and learns how fast that is. In the caller's thread, in the caller's turn."""
        started = time.perf_counter()
        try:
            self._append(rows)
        except StoreFailed as error:
            self.stopped = error
            raise
        self._slow.append(time.perf_counter() - started >= FAST_SECONDS)
        count = len(self._slow)
        self.fast = count >= SAMPLES_NEEDED and sum(self._slow) <= count // 20

    async def alone(self, function: Callable[..., T], *args: object) -> T:
        """Runs `function` in a thread when it is its turn; not cancelled once it runs. ChainError of it, or ours."""
        async with self.turn:
            return await self.in_thread(function, *args)

    async def in_thread(self, function: Callable[..., T], *args: object) -> T:
        """As `alone`, for who has the turn already."""
        self.check()
        try:
            # Not abandoned: a thread cannot be cancelled, and its turn ends with it.
            return await trio.to_thread.run_sync(function, *args, limiter=self._thread)
        except StoreFailed as error:
            self.stop(error)
            raise

    def stop(self, error: ChainError) -> None:
        """From now on every call raises this."""
        self.stopped = error

    def close(self) -> None:
        """Nothing is written after this."""
        if self.stopped is None:
            self.stopped = AuditError("the chain is closed")
