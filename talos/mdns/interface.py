"""Network interfaces, and multicast sockets on them."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING

from talos.mdns.machine import Link

if TYPE_CHECKING:
    from talos.mdns.config import MdnsConfig

__all__ = ["GROUP_V4", "GROUP_V6", "links", "open_sockets"]

GROUP_V4 = "224.0.0.251"
GROUP_V6 = "ff02::fb"
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
"""Linux: off, a socket gets what came by its own interface only. Python has no names for them."""


def links(config: MdnsConfig) -> list[Link]:
    """The interfaces that are up and chosen, with their networks."""
    import psutil

    found = []
    for name, stats in psutil.net_if_stats().items():
        if not stats.isup or (config.interfaces is not None and name not in config.interfaces):
            continue
        networks: list[IPv4Network | IPv6Network] = []
        source = ""
        for entry in psutil.net_if_addrs().get(name, ()):
            host = entry.address.partition("%")[0]
            with suppress(ValueError):  # a mask that is missing or odd: an address that we cannot place
                if entry.family == socket.AF_INET:
                    networks.append(IPv4Interface(f"{host}/{entry.netmask}").network)
                    source = source or host
                elif entry.family == socket.AF_INET6:
                    networks.append(IPv6Interface(f"{host}/{_prefix(entry.netmask)}").network)
        loopback = any(network.is_loopback for network in networks)
        if networks and (config.interfaces is not None or not loopback):
            found.append(Link(name, socket.if_nametoindex(name), tuple(networks), source))
    return found


def _prefix(mask: str | None) -> int:
    """An IPv6 mask as a length."""
    if not mask:
        raise ValueError("no mask")
    packed = socket.inet_pton(socket.AF_INET6, mask)
    return int.from_bytes(packed, "big").bit_count()


def open_sockets(link: Link, config: MdnsConfig) -> list[tuple[socket.socket, tuple[str, int]]]:
    """A socket for each IP version that the link has and that can be had, with the group to send to.

    Others may listen on the same port, as every mDNS program does.
    """
    found = []
    for version, opener in ((4, _open_v4), (6, _open_v6)):
        if any(network.version == version for network in link.networks):
            with suppress(OSError):  # no multicast over this version here
                found.append(opener(link, config.port))
    return found


def _open_v4(link: Link, port: int) -> tuple[socket.socket, tuple[str, int]]:
    sock = _shared(socket.AF_INET)
    try:
        request = socket.inet_aton(GROUP_V4) + socket.inet_aton(link.source) + link.index.to_bytes(4, sys.byteorder)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        if sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        sock.bind(("", port))
    except OSError:
        sock.close()
        raise
    return sock, (GROUP_V4, port)


def _open_v6(link: Link, port: int) -> tuple[socket.socket, tuple[str, int]]:
    sock = _shared(socket.AF_INET6)
    try:
        index = link.index.to_bytes(4, sys.byteorder)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, GROUP_V6) + index
        )
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        if sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        sock.bind(("", port))
    except OSError:
        sock.close()
        raise
    return sock, (f"{GROUP_V6}%{link.name}", port)


def _shared(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return sock
