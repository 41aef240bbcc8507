"""A DHT peer on a host: finding peers, values and providers, and serving others (libp2p kad-dht)."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import trio

from talos.dht import key_namespace
from talos.dht.config import DhtConfig
from talos.dht.journal import OwnRecord, open_journal
from talos.dht.key import common_prefix, kad_id
from talos.dht.mode import Modes
from talos.dht.peer import PeerInfo
from talos.dht.publisher import Publisher
from talos.dht.query import Purpose
from talos.dht.request import RequestFailed, Requests
from talos.dht.search import Search
from talos.dht.server import Server, check_provider_key
from talos.dht.state import PROVIDE, VALUE, DhtState
from talos.dht.upkeep import Upkeep
from talos.dht.wire import Message, MessageType, Record, Request
from talos.errors import ConfigError, PeerNotFound, RemoteProtocolError
from talos.host.block import background
from talos.identity.key_record import KeyRecord
from talos.identity.keys import KeyType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Container, Sequence
    from pathlib import Path

    from multiaddr import Multiaddr

    from talos.abc import Host
    from talos.dht.config import DhtMode
    from talos.dht.query import Lookup
    from talos.dht.search import Ask, Observer
    from talos.identity.peer_id import PeerId

__all__ = ["Dht", "DhtStatus", "Provider", "TablePeer", "open_dht", "provider_key"]

Provider = PeerInfo
"""A peer that provides a key, and where it says that it is."""
DEFAULT_PROVIDERS = 20


def provider_key(data: str | bytes) -> bytes:
    """The sha2-256 multihash of `data`: the key under which anything can be provided."""
    return b"\x12\x20" + sha256(data.encode() if isinstance(data, str) else data).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class DhtStatus:
    """A node's DHT at one moment."""

    protocol_id: str
    mode: str
    """`client` or `server`."""
    scope: str
    peers: int
    """Members of the table."""
    buckets: int
    network_size: int
    """An estimate, from how dense the table is around us."""
    values: int
    value_bytes: int
    providers: int
    """Records that are kept for others."""
    provided_keys: int
    published_values: int
    bootstrap: str
    """`none configured`, `starting`, `ok`, or `unreachable, next try in … s`."""
    bootstrap_failures: int
    """Rounds in a row without an answer."""
    last_refresh: float | None
    """Unix seconds."""
    store: str
    """`memory`, `disk`, `disk full` or `disk failed`."""
    counters: dict[str, int]


class TablePeer(NamedTuple):
    """A member of the routing table."""

    peer: PeerId
    addrs: tuple[Multiaddr, ...]
    bucket: int
    """How many bits its kad id begins with in common with ours."""


@asynccontextmanager
async def open_dht(
    host: Host,
    config: DhtConfig | None = None,
    *,
    store: Path | None = None,
    clock: Callable[[], float] | None = None,
) -> AsyncIterator[Dht]:
    """A DHT peer for the length of the block; the host asks it for addresses of peers that it has to dial.

    Identify has to run on the host. `store` is the file that keeps records and the table across restarts; without one
    they live as long as the block. `clock` gives Unix seconds. Usable at once, best after `bootstrapped()`. ConfigError
    when the store cannot be opened.
    """
    config = config or DhtConfig()
    journal = open_journal(store)
    try:
        async with background() as nursery:
            dht = Dht(DhtState(host, config, journal, clock or _unix_seconds), nursery)
            with dht.modes, host.using(dht), host.observe(dht.upkeep.observe):
                dht.start(nursery)
                yield dht
                await dht.heard()
            dht.state.remember_peers()
    finally:
        journal.close()


