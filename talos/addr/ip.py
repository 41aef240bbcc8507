"""The IP address of an address: its reach, and the groups that limits and tables count by."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from talos.addr.binary import components
from talos.addr.questions import DNS_NAMES, IP_NAMES
from talos.addr.text import parse

if TYPE_CHECKING:
    from multiaddr import Multiaddr

IP = IPv4Address | IPv6Address
IpBlock = tuple[int, int, int]
"""IP version, prefix length, and the prefix as a number: a cheap key for counting."""


@lru_cache(maxsize=1024)  # asked a dozen times for each connection
def ip_of(addr: Multiaddr) -> IP | None:
    """The IP address that `addr` begins with, IPv4 also where it is written within IPv6; else None.

    Of a relayed address this is the relay's.
    """
    parts = components(addr)
    if len(parts) > 1 and parts[0].name == "ip6zone":
        parts = parts[1:]
    if not parts or parts[0].name not in IP_NAMES:
        return None
    address = ip_address(parts[0].value)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


_PRIVATE_V4 = tuple(
    IPv4Network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10")
)
_PRIVATE_V6 = tuple(IPv6Network(net) for net in ("fc00::/7", "fe80::/10"))
_PRIVATE_DOMAINS = ("localhost", "local", "internal", "home.arpa")


def is_loopback(addr: Multiaddr) -> bool:
    """Whether `addr` begins with a loopback IP address."""
    address = ip_of(addr)
    return address is not None and address.is_loopback


def is_private(addr: Multiaddr) -> bool:
    """Whether `addr` begins with an IP address of a private range, without loopback.

    RFC 1918, carrier-grade NAT, ULA and link-local.
    """
    address = ip_of(addr)
    if isinstance(address, IPv4Address):
        return any(address in net for net in _PRIVATE_V4)
    return address is not None and any(address in net for net in _PRIVATE_V6)


def at_ip(addr: Multiaddr, ip: IP) -> Multiaddr | None:
    """The port of `addr` at another IP address; None where that is of another family, or `addr` begins with none."""
    own = ip_of(addr)
    if own is None or own.version != ip.version or components(addr)[0].name not in IP_NAMES:
        return None
    tail = str(addr).split("/", 3)[3]
    return parse(f"/ip{ip.version}/{ip}/{tail}")


def is_public(addr: Multiaddr) -> bool:
    """Whether a peer anywhere could reach `addr`: a global unicast IP address, or a name that is not local."""
    address = ip_of(addr)
    if address is not None:
        return address.is_global and not address.is_multicast
    parts = components(addr)
    if not parts or parts[0].name not in (*DNS_NAMES, "dnsaddr"):
        return False
    name = parts[0].value.decode().rstrip(".").lower()
    return not any(name == domain or name.endswith("." + domain) for domain in _PRIVATE_DOMAINS)


_LEGACY_SLASH_8 = frozenset({12, 17, 19, 38, 48, 53, 56, 73})
"""First bytes of IPv4 ranges that a single holder was given whole."""


def ip_block(address: IP, prefix: int) -> IpBlock:
    """The block of `prefix` bits that holds `address`."""
    return address.version, prefix, int(address) >> address.max_prefixlen - prefix


def ip_group(address: IP) -> IpBlock:
    """The block within which many addresses are as good as one holder's: IPv4 /16 (/8 of old), IPv6 /32."""
    if isinstance(address, IPv6Address):
        return ip_block(address, 32)
    return ip_block(address, 8 if address.packed[0] in _LEGACY_SLASH_8 else 16)


def limit_blocks(address: IP) -> tuple[IpBlock, ...]:
    """The blocks whose connections are counted, narrowest first: an IPv4 address; an IPv6 /56 and /48."""
    if isinstance(address, IPv4Address):
        return (ip_block(address, 32),)
    return ip_block(address, 56), ip_block(address, 48)
