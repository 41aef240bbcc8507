"""What the DHT tells of a peer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from multiaddr import Multiaddr

    from talos.identity.peer_id import PeerId

__all__ = ["PeerInfo"]


class PeerInfo(NamedTuple):
    """A peer and where it is said to be: hearsay, until it was dialled."""

    peer: PeerId
    addrs: tuple[Multiaddr, ...]
