"""Brings what is in the outbox to its recipients: one stream to each, many envelopes on the way, patience when none.

A peer is tried when something is written for it, when it connects, and after a delay that doubles up to a quarter of
an hour. Retries carry the same bytes.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from talos.abc import PeerConnected
from talos.errors import (
    AuditError,
    DialError,
    HandshakeError,
    LimitExceeded,
    LocalProtocolError,
    NegotiationError,
    RefusedByGate,
    RemoteProtocolError,
    RoutingError,
)
from talos.host.contain import Owner, contain
from talos.messaging.code import Code
from talos.messaging.frames import MAX_FRAME_BYTES, PROTOCOL_ID, Deliver, Frame, Result, decode, encode
from talos.messaging.retry import LONGEST_SECONDS, RETRYABLE, delay
from talos.messaging.store import MessageState
from talos.wire.message_stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from talos.abc import Event
    from talos.identity.peer_id import PeerId
    from talos.messaging.composer import Composer
    from talos.messaging.state import State
    from talos.messaging.store import OutboxRow, StoredMessage

__all__ = ["Courier"]

_log = logging.getLogger(__name__)

CLOCK_RETRY_SECONDS = 3600.0
EXPIRY_SECONDS = 60.0
MAX_EXPRESS = 1024
_UNREACHABLE = (
    AuditError,
    DialError,
    HandshakeError,
    LimitExceeded,
    NegotiationError,
    RefusedByGate,
    RemoteProtocolError,
    RoutingError,
    EOFError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
)
"""What ends a try and leads to the next one."""


@dataclass(slots=True, eq=False)
class _Lane:
    """One recipient for whom something waits."""

    peer: PeerId
    attempt: int = 0
    due: float = 0.0
    """Monotonic seconds of the next try."""
    running: bool = False
    news: trio.Event = field(default_factory=trio.Event)
    """Something was written, or a result came."""
    express: deque[bytes] = field(default_factory=deque)
    """Envelopes that are not kept: acknowledgements of reading, chunks of live streams."""

    def wake(self) -> None:
        self.news.set()
        self.news = trio.Event()


@dataclass(slots=True, eq=False)
class _Round:
    """One stream to one recipient."""

    lane: _Lane
    frames: MessageStream[Frame, Frame]
    unanswered: int
    """How many may be."""
    on_the_way: dict[bytes, OutboxRow] = field(default_factory=dict)
    """By the hash of the envelope."""


class Courier:
    """Tries all that waits; `run` is its task. `take_ack` judges an acknowledgement that came with a result."""

    def __init__(
        self, state: State, composer: Composer, take_ack: Callable[[PeerId, bytes], Awaitable[frozenset[bytes]]]
    ) -> None:
        self._state = state
        self._composer = composer
        self._take_ack = take_ack
        self._lanes: dict[PeerId, _Lane] = {}
        self._work = trio.Event()
        self._dials = trio.CapacityLimiter(state.config.delivery.dials)

    def wake(self, peer: PeerId) -> None:
        """Something was written for `peer`, or it may be there again: it is tried now."""
        lane = self._lanes.setdefault(peer, _Lane(peer))
        lane.due = 0.0
        lane.wake()
        self._work.set()

    def express(self, peer: PeerId, envelope: bytes) -> None:
        """Sends an envelope once, ahead of what is kept. LimitExceeded when too many wait."""
        lane = self._lanes.setdefault(peer, _Lane(peer))
        if len(lane.express) >= MAX_EXPRESS:
            raise LimitExceeded(f"{MAX_EXPRESS} envelopes wait for {peer}", limit=MAX_EXPRESS, kind="envelopes")
        lane.express.append(envelope)
        self.wake(peer)

    def observe(self, event: Event) -> None:
        """A recipient that connects is tried at once."""
        if isinstance(event, PeerConnected) and event.peer in self._lanes:
            self.wake(event.peer)

    async def run(self) -> None:
        """Tries, waits, and gives up what is too old, for ever."""
        for peer in self._state.store.outbox_peers():
            self.wake(peer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._expire)
            while True:
                self._work = trio.Event()
                now = trio.current_time()
                for lane in [lane for lane in self._lanes.values() if not lane.running and lane.due <= now]:
                    lane.running = True
                    nursery.start_soon(self._run_lane, lane)
                next_due = min((lane.due for lane in self._lanes.values() if not lane.running), default=math.inf)
                with trio.move_on_at(next_due):
                    await self._work.wait()

    # ------------------------------------------------------------------------------- one recipient

    async def _run_lane(self, lane: _Lane) -> None:
        owner = Owner(f"messages to {lane.peer}", partial(self._state.host.emit))
        try:
            lane.due = trio.current_time() + LONGEST_SECONDS
            await contain(owner, self._try, lane)
        finally:
            lane.running = False
            if math.isinf(lane.due) and not lane.express:
                del self._lanes[lane.peer]
            self._work.set()

    async def _try(self, lane: _Lane) -> None:
        try:
            await self._deliver(lane)
            lane.due = trio.current_time() + self._until_due(lane.peer)
        except* _UNREACHABLE as group:
            _log.debug("messages to %s wait: %r", lane.peer, group.exceptions[0])
            lane.express.clear()
            lane.due = trio.current_time() + delay(lane.attempt, self._state.random)
            lane.attempt += 1

    async def _deliver(self, lane: _Lane) -> None:
        peer, limits = lane.peer, self._state.config.delivery
        async with self._dials:
            await self._seal_drafts(peer)
            with trio.fail_after(limits.dial_seconds):
                stream = await self._state.host.open_stream(peer, PROTOCOL_ID, limited_ok=True)
        async with stream:
            frames = MessageStream[Frame, Frame](stream, decode=decode, encode=encode, max_size=MAX_FRAME_BYTES)
            relayed = stream.connection.limited
            current = _Round(lane, frames, limits.unanswered_relayed if relayed else limits.unanswered)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_results, current)
                await self._send(current)
                nursery.cancel_scope.cancel()

    async def _seal_drafts(self, peer: PeerId) -> None:
        """RoutingError while nobody knows the key: there is nothing that could be sent."""
        state = self._state
        if not state.store.has_drafts(peer):
            return
        record = await state.book.find(peer)
        if record is None:
            raise RoutingError(f"no encryption key of {peer} is known")
        await self._composer.seal_drafts(peer, record)

    async def _send(self, current: _Round) -> None:
        """Sends what is due and waits for answers; returns when nothing happened for a while."""
        lane, limits = current.lane, self._state.config.delivery
        while True:
            news = lane.news
            while lane.express:
                await current.frames.send(Deliver(lane.express.popleft()))
            await self._seal_drafts(lane.peer)
            for row in self._next_rows(current):
                await self._send_row(current, row)
            seconds = limits.result_seconds if current.on_the_way else limits.idle_seconds
            until_due = self._until_due(lane.peer) if not current.on_the_way else math.inf
            with trio.move_on_after(min(seconds, until_due)):
                await news.wait()
            if not news.is_set() and until_due > seconds:
                if current.on_the_way:
                    raise trio.TooSlowError
                return

    def _next_rows(self, current: _Round) -> list[OutboxRow]:
        sent = {row.number for row in current.on_the_way.values()}
        free = current.unanswered - len(sent)
        if free <= 0:
            return []
        due = self._state.store.outbox_due(current.lane.peer, self._state.now_ms(), limit=current.unanswered)
        return [row for row in due if row.number not in sent][:free]

    def _until_due(self, peer: PeerId) -> float:
        """Seconds until the next row for `peer` may be tried; infinite without one."""
        due_ms = self._state.store.next_due(peer)
        return math.inf if due_ms is None else max(0.0, (due_ms - self._state.now_ms()) / 1000)

    async def _send_row(self, current: _Round, row: OutboxRow) -> None:
        message = self._state.store.message_at(row.number)
        assert message is not None, "an outbox row has its message"
        if row.number not in self._state.recorded:
            await self._state.record(message, row.envelope)
        current.on_the_way[message.sealed_hash] = row
        await current.frames.send(Deliver(row.envelope))
        if message.state is MessageState.QUEUED:
            self._state.on_its_way(message, MessageState.SENT)

    # ------------------------------------------------------------------------------- answers

    async def _read_results(self, current: _Round) -> None:
        while True:
            frame = await current.frames.receive()
            if not isinstance(frame, Result):
                raise RemoteProtocolError(f"{current.lane.peer} sent a message where results belong")
            row = current.on_the_way.get(frame.sealed_hash)
            if row is not None:
                message = self._state.store.message_at(row.number)
                if message is not None and not message.state.final:
                    await self._judge(current.lane, row, message, frame)
                del current.on_the_way[frame.sealed_hash]
                current.lane.attempt = 0
                current.lane.wake()

    async def _judge(self, lane: _Lane, row: OutboxRow, message: StoredMessage, result: Result) -> None:
        if result.code == Code.OK:
            if message.id in await self._take_ack(lane.peer, result.ack_envelope):
                return
            await self._postpone(row, delay(row.attempt, self._state.random))
        elif result.code == Code.STORED:
            self._state.on_its_way(message, MessageState.STORED)
            await self._postpone(row, LONGEST_SECONDS)
        elif result.code in RETRYABLE:
            await self._retry(lane, row, message, result)
        else:
            _log.info("%s refused message %s: code %d", lane.peer, message.id.hex(), result.code)
            await self._state.settle(message, MessageState.FAILED, code=result.code)

    async def _retry(self, lane: _Lane, row: OutboxRow, message: StoredMessage, result: Result) -> None:
        peer, seconds = lane.peer, delay(row.attempt, self._state.random)
        if result.code == Code.UNKNOWN_KEY:
            before = self._state.book.known(peer)
            record = self._state.book.learn(peer, result.key_record)
            if record is not None and (before is None or record.seq > before.seq):
                try:
                    await self._composer.supersede(message, peer, record)
                except LocalProtocolError:
                    await self._state.settle(message, MessageState.FAILED, code=result.code)
                return
        if result.code == Code.BAD_TIMESTAMP:
            seconds = CLOCK_RETRY_SECONDS
        await self._postpone(row, max(seconds, result.retry_after_ms / 1000))

    async def _postpone(self, row: OutboxRow, seconds: float) -> None:
        due_ms = self._state.now_ms() + int(seconds * 1000)
        store = self._state.store
        await store.database.write(lambda c: store.set_attempt(c, row.number, row.attempt + 1, due_ms))

    async def _expire(self) -> None:
        while True:
            for number in self._state.store.expired(self._state.now_ms()):
                message = self._state.store.message_at(number)
                if message is not None:
                    await self._state.settle(message, MessageState.EXPIRED)
            await trio.sleep(EXPIRY_SECONDS)
