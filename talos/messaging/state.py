"""What the parts of messaging share."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from talos.abc import AuditEntry, Direction, EntryKind
from talos.messaging.code import MessageType
from talos.messaging.content import Text
from talos.messaging.store import MessageState

if TYPE_CHECKING:
    from collections.abc import Callable
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
        await self._settled.setdefault(message_id, trio.Event()).wait()

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
    recorded: set[int] = field(default_factory=set)
    """Numbers of messages that the audit log has for certain, of this run; those that are settled leave."""

    @property
    def me(self) -> bytes:
        """Our Ed25519 key."""
        return self.keyring.identity.public_key.data

    async def record(self, message: StoredMessage, envelope: bytes) -> AuditReceipt:
        """Makes a message's entry durable in the audit log: AuditError, and nothing may happen, where it cannot be."""
        receipt = await self.audit.record(self.entry(message, envelope))
        self.recorded.add(message.number)
        self.store.database.write_soon(lambda c: self.store.set_recorded(c, message.number, receipt.leaf))
        return receipt

    def entry(self, message: StoredMessage, envelope: bytes = b"") -> AuditEntry:
        """SENT or RECEIVED; a message that is to vanish leaves the hash of its envelope alone."""
        payload = message.payload
        other = b"*" if message.peer is None else message.peer.to_bytes()
        mine = self.host.peer_id.to_bytes()
        sender, recipient = (other, mine) if message.incoming else (mine, other)
        return AuditEntry(
            kind=EntryKind.RECEIVED if message.incoming else EntryKind.SENT,
            msg_id=payload.id,
            direction=Direction.IN if message.incoming else Direction.OUT,
            counterparty=other,
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

    def on_its_way(self, message: StoredMessage, state: MessageState) -> None:
        """Writes how far a message of ours is that stays in the outbox, without waiting for the disk."""
        changed = replace(message, state=state)
        self.store.database.write_soon(
            partial(self.store.set_message, message=changed), then=partial(self.watch.changed, message.id)
        )

    async def settle(self, message: StoredMessage, state: MessageState, *, code: int = 0) -> None:
        """Writes what became of a message of ours, takes it out of the outbox, and tells who waits for that."""
        done = replace(message, state=state, code=code, settled_ms=self.now_ms())

        def write(connection: Connection) -> None:
            self.store.set_message(connection, done)
            self.store.remove_outbox(connection, message.number)

        await self.store.database.write(write)
        self.recorded.discard(message.number)
        _log.debug("message %s is %s", message.id.hex(), state.name)
        self.watch.changed(message.id)


def _media_type(message: StoredMessage) -> str:
    return Text.decode(message.content).media_type if message.payload.type == MessageType.TEXT else ""