class Dht:
    """`abc.PeerRouting` and `abc.RecordStore`, made by `open_dht`.

    `trace` is called for each step of a query. Cancelling a query ends it; what it has stored by then stays.
    """

    def __init__(self, state: DhtState, nursery: trio.Nursery) -> None:
        self.state = state
        self._server = Server(state)
        self.modes = Modes(state, self._server)
        self._requests = Requests(state, nursery)
        self._search = Search(state, self._requests)
        self._publisher = Publisher(state, self._search, self._requests, nursery)
        self.upkeep = Upkeep(state, self._search, self._requests, nursery)

    def start(self, nursery: trio.Nursery) -> None:
        """Begins what runs in the background; `open_dht` does."""
        nursery.start_soon(self.state.journal.write)
        nursery.start_soon(self.upkeep.run)
        nursery.start_soon(self.upkeep.sweep)
        nursery.start_soon(self._publisher.run)

    async def heard(self) -> None:
        """Waits a second at most until those who were told of a provider have read it; `open_dht` does, at its end."""
        await self._requests.heard()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.mode.value} of {self.state.config.protocol_id}>"

    @property
    def mode(self) -> DhtMode:
        """CLIENT or SERVER, as it is now."""
        return self.modes.mode

    # ------------------------------------------------------------------------------- peers

    async def find_peer(self, peer: PeerId, *, trace: Observer | None = None) -> Sequence[Multiaddr]:
        """Where `peer` may be dialled, without `/p2p/…`: what a connection to it or the network tells. PeerNotFound."""
        state = self.state
        known = state.addrs_of(peer) if peer == state.host.peer_id or peer in state.connected else ()
        if known:
            await trio.lowlevel.checkpoint()
            return known
        await self.upkeep.ready()
        lookup = await self._search.find_node(peer.raw, Purpose.FIND_PEER, trace)
        found = () if lookup.found is None else state.in_scope(lookup.found.addrs)
        addrs = found or state.addrs_of(peer)
        if not addrs:
            raise PeerNotFound(f"no address of {peer} was found, {lookup.asked} peers asked")
        return addrs

    async def closest_peers(self, key: bytes, *, trace: Observer | None = None) -> Sequence[PeerId]:
        """The k servers nearest to `key` that answer, nearest first."""
        await self.upkeep.ready()
        return (await self._search.find_node(key, Purpose.STORE, trace)).closest()

    # ------------------------------------------------------------------------------- values

    async def put_value(self, key: bytes, value: bytes, *, trace: Observer | None = None) -> None:
        """As `abc.RecordStore`; published again every 22 hours until the node forgets it or it is no longer valid.

        RecordRejected when the namespace refuses it or a better value is held here, RoutingError when no peer took it.
        """
        state = self.state
        state.check_better(key, value)
        state.set_own(OwnRecord(VALUE, key, value, 0.0))
        await self.upkeep.ready()
        await self._publisher.publish_value(key, trace)

    async def get_value(self, key: bytes, *, quorum: int | None = None, trace: Observer | None = None) -> bytes | None:
        """As `abc.RecordStore`; asks until `quorum` peers have brought a valid value, our own store counted as one.

        RecordRejected for a namespace that is not known. Peers near to the key that had no value, or a worse one, are
        told of the best in the background.
        """
        state = self.state
        wanted = state.namespaces.quorum(key, state.config.quorum) if quorum is None else quorum
        state.namespaces.of(key)
        held = state.value(key)
        if held is not None and wanted <= 1:
            await trio.lowlevel.checkpoint()
            return held.value
        await self.upkeep.ready()
        values: dict[PeerId, bytes | None] = {}
        request = Request.of(Message(MessageType.GET_VALUE, key))

        async def ask(peer: PeerId, addrs: tuple[Multiaddr, ...]) -> tuple[Sequence[PeerInfo], int]:
            answer = await self._requests.ask(peer, addrs, request)
            values[peer] = self._valid(answer.record, key)
            return answer.closer, int(values[peer] is not None)

        lookup = await self._search.run(key, Purpose.GET, ask, quorum=max(1, wanted - (held is not None)), trace=trace)
        if state.namespaces.of(key).whole_region:
            await self._ask_region(key, ask, values)
        found = list(dict.fromkeys(value for value in values.values() if value is not None))
        if held is not None and held.value not in found:
            found.insert(0, held.value)
        if not found:
            return None
        best = state.namespaces.best(key, found)
        self._correct(key, best, lookup, values)
        return best

    async def _ask_region(self, key: bytes, ask: Ask, asked: Container[PeerId]) -> None:
        """Asks those around `key` that a lookup has not asked."""

        async def one(info: PeerInfo) -> None:
            try:
                await ask(*info)
            except RequestFailed:
                self.state.counters["regions answered in part"] += 1

        async with trio.open_nursery() as nursery:
            for info in await self._search.region(key):
                if info.peer not in asked:
                    nursery.start_soon(one, info)

    def _valid(self, record: Record | None, key: bytes) -> bytes | None:
        if record is None or record.key != key or not self.state.namespaces.is_valid(key, record.value):
            return None
        return record.value

    def _correct(self, key: bytes, best: bytes, lookup: Lookup, values: dict[PeerId, bytes | None]) -> None:
        outdated = [(peer, lookup.addrs(peer)) for peer in lookup.closest() if values.get(peer) != best]
        if outdated:
            self._publisher.correct(Record(key, best), outdated)

    # ------------------------------------------------------------------------------- providers

    async def provide(self, key: bytes, *, trace: Observer | None = None) -> int:
        """Says that we provide `key`, a multihash (`provider_key`), again every 22 hours; to how many peers.

        RoutingError when nobody could be told, ConfigError for a key of no or over 80 bytes.
        """
        _check_key(key)
        self.state.set_own(OwnRecord(PROVIDE, key, b"", 0.0))
        await self.upkeep.ready()
        return await self._publisher.publish_provider(key, trace)

    def stop_providing(self, key: bytes) -> None:
        """Publishes it no more; the records that are out expire."""
        self.state.remove_own(PROVIDE, key)

    async def find_providers(
        self, key: bytes, *, count: int = DEFAULT_PROVIDERS, trace: Observer | None = None
    ) -> Sequence[Provider]:
        """About `count` providers of `key`, each once; fewer when there are no more. ConfigError as for `provide`."""
        _check_key(key)
        state = self.state
        found: dict[PeerId, dict[Multiaddr, None]] = {}

        def take(providers: Sequence[PeerInfo]) -> int:
            before = len(found)
            for peer, addrs in providers:
                found.setdefault(peer, {}).update(dict.fromkeys(state.in_scope(addrs)))
            return len(found) - before

        take(state.providers_of(key))
        if len(found) < count:
            await self.upkeep.ready()
            request = Request.of(Message(MessageType.GET_PROVIDERS, key))

            async def ask(peer: PeerId, addrs: tuple[Multiaddr, ...]) -> tuple[Sequence[PeerInfo], int]:
                answer = await self._requests.ask(peer, addrs, request)
                return answer.closer, take(answer.providers)

            await self._search.run(key, Purpose.GET, ask, quorum=count - len(found), trace=trace)
        return [Provider(peer, tuple(addrs) or state.addrs_of(peer)) for peer, addrs in found.items()]

    # ------------------------------------------------------------------------------- our key record

    async def publish_keys(self, x25519: bytes, *, name: str = "") -> None:
        """Signs our key record with the host's key and publishes it, now and for the length of the block.

        ConfigError when the host's identity is not an Ed25519 one, RoutingError when no peer took it.
        """
        key, config, clock = self.state.host.key, self.state.config, self.state.clock
        if key.public_key.type is not KeyType.ED25519:
            raise ConfigError("key records are for Ed25519 identities alone")

        def sign() -> bytes:
            now_ms = int(clock() * 1000)
            held = self.state.value(key_namespace.key_of(self.state.host.peer_id))
            record = KeyRecord(
                identity=key.public_key.data,
                x25519=x25519,
                seq=now_ms if held is None else max(now_ms, key_namespace.seq_of(held.value) + 1),
                not_before_ms=now_ms,
                not_after_ms=now_ms + int(config.key_record_seconds * 1000),
                name=name,
            )
            return record.seal(key)

        await self.publish_key_record(sign)

    async def publish_key_record(self, sign: Callable[[], bytes]) -> None:
        """Publishes our key record for the length of the block; `sign` makes it, now and when it is a week old.

        RecordRejected when it is not valid, RoutingError when no peer took it: that is tried again.
        """
        self._publisher.keep_keys(sign)
        self._publisher.sign_keys()
        await self.upkeep.ready()
        await self._publisher.publish_value(key_namespace.key_of(self.state.host.peer_id))

    async def keys_of(self, peer: PeerId) -> KeyRecord | None:
        """The best key record of `peer` that the network knows; None when nobody has one."""
        value = await self.get_value(key_namespace.key_of(peer))
        return None if value is None else KeyRecord.open(value, now_ms=int(self.state.clock() * 1000))

    # ------------------------------------------------------------------------------- upkeep

    async def bootstrapped(self) -> None:
        """Returns when the first round of bootstrap has ended, well or not; `status` says which."""
        await self.upkeep.first_round.wait()

    async def joined(self) -> None:
        """Returns when a peer of the network is in the table; that may be never: give it a deadline."""
        state = self.state
        while not len(state.table):
            if state.no_longer_alone.is_set():
                state.no_longer_alone = trio.Event()
            await state.no_longer_alone.wait()

    async def refresh(self) -> None:
        """A round of bootstrap and refresh now."""
        await self.upkeep.refresh()

    def forget(self, peer: PeerId) -> None:
        """Takes a peer out of the table."""
        self.state.table.remove(peer)

    def status(self) -> DhtStatus:
        """Where things stand."""
        state, journal = self.state, self.state.journal
        counters = state.counters + self._server.counters + self._requests.counters + self.upkeep.counters
        return DhtStatus(
            protocol_id=state.config.protocol_id,
            mode=self.mode.value,
            scope=state.config.scope.value,
            peers=len(state.table),
            buckets=len(state.table.bucket_sizes()),
            network_size=state.table.network_size(),
            values=len(state.values),
            value_bytes=state.values.bytes,
            providers=len(state.providers),
            provided_keys=sum(kind == PROVIDE for kind, _ in state.own),
            published_values=sum(kind == VALUE for kind, _ in state.own),
            bootstrap=self.upkeep.bootstrap_state(),
            bootstrap_failures=self.upkeep.failures,
            last_refresh=self.upkeep.last_refresh,
            store=journal.state,
            counters=dict(counters),
        )

    def table_peers(self) -> list[TablePeer]:
        """The members of the table, by bucket."""
        table = self.state.table
        members = [
            TablePeer(peer, self.state.addrs_of(peer), common_prefix(table.own_kad, kad_id(peer.raw))) for peer in table
        ]
        return sorted(members, key=lambda member: member.bucket)


def _unix_seconds() -> float:
    return time.time()


def _check_key(key: bytes) -> None:
    try:
        check_provider_key(key)
    except RemoteProtocolError as error:
        raise ConfigError(str(error)) from error
