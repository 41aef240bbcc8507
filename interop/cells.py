"""Running cells: a listener, then one dialer an operation, and what each answer has to say."""

from __future__ import annotations

import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from interop.matrix import OURS
from interop.process import ListenerProcess, PeerFailed, dial, listener
from interop.stack import LISTEN, web_environment
from talos.testing.web_certificate import make_web_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from interop.adapters import Adapters
    from interop.matrix import Cell, Matrix, Operation
    from interop.network_cells import NetworkCell
    from interop.process import Adapter

__all__ = ["Outcome", "check", "run_cell", "run_cells"]

PING = "/ipfs/ping/1.0.0"
IDENTIFIED = "identified "
"""How Talos's listener says on stderr that it learned who dialled it: `identified PEER AGENT`."""
LONG_CONNECTION = {"count": 3000}
LONG_CONNECTIONS = 3


@dataclass(slots=True)
class Outcome:
    """What became of a cell. Neither `failed` nor `skipped`: it passed."""

    cell: Cell | NetworkCell
    failed: str | None = None
    skipped: str | None = None
    seconds: float = 0.0
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def word(self) -> str:
        return "FAIL" if self.failed else "skip" if self.skipped else "pass"


async def run_cells(
    matrix: Matrix, cells: Sequence[Cell], adapters: Adapters, done: Callable[[Outcome], None]
) -> list[Outcome]:
    """Runs all, `matrix.parallel` at a time; `done` is called with each as it ends."""
    outcomes: list[Outcome] = []
    waiting = iter(cells)

    async def worker() -> None:
        for cell in waiting:
            outcome = await run_cell(cell, adapters, matrix.deadline_seconds)
            outcomes.append(outcome)
            done(outcome)

    async with trio.open_nursery() as nursery:
        for _ in range(matrix.parallel):
            nursery.start_soon(worker)
    return outcomes


async def run_cell(cell: Cell, adapters: Adapters, deadline_seconds: float) -> Outcome:
    """One cell from a fresh listener to the last operation; never raises because of a peer."""
    outcome = Outcome(cell, skipped=cell.absent)
    if cell.absent is not None:
        return outcome
    for name in (cell.dialer, cell.listener):
        outcome.skipped = outcome.skipped or adapters.absent.get(name)
        outcome.failed = outcome.failed or adapters.failed.get(name)
    if outcome.skipped or outcome.failed:
        return outcome
    start = trio.current_time()
    with trio.move_on_after(deadline_seconds) as deadline:
        try:
            await _operate(cell, adapters.ready[cell.dialer], adapters.ready[cell.listener], outcome)
        except PeerFailed as failed:
            outcome.failed = str(failed)
    if deadline.cancelled_caught:
        finished = ", ".join(outcome.results) or "nothing"
        outcome.failed = f"not done within {deadline_seconds:.0f} s; finished: {finished}"
    outcome.seconds = trio.current_time() - start
    return outcome


async def _operate(cell: Cell, dialer: Adapter, listening: Adapter, outcome: Outcome) -> None:
    async with _certified(cell) as environment, AsyncExitStack() as stack:
        dialer, listening = (replace(adapter, environment=environment) for adapter in (dialer, listening))
        addr, peer = await stack.enter_async_context(_address(cell, listening))
        for operation in cell.operations:
            result = await dial(dialer, addr, cell.stack, operation.name, operation.options)
            check(operation, result, cell, addr)
            outcome.results[operation.name] = result
        if peer is not None and cell.listener == OURS and "identify" in outcome.results:
            await _identified(peer, cell, dialer)


@asynccontextmanager
async def _certified(cell: Cell) -> AsyncIterator[Mapping[str, str]]:
    """Where the peers of a wss cell find their certificates: the environment of interop/peers/README.md."""
    if cell.transport != "wss":
        yield {}
        return
    with tempfile.TemporaryDirectory() as directory:
        yield web_environment(make_web_certificate(Path(directory)))


@asynccontextmanager
async def _address(cell: Cell, adapter: Adapter) -> AsyncIterator[tuple[str, ListenerProcess | None]]:
    match cell.transport:
        case "memory":  # no second process can reach it: the dialer opens both ends
            yield "/memory/1", None
        case "unix":
            with tempfile.TemporaryDirectory() as directory:
                async with listener(adapter, cell.stack, f"/unix{Path(directory) / 's'}") as peer:
                    yield peer.addr, peer
        case transport:
            async with listener(adapter, cell.stack, LISTEN[transport]) as peer:
                yield peer.addr, peer


async def _identified(peer: ListenerProcess, cell: Cell, dialer: Adapter) -> None:
    """The other way of identify: our listener has learned who the dialer is.

    Connections of the other operations may have been too short for that: some peers take a while to answer.
    """
    for _ in range(LONG_CONNECTIONS):
        if any(line.startswith(IDENTIFIED) for line in peer.said()):
            return
        await dial(dialer, peer.addr, cell.stack, "rtt", LONG_CONNECTION)
    if not any(line.startswith(IDENTIFIED) for line in peer.said()):
        raise PeerFailed("talos: the listener did not identify the dialer")


def check(operation: Operation, result: Mapping[str, Any], cell: Cell, addr: str) -> None:
    """PeerFailed unless the answer says that all that was asked was done."""
    match operation.name:
        case "ping":
            rtts = result.get("rtt_ms", [])
            good = len(rtts) == operation.options["count"] and all(
                rtt >= 0 for rtt in rtts
            )  # js counts whole milliseconds
        case "identify":
            good = _identity_holds(result, cell, addr)
        case "echo":
            good = result.get("ok") is True and result.get("bytes") == operation.options["bytes"]
        case _:
            good = all(result.get(name) == value for name, value in operation.options.items())
    if not good:
        raise PeerFailed(f"{cell.dialer}: {operation.name} answered {dict(result)!r}"[:500])


def _observes(cell: Cell) -> bool:
    """Whether the listener sees, and tells, an IP address: py does not over WebSockets."""
    return cell.transport == "tcp" or (cell.transport in {"ws", "wss"} and cell.listener != "py")


def _identity_holds(result: Mapping[str, Any], cell: Cell, addr: str) -> bool:
    _, named, peer_id = addr.rpartition("/p2p/")
    return (
        (not named or result.get("peer_id") == peer_id)
        and PING in result.get("protocols", [])
        and bool(result.get("agent"))
        and (not _observes(cell) or str(result.get("observed_addr", "")).startswith("/ip"))
        and (cell.dialer != OURS or result.get("asked_by_peer") is True)
    )
