"""What keeps a DHT node in the network: bootstrap, refresh, checks of its peers, expiry."""

from __future__ import annotations

import math
from collections import Counter
from random import SystemRandom
from typing import TYPE_CHECKING

import trio

from talos.abc import Event, PeerConnected, PeerDisconnected, PeerIdentified
from talos.addr import split_peer
from talos.dht.query import Purpose
from talos.dht.request import RequestFailed
from talos.dht.wire import Message, MessageType, Request
from talos.host.contain import Owner, contain
from talos.host.peerstore import MemoryPeerstore

if TYPE_CHECKING:
    from multiaddr import Multiaddr

    from talos.dht.request import Requests
    from talos.dht.search import Search
    from talos.dht.state import DhtState
    from talos.identity.peer_id import PeerId

__all__ = ["Upkeep"]

MAX_CHECKS = 128
"""Peers that wait to be asked whether they answer; others are met in lookups."""
CHECKS_AT_ONCE = 8
SWEEP_SECONDS = 10.0


class Upkeep:
    """Runs for the length of the block of `open_dht`."""

    def __init__(self, state: DhtState, search: Search, requests: Requests, nursery: trio.Nursery) -> None:
        self.counters: Counter[str] = Counter()
        self.failures = 0
        """Rounds in a row after which the table was empty, though somebody was to be asked."""
        self.first_round = trio.Event()
        self.last_refresh: float | None = None
        self._state = state
        self._search = search
        self._requests = requests
        self._nursery = nursery
        self._random = SystemRandom()
        self._checks: set[PeerId] = set()
        self._limiter = trio.CapacityLimiter(CHECKS_AT_ONCE)
        self._round: trio.Event | None = None
        """Set at the end of the round that is under way."""
        self._next_round = 0.0

    # ------------------------------------------------------------------------------- who is heard

    def observe(self, event: Event) -> None:
        """Follows the host: servers of our swarm are asked whether they answer, and former ones leave the table."""
        match event:
            case PeerConnected():
                self._state.connected.add(event.peer)
            case PeerDisconnected(last=True):
                self._state.connected.discard(event.peer)
            case PeerIdentified():
                self._identified(event)

    def _identified(self, event: PeerIdentified) -> None:
        """A node that only asks may have the identity of a server: a command beside the agent of its home."""
        state, peer = self._state, event.peer
        if state.config.protocol_id not in event.protocols:
            others = (each for each in state.host.connections if each is not event.connection)
            if not any(each.remote_peer == peer for each in others):
                state.table.remove(peer)
        elif peer not in state.table and peer not in self._checks and len(self._checks) < MAX_CHECKS:
            self._checks.add(peer)
            self._nursery.start_soon(self._check, peer)

    async def _check(self, peer: PeerId) -> None:
        async with self._limiter:
            await self._is_there(peer)
        self._checks.discard(peer)

    async def _is_there(self, peer: PeerId, addrs: tuple[Multiaddr, ...] = ()) -> bool:
        """Asks for the peers near to us, which is worth knowing anyway."""
        request = Request.of(Message(MessageType.FIND_NODE, self._state.host.peer_id.raw))
        try:
            await self._requests.ask(peer, addrs, request)
        except RequestFailed:
            return False
        return True

    # ------------------------------------------------------------------------------- rounds

    async def ready(self) -> None:
        """Waits for the round under way while there is nobody to ask."""
        if not len(self._state.table):
            if not self.first_round.is_set():
                await self.first_round.wait()
            elif self._round is not None:
                await self._round.wait()

    async def run(self) -> None:
        """A round at once, then whenever one is due, for ever."""
        owner = Owner("dht upkeep", self._state.host.emit)
        while True:
            await contain(owner, self.refresh)
            self.first_round.set()
            self._next_round = trio.current_time() + self._pause()
            if len(self._state.table):
                await trio.sleep_until(self._next_round)
                continue
            if self._state.no_longer_alone.is_set():
                self._state.no_longer_alone = trio.Event()
            with trio.move_on_at(self._next_round):
                await self._state.no_longer_alone.wait()

    async def refresh(self) -> None:
        """One round: forgets what expired, asks quiet members, looks for others if there are few, refreshes buckets.

        Callers while one is under way wait for that one.
        """
        if self._round is not None:
            await self._round.wait()
            return
        self._round = trio.Event()
        try:
            await self._refresh()
        finally:
            self._round.set()
            self._round = None

    async def _refresh(self) -> None:
        state = self._state
        state.expire()
        if isinstance(state.host.peerstore, MemoryPeerstore):
            state.host.peerstore.expire(trio.current_time())
        async with trio.open_nursery() as nursery:
            for peer in state.table.quiet(trio.current_time()):
                nursery.start_soon(self._check, peer)
        if len(state.table) < state.config.ask_bootstrap_below:
            await self._bootstrap()
        if len(state.table):
            self.failures = 0
            # Ourselves first: whoever waits for the first round has neighbours then.
            for key in reversed(state.table.refresh_keys(self._random)):
                with trio.move_on_after(state.config.request_seconds):
                    await self._search.find_node(key, Purpose.REFRESH)
                self.first_round.set()
            self.last_refresh = state.clock()
            state.remember_peers()
        elif state.config.bootstrap:
            self.failures += 1

    async def _bootstrap(self) -> None:
        """Asks all peers that are configured, at once."""
        async with trio.open_nursery() as nursery:
            for peer, addrs in self._configured().items():
                if peer != self._state.host.peer_id:
                    nursery.start_soon(self._is_there, peer, tuple(addrs))

    def _configured(self) -> dict[PeerId, list[Multiaddr]]:
        found: dict[PeerId, list[Multiaddr]] = {}
        for addr in self._state.config.bootstrap:
            bare, peer = split_peer(addr)
            if peer is not None:
                found.setdefault(peer, []).append(bare)
        return found

    def _pause(self) -> float:
        """Until the next round; short while nobody is reached that should be, but longer each time."""
        config = self._state.config
        if not self.failures:
            return config.refresh_seconds
        doubled: float = config.bootstrap_retry_seconds * 2.0 ** min(self.failures - 1, 32)
        return min(doubled, config.bootstrap_retry_most)

    def bootstrap_state(self) -> str:
        """As `DhtStatus.bootstrap`."""
        if not self._state.config.bootstrap:
            return "none configured"
        if self.failures:
            seconds = max(0, math.ceil(self._next_round - trio.current_time()))
            return "unreachable, trying" if self._round is not None else f"unreachable, next try in {seconds} s"
        return "ok" if self.last_refresh is not None else "starting"

    async def sweep(self) -> None:
        """Closes streams that are not used, for ever."""
        while True:
            await trio.sleep(SWEEP_SECONDS)
            self._requests.sweep(trio.current_time())
