"""The one that writes: transactions one after the other, each with all the entries that wait for it.

There is no artificial delay: while one transaction is on its way to the disk, the next gathers. A lone entry is written
without a thread while the disk is fast, for the hop alone costs as much as the write.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
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


@dataclass(slots=True, eq=False)
class _Group:
    """Entries that become durable together."""

    rows: list[Row] = field(default_factory=list)
    size: int = 0
    settled: list[Callable[[ChainError | None], None]] = field(default_factory=list)


class Writer:
    """Runs what writes to a store, one at a time; `run` is its task."""

    def __init__(self, append: Callable[[Sequence[Row]], None], *, group_entries: int, group_bytes: int) -> None:
        self._append = append
        self._group_entries = group_entries
        self._group_bytes = group_bytes
        self._waiting: deque[_Group] = deque()
        self._wake = trio.Event()
        self._turn = trio.Lock()
        self._thread = trio.CapacityLimiter(1)
        self._seconds: deque[float] = deque(maxlen=SAMPLES)
        self.stopped: ChainError | None = None
        """What ended it: nothing is written any more."""

    def append(self, rows: Sequence[Row], settled: Callable[[ChainError | None], None]) -> bool:
        """Hands over entries; `settled` is called once they are durable, or with the error why they are not.

        True when that has happened already.
        """
        group = self._join(rows)
        group.settled.append(settled)
        if len(self._waiting) == 1 and len(group.rows) == len(rows) and self._is_fast() and self._take_turn():
            self._waiting.clear()
            try:
                _settle(group, self._write(group))
            finally:
                self._turn.release()
            return True
        self._wake.set()
        return False

    async def alone(self, function: Callable[..., T], *args: object) -> T:
        """Runs `function` in a thread when it is its turn; not cancelled once it runs. ChainError of it, or ours."""
        async with self._turn:
            return await self._in_thread(function, *args)

    async def run(self) -> None:
        """Writes what waits, again and again, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                async with self._turn:
                    if self._waiting:
                        group = self._waiting.popleft()
                        with trio.CancelScope(shield=True):
                            _settle(group, await trio.to_thread.run_sync(self._write, group, limiter=self._thread))

    def close(self) -> None:
        """Writes what was handed over, though its caller may have been cancelled."""
        while self._waiting:
            group = self._waiting.popleft()
            _settle(group, self._write(group))
        if self.stopped is None:
            self.stopped = AuditError("the chain is closed")

    def stop(self, error: ChainError) -> None:
        """From now on every call raises this."""
        self.stopped = error
        while self._waiting:
            _settle(self._waiting.popleft(), error)

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        if self.stopped is not None:
            raise _again(self.stopped)
        try:
            # Not abandoned: a thread cannot be cancelled, and its turn ends with it.
            return await trio.to_thread.run_sync(function, *args, limiter=self._thread)
        except StoreFailed as error:
            self.stop(error)
            raise

    def _join(self, rows: Sequence[Row]) -> _Group:
        """The group that gathers, with these rows."""
        size = sum(len(row.entry) + len(row.sealed) + len(row.box) for row in rows)
        last = self._waiting[-1] if self._waiting else None
        if last is None or len(last.rows) + len(rows) > self._group_entries or last.size + size > self._group_bytes:
            last = _Group()
            self._waiting.append(last)
        last.rows.extend(rows)
        last.size += size
        return last

    def _take_turn(self) -> bool:
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            return False
        return True

    def _write(self, group: _Group) -> ChainError | None:
        started = time.perf_counter()
        if self.stopped is not None:
            return self.stopped
        try:
            self._append(group.rows)
        except AuditError as error:
            if isinstance(error, StoreFailed):
                self.stopped = error
            return error
        self._seconds.append(time.perf_counter() - started)
        return None

    def _is_fast(self) -> bool:
        """Measured, not assumed: the 95th percentile of the last commits."""
        if len(self._seconds) < SAMPLES_NEEDED:
            return False
        ordered = sorted(self._seconds)
        return ordered[math.ceil(0.95 * len(ordered)) - 1] < FAST_SECONDS


def _settle(group: _Group, error: ChainError | None) -> None:
    for settled in group.settled:
        settled(error)


def _again(error: ChainError) -> ChainError:
    """A fresh one for each caller: tracebacks of one error must not grow with every raise."""
    fresh = error.__class__(*error.args)
    fresh.__cause__ = error
    return fresh
