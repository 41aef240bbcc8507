"""Serves `/talos/message/1.0.0`: envelopes in, results out."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from talos.errors import EnvelopeRejected, RemoteProtocolError
from talos.identity.peer_id import PeerId
from talos.messaging.code import Code
from talos.messaging.envelope import sealed_hash
from talos.messaging.frames import MAX_FRAME_BYTES, Deliver, Frame, Result, decode, encode
from talos.messaging.rate import Buckets
from talos.wire.message_stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from talos.abc import Stream
    from talos.messaging.intake import Intake
    from talos.messaging.state import State

__all__ = ["Receiver"]

_log = logging.getLogger(__name__)

BUSY_MS = 1000


class Receiver:
    """Answers each envelope when it is durable, many at once so that they are written together."""

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
        limits = self._state.config.delivery
        room, turn = trio.Semaphore(limits.unanswered), trio.Lock()

        async def answer(name: bytes, finish: Callable[[], Awaitable[bytes | None]]) -> None:
            result = await self._result(name, finish)
            async with turn:
                await frames.send(result)
            room.release()

        async with trio.open_nursery() as nursery:
            while (frame := await self._next(frames)) is not None:
                await room.acquire()
                name = sealed_hash(frame.envelope)
                # All that decides about the order of messages happens here, before anything else is read.
                nursery.start_soon(answer, name, self._begin(peer, frame.envelope))

    async def _next(self, frames: MessageStream[Frame, Frame]) -> Deliver | None:
        with trio.fail_after(self._state.config.delivery.idle_seconds * 2):
            try:
                frame = await frames.receive()
            except EOFError:
                return None
        if not isinstance(frame, Deliver):
            raise RemoteProtocolError("a result came where messages belong")
        return frame

    def _begin(self, peer: PeerId, envelope: bytes) -> Callable[[], Awaitable[bytes | None]]:
        try:
            self._check_rates(peer, len(envelope))
            return self._intake.begin(peer, envelope)
        except EnvelopeRejected as error:
            return partial(_raise, error)

    def _check_rates(self, peer: PeerId, size: int) -> None:
        now = trio.current_time()
        allowed = self._messages.take(peer, now) and self._bytes.take(peer, now, size)
        if allowed and self._intake.is_stranger(peer):
            allowed = self._strangers.take(None, now)
        if not allowed:
            raise EnvelopeRejected(f"too many messages of {peer}", code=Code.RATE_LIMITED)

    async def _result(self, name: bytes, finish: Callable[[], Awaitable[bytes | None]]) -> Result:
        state = self._state
        try:
            ack = await finish()
        except EnvelopeRejected as error:
            _log.debug("a message was refused: %s", error)
            return Result(
                sealed_hash=name,
                code=error.code,
                key_record=state.keyring.key_record(state.now_ms()) if error.code == Code.UNKNOWN_KEY else b"",
                clock_ms=state.now_ms() if error.code == Code.BAD_TIMESTAMP else 0,
                retry_after_ms=BUSY_MS if error.code in (Code.BUSY, Code.RATE_LIMITED) else 0,
            )
        if ack is None:
            return Result(sealed_hash=name, code=Code.STORED)
        return Result(sealed_hash=name, code=Code.OK, ack_envelope=ack)


async def _raise(error: EnvelopeRejected) -> bytes:
    await trio.lowlevel.checkpoint()
    raise error
