"""Takes a message in: checks from cheap to dear, one transaction, the audit log, and only then the acknowledgement."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from talos.errors import (
    AuditError,
    EntryConflict,
    EnvelopeRejected,
    LimitExceeded,
)
from talos.messaging.acks import Acknowledgements
from talos.messaging.canonical import canonical, digest
from talos.messaging.checks import check_parties, check_time
from talos.messaging.code import AckState, Code, MessageType
from talos.messaging.config import Strangers
from talos.messaging.content import Ack, AckItem, StreamEnd, StreamStart, Text
from talos.messaging.envelope import open_inner, open_outer, sealed_hash, verify
from talos.messaging.handling import Handlers, Received, Verdict
from talos.messaging.payload import Payload
from talos.messaging.store import MessageState, StoredMessage, WaitingLetter
from talos.messaging.turns import Arrival, Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from talos.abc import AuditReceipt
    from talos.identity.key_record import KeyRecord
    from talos.identity.peer_id import PeerId
    from talos.messaging.composer import Composer
    from talos.messaging.database import Job
    from talos.messaging.state import State

__all__ = ["Intake", "Taken"]

_log = logging.getLogger(__name__)

_CONTENTS = {
    MessageType.TEXT: Text,
    MessageType.ACK: Ack,
    MessageType.STREAM_START: StreamStart,
    MessageType.STREAM_END: StreamEnd,
}
FIRST_APPLICATION_TYPE = 0x40


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
        self.handlers = Handlers(state.host.emit)
        self.acks = Acknowledgements(state)

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
        check_parties(self._state, payload, peer)
        if not admitted and payload.type != MessageType.ACK and self.is_stranger(peer):
            waits = self._greet_stranger(peer, envelope)
            if waits is not None:
                return waits
        letter = self._checked(peer, envelope, payload, outer.key_record)
        return letter if isinstance(letter, Taken) else self._take(letter)

    def is_handled(self, taken: Taken) -> bool:
        """Whether somebody is asked about it, which may take its time."""
        return self.handlers.has(taken.message.payload.type)

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

    # ------------------------------------------------------------------------------- checks

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
        check_time(state, payload, state.config.receive.past_seconds)
        return _Letter(peer, envelope, payload, m, found, record)

    # ------------------------------------------------------------------------------- taking in

    def _take(self, letter: _Letter) -> Taken | Aside:
        payload = letter.payload
        content = open_inner(payload, letter.m, self._state.keyring.secrets()).content
        kind = _CONTENTS.get(payload.type)  # type: ignore[call-overload] # a number of the peer's
        parsed = kind.decode(content) if kind is not None else None
        if isinstance(parsed, Ack):
            return partial(self.acks.note, letter.peer, parsed)
        if not payload.counted:
            return partial(self._pass_on, letter, content)
        message = StoredMessage(
            payload=payload.without_content(),
            content=content,
            digest=letter.digest,
            sealed_hash=sealed_hash(letter.envelope),
            incoming=True,
            state=MessageState.RECEIVED,
            peer=letter.peer,
            stored_ms=self._state.now_ms(),
        )
        arrival, job = self.keep(message)
        return Taken(letter.envelope, arrival, letter.record, job)

    def keep(self, message: StoredMessage) -> tuple[Arrival, Job[None]]:
        """Has a message written that has passed its checks; EnvelopeRejected(BUSY) where no room is."""
        arrival = Arrival(message)
        turn = self._turns.place(arrival, trio.current_time())
        key = (message.payload.sender, message.id)
        self._arriving.add(key)
        self.seen += 1
        return arrival, self._turns.submit(turn, arrival, after=partial(self._arriving.discard, key))

    def is_here(self, payload: Payload) -> bool:
        """Whether a message of this id was taken in, or is being."""
        key = (payload.sender, payload.id)
        return key in self._arriving or self._state.store.seen(*key) is not None

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
        answer = await self.handlers.ask(Received(message.peer, payload, message.content, message.digest))
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

    async def _pass_on(self, letter: _Letter, content: bytes) -> Code:
        """A chunk: for its handler alone, neither kept nor acknowledged."""
        answer = await self.handlers.ask(Received(letter.peer, letter.payload, content, letter.digest))
        if answer is None:
            raise EnvelopeRejected("the chunk could not be handled", code=Code.BUSY)
        if answer.verdict is None:
            raise EnvelopeRejected("a chunk that nobody waits for", code=Code.UNSUPPORTED)
        if answer.verdict.code:
            raise EnvelopeRejected("a chunk that is not taken", code=answer.verdict.code)
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


def _is_the_same(one: Taken) -> bool:
    return sealed_hash(one.envelope) == one.message.sealed_hash
