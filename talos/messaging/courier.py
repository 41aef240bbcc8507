"""Brings what is in the outbox to its recipients: one stream to each, many envelopes on the way, patience when none.

A peer is tried when something is written for it, when it connects, when its key is learned, and after a delay that
doubles up to a quarter of an hour. Retries carry the same bytes.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import TYPE_CHECKING

import trio

from talos.abc import PeerConnected
from talos.errors import AuditError, LimitExceeded, RemoteProtocolError, RoutingError
from talos.host.contain import Owner, contain
from talos.messaging.code import Code
from talos.messaging.envelope import sealed_hash
from talos.messaging.frames import MAX_FRAME_BYTES, PROTOCOL_ID, Deliver, Frame, Result, decode, encode
from talos.messaging.lane import Express, Lane, OnTheWay, Round, Slice, left_out
from talos.messaging.retry import LONGEST_SECONDS, RETRYABLE, UNREACHABLE, delay
from talos.messaging.schedule import Priority
from talos.messaging.store import MessageState
from talos.wire.length_prefix import frame as framed
from talos.wire.message_stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from talos.abc import Event
    from talos.identity.peer_id import PeerId
    from talos.messaging.composer import Composer
    from talos.messaging.state import State
    from talos.messaging.store import OutboxRow, StoredMessage

__all__ = ["Courier"]

_log = logging.getLogger(__name__)

CLOCK_RETRY_SECONDS = 3600.0
SUPERSEDE_SECONDS = 600.0
"""Between rebuildings for one peer: a recipient cannot make our history grow by showing ever newer keys."""
EXPIRY_SECONDS = 60.0
RECORDING_SECONDS = 1.0
PACE_SECONDS = 0.1
"""No longer does a slice of a file wait for messages, which may be those that the peer does not take."""
BACKGROUND_MS = 3_600_000
MAX_AWAITED = 2048
SENT_AT_ONCE = 16
"""Envelopes that are handed to the stream together."""


class Courier:
    """Tries all that waits; `run` is its task. `take_acks` judges acknowledgements that came with results."""

    def __init__(
        self,
        state: State,
        composer: Composer,
        take_acks: Callable[[PeerId, Sequence[bytes]], Awaitable[frozenset[bytes]]],
    ) -> None:
        self._state = state
        self._composer = composer
        self._take_acks = take_acks
        self._lanes: dict[PeerId, Lane] = {}
        self._work = trio.Event()
        self._dials = trio.CapacityLimiter(state.config.delivery.dials)

    def wake(self, peer: PeerId) -> None:
        """Something was written for `peer`, or it may be there again: it is tried now."""
        lane = self._lanes.setdefault(peer, Lane(peer))
        lane.due = 0.0
        lane.wake()
        self._work.set()

    def express(
        self, peer: PeerId, express: Express, priority: Priority = Priority.CONTROL, *, deadline: float = math.inf
    ) -> None:
        """Sends an envelope once. LimitExceeded when too many wait; of REALTIME the oldest is dropped then."""
        lane = self._lanes.setdefault(peer, Lane(peer))
        dropped = lane.schedule.add(priority, express, len(express.envelope), deadline=deadline)
        if isinstance(dropped, Express):
            dropped.lost()
        self.wake(peer)

    async def pace(self, peer: PeerId, size: int) -> None:
        """Before so many bytes of a file go to `peer` on a stream of their own: waits for their turn.

        That is at once when no message is to be sent, and soon where the peer takes none.
        """
        lane = self._lanes.get(peer)
        if lane is None or not lane.sending or not len(lane.schedule):
            return
        may_go = trio.Event()
        with trio.move_on_after(PACE_SECONDS):
            try:
                lane.schedule.add(Priority.BULK, Slice(may_go), size)
            except LimitExceeded:
                await trio.sleep(PACE_SECONDS)
            lane.wake()
            await may_go.wait()

    def observe(self, event: Event) -> None:
        """A recipient that connects is tried at once."""
        if isinstance(event, PeerConnected):
            self.hear_of(event.peer)

    def hear_of(self, peer: PeerId) -> None:
        """It is there, or its key has become known: what waits for it is tried at once."""
        if peer in self._lanes:
            self.wake(peer)

    async def run(self) -> None:
        """Tries and waits, for ever."""
        for peer in self._state.store.outbox_peers():
            self.wake(peer)
        async with trio.open_nursery() as nursery:
            while True:
                self._work = trio.Event()
                now = trio.current_time()
                for lane in [lane for lane in self._lanes.values() if not lane.running and lane.due <= now]:
                    lane.running = True
                    nursery.start_soon(self._run_lane, lane)
                next_due = min((lane.due for lane in self._lanes.values() if not lane.running), default=math.inf)
                with trio.move_on_at(next_due):
                    await self._work.wait()

    async def expire(self) -> None:
        """Gives up what is too old, for ever."""
        while True:
            for number in self._state.store.expired(self._state.now_ms()):
                message = self._state.store.message_at(number)
                if message is not None:
                    await self._state.settle(message, MessageState.EXPIRED)
            await trio.sleep(EXPIRY_SECONDS)

    # ------------------------------------------------------------------------------- one recipient

    async def _run_lane(self, lane: Lane) -> None:
        owner = Owner("messages", self._state.host.emit, peer=lane.peer)
        try:
            lane.due = trio.current_time() + LONGEST_SECONDS
            await contain(owner, self._try, lane)
        finally:
            lane.running = False
            if lane.schedule:
                lane.due = min(lane.due, trio.current_time())
            elif math.isinf(lane.due):
                del self._lanes[lane.peer]
            self._work.set()

    async def _try(self, lane: Lane) -> None:
        """One stream and all that can be said on it; nothing is opened where nothing is due."""
        until_due = self._until_due(lane.peer)
        if until_due > 0 and not lane.schedule:
            await trio.lowlevel.checkpoint()
            lane.due = trio.current_time() + until_due
            return
        try:
            await self._deliver(lane)
            lane.due = trio.current_time() + self._until_due(lane.peer)
        except* (*UNREACHABLE, AuditError, RemoteProtocolError) as group:
            _log.debug("messages to %s wait: %r", lane.peer, group.exceptions[0])
            lane.drop()
            waits = max(delay(lane.attempt, self._state.random), self._until_due(lane.peer))
            lane.due = trio.current_time() + waits
            lane.attempt += 1

    async def _deliver(self, lane: Lane) -> None:
        peer, limits = lane.peer, self._state.config.delivery
        async with self._dials:
            await self._seal_drafts(peer)
            with trio.fail_after(limits.dial_seconds):
                stream = await self._state.host.open_stream(peer, PROTOCOL_ID, limited_ok=True)
        async with stream:
            frames = MessageStream[Frame, Frame](stream, decode=decode, encode=encode, max_size=MAX_FRAME_BYTES)
            relayed = stream.connection.limited
            current = Round(lane, frames, limits.unanswered_relayed if relayed else limits.unanswered)
            send_results, results = trio.open_memory_channel[Result](limits.unanswered)
            try:
                lane.sending = True
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read_results, current, send_results)
                    nursery.start_soon(self._judge_results, current, results)
                    await self._send(current)
                    nursery.cancel_scope.cancel()
            finally:
                lane.sending = False
                lane.queued.clear()
                for express in current.awaited.values():
                    express.lost()

    async def _seal_drafts(self, peer: PeerId) -> None:
        """RoutingError while nobody knows the key: there is nothing that could be sent."""
        state = self._state
        if not state.store.has_drafts(peer):
            return
        record = await state.book.find(peer)
        if record is None:
            raise RoutingError(f"no encryption key of {peer} is known")
        await self._composer.seal_drafts(peer, record)

    def _until_due(self, peer: PeerId) -> float:
        """Seconds until the next row for `peer` may be tried; infinite without one."""
        due_ms = self._state.store.next_due(peer)
        return math.inf if due_ms is None else max(0.0, (due_ms - self._state.now_ms()) / 1000)

    # ------------------------------------------------------------------------------- sending

    async def _send(self, current: Round) -> None:
        """Sends what is due and waits for answers; returns when nothing happened for a while."""
        lane, limits = current.lane, self._state.config.delivery
        while True:
            news = lane.news
            await self._seal_drafts(lane.peer)
            self._queue_rows(current)
            await self._send_turn(current)
            if lane.schedule:
                continue
            if current.on_the_way:
                await self._await_answer(current, news)
                continue
            until_due = self._until_due(lane.peer)
            if not until_due and self._state.recording:
                until_due = RECORDING_SECONDS  # whoever records it says when it may go
            with trio.move_on_after(min(limits.idle_seconds, until_due)):
                await news.wait()
            if not news.is_set() and until_due > limits.idle_seconds:
                return

    async def _await_answer(self, current: Round, news: trio.Event) -> None:
        """Returns at news; TooSlowError when the oldest envelope is not answered in time."""
        oldest = next(iter(current.on_the_way.values()))
        deadline = oldest.since + self._state.config.delivery.result_seconds
        with trio.move_on_at(deadline):
            await news.wait()
            return
        raise trio.TooSlowError

    def _queue_rows(self, current: Round) -> None:
        """Gives what is due its place in the schedule, as far as it may be unanswered."""
        state, lane, now = self._state, current.lane, self._state.now_ms()
        sent = {one.row.number for one in current.on_the_way.values()} | state.recording | lane.queued
        due = state.store.due(lane.peer, now, limit=current.unanswered)
        room = current.unanswered - len(current.on_the_way) - len(lane.queued)
        for row in [row for row in due if row.number not in sent][: max(0, room)]:
            old = now - row.written_ms > BACKGROUND_MS
            lane.queued.add(row.number)
            lane.schedule.add(Priority.BACKGROUND if old else Priority.INTERACTIVE, row.number, row.size)

    async def _send_turn(self, current: Round) -> None:
        """One round over the classes; rows that follow each other go together."""
        turn = current.lane.schedule.turn(trio.current_time())
        left_out(turn.late)
        items, numbers = deque(turn.items), list[int]()
        try:
            while items or numbers:
                item = items.popleft() if items else None
                if isinstance(item, int):
                    current.lane.queued.discard(item)
                    numbers.append(item)
                if numbers and (len(numbers) == SENT_AT_ONCE or not isinstance(item, int)):
                    await self._send_some(current, numbers)
                    numbers = []
                if isinstance(item, Slice):
                    item.may_go.set()
                elif isinstance(item, Express):
                    await self._send_express(current, item)
        finally:
            left_out(items)

    async def _send_express(self, current: Round, express: Express) -> None:
        if express.answered is not None:
            current.awaited[sealed_hash(express.envelope)] = express
            if len(current.awaited) > MAX_AWAITED:
                current.awaited.pop(next(iter(current.awaited))).lost()
        await current.frames.send(Deliver(express.envelope))

    async def _send_some(self, current: Round, numbers: Sequence[int]) -> None:
        state = self._state
        due: list[tuple[OutboxRow, StoredMessage]] = []
        for number in numbers:
            row, message = state.store.outbox_row(number), state.store.message_at(number)
            if row is None or message is None or not row.envelope:
                continue  # it was cancelled in the meantime
            if row.expires_ms <= state.now_ms():
                await state.settle(message, MessageState.EXPIRED)
            else:
                due.append((row, message))
        unrecorded = [(message, row.envelope) for row, message in due if row.number not in state.recorded]
        if unrecorded:
            await state.record(unrecorded)
        if not due:
            return
        now = trio.current_time()
        for row, message in due:
            current.on_the_way[message.sealed_hash] = OnTheWay(row, message, now)
        data = b"".join(framed(encode(Deliver(row.envelope)), MAX_FRAME_BYTES) for row, _ in due)
        await current.frames.stream.send_all(data)
        queued = [message for _, message in due if message.state is MessageState.QUEUED]
        if queued:
            state.on_its_way(queued, MessageState.SENT)

    # ------------------------------------------------------------------------------- answers

    async def _read_results(self, current: Round, results: trio.MemorySendChannel[Result]) -> None:
        async with results:
            while True:
                try:
                    frame = await current.frames.receive()
                except EOFError:
                    return
                if not isinstance(frame, Result):
                    raise RemoteProtocolError(f"{current.lane.peer} sent a message where results belong")
                express = current.awaited.pop(frame.sealed_hash, None)
                if express is not None and express.answered is not None:
                    express.answered(frame.code)
                if frame.sealed_hash in current.on_the_way:
                    await results.send(frame)

    async def _judge_results(self, current: Round, results: trio.MemoryReceiveChannel[Result]) -> None:
        """All that have come are judged together, so that their receipts are written together."""
        async for result in results:
            batch = [result]
            try:
                while True:
                    batch.append(results.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                pass
            await self._judge_batch(current, batch)
            current.lane.attempt = 0
            current.lane.wake()
        raise EOFError(f"{current.lane.peer} closed the stream of messages")

    async def _judge_batch(self, current: Round, batch: Sequence[Result]) -> None:
        acks = [result.ack_envelope for result in batch if result.code == Code.OK and result.ack_envelope]
        acknowledged = await self._take_acks(current.lane.peer, acks) if acks else frozenset()
        for name in [name for name, one in current.on_the_way.items() if one.message.id in acknowledged]:
            del current.on_the_way[name]
        for result in batch:
            one = current.on_the_way.get(result.sealed_hash)
            if one is None or (result.code == Code.OK and not result.ack_envelope):
                continue  # of the latter another result carries the acknowledgement, or it is too late some time
            message = self._state.store.message_at(one.row.number)
            if message is not None and not message.state.final:
                await self._judge(current.lane, one.row, message, result)
            del current.on_the_way[result.sealed_hash]

    async def _judge(self, lane: Lane, row: OutboxRow, message: StoredMessage, result: Result) -> None:
        if result.code == Code.OK:
            await self._postpone(row, delay(row.attempt, self._state.random))
        elif result.code == Code.STORED:
            self._state.on_its_way((message,), MessageState.STORED)
            await self._postpone(row, LONGEST_SECONDS)
        elif result.code in RETRYABLE:
            await self._retry(lane, row, result)
        else:
            _log.info("%s refused message %s: code %d", lane.peer, message.id.hex(), result.code)
            await self._state.settle(message, MessageState.FAILED, code=result.code)

    async def _retry(self, lane: Lane, row: OutboxRow, result: Result) -> None:
        peer, seconds = lane.peer, delay(row.attempt, self._state.random)
        if result.code == Code.UNKNOWN_KEY:
            record = self._state.book.learn(peer, result.key_record)
            now = trio.current_time()
            if record is not None and record.seq > row.key_seq and now - lane.superseded >= SUPERSEDE_SECONDS:
                lane.superseded = now
                await self._composer.supersede(peer, record)
                return
        if result.code == Code.BAD_TIMESTAMP:
            seconds = CLOCK_RETRY_SECONDS
        await self._postpone(row, min(max(seconds, result.retry_after_ms / 1000), CLOCK_RETRY_SECONDS))

    async def _postpone(self, row: OutboxRow, seconds: float) -> None:
        due_ms = self._state.now_ms() + int(seconds * 1000)
        store = self._state.store
        await store.database.write(lambda c: store.set_attempt(c, row.number, row.attempt + 1, due_ms))
