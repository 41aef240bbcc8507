"""Peer ids from a peer, and from text."""

from talos.errors import ConfigError, RemoteProtocolError
from talos.identity.peer_id import PeerId


def target(data: bytes) -> None:
    """An id that reads back from its bytes and both texts, or a declared error."""
    try:
        peer = PeerId.from_bytes(data)
    except RemoteProtocolError:
        pass
    else:
        if not PeerId.parse(str(peer)) == PeerId.parse(peer.cid()) == PeerId.from_bytes(bytes(peer)) == peer:
            raise AssertionError("an id does not read back")
    try:
        PeerId.parse(data.decode("utf-8", "surrogateescape"))
    except ConfigError:
        return
