"""Takes a message in: checks from cheap to dear, one transaction, the audit log, and only then the acknowledgement."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from talos.errors import (
    AuditError,
    BadSignature,
    EnvelopeRejected,
    LimitExceeded,
    ProofInvalid,
    RemoteProtocolError,
    TalosError,
)
from talos.messaging.canonical import canonical, digest
from talos.messaging.code import AckState, Code, MessageType
from talos.messaging.config import Strangers
from talos.messaging.content import Ack, AckItem, StreamEnd, StreamStart, Text
from talos.messaging.envelope import open_inner, open_outer, sealed_hash, verify
from talos.messaging.payload import Payload
from talos.messaging.people import peer_of
from talos.messaging.store import MessageState, StoredMessage, WaitingLetter
from talos.messaging.turns import Arrival, Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from sqlite3 import Connection

    from talos.identity.key_record import KeyRecord
    from talos.identity.peer_id import PeerId
    from talos.messaging.composer import Composer
    from talos.messaging.database import Job
    from talos.messaging.state import State
    from talos.messaging.turns import Turn

__all__ = ["Handler", "Intake", "Received", "Verdict"]

_log = logging.getLogger(__name__)

_CONTENTS = {
    MessageType.TEXT: Text,
    MessageType.ACK: Ack,
    MessageType.STREAM_START: StreamStart,
    MessageType.STREAM_END: StreamEnd,
}
_DELIVERED_BY = (AckState.DELIVERED, AckState.ACCEPTED, AckState.DECLINED, AckState.UNSUPPORTED)


class Received(NamedTuple):
    """A message that has passed all checks, as the handler of its type gets it."""

    sender: PeerId
    payload: Payload
    content: bytes
    digest: bytes


class Verdict(NamedTuple):
    """What a handler makes of a message; `code` goes with a decline."""

    state: AckState
    code: int = 0


if TYPE_CHECKING:
    Handler = Callable[[Received], Awaitable[Verdict | None]]
else:
    Handler = object


@dataclass(slots=True)
class _Letter:
    """An envelope on its way through the checks."""

    peer: PeerId
    envelope: bytes
    payload: Payload
    m: bytes
    digest: bytes
    record: KeyRecord


class Intake:
    """Judges envelopes. `begin` decides and says what is written; what it returns finishes and acknowledges."""

    def __init__(self, state: State, composer: Composer, turns: Turns) -> None:
        self._state = state
        self._composer = composer
        self._turns = turns
        self._arriving: set[tuple[bytes, bytes]] = set()
        self._written_to: set[PeerId] = set()
        self.full = False
        """So many ids are remembered that strangers are refused."""
        self.handlers: dict[int, list[Handler]] = {}
        """By message type; without one a type is kept, and acknowledged as delivered or unsupported."""

    def is_stranger(self, peer: PeerId) -> bool:
        """Neither a contact nor anybody we ever wrote to."""
        if self._state.people.known(peer) or peer in self._written_to:
            return False
        if not self._state.store.has_written_to(peer):
            return True
        self._written_to.add(peer)
        return False

    def begin(self, peer: PeerId, envelope: bytes, *, admitted: bool = False) -> Callable[[], Awaitable[bytes | None]]:
        """Checks an envelope that `peer` has brought; what is returned gives the sealed acknowledgement.

        That is None for a stranger's letter that waits, and empty for what is not acknowledged. EnvelopeRejected here
        or there. `admitted` skips the question whether strangers are welcome.
        """
        outer = open_outer(envelope, self._state.me, self._state.keyring.secrets())
        payload = Payload.decode(outer.payload)
        self._check_parties(payload, peer)
        if not admitted and payload.type != MessageType.ACK and self.is_stranger(peer):
            waits = self._greet_stranger(peer, envelope)
            if waits is not None:
                return waits
        letter = self._checked(peer, envelope, payload, outer.key_record)
        if isinstance(letter, _Letter):
            return self._take(letter)
        return letter

    async def take_ack(self, peer: PeerId, envelope: bytes) -> frozenset[bytes]:
        """The ids of our messages that `peer` acknowledges by this envelope; none when it is not valid."""
        try:
            ack = self._open_ack(peer, envelope)
        except EnvelopeRejected as error:
            _log.warning("acknowledgement of %s is not valid: %s", peer, error)
            return frozenset()
        return await self._acknowledged(peer, ack)

    async def admit(self, peer: PeerId) -> list[bytes]:
        """Takes in what waited of a stranger; returns the acknowledgements that are to be sent."""
        acks = []
        for letter in self._state.store.waiting(peer):
            try:
                ack = await self.begin(peer, letter.envelope, admitted=True)()
            except EnvelopeRejected as error:
                _log.info("a letter of %s that waited is not valid: %s", peer, error)
                ack = None
            if ack:
                acks.append(ack)
            await self._state.store.database.write(partial(self._state.store.remove_waiting, number=letter.number))
        return acks

    def _open_ack(self, peer: PeerId, envelope: bytes) -> Ack:
        state = self._state
        outer = open_outer(envelope, state.me, state.keyring.secrets())
        payload = Payload.decode(outer.payload)
        self._check_parties(payload, peer)
        m, _ = verify(payload)
        if payload.type != MessageType.ACK:
            raise EnvelopeRejected("another message than an acknowledgement", code=Code.BAD_PAYLOAD)
        if outer.key_record:
            state.book.learn(peer, outer.key_record)
        return Ack.decode(open_inner(payload, m, state.keyring.secrets()).content)

    # ------------------------------------------------------------------------------- checks

    def _check_parties(self, payload: Payload, peer: PeerId) -> None:
        if payload.sender == self._state.me or payload.recipient != self._state.me:
            raise EnvelopeRejected("a message of ours, or for somebody else", code=Code.BAD_PAYLOAD)
        try:
            sender = peer_of(payload.sender)
        except (RemoteProtocolError, BadSignature) as error:
            raise EnvelopeRejected("a sender whose key must not be used", code=Code.BAD_PAYLOAD) from error
        if sender != peer or self._state.people.blocked(peer):
            raise EnvelopeRejected("not welcome", code=Code.REFUSED)

    def _greet_stranger(self, peer: PeerId, envelope: bytes) -> Callable[[], Awaitable[None]] | None:
        policy = self._state.config.strangers
        if policy is Strangers.REFUSE or self.full:
            raise EnvelopeRejected("not welcome", code=Code.REFUSED)
        return partial(self._put_aside, peer, envelope) if policy is Strangers.ASK else None

    def _checked(
        self, peer: PeerId, envelope: bytes, payload: Payload, key_record: bytes
    ) -> _Letter | Callable[[], Awaitable[bytes]]:
        state = self._state
        if (payload.sender, payload.id) in self._arriving:
            raise EnvelopeRejected("this message is being taken in", code=Code.BUSY)
        seen = state.store.seen(payload.sender, payload.id)
        if seen is not None and seen.signature == payload.signature:
            m = canonical(payload)
            if digest(m, payload.content) == seen.digest:
                return partial(self._again, peer, envelope, seen.number)
        record = state.book.learn(peer, key_record) if key_record else state.book.known(peer)
        if record is None:
            raise EnvelopeRejected("no key of the sender that could be answered to", code=Code.BAD_SIGNATURE)
        m, found = verify(payload)
        if seen is not None:
            _log.warning("%s has sent two messages under one id", peer)
            raise EnvelopeRejected("another message has this id", code=Code.ID_CONFLICT)
        limits, now = state.config.receive, state.now_ms()
        if not now - limits.past_seconds * 1000 <= payload.timestamp_ms <= now + limits.future_seconds * 1000:
            raise EnvelopeRejected("a message of another time", code=Code.BAD_TIMESTAMP)
        return _Letter(peer, envelope, payload, m, found, record)

    # ------------------------------------------------------------------------------- taking in

    def _take(self, letter: _Letter) -> Callable[[], Awaitable[bytes]]:
        payload = letter.payload
        content = open_inner(payload, letter.m, self._state.keyring.secrets()).content
        kind = _CONTENTS.get(payload.type)  # type: ignore[call-overload] # a number of the peer's
        parsed = kind.decode(content) if kind is not None else None
        if isinstance(parsed, Ack):
            return partial(self._note_ack, letter.peer, parsed)
        if not payload.counted:
            return partial(self._pass_on, letter, content)
        message = StoredMessage(
            payload=replace(payload, content=b""),
            content=content,
            digest=letter.digest,
            sealed_hash=sealed_hash(letter.envelope),
            incoming=True,
            state=MessageState.RECEIVED,
            peer=letter.peer,
            stored_ms=self._state.now_ms(),
        )
        arrival = Arrival(message)
        turn = self._turns.place(arrival, trio.current_time())
        key = (payload.sender, payload.id)
        self._arriving.add(key)
        job = self._state.store.database.write_soon(partial(self._keep, arrival=arrival, turn=turn))
        return partial(self._finish, letter, arrival, turn, job)

    def _keep(self, connection: Connection, *, arrival: Arrival, turn: Turn) -> None:
        """In the writer's thread: all that a message changes, or nothing."""
        store, payload = self._state.store, arrival.message.payload
        arrival.message = replace(arrival.message, mark=turn.mark_of(arrival))
        number = store.add_message(connection, arrival.message)
        arrival.message = replace(arrival.message, number=number)
        until = payload.timestamp_ms + self._state.config.receive.past_seconds * 1000
        store.add_seen(connection, payload, arrival.message.digest, number, until)
        if not turn.includes(arrival):
            store.hold(connection, number)
        self._turns.write(connection, turn)

    async def _finish(self, letter: _Letter, arrival: Arrival, turn: Turn, job: Job[None]) -> bytes:
        try:
            await job.done.wait()
        finally:
            self._arriving.discard((letter.payload.sender, letter.payload.id))
        if job.error is not None:
            self._turns.forget(turn)
            raise EnvelopeRejected("the message cannot be kept", code=Code.BUSY) from job.error
        self._turns.written(turn)
        return await self._conclude(letter.peer, letter.envelope, arrival.message, letter.record)

    async def _again(self, peer: PeerId, envelope: bytes, number: int) -> bytes:
        """A message that is here already: its acknowledgement was lost, or it was never recorded."""
        message, record = self._state.store.message_at(number), self._state.book.known(peer)
        if message is None or record is None:
            raise EnvelopeRejected("a message that was here before", code=Code.BUSY)
        return await self._conclude(peer, envelope, message, record)

    async def _conclude(self, peer: PeerId, envelope: bytes, message: StoredMessage, record: KeyRecord) -> bytes:
        """Recorded first; then whoever handles its type is asked, once; then it is acknowledged."""
        try:
            receipt = await self._state.record(message, envelope)
        except AuditError as error:
            raise EnvelopeRejected("the message cannot be recorded", code=Code.BUSY) from error
        verdict = Verdict(AckState(message.ack_state), message.code) if message.ack_state else await self._ask(message)
        item = AckItem(
            id=message.id, digest=message.digest, state=verdict.state, code=verdict.code, receipt=receipt.promise
        )
        return self._composer.sealed_now(peer, record, MessageType.ACK, Ack((item,)).encode())

    async def _ask(self, message: StoredMessage) -> Verdict:
        payload, store, verdict = message.payload, self._state.store, None
        if message.peer is not None:
            verdict = await self._handled(Received(message.peer, payload, message.content, message.digest))
        if verdict is None:
            supported = payload.type == MessageType.TEXT or payload.type >= 0x40
            verdict = Verdict(AckState.DELIVERED if supported else AckState.UNSUPPORTED)
        if verdict.state is not AckState.DELIVERED:
            done = replace(message, ack_state=verdict.state, code=verdict.code)
            await store.database.write(lambda c: store.set_message(c, done))
        return verdict

    async def _pass_on(self, letter: _Letter, content: bytes) -> bytes:
        """A chunk: for its handler alone, neither kept nor acknowledged."""
        if await self._handled(Received(letter.peer, letter.payload, content, letter.digest)) is None:
            raise EnvelopeRejected("a chunk that nobody waits for", code=Code.UNSUPPORTED)
        return b""

    async def _handled(self, received: Received) -> Verdict | None:
        """What the first handler says that knows what this is about."""
        for handler in tuple(self.handlers.get(received.payload.type, ())):
            verdict = await handler(received)
            if verdict is not None:
                return verdict
        return None

    async def _put_aside(self, peer: PeerId, envelope: bytes) -> None:
        limits, store = self._state.config.stranger, self._state.store
        letter = WaitingLetter(0, peer, envelope, self._state.now_ms())
        if any(waiting.envelope == envelope for waiting in store.waiting(peer)):
            return
        try:
            await store.database.write(
                lambda c: store.add_waiting(c, letter, conversations=limits.conversations, size=limits.waiting_bytes)
            )
        except LimitExceeded as error:
            raise EnvelopeRejected("too much waits", code=Code.RATE_LIMITED) from error
        except TalosError as error:
            raise EnvelopeRejected("the message cannot be kept", code=Code.BUSY) from error

    # ------------------------------------------------------------------------------- acknowledgements of ours

    async def _note_ack(self, peer: PeerId, ack: Ack) -> bytes:
        await self._acknowledged(peer, ack)
        return b""

    async def _acknowledged(self, peer: PeerId, ack: Ack) -> frozenset[bytes]:
        settled = set()
        for item in ack.items:
            message = self._state.store.message(self._state.me, item.id)
            if message is None or message.peer != peer or message.digest != item.digest:
                _log.warning("%s acknowledges what was not sent to it", peer)
                continue
            if await self._settle(peer, message, item):
                settled.add(item.id)
        return frozenset(settled)

    async def _settle(self, peer: PeerId, message: StoredMessage, item: AckItem) -> bool:
        state = self._state
        if message.state.final:
            return True
        if item.state is AckState.READ:
            if message.receipt is not None:
                await state.settle(replace(message, read_ms=state.now_ms()), MessageState.READ)
            return message.receipt is not None
        if message.state is MessageState.DELIVERED:
            return True
        if item.receipt is None:
            _log.warning("%s acknowledges without a receipt", peer)
            return False
        try:
            state.audit.check_receipt(
                item.receipt,
                msg_id=message.id,
                sealed_hash=message.sealed_hash,
                sender=state.host.peer_id,
                receiver=peer,
            )
        except ProofInvalid as error:
            _log.warning("receipt of %s is not valid: %s", peer, error)
            return False
        await state.audit.record(state.receipt_entry(message, peer, item.receipt))
        done = replace(message, receipt=item.receipt, ack_state=item.state)
        await state.settle(done, MessageState.DELIVERED, code=item.code)
        return True
