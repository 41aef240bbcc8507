"""Where connections come from: address groups, and how fast each of them may open new ones.

A source is narrow (an IPv4 address or an IPv6 /56) and, for IPv6, also wide (its /48). Addresses without an IP of
their own (memory, unix, relayed) are one source for each kind, which is never rated nor counted.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from talos import addr as addresses

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

    from multiaddr import Multiaddr

    from talos.addr import IpBlock
    from talos.host.limits_config import IpLimits, Rate

__all__ = ["IpAddress", "Prefixes", "Rates", "Source", "in_prefixes", "ip_of", "parse_prefixes", "source_of"]

IpAddress: TypeAlias = IPv4Address | IPv6Address
Prefixes: TypeAlias = "Iterable[IPv4Network | IPv6Network]"


def ip_of(addr: Multiaddr) -> IpAddress | None:
    """The IP that the peer itself has in `addr`; None when there is none, or only its relay's."""
    return None if addresses.is_relayed(addr) else addresses.ip_of(addr)


def parse_prefixes(texts: Iterable[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Networks, for `in_prefixes`; ValueError for what is none."""
    return tuple(ip_network(text) for text in texts)


def in_prefixes(ip: IpAddress | None, prefixes: Prefixes) -> bool:
    """Whether `ip` lies in one of `prefixes`."""
    return ip is not None and any(ip in prefix for prefix in prefixes)


class Source(NamedTuple):
    """The groups of one address, and how they are to be treated."""

    ip: IpAddress | None
    narrow: IpBlock
    wide: IpBlock | None
    exempt: bool
    private: bool


def source_of(addr: Multiaddr, *, exempt_loopback: bool) -> Source:
    """Which groups `addr` counts in."""
    ip = ip_of(addr)
    if ip is None:
        kind = 1 if addresses.is_relayed(addr) else 0
        return Source(None, (0, 0, kind), None, exempt=True, private=False)
    narrow, *wide = addresses.limit_blocks(ip)
    exempt = exempt_loopback and ip.is_loopback
    return Source(ip, narrow, wide[0] if wide else None, exempt, addresses.is_private(addr))


@dataclass(slots=True)
class _Bucket:
    tokens: float
    updated: float


class Rates:
    """Token buckets of new connections per source, a bounded number of them."""

    __slots__ = ("_buckets", "_limits")

    def __init__(self, limits: IpLimits) -> None:
        self._limits = limits
        self._buckets: OrderedDict[IpBlock, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, source: Source, now: float) -> Rate | None:
        """A token of every bucket of `source`, or of none: then the rate that refused."""
        limits = self._limits
        narrow_rate = limits.rate_private if source.private else limits.rate
        narrow = self._bucket(source.narrow, narrow_rate, now)
        if narrow.tokens < 1:
            return narrow_rate
        if source.wide is not None:
            wide_rate = limits.rate_private if source.private else limits.rate_wide
            wide = self._bucket(source.wide, wide_rate, now)
            if wide.tokens < 1:
                return wide_rate
            wide.tokens -= 1
        narrow.tokens -= 1
        return None

    def give_back(self, source: Source) -> None:
        """The token that `take` took: the peer behind the address turned out to be allow-listed."""
        for key in (source.narrow, source.wide):
            if key is not None and (bucket := self._buckets.get(key)) is not None:
                bucket.tokens += 1

    def _bucket(self, key: IpBlock, rate: Rate, now: float) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(rate.burst, now)
            if len(self._buckets) > self._limits.buckets:
                self._buckets.popitem(last=False)
            return bucket
        self._buckets.move_to_end(key)
        bucket.tokens = min(rate.burst, bucket.tokens + (now - bucket.updated) * rate.per_second)
        bucket.updated = now
        return bucket
