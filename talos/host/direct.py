"""How a peer is reached without a relay."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from talos.abc import Connection, Host
    from talos.identity.peer_id import PeerId

__all__ = ["direct_connection"]


def direct_connection(host: Host, peer: PeerId) -> Connection | None:
    """The newest connection with `peer` that no relay carries; None when there is none."""
    those = (each for each in reversed(host.connections) if each.remote_peer == peer and not each.limited)
    return next(those, None)
