"""The server half: answers to the requests of others (libp2p kad-dht, RPC messages)."""

from __future__ import annotations

from collections import Counter, OrderedDict
from datetime import UTC, datetime
from random import SystemRandom
from typing import TYPE_CHECKING

import trio

from talos.dht import wire
from talos.dht.key import kad_id
from talos.dht.peer import PeerInfo
from talos.dht.providers import StoredProvider
from talos.dht.routing_table import address_group
from talos.dht.values import StoredValue
from talos.dht.wire import Message, MessageType, Record
from talos.errors import LimitExceeded, RecordRejected, RemoteProtocolError, StreamCode
from talos.identity.peer_id import PeerId
from talos.muxer.rate import Rate
from talos.wire.length_prefix import frame
from talos.wire.message_stream import MessageStream

if TYPE_CHECKING:
    from talos.abc import Connection, Stream
    from talos.dht.state import DhtState

__all__ = ["MAX_PROVIDER_KEY_BYTES", "Server", "check_provider_key"]

MAX_PROVIDER_KEY_BYTES = 80
MAX_RATED_PEERS = 4096
MAX_TOLD_PROVIDERS = 100
TURN_REQUESTS = 16
"""Of one stream, before others have their turn."""


class Server:
    """Answers with what `state` holds. One instance for all streams."""

    def __init__(self, state: DhtState) -> None:
        self.counters: Counter[str] = Counter()
        self._state = state
        self._random = SystemRandom()
        self._rates: OrderedDict[PeerId, Rate] = OrderedDict()

    async def serve(self, stream: Stream) -> None:
        """Answers requests in order until the peer ends the stream, or is silent for too long.

        A request that is refused ends the stream without an answer.
        """
        messages: MessageStream[Message, bytes] = MessageStream(
            stream, decode=wire.decode, encode=bytes, max_size=wire.MAX_REQUEST_BYTES
        )
        seconds = self._state.config.idle_seconds
        try:
            with trio.move_on_after(seconds) as patience:
                served = 0
                while await self._serve_one(stream, messages):
                    patience.deadline = trio.current_time() + seconds
                    served += 1
                    if served % TURN_REQUESTS == 0:  # many may have come in one piece
                        await trio.lowlevel.checkpoint()
                return
        except RecordRejected:
            self.counters["records refused"] += 1
            stream.reset(StreamCode.PROTOCOL_VIOLATION)
        except LimitExceeded:
            self.counters["records over a limit"] += 1
            stream.reset(StreamCode.RESOURCE_LIMIT)
        else:
            stream.reset()

    async def _serve_one(self, stream: Stream, messages: MessageStream[Message, bytes]) -> bool:
        """False at the end of the stream."""
        try:
            request = await messages.receive()
        except EOFError:
            return False
        if request.type is MessageType.PUT_VALUE and not self._may_write(stream.connection.remote_peer):
            self.counters["writes over the rate"] += 1
            stream.reset(StreamCode.RATE_LIMITED)
            return False
        answer = await self.answer(request, stream.connection)
        if answer is not None:
            await stream.send_all(frame(wire.encode_answer(answer)))
        return True

    async def answer(self, request: Message, connection: Connection) -> Message | None:
        """The answer to one request, None where there is none.

        RemoteProtocolError, RecordRejected, or LimitExceeded when the store cannot be written.
        """
        peer = connection.remote_peer
        self.counters[request.type.name] += 1
        self._state.table.heard(peer, trio.current_time())
        match request.type:
            case MessageType.FIND_NODE:
                return Message(request.type, request.key, closer=self._find_node(request.key, peer))
            case MessageType.GET_VALUE:
                return self._get_value(request, peer)
            case MessageType.PUT_VALUE:
                return await self._put_value(request, peer)
            case MessageType.GET_PROVIDERS:
                return self._get_providers(request, peer)
            case MessageType.ADD_PROVIDER:
                return self._add_provider(request, connection)
            case MessageType.PING:
                return request

    # ------------------------------------------------------------------------------- peers

    def _find_node(self, key: bytes, asker: PeerId) -> tuple[PeerInfo, ...]:
        """The target first where it is known, be it a client or ourselves; then the servers nearest to it."""
        if not key:
            raise RemoteProtocolError("FIND_NODE without a key")
        closer = self._closer(key, asker)
        target = _peer_named(key)
        if target is None or target == asker:
            return closer
        addrs = self._state.addrs_of(target)
        if not addrs:
            return closer
        return (PeerInfo(target, addrs), *(info for info in closer if info.peer != target))

    def _closer(self, key: bytes, asker: PeerId) -> tuple[PeerInfo, ...]:
        """The k nearest servers that can be dialled, without the asker."""
        state, raw, most = self._state, asker.raw, self._state.config.table.bucket_size
        nearest = state.table.nearest(kad_id(key), most + 1)
        named = [PeerInfo(peer, addrs) for peer in nearest if peer.raw != raw and (addrs := state.addrs_of(peer))]
        return tuple(named[:most])

    # ------------------------------------------------------------------------------- values

    def _get_value(self, request: Message, asker: PeerId) -> Message:
        if not request.key:
            raise RemoteProtocolError("GET_VALUE without a key")
        held = self._state.value(request.key)
        record = None if held is None else Record(held.key, held.value, _rfc3339(held.received))
        return Message(request.type, request.key, record, self._closer(request.key, asker))

    async def _put_value(self, request: Message, peer: PeerId) -> Message:
        record = request.record
        if record is None or not request.key or record.key != request.key:
            raise RemoteProtocolError("PUT_VALUE whose record is missing or has another key")
        state = self._state
        state.check_better(record.key, record.value)
        held = state.values.get(record.key, state.clock())
        source = held.source if held is not None and held.value == record.value else peer.raw
        state.keep_value(StoredValue(record.key, record.value, state.clock(), source))
        await state.journal.durable()
        return Message(request.type, request.key, record)

    def _may_write(self, peer: PeerId) -> bool:
        limits = self._state.config.limits
        now = trio.current_time()
        rate = self._rates.pop(peer, None) or Rate(
            per_second=limits.writes_per_second, burst=limits.writes_burst, now=now
        )
        self._rates[peer] = rate
        if len(self._rates) > MAX_RATED_PEERS:
            self._rates.popitem(last=False)
        return rate.admits(now)

    # ------------------------------------------------------------------------------- providers

    def _get_providers(self, request: Message, asker: PeerId) -> Message:
        check_provider_key(request.key)
        providers = self._state.providers_of(request.key)
        if len(providers) > MAX_TOLD_PROVIDERS:
            providers = self._random.sample(providers, MAX_TOLD_PROVIDERS)
        return Message(request.type, request.key, closer=self._closer(request.key, asker), providers=tuple(providers))

    def _add_provider(self, request: Message, connection: Connection) -> Message | None:
        check_provider_key(request.key)
        state, peer = self._state, connection.remote_peer
        for info in request.providers:
            addrs = state.in_scope(info.addrs)
            if info.peer != peer or not addrs:
                self.counters["providers ignored"] += 1
                continue
            stored = StoredProvider(
                request.key,
                peer.raw,
                tuple(addr.to_bytes() for addr in addrs),
                state.clock(),
                address_group(connection.remote_addr),
            )
            try:
                state.keep_provider(stored)
            except RecordRejected:
                # Nobody waits for an answer; what comes behind it on the stream is another matter.
                self.counters["providers refused"] += 1
            break
        return request if state.config.add_provider_echo else None


def check_provider_key(key: bytes) -> None:
    """RemoteProtocolError unless `key` is one to provide: a multihash, or any 1 to 80 bytes."""
    if not 0 < len(key) <= MAX_PROVIDER_KEY_BYTES:
        raise RemoteProtocolError(f"provider key of {len(key)} bytes")


def _peer_named(key: bytes) -> PeerId | None:
    try:
        return PeerId.from_bytes(key)
    except RemoteProtocolError:
        return None


def _rfc3339(seconds: float) -> str:
    """Our own clock's time, which is in range."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
