"""Messages of ours: numbered, sealed and durable before a byte of them leaves."""

from __future__ import annotations

import logging
import secrets
import uuid
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from talos.errors import AuditError, LocalProtocolError, RecipientUnknown, StoreFailed
from talos.identity import private_file
from talos.messaging.canonical import channel_conversation, conversation
from talos.messaging.code import Suite
from talos.messaging.envelope import seal_broadcast, seal_message, sealed_hash
from talos.messaging.payload import BROADCAST, MAX_CONTENT_BYTES, Payload
from talos.messaging.people import identity_of
from talos.messaging.store import Flow, MessageState, OutboxRow, StoredMessage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from sqlite3 import Connection

    from talos.identity.key_record import KeyRecord
    from talos.identity.peer_id import PeerId
    from talos.messaging.database import Job
    from talos.messaging.payload import ChunkInfo
    from talos.messaging.state import State

__all__ = ["RUN_FILE", "Composer", "Written"]

_log = logging.getLogger(__name__)

OUT = b"out"
DRAFT = -1
"""The attempts of a message that no key could be found for yet."""
DRAFTS_AT_ONCE = 64
RUN_FILE = "messages.run"
MARKER_BYTES = 16
MAX_TYPE = 0x7F
MAX_TTL_SECONDS = 2**32 - 1
MAX_SEALED_BYTES = MAX_CONTENT_BYTES - 80
"""Content as it is sealed: an ephemeral key, a franking key and a tag come to it."""


class Written(NamedTuple):
    """A message in the store, and its envelope: empty while the recipient's key is not known."""

    message: StoredMessage
    envelope: bytes


