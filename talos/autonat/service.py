"""Asks servers about our addresses, again and again, and tells the node what is known."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from talos import addr as addresses
from talos.abc import (
    AddressConfirmed,
    AddressesChanged,
    AddressRefuted,
    PeerIdentified,
    Reachability,
    ReachabilityChanged,
)
from talos.autonat.client import Answer, DialBacks, probe, probe_v1
from talos.autonat.machine import Reachabilities
from talos.autonat.wire import DIAL_BACK, DIAL_REQUEST, V1
from talos.errors import ConfigError, TalosError
from talos.host.block import background
from talos.host.contain import Owner, contain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from multiaddr import Multiaddr

    from talos.abc import Connection, Event, Host
    from talos.addr import IP
    from talos.identity.peer_id import PeerId

__all__ = ["Autonat", "AutonatConfig", "open_autonat"]

_log = logging.getLogger(__name__)
_WORDS = {True: Reachability.PUBLIC, False: Reachability.PRIVATE, None: Reachability.UNKNOWN}
_ENDS = (TalosError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError, trio.TooSlowError)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutonatConfig:
    """Whom we ask, and how often."""

    agreeing: int = 4
    """Servers that have to say the same; all, where fewer are known."""
    addrs: int = 8
    """Of ours that are asked about."""
    probe_seconds: float = 75.0
    """For one question: a server may take as long as its dial."""
    settle_seconds: float = 2.0
    """After a change, before it is asked: changes come together."""
    retry_seconds: float = 60.0
    """While it is not known of an address."""
    recheck_seconds: float = 3600.0
    """Once it is."""
    observed_ips: int = 16
    """IP addresses remembered at which peers see us."""
    allow_private: bool = False
    """Asks about private and loopback addresses too: for networks of one's own, and tests."""

    def __post_init__(self) -> None:
        if min(self.agreeing, self.addrs, self.observed_ips) < 1:
            raise ConfigError("autonat asks at least one server about one address")
        if min(self.probe_seconds, self.retry_seconds, self.recheck_seconds) <= 0 or self.settle_seconds < 0:
            raise ConfigError("autonat needs time")


@asynccontextmanager
async def open_autonat(
    host: Host, config: AutonatConfig | None = None, candidates: Callable[[], Iterable[Multiaddr]] = tuple
) -> AsyncIterator[Autonat]:
    """Finds out whether others can dial us, for the length of the block.

    Asked about are the public ones of our own addresses, our ports at the IP addresses where peers see us, and what
    `candidates` gives. Events tell what is found; an address that is confirmed is announced.
    """
    async with background() as nursery:
        service = Autonat(host, config or AutonatConfig(), candidates)
        with host.mounted(DIAL_BACK, service.backs.take), host.observe(service.observe):
            nursery.start_soon(contain, Owner("autonat", host.emit), service.run)
            try:
                yield service
            finally:
                service.close()


