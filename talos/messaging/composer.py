"""Messages of ours: numbered, sealed and durable before a byte of them leaves."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from talos.errors import AuditError, RecipientUnknown
from talos.messaging.canonical import conversation
from talos.messaging.envelope import seal_message, sealed_hash
from talos.messaging.payload import Payload
from talos.messaging.people import identity_of
from talos.messaging.store import Flow, MessageState, OutboxRow, StoredMessage

if TYPE_CHECKING:
    from sqlite3 import Connection

    from talos.identity.key_record import KeyRecord
    from talos.identity.peer_id import PeerId
    from talos.messaging.payload import ChunkInfo
    from talos.messaging.state import State

__all__ = ["Composer", "Written"]

OUT = b"out"
DRAFT = -1
"""The attempts of a message that no key could be found for yet."""


class Written(NamedTuple):
    """A message in the store, and its envelope: empty while the recipient's key is not known."""

    message: StoredMessage
    envelope: bytes


class Composer:
    """Writes messages into the outbox."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def post(self, to: PeerId, message_type: int, content: bytes, *, ttl_s: int = 0) -> StoredMessage:
        """A message that is durable and recorded on return, or sealed and recorded once its recipient's key is found.

        RecipientUnknown, LimitExceeded where the outbox is full, AuditError.
        """
        state = self._state
        recipient = identity_of(to)
        if recipient == state.me:
            raise RecipientUnknown("messages to oneself are not sent")
        draft = Payload(
            id=uuid.uuid4().bytes,
            type=message_type,
            sender=state.me,
            recipient=recipient,
            timestamp_ms=state.now_ms(),
            ttl_s=ttl_s,
        )
        write = partial(self._write, to=to, draft=draft, content=content, record=state.book.known(to))
        written = await state.store.database.write(write)
        if written.envelope:
            try:
                await state.record(written.message, written.envelope)
            except AuditError:
                await state.settle(written.message, MessageState.FAILED)
                raise
        return written.message

    async def seal_drafts(self, to: PeerId, record: KeyRecord) -> None:
        """Finishes what was written before the key of `to` was known, in order."""
        state = self._state

        def seal(connection: Connection) -> list[Written]:
            return [self._finish(connection, row, record) for row in state.store.drafts(to, connection)]

        for message, envelope in await state.store.database.write(seal):
            await state.record(message, envelope)

    async def supersede(self, message: StoredMessage, to: PeerId, record: KeyRecord) -> None:
        """Says it anew under the key that the recipient has now, in a new epoch; the old message is over."""
        state = self._state

        def write(connection: Connection) -> Written:
            state.store.remove_outbox(connection, message.number)
            state.store.set_message(connection, replace(message, state=MessageState.SUPERSEDED))
            state.store.set_flow(connection, self._new_flow(), *self._flow_key(message.payload.recipient))
            draft = replace(message.payload, id=uuid.uuid4().bytes, timestamp_ms=state.now_ms())
            return self._write(connection, to=to, draft=draft, content=message.content, record=record)

        written = await state.store.database.write(write)
        await state.record(*written)
        state.watch.changed(message.id)

    def sealed_now(
        self, to: PeerId, record: KeyRecord, message_type: int, content: bytes, chunk_info: ChunkInfo | None = None
    ) -> bytes:
        """The envelope of a message that is not counted, kept or recorded: an acknowledgement or a chunk."""
        state = self._state
        draft = Payload(
            id=uuid.uuid4().bytes,
            type=message_type,
            sender=state.me,
            recipient=identity_of(to),
            timestamp_ms=state.now_ms(),
            chunk_info=chunk_info,
        )
        own = state.keyring.key_record(draft.timestamp_ms)
        return seal_message(draft, content, state.keyring.identity, record.x25519, key_record=own).envelope

    # ------------------------------------------------------------------------------- in the writer's thread

    def _write(
        self, connection: Connection, *, to: PeerId, draft: Payload, content: bytes, record: KeyRecord | None
    ) -> Written:
        state, limits = self._state, self._state.config.delivery
        now = draft.timestamp_ms
        lifetime = draft.ttl_s or limits.lifetime_seconds
        row = OutboxRow(0, to, b"", DRAFT, now, now + lifetime * 1000)
        message = StoredMessage(
            payload=replace(draft, content=b""),
            content=content,
            digest=bytes(32),
            sealed_hash=bytes(32),
            incoming=False,
            state=MessageState.QUEUED,
            peer=to,
            stored_ms=now,
        )
        envelope = b""
        if record is not None and not state.store.has_drafts(to, connection):
            message, envelope = self._sealed(connection, message, record)
            row = row._replace(envelope=envelope, attempt=0)
        number = state.store.add_message(connection, message)
        state.store.add_outbox(
            connection, row._replace(number=number), per_peer=limits.queued_per_peer, total=limits.queued
        )
        return Written(replace(message, number=number), envelope)

    def _finish(self, connection: Connection, row: OutboxRow, record: KeyRecord) -> Written:
        store = self._state.store
        message = store.message_at(row.number, connection)
        assert message is not None, "an outbox row has its message"
        message, envelope = self._sealed(connection, message, record)
        store.set_message(connection, message)
        store.set_envelope(connection, row._replace(envelope=envelope))
        return Written(message, envelope)

    def _sealed(self, connection: Connection, message: StoredMessage, record: KeyRecord) -> Written:
        """With its number in the conversation, which is taken here and nowhere else."""
        state, recipient = self._state, message.payload.recipient
        key = self._flow_key(recipient)
        flow = state.store.flow(*key, connection=connection) or self._new_flow()
        draft = replace(message.payload, epoch=flow.epoch, seq=flow.next_seq, prev=flow.last)
        own = state.keyring.key_record(state.now_ms())
        made = seal_message(draft, message.content, state.keyring.identity, record.x25519, key_record=own)
        state.store.set_flow(connection, Flow(flow.epoch, flow.next_seq + 1, made.digest), *key)
        finished = replace(
            message,
            payload=replace(made.payload, content=b""),
            digest=made.digest,
            frank=made.frank,
            sealed_hash=sealed_hash(made.envelope),
        )
        return Written(finished, made.envelope)

    def _flow_key(self, recipient: bytes) -> tuple[bytes, bytes]:
        return OUT, conversation(self._state.me, recipient)

    def _new_flow(self) -> Flow:
        return Flow(self._state.now_ms(), 1, bytes(32))
