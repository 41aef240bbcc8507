"""Serves `/talos/message/1.0.0`: envelopes in, results out, one acknowledgement for what became durable together."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from talos.errors import EnvelopeRejected, RemoteProtocolError
from talos.identity.peer_id import PeerId
from talos.messaging.code import Code
from talos.messaging.content import MAX_ACK_ITEMS
from talos.messaging.envelope import sealed_hash
from talos.messaging.frames import MAX_FRAME_BYTES, Deliver, Frame, Result, decode, encode
from talos.messaging.intake import Taken
from talos.messaging.rate import Buckets
from talos.wire.length_prefix import frame as framed
from talos.wire.message_stream import MessageStream

if TYPE_CHECKING:
    from talos.abc import Stream
    from talos.messaging.content import AckItem
    from talos.messaging.intake import Aside, Intake
    from talos.messaging.state import State

__all__ = ["Receiver"]

_log = logging.getLogger(__name__)

BUSY_MS = 1000


class _Named:
    """An envelope that is being answered, by its hash."""

    __slots__ = ("name", "taken")

    def __init__(self, name: bytes, taken: Taken) -> None:
        self.name = name
        self.taken = taken


@dataclass(slots=True, eq=False)
class _Visit:
    """One stream of one peer."""

    frames: MessageStream[Frame, Frame]
    room: trio.Semaphore
    turn: trio.Lock = field(default_factory=trio.Lock)
    waiting: list[_Named] = field(default_factory=list)
    """Messages that wait to be answered together."""
    news: trio.Event = field(default_factory=trio.Event)
    over: bool = False

    def wake(self) -> None:
        self.news.set()
        self.news = trio.Event()

    async def answer(self, results: list[Result]) -> None:
        async with self.turn:
            await self.frames.stream.send_all(b"".join(framed(encode(one), MAX_FRAME_BYTES) for one in results))
        for _ in results:
            self.room.release()


class Receiver:
    """Answers each envelope when it is durable; those that came while others were written are written together."""

    def __init__(self, state: State, intake: Intake) -> None:
        self._state = state
        self._intake = intake
        limits, strangers = state.config.receive, state.config.stranger
        self._messages = Buckets[PeerId](limits.messages_per_second, limits.messages_burst)
        self._bytes = Buckets[PeerId](limits.bytes_per_second, limits.bytes_per_second)
        self._strangers = Buckets[None](strangers.messages_per_second, strangers.messages_burst)

    async def serve(self, stream: Stream) -> None:
        """One stream of one peer, to its end."""
        peer = stream.connection.remote_peer
        frames = MessageStream[Frame, Frame](stream, decode=decode, encode=encode, max_size=MAX_FRAME_BYTES)
        visit = _Visit(frames, trio.Semaphore(self._state.config.delivery.unanswered))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer_together, visit)
            while (envelope := await self._next(frames)) is not None:
                await visit.room.acquire()
                name = sealed_hash(envelope)
                try:
                    self._check_rates(peer, len(envelope))
                    begun = self._intake.begin(peer, envelope)
                except EnvelopeRejected as error:
                    nursery.start_soon(visit.answer, [self._refusal(name, error)])
                    continue
                if not isinstance(begun, Taken):
                    nursery.start_soon(self._answer_aside, visit, name, begun)
                elif self._intake.is_handled(begun):
                    nursery.start_soon(self._conclude, visit, [_Named(name, begun)])
                else:
                    visit.waiting.append(_Named(name, begun))
                    visit.wake()
            visit.over = True
            visit.wake()

    async def _next(self, frames: MessageStream[Frame, Frame]) -> bytes | None:
        with trio.fail_after(self._state.config.delivery.idle_seconds * 2):
            try:
                frame = await frames.receive()
            except EOFError:
                return None
        if not isinstance(frame, Deliver):
            raise RemoteProtocolError("a result came where messages belong")
        return frame.envelope

    def _check_rates(self, peer: PeerId, size: int) -> None:
        now = trio.current_time()
        allowed = self._messages.take(peer, now) and self._bytes.take(peer, now, size)
        if allowed and self._intake.is_stranger(peer):
            allowed = self._strangers.take(None, now)
        if not allowed:
            raise EnvelopeRejected(f"too many messages of {peer}", code=Code.RATE_LIMITED)

    # ------------------------------------------------------------------------------- answers

    async def _answer_together(self, visit: _Visit) -> None:
        while visit.waiting or not visit.over:
            if not visit.waiting:
                await visit.news.wait()
            batch, visit.waiting = visit.waiting[:MAX_ACK_ITEMS], visit.waiting[MAX_ACK_ITEMS:]
            if batch:
                await self._conclude(visit, batch)

    async def _conclude(self, visit: _Visit, batch: list[_Named]) -> None:
        """The first result carries the acknowledgement of all."""
        outcomes = await self._intake.conclude([one.taken for one in batch])
        acknowledged: list[tuple[_Named, AckItem]] = []
        results: list[Result] = []
        for one, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, EnvelopeRejected):
                results.append(self._refusal(one.name, outcome))
            else:
                acknowledged.append((one, outcome))
        if acknowledged:
            ack = self._intake.seal_ack(acknowledged[0][0].taken, [item for _, item in acknowledged])
            answers = [Result(sealed_hash=one.name, code=Code.OK) for one, _ in acknowledged]
            answers[0] = Result(sealed_hash=answers[0].sealed_hash, code=Code.OK, ack_envelope=ack)
            results = answers + results
        await visit.answer(results)

    async def _answer_aside(self, visit: _Visit, name: bytes, aside: Aside) -> None:
        try:
            result = Result(sealed_hash=name, code=await aside())
        except EnvelopeRejected as error:
            result = self._refusal(name, error)
        await visit.answer([result])

    def _refusal(self, name: bytes, error: EnvelopeRejected) -> Result:
        state = self._state
        _log.debug("a message was refused: %s", error)
        return Result(
            sealed_hash=name,
            code=error.code,
            key_record=state.keyring.key_record(state.now_ms()) if error.code == Code.UNKNOWN_KEY else b"",
            clock_ms=state.now_ms() if error.code == Code.BAD_TIMESTAMP else 0,
            retry_after_ms=BUSY_MS if error.code in (Code.BUSY, Code.RATE_LIMITED) else 0,
        )
