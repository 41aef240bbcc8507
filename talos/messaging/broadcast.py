"""What is said to everybody, or in a channel: over gossip, signed, open to all (docs/protocols/messaging.md).

Nobody acknowledges a broadcast. What is not for us to forward is told to the router by the verdict on it: Reject for
what no honest neighbour passes on, Ignore for what may be honest and is not wanted.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from talos.abc import Verdict
from talos.errors import (
    AuditError,
    BadSignature,
    EnvelopeRejected,
    LimitExceeded,
    LocalProtocolError,
    RemoteProtocolError,
)
from talos.identity.peer_id import PeerId
from talos.messaging.canonical import canonical, digest
from talos.messaging.channel import topic_of
from talos.messaging.checks import check_time
from talos.messaging.code import Code, MessageType
from talos.messaging.config import Strangers
from talos.messaging.content import Text
from talos.messaging.envelope import MAX_BROADCAST_BYTES, is_broadcast, open_outer, plain_envelope, sealed_hash, verify
from talos.messaging.payload import BROADCAST, Payload
from talos.messaging.people import peer_of
from talos.messaging.rate import Buckets
from talos.messaging.store import MessageState, StoredMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.abc import PubSub, TopicMessage
    from talos.messaging.composer import Composer
    from talos.messaging.database import Job
    from talos.messaging.intake import Intake
    from talos.messaging.state import State
    from talos.messaging.turns import Arrival

__all__ = ["MAX_BODY_BYTES", "Broadcasts"]

_log = logging.getLogger(__name__)

MAX_BODY_BYTES = 32 * 1024
AT_ONCE = 64
"""Kept and recorded together."""
_FOR_ONE: Final = frozenset(
    (MessageType.ACK, MessageType.STREAM_START, MessageType.STREAM_CHUNK, MessageType.STREAM_END)
)


class _Kept(NamedTuple):
    """One that is being written."""

    arrival: Arrival
    envelope: bytes
    job: Job[None]


class Broadcasts:
    """Both directions. Made by `open_messaging`; `listen` and `run` are its tasks."""

    def __init__(self, state: State, composer: Composer, intake: Intake, pubsub: PubSub) -> None:
        self._state = state
        self._composer = composer
        self._intake = intake
        self._pubsub = pubsub
        self._waiting: dict[str, deque[int]] = {}
        """By channel, the numbers of ours that are to be published there."""
        self._news = trio.Event()
        self._turn = trio.StrictFIFOLock()
        """Others count what we say in all channels together."""
        limits, strangers = state.config.broadcast, state.config.stranger
        self._messages = Buckets[PeerId | None](limits.messages_per_second, limits.messages_burst)
        self._bytes = Buckets[PeerId | None](limits.bytes_per_second, limits.bytes_burst)
        self._strangers = Buckets[None](strangers.messages_per_second, strangers.messages_burst)

    # ------------------------------------------------------------------------------- sending

    async def send(self, message_type: int, content: bytes, *, ttl_s: int, channel: str = "") -> StoredMessage:
        """Durable and recorded on return; published when a neighbour wants the topic, within ten minutes.

        LimitExceeded when too many wait for that, LocalProtocolError for what nobody would take, AuditError.
        """
        most = self._state.config.broadcast.queued
        if sum(map(len, self._waiting.values())) >= most:
            raise LimitExceeded(f"{most} broadcasts wait for a neighbour", limit=most, kind="broadcasts")
        if message_type in _FOR_ONE:
            raise LocalProtocolError(f"messages of type {message_type} are for one peer")
        written = await self._composer.announce(message_type, content, ttl_s=ttl_s, channel=channel)
        self._queue(written.message.number, channel)
        return written.message

    async def run(self) -> None:
        """Publishes what waits, in the order of its channel and no faster than others take it, for ever."""
        for number in self._state.store.unpublished():
            message = self._state.store.message_at(number)
            if message is not None:
                self._queue(number, message.payload.channel)
        spoken: set[str] = set()
        async with trio.open_nursery() as nursery:
            while True:
                for channel in self._waiting.keys() - spoken:
                    spoken.add(channel)
                    nursery.start_soon(self._state.patiently, partial(self._publish_all, channel, spoken))
                await self._news.wait()

    async def _publish_all(self, channel: str, spoken: set[str]) -> None:
        """What waits of one channel: nobody may listen there, which is not to hold up the others."""
        waiting = self._waiting[channel]
        while waiting:
            message = self._state.store.message_at(waiting[0])
            if message is not None and message.state is MessageState.QUEUED:
                await self._publish(message)
            waiting.popleft()
        del self._waiting[channel]
        spoken.discard(channel)

    def _queue(self, number: int, channel: str) -> None:
        waiting = self._waiting.setdefault(channel, deque())
        if number not in waiting:
            waiting.append(number)
            self._news.set()
            self._news = trio.Event()

    async def _publish(self, message: StoredMessage) -> None:
        state, payload = self._state, message.payload
        envelope = plain_envelope(payload, message.content)
        past = state.config.broadcast.past_seconds
        ends_ms = payload.timestamp_ms + min(payload.ttl_s or past, past) * 1000
        with trio.move_on_after(max(0, ends_ms - state.now_ms()) / 1000):
            await self._pubsub.wait_for_peers(topic_of(payload.channel))
            async with self._turn:
                await trio.sleep(self._pause(len(envelope)))
                self._take(None, len(envelope))
            current = state.store.message_at(message.number)
            if current is not None and current.state is MessageState.QUEUED:
                await self._hand_over(message, envelope)
            return
        await state.settle(message, MessageState.EXPIRED)

    async def _hand_over(self, message: StoredMessage, envelope: bytes) -> None:
        try:
            await self._pubsub.publish(topic_of(message.payload.channel), envelope)
        except LocalProtocolError as error:
            _log.warning("a broadcast is more than this network carries: %s", error)
            await self._state.settle(message, MessageState.FAILED, code=Code.TOO_LARGE)
        else:
            self._state.on_its_way((message,), MessageState.SENT)

    # ------------------------------------------------------------------------------- receiving

    async def listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Takes part in the topics, keeps and records what comes, for ever."""
        async with trio.open_nursery() as nursery:
            for channel in ("", *dict.fromkeys(self._state.config.channels)):
                await nursery.start(self._listen_to, topic_of(channel))
            task_status.started()

    async def _listen_to(self, topic: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with self._pubsub.subscribe(topic, self.judge) as messages:
            task_status.started()
            while True:
                batch = [await messages.receive()]
                try:
                    while len(batch) < AT_ONCE:
                        batch.append(messages.receive_nowait())
                except trio.WouldBlock:
                    pass
                await self._keep([kept for message in batch if (kept := self._begin(message)) is not None])

    def judge(self, message: TopicMessage) -> Verdict:
        """What the router is told of a message, before anybody sees it."""
        try:
            payload = _payload(message)
            if message.author is None or peer_of(payload.sender) != message.author:
                return Verdict.REJECT
            if payload.recipient != BROADCAST or payload.type in _FOR_ONE:
                return Verdict.REJECT
            if topic_of(payload.channel) != message.topic:
                return Verdict.REJECT
            if not self._is_wanted(payload, message.author, len(message.data)):
                return Verdict.IGNORE
            verify(payload)
            if payload.type == MessageType.TEXT and len(Text.decode(payload.content).body) > MAX_BODY_BYTES:
                return Verdict.REJECT
        except (EnvelopeRejected, RemoteProtocolError, BadSignature) as error:
            _log.debug("a broadcast that came by %s is refused: %s", message.source, error)
            return Verdict.REJECT
        return Verdict.ACCEPT

    def _is_wanted(self, payload: Payload, author: PeerId, size: int) -> bool:
        state = self._state
        if payload.sender == state.me or state.people.blocked(author) or self._intake.is_here(payload):
            return False
        try:
            check_time(state, payload, state.config.broadcast.past_seconds)
        except EnvelopeRejected:
            return False
        return self._take(author, size)

    def _take(self, author: PeerId | None, size: int) -> bool:
        """Whether this author may say so much now; None: we."""
        now = trio.current_time()
        return self._messages.take(author, now) and self._bytes.take(author, now, size)

    def _pause(self, size: int) -> float:
        """Seconds until others take so much more of us."""
        now = trio.current_time()
        return max(self._messages.delay(None, now), self._bytes.delay(None, now, size))

    def _is_kept(self, author: PeerId) -> bool:
        """Whether it is for us: of those whom we do not know as their letters are treated, and not too many."""
        state = self._state
        if not self._intake.is_stranger(author):
            return True
        if state.config.strangers is not Strangers.ACCEPT or self._intake.seen >= state.config.receive.seen:
            return False
        return self._strangers.take(None, trio.current_time())

    def _begin(self, message: TopicMessage) -> _Kept | None:
        payload, author = _payload(message), message.author
        assert author is not None, "what has no author was not accepted"
        if self._intake.is_here(payload) or not self._is_kept(author):
            return None
        m = canonical(payload)
        stored = StoredMessage(
            payload=payload.without_content(),
            content=payload.content,
            digest=digest(m, payload.content),
            sealed_hash=sealed_hash(message.data),
            incoming=True,
            state=MessageState.RECEIVED,
            peer=author,
            stored_ms=self._state.now_ms(),
        )
        try:
            arrival, job = self._intake.keep(stored)
        except EnvelopeRejected as error:
            _log.debug("a broadcast of %s is not kept: %s", author, error)
            return None
        return _Kept(arrival, message.data, job)

    async def _keep(self, batch: Sequence[_Kept]) -> None:
        """Records what is durable. What the log refuses is shown nevertheless: a flood must not stop letters."""
        for one in batch:
            await one.job.done.wait()
        kept = [one for one in batch if one.job.error is None]
        if not kept:
            return
        store = self._state.store
        try:
            await self._state.record([(one.arrival.message, one.envelope) for one in kept])
        except AuditError as error:
            _log.warning("broadcasts are not recorded: %s", error)
            for one in kept:
                number = one.arrival.message.number
                store.database.write_soon(
                    partial(store.set_recorded, number=number, leaf=b""), then=self._state.watch.arrived
                )


def _payload(message: TopicMessage) -> Payload:
    """EnvelopeRejected when it is no broadcast."""
    if len(message.data) > MAX_BROADCAST_BYTES or not is_broadcast(message.data):
        raise EnvelopeRejected("no broadcast", code=Code.BAD_FRAME)
    return Payload.decode(open_outer(message.data, b"", ()).payload)
