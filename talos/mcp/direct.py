"""From a relayed connection to a direct one, where somebody else finds the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.abc import PeerConnected

if TYPE_CHECKING:
    from talos.abc import Connection, Event, Host

__all__ = ["direct_connection"]

DCUTR = "/libp2p/dcutr"
"""Served where holes are punched: else nothing is waited for."""


async def direct_connection(host: Host, relayed: Connection, seconds: float) -> Connection:
    """A direct connection to the peer of `relayed` if one comes to be in time, else `relayed`."""
    peer = relayed.remote_peer
    found = trio.Event()

    def direct() -> Connection | None:
        return next((one for one in host.connections if one.remote_peer == peer and not one.limited), None)

    def observe(event: Event) -> None:
        if isinstance(event, PeerConnected) and event.peer == peer and not event.connection.limited:
            found.set()

    if DCUTR in host.protocols:
        with host.observe(observe), trio.move_on_after(seconds):
            if direct() is None:
                await found.wait()
    return direct() or relayed
