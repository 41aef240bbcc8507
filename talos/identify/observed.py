"""Where others say they see us: an address becomes a candidate when peers of enough networks agree."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from talos import addr as addresses

if TYPE_CHECKING:
    from multiaddr import Multiaddr

    from talos.addr import IpBlock

__all__ = ["ObservedAddrs"]


class ObservedAddrs:
    """Counts the address groups that report each address; a bounded number of addresses."""

    __slots__ = ("_groups_needed", "_max_addrs", "_reports")

    def __init__(self, *, groups_needed: int, max_addrs: int) -> None:
        self._groups_needed = groups_needed
        self._max_addrs = max_addrs
        self._reports: OrderedDict[Multiaddr, set[IpBlock]] = OrderedDict()

    @property
    def candidates(self) -> tuple[Multiaddr, ...]:
        """What enough groups agree on."""
        return tuple(addr for addr, groups in self._reports.items() if len(groups) >= self._groups_needed)

    def report(self, observed: Multiaddr, reporter: Multiaddr) -> bool:
        """Whether `observed` became a candidate by this report of the peer at `reporter`.

        Only public addresses count, and reporters that have an IP of their own.
        """
        ip = addresses.ip_of(reporter)
        if ip is None or addresses.is_relayed(reporter) or addresses.is_relayed(observed):
            return False
        if addresses.ip_of(observed) is None or not addresses.is_public(observed):
            return False
        groups = self._reports.pop(observed, set())
        self._reports[observed] = groups
        if len(self._reports) > self._max_addrs:
            self._reports.popitem(last=False)
        if len(groups) >= self._groups_needed:
            return False
        groups.add(addresses.ip_group(ip))
        return len(groups) >= self._groups_needed
