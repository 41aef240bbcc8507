"""What the parts of messaging share."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from talos.abc import AuditEntry, Direction, EntryKind
from talos.errors import AuditError
from talos.messaging.channel import topic_of
from talos.messaging.code import MessageType
from talos.messaging.content import Text
from talos.messaging.payload import BROADCAST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random
    from sqlite3 import Connection

    from talos.abc import AuditLog, AuditReceipt, Host, SignedReceipt
    from talos.identity.peer_id import PeerId
    from talos.messaging.config import MessagingConfig
    from talos.messaging.keybook import KeyBook
    from talos.messaging.people import Acquaintances, Keyring
    from talos.messaging.store import MessageState, Store, StoredMessage

__all__ = ["State", "Watch"]

_log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
"""Of what is said to everybody."""


class Watch:
    """Who waits for what becomes of a message, and for messages that come."""

    def __init__(self) -> None:
        self._settled: dict[bytes, trio.Event] = {}
        self._arrived = trio.Event()

    def changed(self, message_id: bytes) -> None:
        """The state of one of ours has changed."""
        event = self._settled.pop(message_id, None)
        if event is not None:
            event.set()

    async def change_of(self, message_id: bytes) -> None:
        """Returns at the next change."""
        event = self._settled.setdefault(message_id, trio.Event())
        try:
            await event.wait()
        finally:
            if not event.is_set() and not event.statistics().tasks_waiting:
                self._settled.pop(message_id, None)

    def arrived(self) -> None:
        """A message's turn to be shown has come."""
        self._arrived.set()
        self._arrived = trio.Event()

    @property
    def arrival(self) -> trio.Event:
        """Set at the next one; to be taken before the store is read."""
        return self._arrived


@dataclass(slots=True, kw_only=True, eq=False)
class State:
    """The node's messaging, without its behaviour."""

    host: Host
    keyring: Keyring
    config: MessagingConfig
    audit: AuditLog
    store: Store
    book: KeyBook
    people: Acquaintances
    now_ms: Callable[[], int]
    random: Random
    watch: Watch = field(default_factory=Watch)
    recording: set[int] = field(default_factory=set)
    """Numbers of messages whose writer is about to record them: nobody else sends them before."""
    recorded: set[int] = field(default_factory=set)
    """Numbers of messages of ours that the audit log has for certain, of this run; those that are over leave."""

    async def patiently(self, function: Callable[[], Awaitable[None]]) -> None:
        """Runs what writes unasked; where the store or the log refuses it waits, and begins again."""
        while True:
            try:
                await function()
            except AuditError as error:
                _log.warning("messages are not written: %s", error)
            else:
                return
            await trio.sleep(PATIENCE_SECONDS)

    @property
    def me(self) -> bytes:
        """Our Ed25519 key."""
        return self.keyring.identity.public_key.data

    async def record(self, messages: Sequence[tuple[StoredMessage, bytes]]) -> Sequence[AuditReceipt]:
        """Makes the entries of messages, each with its envelope, durable in the audit log.

        AuditError, and nothing may happen with any of them, where that cannot be.
        """
        receipts = await self.audit.record_many([self.entry(message, envelope) for message, envelope in messages])
        leaves = []
        for (message, _), receipt in zip(messages, receipts, strict=True):
            if not message.incoming:
                self.recorded.add(message.number)
            if message.leaf != receipt.leaf:
                leaves.append((message.number, receipt.leaf))

        def write(connection: Connection) -> None:
            for number, leaf in leaves:
                self.store.set_recorded(connection, number, leaf)

        if leaves:
            self.store.database.write_soon(write, then=self.watch.arrived)
        return receipts

    def entry(self, message: StoredMessage, envelope: bytes = b"") -> AuditEntry:
        """SENT or RECEIVED; a message that is to vanish leaves the hash of its envelope alone."""
        payload = message.payload
        other = BROADCAST if message.peer is None else message.peer.to_bytes()
        mine = BROADCAST if payload.to_all and message.incoming else self.host.peer_id.to_bytes()
        sender, recipient = (other, mine) if message.incoming else (mine, other)
        return AuditEntry(
            kind=EntryKind.RECEIVED if message.incoming else EntryKind.SENT,
            msg_id=payload.id,
            direction=Direction.IN if message.incoming else Direction.OUT,
            counterparty=topic_of(payload.channel).encode() if payload.to_all else other,
            time_ms=message.stored_ms,
            sender=sender,
            recipient=recipient,
            type=payload.type,
            size=len(message.content),
            sent_ms=payload.timestamp_ms,
            detail=_media_type(message).encode(),
            sealed=b"" if payload.ttl_s else envelope,
            sealed_hash=message.sealed_hash,
            signature=payload.signature,
        )

    def receipt_entry(self, message: StoredMessage, peer: PeerId, receipt: SignedReceipt) -> AuditEntry:
        """RECEIPT_GOT for a message of ours."""
        return AuditEntry(
            kind=EntryKind.RECEIPT_GOT,
            msg_id=message.id,
            direction=Direction.OUT,
            counterparty=peer.to_bytes(),
            time_ms=self.now_ms(),
            receipt=receipt,
        )

    def on_its_way(self, messages: Sequence[StoredMessage], state: MessageState) -> None:
        """Writes how far messages of ours are that stay in the outbox, without waiting for the disk."""

        def write(connection: Connection) -> None:
            for message in messages:
                self.store.change(connection, message.number, state=state)

        def tell() -> None:
            for message in messages:
                self.watch.changed(message.id)

        self.store.database.write_soon(write, then=tell)

    async def settle(self, message: StoredMessage, state: MessageState, **changes: object) -> bool:
        """Writes what became of a message of ours, takes it out of the outbox, and tells who waits for that.

        False where it was over already.
        """

        def write(connection: Connection) -> bool:
            return self.settle_in(connection, message.number, state, **changes)

        done = await self.store.database.write(write)
        self.settled(message, state)
        return done

    def settle_in(self, connection: Connection, number: int, state: MessageState, **changes: object) -> bool:
        """The part of `settle` inside a transaction."""
        done = self.store.change(connection, number, state=state, settled_ms=self.now_ms(), **changes)
        if done is not None:
            self.store.remove_outbox(connection, number)
        return done is not None

    def settled(self, message: StoredMessage, state: MessageState) -> None:
        """The part of `settle` behind the transaction."""
        self.recorded.discard(message.number)
        _log.debug("message %s is %s", message.id.hex(), state.name)
        self.watch.changed(message.id)


def _media_type(message: StoredMessage) -> str:
    return Text.decode(message.content).media_type if message.payload.type == MessageType.TEXT else ""
