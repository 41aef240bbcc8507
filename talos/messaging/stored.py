"""What the message store holds, by its meaning: messages, what waits to be sent, counters, strangers' letters."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from talos.abc import SignedReceipt
from talos.identity.peer_id import PeerId
from talos.messaging.payload import Payload
from talos.wire.pb import message_store_pb2 as pb

__all__ = [
    "Flow",
    "MessageState",
    "OutboxRow",
    "Seen",
    "StoredMessage",
    "WaitingLetter",
    "decode_message",
    "encode_message",
    "encode_row",
]


class MessageState(enum.IntEnum):
    """How far a message is; numbers only rise until one of the last four ends it."""

    QUEUED = 1
    SENT = 2
    """Written to a stream of the recipient's node."""
    STORED = 3
    """Kept sealed by the recipient's node until its owner lets us in."""
    DELIVERED = 4
    """Verified, opened and durable there; its receipt is signed."""
    READ = 5
    FAILED = 6
    EXPIRED = 7
    SUPERSEDED = 8
    """Sealed to a key that the recipient has no more; another message says the same."""
    RECEIVED = 9
    """Of a message that came to us."""

    @property
    def final(self) -> bool:
        return self in (MessageState.READ, MessageState.FAILED, MessageState.EXPIRED, MessageState.SUPERSEDED)

    def may_become(self, state: MessageState) -> bool:
        """States only rise, and what was delivered can only be read."""
        return not self.final and (state is MessageState.READ if self is MessageState.DELIVERED else state > self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A row of the history."""

    payload: Payload
    """Of our own messages without the sealed content, which is in the outbox until it is delivered."""
    content: bytes
    digest: bytes
    sealed_hash: bytes
    incoming: bool
    state: MessageState
    peer: PeerId | None = None
    """The other side; None for a broadcast."""
    frank: bytes = b""
    mark: str = ""
    stored_ms: int = 0
    settled_ms: int = 0
    read_ms: int = 0
    code: int = 0
    ack_state: int = 0
    """What we answered to it, or it was answered."""
    leaf: bytes = b""
    receipt: SignedReceipt | None = None
    superseded_by: bytes = b""
    """The id of the message that says it anew."""
    wiped: bool = False
    """Its `ttl_s` is over: no content is left."""
    number: int = 0
    """Its place in the history; 0 before it has one."""

    @property
    def id(self) -> bytes:
        return self.payload.id


class OutboxRow(NamedTuple):
    """What waits to be sent: the finished envelope, the same bytes at every attempt."""

    number: int
    peer: PeerId
    envelope: bytes
    attempt: int
    due_ms: int
    expires_ms: int
    key_seq: int = 0
    """Of the recipient's key record that it was sealed with."""


class Seen(NamedTuple):
    """What is remembered of a message that came."""

    digest: bytes
    signature: bytes
    number: int


class Flow(NamedTuple):
    """A counter: of ours towards a conversation, or of a sender's in one epoch."""

    epoch: int
    next_seq: int
    last: bytes


class WaitingLetter(NamedTuple):
    """An envelope of a stranger that the owner has not let in."""

    number: int
    peer: PeerId
    envelope: bytes
    since_ms: int


def encode_row(row: OutboxRow) -> bytes:
    return pb.Waiting(envelope=row.envelope, peer=row.peer.to_bytes(), key_seq=row.key_seq).SerializeToString()


def encode_message(message: StoredMessage) -> bytes:
    receipt = message.receipt or SignedReceipt(b"", b"")
    return pb.StoredMessage(
        payload=message.payload.encode(),
        content=message.content,
        digest=message.digest,
        frank=message.frank,
        sealed_hash=message.sealed_hash,
        peer=b"" if message.peer is None else message.peer.to_bytes(),
        mark=message.mark,
        stored_ms=message.stored_ms,
        settled_ms=message.settled_ms,
        read_ms=message.read_ms,
        code=message.code,
        ack_state=message.ack_state,
        leaf=message.leaf,
        receipt_body=receipt.body,
        receipt_sig=receipt.sig,
        superseded_by=message.superseded_by,
        wiped=message.wiped,
    ).SerializeToString()


def decode_message(data: bytes, number: int, state: MessageState, *, incoming: bool) -> StoredMessage:
    found = pb.StoredMessage.FromString(data)
    return StoredMessage(
        payload=Payload.parse(found.payload),
        content=found.content,
        digest=found.digest,
        sealed_hash=found.sealed_hash,
        incoming=incoming,
        state=state,
        peer=PeerId.from_bytes(found.peer) if found.peer else None,
        frank=found.frank,
        mark=found.mark,
        stored_ms=found.stored_ms,
        settled_ms=found.settled_ms,
        read_ms=found.read_ms,
        code=found.code,
        ack_state=found.ack_state,
        leaf=found.leaf,
        receipt=SignedReceipt(found.receipt_body, found.receipt_sig) if found.receipt_body else None,
        superseded_by=found.superseded_by,
        wiped=found.wiped,
        number=number,
    )
