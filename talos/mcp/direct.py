"""From a relayed connection to a direct one, where somebody else finds the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.abc import PeerConnected
from talos.host.direct import direct_connection

if TYPE_CHECKING:
    from talos.abc import Connection, Event, Host

__all__ = ["wait_for_direct"]

DCUTR = "/libp2p/dcutr"
"""Served where holes are punched: else nothing is waited for."""


async def wait_for_direct(host: Host, relayed: Connection, seconds: float) -> Connection:
    """A direct connection to the peer of `relayed` if one comes to be in time, else `relayed`."""
    peer = relayed.remote_peer
    found = trio.Event()

    def observe(event: Event) -> None:
        if isinstance(event, PeerConnected) and event.peer == peer and not event.connection.limited:
            found.set()

    if DCUTR in host.protocols:
        with host.observe(observe), trio.move_on_after(seconds):
            if direct_connection(host, peer) is None:
                await found.wait()
    return direct_connection(host, peer) or relayed
