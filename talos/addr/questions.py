"""What an address is made of, where it leads and whose it is."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address

from multiaddr import Multiaddr

from talos.addr.binary import components
from talos.errors import ConfigError
from talos.identity.peer_id import PeerId
from talos.wire import varint

IP_NAMES = ("ip4", "ip6")
DNS_NAMES = ("dns", "dns4", "dns6")


def names_of(addr: Multiaddr) -> tuple[str, ...]:
    """The protocol names of `addr` in order."""
    return tuple(part.name for part in components(addr))


def is_exactly(addr: Multiaddr, *names: str) -> bool:
    """Whether `addr` consists of these protocols, in this order and without another."""
    return names_of(addr) == names


def is_relayed(addr: Multiaddr) -> bool:
    """Whether the way goes through a circuit relay."""
    return "p2p-circuit" in names_of(addr)


def host_port(addr: Multiaddr) -> tuple[str, int]:
    """Host (an IP address or a name) and port that `addr` begins with; ConfigError when it does not.

    A zone is part of the host, as in `fe80::1%eth0`.
    """
    parts = components(addr)
    zone = ""
    if len(parts) > 2 and parts[0].name == "ip6zone" and parts[1].name == "ip6":
        zone, parts = "%" + parts[0].value.decode(), parts[1:]
    if len(parts) < 2 or parts[0].name not in IP_NAMES + DNS_NAMES or parts[1].name not in ("tcp", "udp"):
        raise ConfigError(f"address {addr} does not begin with a host and a port")
    host, port = parts[0], int.from_bytes(parts[1].value, "big")
    if host.name in IP_NAMES:
        return str(ip_address(host.value)) + zone, port
    return host.value.decode(), port


def path_of(addr: Multiaddr) -> str:
    """The absolute path that the unix address `addr` begins with; ConfigError when it does not."""
    parts = components(addr)
    if not parts or parts[0].name != "unix":
        raise ConfigError(f"address {addr} is not a unix socket")
    return "/" + parts[0].value.decode()


def split_peer(addr: Multiaddr) -> tuple[Multiaddr, PeerId | None]:
    """`addr` without its final `/p2p/…`, and the peer named there; None when it ends otherwise.

    Behind `/p2p-circuit` this is the destination; the relay before it stays in the address.
    """
    parts = components(addr)
    if not parts or parts[-1].name != "p2p":
        return addr, None
    return _split_peer(addr.to_bytes(), parts[-1].value)


@lru_cache(maxsize=4096)
def _split_peer(data: bytes, raw_peer: bytes) -> tuple[Multiaddr, PeerId]:
    peer = PeerId.from_bytes(raw_peer)
    return Multiaddr(data[: -len(_peer_component(peer))]), peer


def with_peer(addr: Multiaddr, peer: PeerId) -> Multiaddr:
    """`addr` ending in `/p2p/<peer>`, once; ConfigError when it names another peer there."""
    named = split_peer(addr)[1]
    if named is None:
        return Multiaddr(addr.to_bytes() + _peer_component(peer))
    if named != peer:
        raise ConfigError(f"address {addr} belongs to another peer than {peer}")
    return addr


def _peer_component(peer: PeerId) -> bytes:
    raw = peer.to_bytes()
    return varint.encode(421) + varint.encode(len(raw)) + raw
