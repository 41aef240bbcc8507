"""Relay cells: who relays, who is called through it, who calls; Talos has one of the three places at least."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from interop.matrix import OURS
from interop.network_cells import STACK, Fleet, NetworkCell, left_out
from interop.process import PeerFailed, dial

if TYPE_CHECKING:
    from interop.network_cells import Run

__all__ = ["cells"]

PEERS = ("js", "go", "rust")
ECHO_BYTES = "16384"


def cells() -> list[NetworkCell]:
    """For each peer: it relays for two of ours, calls ours, is called by ours, and ours relays for two of it."""
    made = []
    for peer in PEERS:
        for relay, callee, caller in (
            (peer, OURS, OURS),
            (OURS, peer, OURS),
            (OURS, OURS, peer),
            (OURS, peer, peer),
            (peer, OURS, peer),
            (peer, peer, OURS),
        ):
            run = partial(_circuit, relay, callee, caller)
            made.append(NetworkCell(kind="relay", dialer=caller, listener=callee, via=relay, run=run))
    reason = "the program around py-libp2p 0.8.1 does not open its circuit relay"
    return [*made, left_out("relay", OURS, "py", reason), left_out("relay", "py", OURS, reason)]


async def _circuit(relay: str, callee: str, caller: str, run: Run) -> None:
    """The caller reaches the callee by the relay alone, proves who it is, and moves bytes both ways."""
    async with Fleet.open() as fleet:
        (relaying,) = await fleet.start([run.ready[relay]], relay=True)
        (called,) = await fleet.start([run.ready[callee]], via=relaying.addr)
        if "/p2p-circuit/p2p/" not in called.addr:
            raise PeerFailed(f"{callee} is reached at {called.addr}, which is not through the relay")
        for operation, options in (("ping", {"count": "3"}), ("echo", {"bytes": ECHO_BYTES})):
            done = await dial(run.ready[caller], called.addr, STACK, operation, options)
            run.results[operation] = done