class Autonat:
    """The running client; made by `open_autonat`."""

    def __init__(self, host: Host, config: AutonatConfig, candidates: Callable[[], Iterable[Multiaddr]]) -> None:
        self.reachability = Reachability.UNKNOWN
        self.backs = DialBacks()
        self._host = host
        self._config = config
        self._candidates = candidates
        self._known = Reachabilities(config.agreeing)
        self._seen_at: OrderedDict[IP, None] = OrderedDict()
        self._announced: dict[Multiaddr, ExitStack] = {}
        self._asked: set[Multiaddr] = set()
        self._asked_at: dict[tuple[Multiaddr, PeerId], float] = {}
        self._moved = trio.Event()

    @property
    def confirmed(self) -> tuple[Multiaddr, ...]:
        """Addresses at which others can dial us."""
        return self._known.confirmed

    def observe(self, event: Event) -> None:
        """Follows the host."""
        match event:
            case PeerIdentified(connection=connection, observed_addr=observed, protocols=protocols):
                new = observed is not None and not connection.limited and self._saw(observed)
                asks = DIAL_REQUEST in protocols or V1 in protocols
                if new or (asks and self.reachability is Reachability.UNKNOWN):
                    self._moved.set()
            case AddressesChanged() if set(self._wanted()) != self._asked:
                self._moved.set()

    def close(self) -> None:
        """Takes back what it announced."""
        for announced in self._announced.values():
            announced.close()
        self._announced.clear()

    def _saw(self, observed: Multiaddr) -> bool:
        """Whether that is news."""
        ip = addresses.ip_of(observed)
        if ip is None or addresses.is_relayed(observed) or not self._asked_about(observed):
            return False
        new = ip not in self._seen_at
        self._seen_at[ip] = None
        self._seen_at.move_to_end(ip)
        if len(self._seen_at) > self._config.observed_ips:
            self._seen_at.popitem(last=False)
        return new

    def _asked_about(self, addr: Multiaddr) -> bool:
        return self._config.allow_private or addresses.is_public(addr)

    # -- rounds

    async def run(self) -> None:
        """Asks when something changed, and from time to time."""
        while True:
            self._moved = trio.Event()
            await self._round()
            settled = self.reachability is not Reachability.UNKNOWN
            wait = self._config.recheck_seconds if settled else self._config.retry_seconds
            with trio.move_on_after(wait if self._wanted() else math.inf):
                await self._moved.wait()
            await trio.sleep(self._config.settle_seconds)

    def _wanted(self) -> list[Multiaddr]:
        """What is asked about."""
        own = [addresses.split_peer(addr)[0] for addr in self._host.addrs]
        direct = [addr for addr in own if not addresses.is_relayed(addr)]
        wanted = dict.fromkeys(addr for addr in direct if self._asked_about(addr) and addresses.ip_of(addr) is not None)
        for ip in reversed(self._seen_at):
            alike = (addr for addr in direct if addresses.is_loopback(addr) is ip.is_loopback)
            wanted.update(dict.fromkeys(at for addr in alike if (at := addresses.at_ip(addr, ip)) is not None))
        wanted.update(dict.fromkeys(addr for addr in self._candidates() if self._asked_about(addr)))
        return list(wanted)[: self._config.addrs]

    async def _round(self) -> None:
        wanted = self._wanted()
        self._asked = set(wanted)
        now = trio.current_time()
        self._asked_at = {key: at for key, at in self._asked_at.items() if now - at < self._config.retry_seconds}
        for gone in self._known.watch(wanted):
            self._refuted(gone)
        servers = self._servers()
        _log.debug("asking %d servers about %d addresses", len(servers), len(wanted))
        async with trio.open_nursery() as nursery:
            for addr in wanted:
                nursery.start_soon(self._ask_all, addr, servers)
        self._settle()

    def _servers(self) -> list[tuple[Connection, str]]:
        """Peers that we are connected to and who can be asked, version 2 before version 1."""
        host = self._host
        found: dict[object, tuple[Connection, str]] = {}
        for version in (DIAL_REQUEST, V1):
            for connection in host.connections:
                peer = connection.remote_peer
                if not connection.limited and peer not in found and version in host.peerstore.protocols(peer):
                    found[peer] = (connection, version)
            if len(found) >= self._config.agreeing:
                break
        return list(found.values())[: 2 * self._config.agreeing]

    async def _ask_all(self, addr: Multiaddr, servers: list[tuple[Connection, str]]) -> None:
        """One after the other, until enough have said the same."""
        fresh = Reachabilities(self._config.agreeing)
        fresh.watch([addr])
        for connection, version in servers:
            if (addr, connection.remote_peer) in self._asked_at:
                continue  # a little while ago
            self._asked_at[addr, connection.remote_peer] = trio.current_time()
            answer = await self._ask(connection, version, addr)
            if answer is Answer.NOTHING:
                continue
            reached = answer is Answer.REACHED
            self._answered(addr, connection, reached=reached, servers=len(servers))
            fresh.answered(addr, connection.remote_peer, reached=reached, servers=len(servers))
            if fresh.settled(addr):
                return

    async def _ask(self, connection: Connection, version: str, addr: Multiaddr) -> Answer:
        try:
            with trio.fail_after(self._config.probe_seconds):
                if version == V1:
                    return await probe_v1(self._host, connection, addr)
                return await probe(self._host, connection, addr, self.backs)
        except _ENDS as error:
            _log.debug("%s says nothing of %s: %s", connection.remote_peer, addr, error)
            return Answer.NOTHING

    def _answered(self, addr: Multiaddr, connection: Connection, *, reached: bool, servers: int) -> None:
        server = connection.remote_peer
        if not self._known.answered(addr, server, reached=reached, servers=servers):
            return
        if reached:
            announced = self._announced[addr] = ExitStack()
            announced.enter_context(self._host.announcing((addr,)))
            self._host.emit(AddressConfirmed(addr))
        else:
            self._refuted(addr)
        self._settle()

    def _refuted(self, addr: Multiaddr) -> None:
        announced = self._announced.pop(addr, None)
        if announced is not None:
            announced.close()
            self._host.emit(AddressRefuted(addr))

    def _settle(self) -> None:
        reachability = _WORDS[self._known.public]
        if reachability is not self.reachability:
            self.reachability = reachability
            self._host.emit(ReachabilityChanged(reachability))
