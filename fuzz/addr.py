"""Multiaddrs from a peer, and from text."""

from talos import addr as addrs
from talos.errors import ConfigError, RemoteProtocolError


def target(data: bytes) -> None:
    """An address that prints and answers every question, None for an unknown protocol, or a declared error."""
    try:
        address = addrs.decode_or_skip(data)
    except RemoteProtocolError:
        address = None
    if address is not None:
        str(address)
        addrs.is_public(address), addrs.is_private(address), addrs.is_loopback(address)
        addrs.split_peer(address)
        if address.to_bytes() != data:
            raise AssertionError("an address has two encodings")
    try:
        parsed = addrs.parse(data.decode("utf-8", "surrogateescape"))
    except ConfigError:
        return
    if addrs.parse(str(parsed)) != parsed:
        raise AssertionError("an address does not read back")
