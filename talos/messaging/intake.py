"""Takes a message in: checks from cheap to dear, one transaction, the audit log, and only then the acknowledgement."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from talos.errors import (
    AuditError,
    BadSignature,
    EntryConflict,
    EnvelopeRejected,
    LimitExceeded,
    ProofInvalid,
    RemoteProtocolError,
)
from talos.host.contain import Owner, contain
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
    from collections.abc import Awaitable, Callable, Sequence
    from sqlite3 import Connection

    from talos.abc import AuditReceipt
    from talos.identity.key_record import KeyRecord
    from talos.identity.peer_id import PeerId
    from talos.messaging.composer import Composer
    from talos.messaging.database import Job
    from talos.messaging.state import State

__all__ = ["Handler", "Intake", "Received", "Taken", "Verdict"]

_log = logging.getLogger(__name__)

_CONTENTS = {
    MessageType.TEXT: Text,
    MessageType.ACK: Ack,
    MessageType.STREAM_START: StreamStart,
    MessageType.STREAM_END: StreamEnd,
}
FIRST_APPLICATION_TYPE = 0x40


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


class _Answer(NamedTuple):
    """Of the handlers of a type: None when it was about nothing that they know."""

    verdict: Verdict | None


@dataclass(slots=True)
class _Letter:
    """An envelope on its way through the checks."""

    peer: PeerId
    envelope: bytes
    payload: Payload
    m: bytes
    digest: bytes
    record: KeyRecord


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """A message that has passed the checks and is on its way into the store, or was there before (no `job`)."""

    envelope: bytes
    arrival: Arrival
    record: KeyRecord
    """Of the sender: what the acknowledgement is sealed with."""
    job: Job[None] | None = None

    @property
    def message(self) -> StoredMessage:
        return self.arrival.message


if TYPE_CHECKING:
    Aside = Callable[[], Awaitable[Code]]
    """What else becomes of an envelope: awaited, it gives the answer, or raises EnvelopeRejected."""
else:
    Aside = object


class Intake:
    """Judges envelopes: `begin` checks and has written what is kept, `conclude` finishes many at once."""

    def __init__(self, state: State, composer: Composer, turns: Turns) -> None:
        self._state = state
        self._composer = composer
        self._turns = turns
        self._arriving: set[tuple[bytes, bytes]] = set()
        self._concluding: set[int] = set()
        self._written_to: set[PeerId] = set()
        self.seen = 0
        """Ids that are remembered."""
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

    def begin(self, peer: PeerId, envelope: bytes, *, admitted: bool = False) -> Taken | Aside:
        """Checks an envelope that `peer` has brought; EnvelopeRejected.

        `admitted` skips the question whether strangers are welcome.
        """
        outer = open_outer(envelope, self._state.me, self._state.keyring.secrets())
        payload = Payload.decode(outer.payload)
        self._check_parties(payload, peer)
        if not admitted and payload.type != MessageType.ACK and self.is_stranger(peer):
            waits = self._greet_stranger(peer, envelope)
            if waits is not None:
                return waits
        letter = self._checked(peer, envelope, payload, outer.key_record)
        return letter if isinstance(letter, Taken) else self._take(letter)

    def is_handled(self, taken: Taken) -> bool:
        """Whether somebody is asked about it, which may take its time."""
        return bool(self.handlers.get(taken.message.payload.type))

    async def conclude(self, taken: Sequence[Taken]) -> list[AckItem | EnvelopeRejected]:
        """Waits until they are kept, records them, asks their handlers: what each of them is answered."""
        results: dict[int, AckItem | EnvelopeRejected] = {}
        mine: list[int] = []
        try:
            for place, one in enumerate(taken):
                fault = await self._fault_of_keeping(one)
                if fault is None:
                    self._concluding.add(one.message.number)
                    mine.append(place)
                else:
                    results[place] = fault
            receipts = await self._record([taken[place] for place in mine])
            for place, receipt in zip(mine, receipts, strict=True):
                if isinstance(receipt, EnvelopeRejected):
                    results[place] = receipt
                else:
                    results[place] = await self._judge(taken[place], receipt)
        finally:
            self._concluding.difference_update(taken[place].message.number for place in mine)
        return [results[place] for place in range(len(taken))]

    def seal_ack(self, to: Taken, items: Sequence[AckItem]) -> bytes:
        """One acknowledgement of up to 64 messages of one sender."""
        peer = to.message.peer
        assert peer is not None, "what came has a sender"
        return self._composer.sealed_now(peer, to.record, MessageType.ACK, Ack(tuple(items)).encode())

    async def take_acks(self, peer: PeerId, envelopes: Sequence[bytes]) -> frozenset[bytes]:
        """The ids of our messages that `peer` acknowledges by these; none of one that is not valid. AuditError."""
        items: list[AckItem] = []
        for envelope in envelopes:
            try:
                items.extend(self._open_ack(peer, envelope).items)
            except EnvelopeRejected as error:
                _log.warning("acknowledgement of %s is not valid: %s", peer, error)
        return await self._acknowledged(peer, items)

    async def admit(self, peer: PeerId) -> list[bytes]:
        """Takes in what waited of a stranger; returns the acknowledgements that are to be sent."""
        acks = []
        for letter in self._state.store.waiting(peer):
            try:
                taken = self.begin(peer, letter.envelope, admitted=True)
                if isinstance(taken, Taken):
                    (item,) = await self.conclude((taken,))
                    if isinstance(item, EnvelopeRejected):
                        raise item
                    acks.append(self.seal_ack(taken, (item,)))
                else:
                    await taken()
            except EnvelopeRejected as error:
                _log.info("a letter of %s that waited is not taken in: %s", peer, error)
                if error.code == Code.BUSY:
                    continue
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

    def _greet_stranger(self, peer: PeerId, envelope: bytes) -> Aside | None:
        policy = self._state.config.strangers
        if policy is Strangers.REFUSE or self.seen >= self._state.config.receive.seen:
            raise EnvelopeRejected("not welcome", code=Code.REFUSED)
        return partial(self._put_aside, peer, envelope) if policy is Strangers.ASK else None

    def _checked(self, peer: PeerId, envelope: bytes, payload: Payload, key_record: bytes) -> _Letter | Taken:
        state = self._state
        if (payload.sender, payload.id) in self._arriving:
            raise EnvelopeRejected("this message is being taken in", code=Code.BUSY)
        seen = state.store.seen(payload.sender, payload.id)
        if seen is not None and seen.signature == payload.signature:
            m = canonical(payload)
            if digest(m, payload.content) == seen.digest:
                return self._again(peer, envelope, seen.number)
        record = state.book.learn(peer, key_record) if key_record else state.book.known(peer)
        if record is None:
            raise EnvelopeRejected("no key of the sender that could be answered to", code=Code.BAD_SIGNATURE)
        m, found = verify(payload)
        if seen is not None:
            _log.warning("%s has sent two messages under one id", peer)
            raise EnvelopeRejected("another message has this id", code=Code.ID_CONFLICT)
        self._check_time(payload)
        return _Letter(peer, envelope, payload, m, found, record)

    def _check_time(self, payload: Payload) -> None:
        limits, now = self._state.config.receive, self._state.now_ms()
        oldest = now - min(payload.ttl_s or limits.past_seconds, limits.past_seconds) * 1000
        if not oldest <= payload.timestamp_ms <= now + limits.future_seconds * 1000:
            raise EnvelopeRejected("a message of another time", code=Code.BAD_TIMESTAMP)

    # ------------------------------------------------------------------------------- taking in

    def _take(self, letter: _Letter) -> Taken | Aside:
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
        self.seen += 1
        job = self._turns.submit(turn, arrival, after=partial(self._arriving.discard, key))
        return Taken(letter.envelope, arrival, letter.record, job)

    def _again(self, peer: PeerId, envelope: bytes, number: int) -> Taken:
        """A message that is here already: its acknowledgement was lost, or it was never recorded."""
        message, record = self._state.store.message_at(number), self._state.book.known(peer)
        if message is None or record is None:
            raise EnvelopeRejected("a message that was here before", code=Code.BUSY)
        if message.wiped:
            raise EnvelopeRejected("a message whose time is over", code=Code.BAD_TIMESTAMP)
        return Taken(envelope, Arrival(message), record)

    async def _fault_of_keeping(self, one: Taken) -> EnvelopeRejected | None:
        if one.job is not None:
            await one.job.done.wait()
            if one.job.error is not None:
                _log.debug("a message is not kept: %s", one.job.error)
                return EnvelopeRejected("the message cannot be kept", code=Code.BUSY)
        if one.message.number in self._concluding:
            return EnvelopeRejected("this message is being answered", code=Code.BUSY)
        return None

    async def _record(self, taken: Sequence[Taken]) -> list[AuditReceipt | EnvelopeRejected]:
        """All at once; one by one where the log refuses, since that may be about one of them alone."""
        if not taken:
            return []
        entries = [
            # An outer layer made anew around the same message is not what was recorded.
            (one.message, one.envelope if one.job is not None or _is_the_same(one) else b"")
            for one in taken
        ]
        try:
            return list(await self._state.record(entries))
        except AuditError as error:
            if len(taken) > 1 and isinstance(error, EntryConflict):
                return [(await self._record((one,)))[0] for one in taken]
            _log.debug("messages are not recorded: %s", error)
            return [EnvelopeRejected("the message cannot be recorded", code=Code.BUSY) for _ in taken]

    async def _judge(self, taken: Taken, receipt: AuditReceipt) -> AckItem | EnvelopeRejected:
        message = taken.message
        verdict = Verdict(AckState(message.ack_state), message.code) if message.ack_state else await self._ask(message)
        if verdict is None:
            return EnvelopeRejected("the message could not be handled", code=Code.BUSY)
        return AckItem(
            id=message.id, digest=message.digest, state=verdict.state, code=verdict.code, receipt=receipt.promise
        )

    async def _ask(self, message: StoredMessage) -> Verdict | None:
        """The verdict of the type's handler, which is kept; None where it failed."""
        payload, store = message.payload, self._state.store
        assert message.peer is not None, "what came has a sender"
        answer = await self._handled(Received(message.peer, payload, message.content, message.digest))
        if answer is None:
            return None
        supported = payload.type == MessageType.TEXT or payload.type >= FIRST_APPLICATION_TYPE
        verdict = answer.verdict or Verdict(AckState.DELIVERED if supported else AckState.UNSUPPORTED)
        if answer.verdict is not None or not supported:
            job = store.database.write_soon(
                partial(store.change, number=message.number, ack_state=verdict.state, code=verdict.code)
            )
            await job.done.wait()
            if job.error is not None:
                return None
        return verdict

    async def _handled(self, received: Received) -> _Answer | None:
        """What the first handler says that knows what this is about; None where one failed."""
        handlers = tuple(self.handlers.get(received.payload.type, ()))

        async def ask() -> _Answer:
            for handler in handlers:
                verdict = await handler(received)
                if verdict is not None:
                    return _Answer(verdict)
            return _Answer(None)

        return await contain(Owner("message handler", self._state.host.emit, peer=received.sender), ask)

    async def _pass_on(self, letter: _Letter, content: bytes) -> Code:
        """A chunk: for its handler alone, neither kept nor acknowledged."""
        answer = await self._handled(Received(letter.peer, letter.payload, content, letter.digest))
        if answer is None:
            raise EnvelopeRejected("the chunk could not be handled", code=Code.BUSY)
        if answer.verdict is None:
            raise EnvelopeRejected("a chunk that nobody waits for", code=Code.UNSUPPORTED)
        return Code.OK

    async def _put_aside(self, peer: PeerId, envelope: bytes) -> Code:
        limits, store = self._state.config.stranger, self._state.store
        letter = WaitingLetter(0, peer, envelope, self._state.now_ms())
        if any(waiting.envelope == envelope for waiting in store.waiting(peer)):
            return Code.STORED
        try:
            await store.database.write(
                lambda c: store.add_waiting(c, letter, conversations=limits.conversations, size=limits.waiting_bytes)
            )
        except LimitExceeded as error:
            raise EnvelopeRejected("too much waits", code=Code.RATE_LIMITED) from error
        except AuditError as error:
            raise EnvelopeRejected("the message cannot be kept", code=Code.BUSY) from error
        return Code.STORED

    # ------------------------------------------------------------------------------- acknowledgements of ours

    async def _note_ack(self, peer: PeerId, ack: Ack) -> Code:
        try:
            await self._acknowledged(peer, ack.items)
        except AuditError as error:
            raise EnvelopeRejected("the receipt cannot be recorded", code=Code.BUSY) from error
        return Code.OK

    async def _acknowledged(self, peer: PeerId, items: Sequence[AckItem]) -> frozenset[bytes]:
        """Records the receipts of what is acknowledged and settles it, all at once; the ids of what is."""
        state, settled = self._state, set()
        news: dict[bytes, tuple[StoredMessage, AckItem]] = {}
        for item in items:
            message = state.store.message(state.me, item.id)
            if message is None or message.peer != peer or message.digest != item.digest:
                _log.warning("%s acknowledges what was not sent to it", peer)
            elif item.state is AckState.READ:
                await self._note_reading(message)
            elif message.state.final or message.state is MessageState.DELIVERED:
                settled.add(item.id)
            elif self._has_receipt(peer, message, item):
                news.setdefault(item.id, (message, item))
        await self._record_receipts(peer, list(news.values()))
        await self._settle(list(news.values()))
        return frozenset(settled | news.keys())

    async def _note_reading(self, message: StoredMessage) -> None:
        if message.state is MessageState.DELIVERED:
            await self._state.store.database.write(
                partial(
                    self._state.store.change,
                    number=message.number,
                    state=MessageState.READ,
                    read_ms=self._state.now_ms(),
                )
            )
            self._state.watch.changed(message.id)

    def _has_receipt(self, peer: PeerId, message: StoredMessage, item: AckItem) -> bool:
        if item.receipt is None:
            _log.warning("%s acknowledges without a receipt", peer)
            return False
        try:
            self._state.audit.check_receipt(
                item.receipt,
                msg_id=message.id,
                sealed_hash=message.sealed_hash,
                sender=self._state.host.peer_id,
                receiver=peer,
            )
        except ProofInvalid as error:
            _log.warning("receipt of %s is not valid: %s", peer, error)
            return False
        return True

    async def _record_receipts(self, peer: PeerId, news: Sequence[tuple[StoredMessage, AckItem]]) -> None:
        """Where a receipt of that message is in the log already, from before a crash, that one counts."""
        entries = [
            self._state.receipt_entry(message, peer, item.receipt) for message, item in news if item.receipt is not None
        ]
        if not entries:
            return
        try:
            await self._state.audit.record_many(entries)
        except EntryConflict:
            for entry in entries:
                with suppress(EntryConflict):
                    await self._state.audit.record(entry)

    async def _settle(self, news: Sequence[tuple[StoredMessage, AckItem]]) -> None:
        state = self._state

        def write(connection: Connection) -> None:
            for message, item in news:
                changes = {"receipt": item.receipt, "ack_state": item.state, "code": item.code}
                state.settle_in(connection, message.number, MessageState.DELIVERED, **changes)

        if news:
            await state.store.database.write(write)
            for message, _ in news:
                state.settled(message, MessageState.DELIVERED)


def _is_the_same(one: Taken) -> bool:
    return sealed_hash(one.envelope) == one.message.sealed_hash
