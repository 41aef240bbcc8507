"""Reservations without being told: while others cannot dial us, some relays are kept that they reach us through."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from multiaddr import Multiaddr

from talos import addr as addresses
from talos.abc import PeerIdentified, Reachability, ReachabilityChanged
from talos.errors import ConfigError, TalosError
from talos.host.block import background
from talos.host.contain import Owner, contain
from talos.relay.circuit import RelayLost
from talos.relay.wire import HOP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from talos.abc import Event, Host
    from talos.identity.peer_id import PeerId
    from talos.relay.circuit import Circuit

__all__ = ["AutoRelayConfig", "open_auto_relay"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoRelayConfig:
    """Which relays, how many, and when."""

    relays: tuple[Multiaddr, ...] = ()
    """Those to use before others, `/…/p2p/<relay>`."""
    wanted: int = 2
    """Reservations that are held."""
    always: bool = False
    """Reserve at once instead of when it is known that others cannot dial us."""
    search_seconds: float = 60.0
    """Between two searches while there are too few."""
    rest_seconds: float = 300.0
    """Before a relay that refused, or was lost, is asked again."""
    remembered: int = 256
    """Relays that rest."""

    def __post_init__(self) -> None:
        if not 1 <= self.wanted <= 16 or self.remembered < 1:
            raise ConfigError("1 to 16 relays are wanted, and some remembered")
        if min(self.search_seconds, self.rest_seconds) <= 0:
            raise ConfigError("relays are searched and rest for a time")
        for addr in self.relays:
            if addresses.split_peer(addr)[1] is None or addresses.is_relayed(addr):
                raise ConfigError(f"{addr} is no address of a relay: it has to end in /p2p/…")


@asynccontextmanager
async def open_auto_relay(
    host: Host,
    circuit: Circuit,
    config: AutoRelayConfig | None = None,
    find: Callable[[], Awaitable[Iterable[Multiaddr]]] | None = None,
) -> AsyncIterator[None]:
    """Keeps reservations for the length of the block. `find` looks for relays further away, such as in a DHT.

    Asked before are those of the configuration, and peers we are connected to that say they relay.
    """
    async with background() as nursery:
        keeper = _Keeper(host, circuit, config or AutoRelayConfig(), find, nursery)
        with host.observe(keeper.observe):
            nursery.start_soon(contain, Owner("auto relay", host.emit), keeper.run)
            yield


class _Keeper:
    """Which relays are held, and which rest."""

    def __init__(
        self,
        host: Host,
        circuit: Circuit,
        config: AutoRelayConfig,
        find: Callable[[], Awaitable[Iterable[Multiaddr]]] | None,
        nursery: trio.Nursery,
    ) -> None:
        self._host = host
        self._circuit = circuit
        self._config = config
        self._find = find
        self._nursery = nursery
        self._active = config.always
        self._held: dict[PeerId, trio.CancelScope] = {}
        self._resting: OrderedDict[PeerId, float] = OrderedDict()
        self._moved = trio.Event()

    def observe(self, event: Event) -> None:
        """Follows the host."""
        match event:
            case ReachabilityChanged(reachability=reachability) if not self._config.always:
                self._active = reachability is Reachability.PRIVATE
                if reachability is Reachability.PUBLIC:
                    for scope in self._held.values():
                        scope.cancel()
                self._moved.set()
            case RelayLost(relay=relay) if relay in self._held:
                self._held[relay].cancel()
                self._rest(relay)
            case PeerIdentified(protocols=protocols) if HOP in protocols and self._missing:
                self._moved.set()

    @property
    def _missing(self) -> int:
        return max(0, self._config.wanted - len(self._held)) if self._active else 0

    async def run(self) -> None:
        """Searches whenever there are too few."""
        while True:
            self._moved = trio.Event()
            if self._missing:
                self._hold_those(self._near())
            if self._missing and self._find is not None:
                await self._search(self._find)
            seconds = self._config.search_seconds if self._missing else math.inf
            with trio.move_on_after(seconds):
                await self._moved.wait()

    async def _search(self, find: Callable[[], Awaitable[Iterable[Multiaddr]]]) -> None:
        try:
            self._hold_those(await find())
        except TalosError as error:
            _log.debug("no relays found: %s", error)

    def _near(self) -> list[Multiaddr]:
        """Those of the configuration, then peers that we are connected to; the latter by name alone."""
        host = self._host
        connected = dict.fromkeys(one.remote_peer for one in host.connections if not one.limited)
        relaying = [peer for peer in connected if HOP in host.peerstore.protocols(peer)]
        return [*self._config.relays, *(Multiaddr(f"/p2p/{peer}") for peer in relaying)]

    def _hold_those(self, found: Iterable[Multiaddr]) -> None:
        """Begins with as many of `found` as are missing; those may still refuse."""
        now = trio.current_time()
        for addr in found:
            relay = addresses.split_peer(addr)[1]
            if not self._missing:
                return
            if relay is None or relay in self._held or relay == self._host.peer_id or addresses.is_relayed(addr):
                continue
            if self._resting.get(relay, now) > now:
                continue
            scope = self._held[relay] = trio.CancelScope()
            self._nursery.start_soon(self._hold, relay, addr.encapsulate(Multiaddr("/p2p-circuit")), scope)

    async def _hold(self, relay: PeerId, addr: Multiaddr, scope: trio.CancelScope) -> None:
        try:
            with scope, self._host.using(self._circuit, (addr,)):
                await trio.sleep_forever()
        finally:
            del self._held[relay]
            self._moved.set()

    def _rest(self, relay: PeerId) -> None:
        self._resting[relay] = trio.current_time() + self._config.rest_seconds
        self._resting.move_to_end(relay)
        if len(self._resting) > self._config.remembered:
            self._resting.popitem(last=False)
