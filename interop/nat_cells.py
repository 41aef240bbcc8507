"""Cells behind real NATs: holes are punched, and servers say who can be dialled. Skipped without namespaces."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

import trio

from interop import natlab
from interop.matrix import OURS
from interop.network_cells import STACK, CellSkipped, Fleet, NetworkCell, left_out
from interop.process import PeerFailed, dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from interop.natlab import Lab
    from interop.network_cells import Run

from contextlib import asynccontextmanager

__all__ = ["cells"]

PUNCHERS = ("go", "rust")
SERVERS = ("js", "go", "rust")
CLIENTS = ("go", "rust")
PORT = 4001
QUIC = "quic-v1"


def cells() -> list[NetworkCell]:
    """Two of ours, then each other implementation with ours, in either place."""
    made = [
        NetworkCell(
            kind="symmetric", dialer=OURS, listener=OURS, via=OURS, run=partial(_stays_relayed, OURS, OURS, OURS)
        ),
    ]
    triples = [(OURS, OURS, OURS)]
    for peer in PUNCHERS:
        triples += [(OURS, peer, OURS), (OURS, OURS, peer), (peer, OURS, OURS)]
    for stack in (STACK, QUIC):
        for relay, callee, caller in triples:
            run = partial(_punch, stack, relay, callee, caller)
            made.append(NetworkCell(kind="punch", dialer=caller, listener=callee, via=relay, run=run, stack=stack))
    pairs = [(OURS, OURS), *((peer, OURS) for peer in SERVERS), *((OURS, peer) for peer in CLIENTS)]
    for stack in (STACK, QUIC):
        for server, client in pairs:
            run = partial(_autonat, stack, server, client)
            made.append(NetworkCell(kind="autonat", dialer=client, listener=server, run=run, stack=stack))
    ports = "node dials from no port that it listens on, so that nobody can be let through to it"
    made += [left_out("punch", OURS, "js", ports), left_out("punch", "js", OURS, ports)]
    made.append(left_out("autonat", "js", OURS, "js asks several servers of different networks before it believes one"))
    return made


@cache
def _absent() -> str | None:
    return natlab.absent()


@asynccontextmanager
async def _lab(*, symmetric: bool = False) -> AsyncIterator[Lab]:
    reason = await trio.to_thread.run_sync(_absent)
    if reason is not None:
        raise CellSkipped(reason)
    opened = natlab.open_lab(symmetric=symmetric)
    lab = await trio.to_thread.run_sync(opened.__enter__)
    try:
        yield lab
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(opened.__exit__, None, None, None)


def _at(host: str, stack: str = STACK) -> str:
    return f"/ip4/{natlab.HOSTS[host]}/" + (f"udp/{PORT}/{QUIC}" if stack == QUIC else f"tcp/{PORT}")


async def _punch(stack: str, relay: str, callee: str, caller: str, run: Run) -> None:
    """Both ends behind a NAT of their own: after the relay there is a direct connection."""
    async with _lab() as lab, Fleet.open() as fleet:
        relay_at, callee_at = lab.inside("relay", run.ready[relay]), lab.inside("b", run.ready[callee])
        (relaying,) = await fleet.start([relay_at], stack=stack, listen=_at("relay", stack), relay=True)
        (called,) = await fleet.start([callee_at], stack=stack, listen=_at("b", stack), via=relaying.addr, punch=True)
        dialling = lab.inside("a", run.ready[caller])
        done = await dial(dialling, called.addr, stack, "direct", {"listen": _at("a", stack)})
        if done.get("direct") is not True or natlab.ROUTERS["b"] not in str(done.get("addr")):
            raise PeerFailed(f"no direct connection: {done!r}"[:300])
        run.results["direct"] = done


async def _stays_relayed(relay: str, callee: str, caller: str, run: Run) -> None:
    """Each destination sees another port: no hole is punched, and the relay carries on."""
    async with _lab(symmetric=True) as lab, Fleet.open() as fleet:
        (relaying,) = await fleet.start([lab.inside("relay", run.ready[relay])], listen=_at("relay"), relay=True)
        callee_at = lab.inside("b", run.ready[callee])
        (called,) = await fleet.start([callee_at], listen=_at("b"), via=relaying.addr, punch=True)
        done = await dial(lab.inside("a", run.ready[caller]), called.addr, STACK, "ping", {"count": "3"})
        run.results["ping"] = done


async def _autonat(stack: str, server: str, client: str, run: Run) -> None:
    """A public client is reached."""
    async with _lab() as lab, Fleet.open() as fleet:
        serving = lab.inside("relay", run.ready[server])
        (asked,) = await fleet.start([serving], stack=stack, listen=_at("relay", stack), autonat=True)
        asking = lab.inside("public", run.ready[client])
        done = await dial(asking, asked.addr, stack, "reachable", {"listen": _at("public", stack)})
        if done.get("reachability") != "Public":
            raise PeerFailed(f"not reached: {done!r}"[:300])
        run.results["reachable"] = done
