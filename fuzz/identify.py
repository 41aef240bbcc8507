"""Identify: bytes as they come on the stream, whole and in pieces, judged as a peer's own word."""

from multiaddr import Multiaddr

from talos.errors import RemoteProtocolError
from talos.identify.machine import IdentifyReader, ReadLimits, judge, split
from talos.identify.wire import Identify
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

KEY = PrivateKey.from_seed(bytes(32))
PEER = PeerId.from_key(KEY.public_key)
SEEN_AT = Multiaddr("/ip4/5.6.7.8/tcp/4001")
LIMITS = ReadLimits()


def target(data: bytes) -> None:
    """A message that is judged, or RemoteProtocolError; the same in every chunking."""
    whole = _read(data, len(data) or 1)
    if whole != _read(data, 7):
        raise AssertionError("the chunks made a difference")
    if whole is None:
        return
    try:
        accepted = judge(whole, peer=PEER, key=KEY.public_key, remote_addr=SEEN_AT, limits=LIMITS)
    except RemoteProtocolError:
        return
    if len(accepted.addrs or ()) > LIMITS.addrs or len(accepted.protocols or ()) > LIMITS.protocols:
        raise AssertionError("more was taken than is")
    if not (accepted.agent_version or "").isprintable():
        raise AssertionError("a terminal might obey the agent version")
    for addr in accepted.addrs or ():
        str(addr)
    split(whole)


def _read(data: bytes, size: int) -> Identify | None:
    reader = IdentifyReader(LIMITS)
    try:
        for start in range(0, len(data), size):
            reader.receive_data(data[start : start + size])
        return reader.end()
    except RemoteProtocolError:
        return None
