"""What a DHT node knows: its table, what it keeps for others, and what it publishes itself."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

import trio

from talos.addr import decode_each, is_public, is_relayed, split_peer
from talos.dht.config import DhtScope
from talos.dht.journal import OwnRecord, RememberedPeer
from talos.dht.peer import PeerInfo
from talos.dht.providers import ProviderTable
from talos.dht.records import Namespaces
from talos.dht.routing_table import Remembered, RoutingTable, address_group
from talos.dht.values import StoredValue, ValueTable
from talos.errors import LimitExceeded, RecordRejected
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from multiaddr import Multiaddr

    from talos.abc import Connection, Host
    from talos.dht.config import DhtConfig
    from talos.dht.journal import Journal
    from talos.dht.providers import StoredProvider

__all__ = ["PROVIDE", "VALUE", "DhtState"]

T = TypeVar("T")
VALUE, PROVIDE = "value", "provide"
"""Kinds of what we publish."""


class DhtState:
    """Shared by server, lookups and upkeep. `clock` gives Unix seconds. Nothing here waits."""

    def __init__(self, host: Host, config: DhtConfig, journal: Journal, clock: Callable[[], float]) -> None:
        self.host = host
        self.config = config
        self.journal = journal
        self.clock = clock
        self.counters: Counter[str] = Counter()
        self.table = RoutingTable(host.peer_id, config.table)
        self.namespaces = Namespaces(
            config.known_namespaces, max_bytes=config.limits.value_bytes, emit=host.emit, clock=clock
        )
        self.values = ValueTable(self.table.own_kad, config.limits, config.value_seconds)
        self.providers = ProviderTable(self.table.own_kad, config.limits, config.provider_seconds)
        self.connected = {connection.remote_peer for connection in host.connections}
        """Peers with a connection, as events tell."""
        self.no_longer_alone = trio.Event()
        """Set when the empty table gets a member; whoever has seen it puts a new one here."""
        self.own: dict[tuple[str, bytes], OwnRecord] = {}
        self._own_raw = host.peer_id.raw
        self._own_addrs: tuple[tuple[Multiaddr, ...], tuple[Multiaddr, ...]] = ((), ())
        """`host.addrs`, and those without the peer id."""
        self._load()

    # ------------------------------------------------------------------------------- addresses

    def in_scope(self, addrs: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
        """Those that may be told and believed."""
        if self.config.scope is DhtScope.ANY:
            return tuple(addrs)
        return tuple(addr for addr in addrs if is_public(addr))

    def addrs_of(self, peer: PeerId) -> tuple[Multiaddr, ...]:
        """Where `peer`, or we, may be dialled, as far as that may be told."""
        if peer.raw != self._own_raw:
            return self.in_scope(self.host.peerstore.addrs(peer))
        told = tuple(self.host.addrs)
        if told != self._own_addrs[0]:
            self._own_addrs = told, self.in_scope(split_peer(addr)[0] for addr in told)
        return self._own_addrs[1]

    # ------------------------------------------------------------------------------- peers

    def heard(self, peer: PeerId, connection: Connection) -> None:
        """A peer has answered a request: it is a server, and enters the table if its address is in scope."""
        now = trio.current_time()
        if peer in self.table:
            self.table.heard(peer, now)
        elif any(not is_relayed(addr) for addr in self.addrs_of(peer)):
            self.table.add(peer, now, address_group(connection.remote_addr))
            if len(self.table) == 1:
                self.no_longer_alone.set()

    def unheard(self, peer: PeerId) -> None:
        """A peer did not answer."""
        if self.table.failed(peer):
            self.counters["members dropped"] += 1

    # ------------------------------------------------------------------------------- values

    def value(self, key: bytes) -> StoredValue | None:
        """The value that we hold or publish, if it is still valid."""
        now = self.clock()
        own = self.own.get((VALUE, key))
        found = self.values.get(key, now)
        candidates = [] if own is None else [StoredValue(key, own.value, now, self.host.peer_id.raw)]
        if found is not None:
            candidates.append(found)
        valid = [stored for stored in candidates if self.namespaces.is_valid(key, stored.value)]
        if found is not None and found not in valid:
            self.remove_value(key)
        if len(valid) < 2:
            return valid[0] if valid else None
        best = self.namespaces.best(key, [stored.value for stored in valid])
        return next(stored for stored in valid if stored.value == best)

    def check_better(self, key: bytes, value: bytes) -> None:
        """RecordRejected unless `value` may stand under `key`, and is no worse than the one held."""
        self.namespaces.validate(key, value)
        held = self.value(key)
        if held is not None and held.value != value and self.namespaces.best(key, [held.value, value]) != value:
            raise RecordRejected("an older value than the one that is held")

    def keep_value(self, stored: StoredValue) -> None:
        """Keeps a checked value; RecordRejected when a limit refuses it, LimitExceeded when the disk does."""
        self._check_disk()
        for key in self.values.put(stored):
            self.journal.remove_value(key)
        self.journal.set_value(stored)

    def remove_value(self, key: bytes) -> None:
        """Forgets what is no longer valid."""
        self.values.remove(key)
        self.journal.remove_value(key)

    # ------------------------------------------------------------------------------- providers

    def keep_provider(self, stored: StoredProvider) -> None:
        """As `keep_value`."""
        self._check_disk()
        for row in self.providers.add(stored):
            self.journal.remove_provider(row)
        self.journal.set_provider(stored)

    def providers_of(self, key: bytes) -> list[PeerInfo]:
        """Who provides `key`, ourselves first, with addresses in scope."""
        now = self.clock()
        found: list[PeerInfo] = []
        if (PROVIDE, key) in self.own:
            found.append(PeerInfo(self.host.peer_id, self.addrs_of(self.host.peer_id)))
        for stored in self.providers.get(key, now):
            peer = PeerId.from_bytes(stored.peer)
            fresh = now - stored.added < self.config.provider_addr_seconds
            addrs = tuple(decode_each(stored.addrs)) if fresh else self.addrs_of(peer)
            found.append(PeerInfo(peer, addrs))
        return found

    # ------------------------------------------------------------------------------- what we publish

    def set_own(self, record: OwnRecord) -> None:
        """Publishes from now on; LimitExceeded past the configured number."""
        limits = self.config.limits
        limit = limits.own_values if record.kind == VALUE else limits.own_keys
        if (record.kind, record.key) not in self.own and sum(kind == record.kind for kind, _ in self.own) >= limit:
            raise LimitExceeded(f"limit of {limit} published records reached", limit=limit, scope="dht")
        self.own[record.kind, record.key] = record
        self.journal.set_own(record)

    def remove_own(self, kind: str, key: bytes) -> None:
        """Publishes it no longer."""
        if self.own.pop((kind, key), None) is not None:
            self.journal.remove_own(kind, key)

    # ------------------------------------------------------------------------------- upkeep

    def expire(self) -> None:
        """Forgets what is too old."""
        now = self.clock()
        for key in self.values.expire(now):
            self.journal.remove_value(key)
        for row in self.providers.expire(now):
            self.journal.remove_provider(row)

    def remember_peers(self) -> None:
        """Puts the table on disk, as far as its members can be dialled."""
        addrs = self.host.peerstore.addrs
        known = [
            RememberedPeer(peer.raw, tuple(addr.to_bytes() for addr in addrs(peer)), group)
            for peer, group in self.table.snapshot()[: self.config.limits.remembered_peers]
        ]
        if known:  # a node that lost everybody goes back to whom it knew before
            self.journal.replace_peers(known)

    def _load(self) -> None:
        """Takes over what the last run left. What a limit refuses now, and what nobody can read, is left out."""
        for stored in self.journal.values():
            _unless_refused(self.values.put, stored)
        for provider in self.journal.providers():
            _unless_refused(self.providers.add, provider)
        self.own = {(record.kind, record.key): record for record in self.journal.own()}
        remembered: list[Remembered] = []
        for known in self.journal.peers():
            peer = PeerId.from_bytes(known.peer)
            self.host.peerstore.add_addrs(peer, decode_each(known.addrs))
            remembered.append(Remembered(peer, known.group))
        self.table.restore(remembered)
        self.expire()

    def _check_disk(self) -> None:
        if self.journal.full or self.journal.failed:
            self.journal.retry()
            raise LimitExceeded("the DHT's store cannot be written", scope="dht store", kind="disk")


def _unless_refused(put: Callable[[T], object], stored: T) -> None:
    try:
        put(stored)
    except RecordRejected:
        pass