class Composer:
    """Writes messages into the outbox. `written` is told of peers for whom something is there to be sent."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.written: Callable[[PeerId], None] = lambda _peer: None
        self._generation = b""

    async def begin(self, directory: Path) -> None:
        """Before anything is written: finds out whether this store is a copy from earlier, which counts anew.

        A random marker of each run stands in the store and in a file beside it. Where they differ, one of them was
        put back, and numbers that the store thinks free may be used: the counters of all conversations begin again.
        """
        state, path = self._state, directory / RUN_FILE
        before, marker = state.store.run_marker(), secrets.token_bytes(MARKER_BYTES)
        restored = bool(before) and before[:MARKER_BYTES] != _read(path)
        self._generation = secrets.token_bytes(MARKER_BYTES) if restored or not before else before[MARKER_BYTES:]
        if restored:
            _log.warning("the message store was put back from a copy: conversations are numbered anew")
        whole = marker + self._generation
        await state.store.database.write(lambda c: state.store.set_run_marker(c, whole))
        try:
            await trio.to_thread.run_sync(partial(private_file.write, path, marker, replace=True))
        except OSError as error:
            raise StoreFailed(f"{path} cannot be written: {error}") from error

    async def post(self, to: PeerId, message_type: int, content: bytes, *, ttl_s: int = 0) -> StoredMessage:
        """A message that is durable and recorded on return, or sealed and recorded once its recipient's key is found.

        LocalProtocolError for what no message may be, RecipientUnknown, LimitExceeded where the outbox is full,
        AuditError. Cancelled, it may have been written, and is sent then.
        """
        draft = self._draft(identity_of(to), message_type, content, ttl_s)
        write = partial(self._write, to=to, draft=draft, content=content, record=self._state.book.known(to))
        return (await self._post(write, partial(self._tell, to))).message

    async def announce(self, message_type: int, content: bytes, *, ttl_s: int = 0, channel: str = "") -> Written:
        """As `post`, to everybody, or to all who listen to the channel."""
        draft = replace(self._draft(BROADCAST, message_type, content, ttl_s), channel=channel)
        return await self._post(partial(self._write_open, draft=draft, content=content), lambda: None)

    async def _post(self, write: Callable[[Connection], Written], written: Callable[[], None]) -> Written:
        """`written` is called when others may go on with it."""
        state = self._state
        job = state.store.database.write_soon(write)
        job.then = partial(self._committed, job)
        try:
            await job.done.wait()
            if job.error is not None:
                raise job.error
            made = self._value(job)
            if made.envelope:
                await state.record([made])
        except AuditError:
            if job.error is None:
                await self._withdraw(self._value(job).message)
            raise
        finally:
            if job.done.is_set():
                self._finished(job, written)
            else:  # cancelled: the courier goes on with it
                job.then = written
        return made

    def _tell(self, to: PeerId) -> None:
        self.written(to)

    def _committed(self, job: Job[Written]) -> None:
        self._state.recording.add(self._value(job).message.number)

    def _finished(self, job: Job[Written], written: Callable[[], None]) -> None:
        if job.value is not None:
            self._state.recording.discard(job.value.message.number)
            written()

    @staticmethod
    def _value(job: Job[Written]) -> Written:
        assert job.value is not None, "it was written"
        return job.value

    async def seal_drafts(self, to: PeerId, record: KeyRecord) -> None:
        """Finishes what was written before the key of `to` was known, in order."""
        state = self._state

        def seal(connection: Connection) -> list[Written]:
            rows = state.store.drafts(to, connection, limit=DRAFTS_AT_ONCE)
            return [self._finish(connection, row, record) for row in rows]

        while state.store.has_drafts(to):
            await state.record(await state.store.database.write(seal))

    async def supersede(self, to: PeerId, record: KeyRecord) -> None:
        """Says anew, in a new epoch, what waits under keys that the recipient has no more; the old ones are over."""
        state = self._state

        def write(connection: Connection) -> list[tuple[StoredMessage, Written]]:
            rows = state.store.sealed_before(connection, to, record.seq)
            if rows:
                self._count_anew(connection, identity_of(to))
            return [self._say_anew(connection, row, record) for row in rows]

        renewed = await state.store.database.write(write)
        for old, _ in renewed:
            state.settled(old, MessageState.SUPERSEDED)
        self.written(to)
        if renewed:
            await state.record([written for _, written in renewed])

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
        now = state.now_ms()
        lifetime = min(draft.ttl_s or limits.lifetime_seconds, limits.lifetime_seconds)
        row = OutboxRow(0, to, b"", DRAFT, now, draft.timestamp_ms + lifetime * 1000)
        message = self._unsealed(draft, content, now, to)
        envelope = b""
        if record is not None and not state.store.has_drafts(to, connection):
            message, envelope = self._sealed(connection, message, record)
            row = row._replace(envelope=envelope, attempt=0, key_seq=record.seq)
        number = state.store.add_message(connection, message)
        state.store.add_outbox(
            connection, row._replace(number=number), per_peer=limits.queued_per_peer, total=limits.queued
        )
        return Written(replace(message, number=number), envelope)

    def _write_open(self, connection: Connection, *, draft: Payload, content: bytes) -> Written:
        """A broadcast: it is sealed for nobody, and in no outbox."""
        state = self._state
        message = self._unsealed(draft, content, state.now_ms(), None)
        key = self._flow_key(draft.recipient, draft.channel)
        flow = state.store.flow(*key, connection=connection) or Flow(state.now_ms(), 1, bytes(32))
        draft = replace(draft, epoch=flow.epoch, seq=flow.next_seq, prev=flow.last)
        made = seal_broadcast(draft, content, state.keyring.identity)
        state.store.set_flow(connection, Flow(flow.epoch, flow.next_seq + 1, made.digest), *key)
        message = replace(
            message,
            payload=made.payload.without_content(),
            digest=made.digest,
            sealed_hash=sealed_hash(made.envelope),
        )
        return Written(replace(message, number=state.store.add_message(connection, message)), made.envelope)

    @staticmethod
    def _unsealed(draft: Payload, content: bytes, now: int, peer: PeerId | None) -> StoredMessage:
        return StoredMessage(
            payload=draft.without_content(),
            content=content,
            digest=bytes(32),
            sealed_hash=bytes(32),
            incoming=False,
            state=MessageState.QUEUED,
            peer=peer,
            stored_ms=now,
        )

    def _finish(self, connection: Connection, row: OutboxRow, record: KeyRecord) -> Written:
        store = self._state.store
        message = store.message_at(row.number, connection)
        assert message is not None, "an outbox row has its message"
        message, envelope = self._sealed(connection, message, record)
        store.set_message(connection, message)
        store.set_envelope(connection, row._replace(envelope=envelope, key_seq=record.seq))
        return Written(message, envelope)

    def _say_anew(self, connection: Connection, row: OutboxRow, record: KeyRecord) -> tuple[StoredMessage, Written]:
        state = self._state
        old = state.store.message_at(row.number, connection)
        assert old is not None, "an outbox row has its message"
        draft = replace(old.payload, id=uuid.uuid4().bytes)
        state.settle_in(connection, row.number, MessageState.SUPERSEDED, superseded_by=draft.id)
        return old, self._write(connection, to=row.peer, draft=draft, content=old.content, record=record)

    def _sealed(self, connection: Connection, message: StoredMessage, record: KeyRecord) -> Written:
        """With its number in the conversation, which is taken here and nowhere else."""
        state, recipient = self._state, message.payload.recipient
        key = self._flow_key(recipient)
        flow = state.store.flow(*key, connection=connection) or Flow(state.now_ms(), 1, bytes(32))
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

    def _count_anew(self, connection: Connection, recipient: bytes, *, epoch: int | None = None) -> None:
        """Begins an epoch in the conversation; with `epoch` only if that one still runs."""
        key = self._flow_key(recipient)
        flow = self._state.store.flow(*key, connection=connection)
        if flow is not None and epoch in (None, flow.epoch):
            begun = max(self._state.now_ms(), flow.epoch + 1)
            self._state.store.set_flow(connection, Flow(begun, 1, bytes(32)), *key)

    def _flow_key(self, recipient: bytes, channel: str = "") -> tuple[bytes, ...]:
        here = channel_conversation(channel) if recipient == BROADCAST else conversation(self._state.me, recipient)
        return OUT, self._generation, here

    # ------------------------------------------------------------------------------- helpers

    def _draft(self, recipient: bytes, message_type: int, content: bytes, ttl_s: int) -> Payload:
        state = self._state
        if recipient == state.me:
            raise RecipientUnknown("messages to oneself are not sent")
        if len(content) > MAX_SEALED_BYTES:
            raise LocalProtocolError(f"a message of {len(content)} bytes; {MAX_SEALED_BYTES} fit")
        if not 0 <= ttl_s <= MAX_TTL_SECONDS:
            raise LocalProtocolError(f"a time to live of {ttl_s} s")
        draft = Payload(
            id=uuid.uuid4().bytes,
            type=message_type,
            sender=state.me,
            recipient=recipient,
            timestamp_ms=state.now_ms(),
            ttl_s=ttl_s,
            suite=Suite.PLAIN if recipient == BROADCAST else Suite.SEALED,
        )
        if not 1 <= message_type <= MAX_TYPE or not draft.counted:
            raise LocalProtocolError(f"messages of type {message_type} are not kept")
        return draft

    async def _withdraw(self, message: StoredMessage) -> None:
        """It cannot be recorded, so it is never sent; what is written next must not point back to it."""
        state = self._state

        def write(connection: Connection) -> None:
            state.settle_in(connection, message.number, MessageState.FAILED)
            self._count_anew(connection, message.payload.recipient, epoch=message.payload.epoch)

        with trio.CancelScope(shield=True):
            await state.store.database.write(write)
        state.settled(message, MessageState.FAILED)


def _read(path: Path) -> bytes:
    """Empty where nothing can be read, which is another marker than ours."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
