"""Cells that are networks: what they share with those of the matrix, and how their processes are started."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from interop.cells import Outcome
from interop.matrix import OURS
from interop.process import ListenerProcess, PeerFailed, listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from interop.adapters import Adapters
    from interop.process import Adapter

__all__ = ["DEADLINE_SECONDS", "STACK", "CellSkipped", "Fleet", "NetworkCell", "Run", "left_out", "run_network_cells"]

STACK = "tcp/noise/yamux"
DEADLINE_SECONDS = 240.0
PARALLEL = 2
STARTS_AT_ONCE = 3
MIXED = "all"


class CellSkipped(Exception):
    """This machine cannot run the cell; the text says why."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a cell works with: programs by name, and where to leave results."""

    ready: dict[str, Adapter]
    results: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCell:
    """One network and what is asked of it."""

    kind: str
    """`dht`, `gossip`, `relay`, `punch` or `autonat`."""
    dialer: str
    listener: str
    run: Callable[[Run], Awaitable[None]]
    """Raises PeerFailed when what came out is not what had to."""
    stack: str = STACK
    via: str = ""
    """Who relays between the two."""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.dialer}->{self.listener}{self._way}"

    @property
    def title(self) -> str:
        """Without its ends."""
        return f"{self.kind}{self._way}"

    @property
    def _way(self) -> str:
        through = f" via {self.via}" if self.via else ""
        return through if self.stack == STACK else f"{through} {self.stack}"

    @property
    def peer(self) -> str:
        """The end that is not Talos; `all` for a mixed network."""
        return next((name for name in (self.listener, self.dialer, self.via) if name not in (OURS, "")), OURS)


def left_out(kind: str, dialer: str, listener: str, reason: str) -> NetworkCell:
    """A cell that is listed, and says why it does not run."""

    async def skip(_run: Run) -> None:
        await trio.lowlevel.checkpoint()
        raise CellSkipped(reason)

    return NetworkCell(kind=kind, dialer=dialer, listener=listener, run=skip)


async def run_network_cells(
    cells: Sequence[NetworkCell], adapters: Adapters, done: Callable[[Outcome], None]
) -> list[Outcome]:
    """Runs the pairs side by side, then the mixed networks one by one."""
    outcomes: list[Outcome] = []

    async def run(cell: NetworkCell) -> None:
        outcome = await _run(cell, adapters)
        outcomes.append(outcome)
        done(outcome)

    waiting = iter([cell for cell in cells if cell.peer != MIXED])

    async def worker() -> None:
        for cell in waiting:
            await run(cell)

    async with trio.open_nursery() as nursery:
        for _ in range(PARALLEL):
            nursery.start_soon(worker)
    for cell in cells:
        if cell.peer == MIXED:
            await run(cell)
    return outcomes


async def _run(cell: NetworkCell, adapters: Adapters) -> Outcome:
    outcome = Outcome(cell)
    for name in (cell.peer, OURS):
        outcome.skipped = outcome.skipped or adapters.absent.get(name)
        outcome.failed = outcome.failed or adapters.failed.get(name)
    if outcome.skipped or outcome.failed:
        return outcome
    start = trio.current_time()
    with trio.move_on_after(DEADLINE_SECONDS) as deadline:
        try:
            await cell.run(Run(adapters.ready, outcome.results))
        except* PeerFailed as failures:
            outcome.failed = str(_leaf(failures))
        except* CellSkipped as skipped:
            outcome.skipped = str(_leaf(skipped))
    if deadline.cancelled_caught:
        finished = ", ".join(outcome.results) or "nothing"
        outcome.failed = f"not done within {DEADLINE_SECONDS:.0f} s; finished: {finished}"
    outcome.seconds = trio.current_time() - start
    return outcome


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Fleet:
    """Listeners for the length of a block, several started at once."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._starting = trio.CapacityLimiter(STARTS_AT_ONCE)

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Fleet]:
        async with trio.open_nursery() as nursery:
            yield cls(nursery)
            nursery.cancel_scope.cancel()

    async def start(self, adapters: Sequence[Adapter], **options: Any) -> list[ListenerProcess]:
        """One of each, in this order; PeerFailed when one does not become ready."""
        started: dict[int, ListenerProcess] = {}

        async def start(at: int, adapter: Adapter) -> None:
            async with self._starting:
                started[at] = await self._nursery.start(self._hold, adapter, options)

        async with trio.open_nursery() as nursery:
            for at, adapter in enumerate(adapters):
                nursery.start_soon(start, at, adapter)
        return [started[at] for at in range(len(adapters))]

    async def _hold(
        self,
        adapter: Adapter,
        options: dict[str, Any],
        task_status: trio.TaskStatus[ListenerProcess] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with listener(adapter, **({"stack": STACK} | options)) as peer:
            task_status.started(peer)
            await trio.sleep_forever()
