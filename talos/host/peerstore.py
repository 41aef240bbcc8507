"""What is known of peers, in bounds: addresses, protocols, agents, signed records.

Who is connected or pinned stays. Of the others, those we were never connected to leave first, then those whose
visit lies longest back.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import trio

from talos import addr as addresses
from talos.errors import LimitExceeded
from talos.host.limits_config import PeerstoreLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from multiaddr import Multiaddr

    from talos.abc import ProtocolId
    from talos.identity.peer_id import PeerId

__all__ = ["MemoryPeerstore"]

K = TypeVar("K")
WRONG_PEER_SECONDS = 3600.0
MAX_AGENT_CHARACTERS = 256


@dataclass(slots=True)
class _Entry:
    addrs: dict[Multiaddr, float] = field(default_factory=dict)
    """When each expires; the order is that of learning."""
    wrong: dict[Multiaddr, float] = field(default_factory=dict)
    """Addresses where somebody else answered, and until when they are not taken."""
    protocols: frozenset[ProtocolId] = frozenset()
    agent_version: str = ""
    record: bytes | None = None
    record_seq: int = -1
    connected: bool = False
    pinned: bool = False


class MemoryPeerstore:
    """A peerstore that lives as long as the node. `clock` is a monotonic one, in seconds."""

    def __init__(
        self, limits: PeerstoreLimits | None = None, *, clock: Callable[[], float] = trio.current_time
    ) -> None:
        self._limits = limits or PeerstoreLimits()
        self._clock = clock
        self._entries: dict[PeerId, _Entry] = {}
        self._strangers: OrderedDict[PeerId, None] = OrderedDict()
        self._visitors: OrderedDict[PeerId, None] = OrderedDict()

    # ------------------------------------------------------------------------------- reading

    def peers(self) -> Iterator[PeerId]:
        """Everybody known, in no order."""
        return iter(tuple(self._entries))

    def addrs(self, peer: PeerId) -> Sequence[Multiaddr]:
        """What has not expired, newest knowledge last."""
        entry = self._entries.get(peer)
        if entry is None:
            return ()
        if entry.connected:
            return tuple(entry.addrs)
        now = self._clock()
        return tuple(addr for addr, expires in entry.addrs.items() if expires > now)

    def protocols(self, peer: PeerId) -> frozenset[ProtocolId]:
        """As `abc.Peerstore`."""
        entry = self._entries.get(peer)
        return frozenset() if entry is None else entry.protocols

    def agent_version(self, peer: PeerId) -> str:
        """As `abc.Peerstore`; empty when unknown."""
        entry = self._entries.get(peer)
        return "" if entry is None else entry.agent_version

    def signed_record(self, peer: PeerId) -> bytes | None:
        """As `abc.Peerstore`."""
        entry = self._entries.get(peer)
        return None if entry is None else entry.record

    def record_seq(self, peer: PeerId) -> int | None:
        """The sequence number of the record that is kept."""
        entry = self._entries.get(peer)
        return None if entry is None or entry.record is None else entry.record_seq

    # ------------------------------------------------------------------------------- learning

    def add_addrs(self, peer: PeerId, addrs: Iterable[Multiaddr]) -> None:
        """As `abc.Peerstore`. Past the limit the addresses that were learnt first leave."""
        now = self._clock()
        entry = self._entry(peer)
        self._forget_expired(entry, now)
        limit = self._limits.connected_addrs if entry.connected else self._limits.addrs
        for addr in islice(addrs, limit):
            bare, named = addresses.split_peer(addr)
            if (named is None or named == peer) and bare not in entry.wrong:
                entry.addrs.pop(bare, None)
                entry.addrs[bare] = now + self._limits.ttl_seconds
        _shrink(entry.addrs, limit)

    def update(
        self,
        peer: PeerId,
        *,
        addrs: Iterable[Multiaddr] | None = None,
        protocols: Iterable[ProtocolId] | None = None,
        agent_version: str | None = None,
        record: tuple[bytes, int] | None = None,
    ) -> None:
        """As `abc.Peerstore`. `addrs` replaces what was known. LimitExceeded for a record that is too large."""
        limits = self._limits
        if record is not None and len(record[0]) > limits.record_bytes:
            limit = limits.record_bytes
            raise LimitExceeded(f"signed record of {peer} is over {limit} bytes", limit=limit, scope="peerstore")
        entry = self._entry(peer)
        if addrs is not None:
            entry.addrs.clear()
            self.add_addrs(peer, addrs)
        if protocols is not None:
            entry.protocols = frozenset(islice(protocols, limits.protocols))
        if agent_version is not None:
            entry.agent_version = agent_version[:MAX_AGENT_CHARACTERS]
        if record is not None:
            entry.record, entry.record_seq = record

    def remove_addr(self, peer: PeerId, addr: Multiaddr) -> None:
        """Forgets one address."""
        if (entry := self._entries.get(peer)) is not None:
            entry.addrs.pop(addr, None)

    def wrong_peer(self, peer: PeerId, addr: Multiaddr, now: float) -> None:
        """Somebody else answered at `addr`: it leaves, and is not learnt again for an hour."""
        if (entry := self._entries.get(peer)) is not None:
            entry.addrs.pop(addr, None)
            entry.wrong.pop(addr, None)
            entry.wrong[addr] = now + WRONG_PEER_SECONDS
            _shrink(entry.wrong, self._limits.addrs)

    # ------------------------------------------------------------------------------- who stays

    def connected(self, peer: PeerId) -> None:
        """The peer has a connection."""
        self._entries.setdefault(peer, _Entry()).connected = True
        self._file(peer)

    def disconnected(self, peer: PeerId) -> None:
        """Its last connection is gone: a part of its addresses stays for a day, and it may be forgotten.

        Whom no address leads to is forgotten at once: visitors that do not listen leave nothing behind.
        """
        entry = self._entries.get(peer)
        if entry is None:
            return
        entry.connected = False
        if not (entry.addrs or entry.wrong or entry.pinned):
            self._forget(peer)
            return
        _shrink(entry.addrs, self._limits.kept_addrs)
        expires = self._clock() + self._limits.connected_ttl_seconds
        entry.addrs = dict.fromkeys(entry.addrs, expires)
        self._file(peer, visited=True)

    def pin(self, peer: PeerId) -> None:
        """A contact: never forgotten. Who pins bounds how many there are."""
        self._entries.setdefault(peer, _Entry()).pinned = True
        self._file(peer)

    def unpin(self, peer: PeerId) -> None:
        """No contact any more."""
        if (entry := self._entries.get(peer)) is not None:
            entry.pinned = False
            self._file(peer, visited=True)

    def expire(self, now: float) -> None:
        """Forgets addresses that expired, and peers of whom nothing else is known."""
        for peer, entry in tuple(self._entries.items()):
            self._forget_expired(entry, now)
            if not (entry.addrs or entry.wrong or entry.connected or entry.pinned or entry.protocols):
                self._forget(peer)

    # ------------------------------------------------------------------------------- inside

    def _entry(self, peer: PeerId) -> _Entry:
        entry = self._entries.get(peer)
        if entry is None:
            entry = self._entries[peer] = _Entry()
            self._file(peer)
        return entry

    def _file(self, peer: PeerId, *, visited: bool = False) -> None:
        """Puts a peer where it may be forgotten, or takes it away from there."""
        entry = self._entries[peer]
        self._strangers.pop(peer, None)
        self._visitors.pop(peer, None)
        if entry.connected or entry.pinned:
            return
        (self._visitors if visited else self._strangers)[peer] = None
        self._evict(newest=peer)

    def _evict(self, newest: PeerId) -> None:
        """Makes room: strangers before visitors, the longest known first, but the newest last of all."""
        while len(self._strangers) + len(self._visitors) > self._limits.peers:
            candidates = (peer for pool in (self._strangers, self._visitors) for peer in pool if peer != newest)
            oldest = next(candidates, None)
            if oldest is None:
                return
            self._forget(oldest)

    def _forget(self, peer: PeerId) -> None:
        del self._entries[peer]
        self._strangers.pop(peer, None)
        self._visitors.pop(peer, None)

    def _forget_expired(self, entry: _Entry, now: float) -> None:
        if not entry.connected:
            entry.addrs = {addr: expires for addr, expires in entry.addrs.items() if expires > now}
        entry.wrong = {addr: until for addr, until in entry.wrong.items() if until > now}


def _shrink(table: dict[K, float], limit: int) -> None:
    while len(table) > limit:
        del table[next(iter(table))]
