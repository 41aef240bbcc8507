"""Dials on the router's word: peers that others recommend, and direct peers that went away."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from talos import addr as addresses
from talos.errors import RemoteProtocolError, TalosError
from talos.host.contain import Owner, contain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from multiaddr import Multiaddr

    from talos.abc import Host
    from talos.gossip.driver_config import DriverConfig
    from talos.gossip.event import Candidate
    from talos.identity.peer_id import PeerId

__all__ = ["Introductions"]

_log = logging.getLogger(__name__)


class Introductions:
    """At most `dials` at once; what comes meanwhile is dropped, for the router asks again when it still needs peers.

    Addresses are hints: of what a peer on the public network recommends, only public ones are dialled. The gate is
    asked as for every dial.
    """

    def __init__(self, host: Host, config: DriverConfig, nursery: trio.Nursery) -> None:
        self.dialled = 0
        self._host = host
        self._config = config
        self._nursery = nursery
        self._dialling: set[PeerId] = set()

    def meet(self, candidates: Iterable[Candidate], *, public_only: bool) -> None:
        """Begins to dial those that there is room for."""
        for candidate in candidates:
            if len(self._dialling) >= self._config.dials:
                return
            peer = candidate.peer
            if peer == self._host.peer_id or peer in self._dialling:
                continue
            addrs = self._usable(candidate, public_only=public_only)
            if candidate.addrs and not addrs:
                continue
            self._dialling.add(peer)
            self.dialled += 1
            owner = Owner("gossip dial", self._host.emit, peer)
            self._nursery.start_soon(contain, owner, self._dial, peer, addrs)

    def _usable(self, candidate: Candidate, *, public_only: bool) -> Sequence[Multiaddr]:
        try:
            addrs = addresses.decode_known(candidate.addrs, limit=self._config.dial_addrs)
        except RemoteProtocolError as error:
            _log.debug("addresses of %s are malformed: %s", candidate.peer, error)
            return ()
        bare = (addresses.split_peer(addr)[0] for addr in addrs)
        return [addr for addr in bare if not public_only or addresses.is_public(addr)]

    async def _dial(self, peer: PeerId, addrs: Sequence[Multiaddr]) -> None:
        try:
            with trio.move_on_after(self._config.dial_seconds):
                await self._host.connect(peer, addrs)
        except TalosError as error:
            _log.debug("cannot reach %s: %s", peer, error)
        finally:
            self._dialling.discard(peer)
