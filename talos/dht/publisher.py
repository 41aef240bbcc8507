"""What we publish: stored with the nearest peers, again before it expires there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.dht import key_namespace
from talos.dht.journal import OwnRecord
from talos.dht.peer import PeerInfo
from talos.dht.query import Purpose
from talos.dht.request import RequestFailed
from talos.dht.state import PROVIDE, VALUE
from talos.dht.wire import Message, MessageType, Record, Request
from talos.errors import RoutingError
from talos.host.contain import Owner, contain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from multiaddr import Multiaddr

    from talos.dht.request import Requests
    from talos.dht.search import Observer, Search
    from talos.dht.state import DhtState
    from talos.identity.peer_id import PeerId

__all__ = ["Publisher"]

MAX_SLEEP_SECONDS = 600.0
"""Between looks at the clock, which may be set."""
RETRY_SECONDS = 300.0
"""After a publication that nobody took."""
MAX_CORRECTIONS = 8
"""Lookups at a time whose findings are told to peers that had worse; of more, nobody is told."""


class Publisher:
    """Publishes and republishes for one DHT node."""

    def __init__(self, state: DhtState, search: Search, requests: Requests, nursery: trio.Nursery) -> None:
        self._state = state
        self._search = search
        self._requests = requests
        self._nursery = nursery
        self._corrections = 0
        self._sign: Callable[[], bytes] | None = None
        self._last_try: dict[tuple[str, bytes], float] = {}

    # ------------------------------------------------------------------------------- one publication

    async def publish_value(self, key: bytes, trace: Observer | None = None) -> int:
        """Stores our value with the k nearest peers; how many took it. RoutingError when none did."""
        record = self._state.own[VALUE, key]
        request = Request.of(Message(MessageType.PUT_VALUE, key, Record(key, record.value)))

        async def put(peer: PeerId, addrs: tuple[Multiaddr, ...]) -> None:
            await self._put(peer, addrs, request, record.value)

        return await self._publish(record, put, trace, whole_region=self._state.namespaces.of(key).whole_region)

    async def publish_provider(self, key: bytes, trace: Observer | None = None) -> int:
        """Tells the k nearest peers that we provide `key`; how many. RoutingError when none."""
        state = self._state
        own = state.host.peer_id
        provider = PeerInfo(own, state.addrs_of(own))
        request = Request.of(Message(MessageType.ADD_PROVIDER, key, providers=(provider,)))

        async def add(peer: PeerId, addrs: tuple[Multiaddr, ...]) -> None:
            await self._requests.tell(peer, addrs, request)

        return await self._publish(state.own[PROVIDE, key], add, trace)

    def keep_keys(self, sign: Callable[[], bytes]) -> None:
        """`sign` makes our key record from now on."""
        self._sign = sign

    def sign_keys(self) -> None:
        """Makes our key record anew; RecordRejected when it is none."""
        assert self._sign is not None
        key, value = key_namespace.key_of(self._state.host.peer_id), self._sign()
        self._state.check_better(key, value)
        self._state.set_own(OwnRecord(VALUE, key, value, 0.0))

    def correct(self, record: Record, peers: Sequence[tuple[PeerId, tuple[Multiaddr, ...]]]) -> None:
        """Tells peers the value that is better than theirs, in the background."""
        if self._corrections < MAX_CORRECTIONS:
            self._corrections += 1
            owner = Owner("dht entry correction", self._state.host.emit)
            self._nursery.start_soon(contain, owner, self._correct, record, peers)

    # ------------------------------------------------------------------------------- again and again

    async def run(self) -> None:
        """Republishes what is due, for ever."""
        owner = Owner("dht republish", self._state.host.emit)
        while True:
            await trio.sleep(min(MAX_SLEEP_SECONDS, max(1.0, self._seconds_to_next())))
            for kind, key in list(self._due()):
                self._last_try[kind, key] = self._state.clock()
                await contain(owner, self._republish, kind, key)
            self._last_try = {own: at for own, at in self._last_try.items() if own in self._state.own}

    async def _republish(self, kind: str, key: bytes) -> None:
        state = self._state
        if kind == PROVIDE:
            await self._quietly(self.publish_provider, key)
            return
        if self._sign is not None and key == key_namespace.key_of(state.host.peer_id) and self._is_old(key):
            self.sign_keys()
        if not state.namespaces.is_valid(key, state.own[VALUE, key].value):
            state.remove_own(VALUE, key)
        else:
            await self._quietly(self.publish_value, key)

    async def _quietly(self, publish: Callable[[bytes], Awaitable[object]], key: bytes) -> None:
        """That nobody could be reached is the way of networks: it is tried again soon."""
        try:
            await publish(key)
        except RoutingError:
            self._state.counters["publications failed"] += 1

    def _due(self) -> Sequence[tuple[str, bytes]]:
        now = self._state.clock()
        return [own for own, record in self._state.own.items() if self._due_at(record) <= now]

    def _seconds_to_next(self) -> float:
        now = self._state.clock()
        return min((self._due_at(record) - now for record in self._state.own.values()), default=MAX_SLEEP_SECONDS)

    def _due_at(self, record: OwnRecord) -> float:
        due = record.published + self._state.config.republish_seconds
        if due > self._state.clock() + self._state.config.republish_seconds:
            due = 0.0  # published in the future, by a clock that was set back since
        return max(due, self._last_try.get((record.kind, record.key), -RETRY_SECONDS) + RETRY_SECONDS)

    # ------------------------------------------------------------------------------- inside

    async def _publish(
        self,
        record: OwnRecord,
        send: Callable[[PeerId, tuple[Multiaddr, ...]], Awaitable[None]],
        trace: Observer | None,
        *,
        whole_region: bool = False,
    ) -> int:
        state = self._state
        self._last_try[record.kind, record.key] = state.clock()
        lookup = await self._search.find_node(record.key, Purpose.STORE, trace)
        peers = {peer: lookup.addrs(peer) for peer in lookup.closest()}
        if whole_region:
            peers = {info.peer: info.addrs for info in await self._search.region(record.key)} | peers
        done = await self._send_all(peers, send)
        if not done:
            raise RoutingError(f"none of {len(peers)} peers near the key took the record")
        if state.own.get((record.kind, record.key)) == record:
            state.set_own(record._replace(published=state.clock()))
            await state.journal.durable()
        return done

    async def _send_all(
        self,
        peers: dict[PeerId, tuple[Multiaddr, ...]],
        send: Callable[[PeerId, tuple[Multiaddr, ...]], Awaitable[None]],
    ) -> int:
        done = 0

        async def one(peer: PeerId) -> None:
            nonlocal done
            try:
                await send(peer, peers[peer])
            except RequestFailed:
                return
            done += 1

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(one, peer)
        return done

    async def _put(self, peer: PeerId, addrs: tuple[Multiaddr, ...], request: Request, value: bytes) -> None:
        """RequestFailed also when the echo is of another value."""
        answer = await self._requests.ask(peer, addrs, request)
        if answer.record is None or answer.record.value != value:
            raise RequestFailed(f"{peer} did not echo the value")

    async def _correct(self, record: Record, peers: Sequence[tuple[PeerId, tuple[Multiaddr, ...]]]) -> None:
        request = Request.of(Message(MessageType.PUT_VALUE, record.key, record))
        try:
            for peer, addrs in peers:
                try:
                    await self._put(peer, addrs, request, record.value)
                except RequestFailed:
                    continue
                self._state.counters["entries corrected"] += 1
        finally:
            self._corrections -= 1

    def _is_old(self, key: bytes) -> bool:
        """Whether our key record was signed too long ago, or by a clock that was set back since."""
        signed_ms = key_namespace.seq_of(self._state.own[VALUE, key].value)
        return abs(self._state.clock() - signed_ms / 1000) >= self._state.config.sign_again_seconds
