"""A message as it is signed and sealed: its fields, and the checks that need no key and no memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from talos.errors import EnvelopeRejected
from talos.messaging.code import Code, MessageType, Suite
from talos.wire.pb import messaging_pb2 as pb

__all__ = ["BROADCAST", "ChunkInfo", "Payload"]

BROADCAST = b"*"
"""The recipient that is everybody."""
ID_BYTES = 16
KEY_BYTES = 32
HASH_BYTES = 32
NONCE_BYTES = 12
SIGNATURE_BYTES = 64
MAX_CHANNEL_BYTES = 64
MAX_CONTENT_BYTES = 80 * 1024
MAX_NUMBER = 2**62
NONE = bytes(HASH_BYTES)
APPLICATION_TYPES = range(0x40, 0x80)
_KNOWN_TYPES = frozenset(MessageType)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkInfo:
    """The place of a chunk in a live stream."""

    stream_id: bytes
    index: int
    total: int = 0
    """0 while nobody knows."""
    offset: int = 0
    size: int = 0
    hash: bytes = NONE
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """One message. Fields outside this class carry no meaning and are not signed."""

    id: bytes
    type: int
    sender: bytes
    """An Ed25519 key."""
    recipient: bytes
    """An Ed25519 key, or `BROADCAST`."""
    timestamp_ms: int
    content: bytes = b""
    signature: bytes = b""
    nonce: bytes = bytes(NONCE_BYTES)
    chunk_info: ChunkInfo | None = None
    suite: int = Suite.SEALED
    epoch: int = 0
    """Unix milliseconds at which the sender's counter for this conversation began."""
    seq: int = 0
    prev: bytes = NONE
    """Digest of the sender's previous counted message here; zeros for the first."""
    commit: bytes = NONE
    channel: str = ""
    device: int = 0
    ttl_s: int = 0

    @property
    def counted(self) -> bool:
        """Whether it has a place in the order of its conversation; unknown types have."""
        return self.type not in (MessageType.ACK, MessageType.STREAM_CHUNK)

    @property
    def supported(self) -> bool:
        """Whether this program knows what the type means, or leaves it to an application."""
        return self.type in _KNOWN_TYPES or self.type in APPLICATION_TYPES

    @property
    def to_all(self) -> bool:
        """Whether it is a broadcast."""
        return self.recipient == BROADCAST

    def without_content(self) -> Payload:
        """As it is kept, beside what it says."""
        return replace(self, content=b"")

    def encode(self) -> bytes:
        """The protobuf form: fields in order, defaults left out."""
        message = pb.MessagePayload(
            id=self.id,
            type=self.type,
            sender=self.sender,
            recipient=self.recipient,
            timestamp_ms=self.timestamp_ms,
            content=self.content,
            signature=self.signature,
            nonce=self.nonce,
            suite=self.suite,
            epoch=self.epoch,
            seq=self.seq,
            prev=self.prev,
            commit=self.commit,
            channel=self.channel,
            device=self.device,
            ttl_s=self.ttl_s,
        )
        if self.chunk_info is not None:
            message.chunk_info.CopyFrom(_chunk_to_pb(self.chunk_info))
        return message.SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> Payload:
        """The message in `data`, every field of its exact length; EnvelopeRejected(BAD_PAYLOAD) otherwise."""
        payload = cls.parse(data)
        payload.check()
        return payload

    @classmethod
    def parse(cls, data: bytes) -> Payload:
        """As `decode`, its fields unchecked: for what this node has written itself."""
        try:
            found = pb.MessagePayload.FromString(data)
        except DecodeError as error:
            raise EnvelopeRejected("a message that is no protobuf", code=Code.BAD_PAYLOAD) from error
        return cls(
            id=found.id,
            type=found.type,
            sender=found.sender,
            recipient=found.recipient,
            timestamp_ms=found.timestamp_ms,
            content=found.content,
            signature=found.signature,
            nonce=found.nonce,
            chunk_info=_chunk_of(found.chunk_info) if found.HasField("chunk_info") else None,
            suite=found.suite,
            epoch=found.epoch,
            seq=found.seq,
            prev=found.prev,
            commit=found.commit,
            channel=found.channel,
            device=found.device,
            ttl_s=found.ttl_s,
        )

    def check(self) -> None:
        """EnvelopeRejected unless the shape is that of a message: lengths, UUID bits, type and order fields agree."""
        fault = self._fault_of_lengths() or self._fault_of_order() or self._fault_of_chunk()
        if fault:
            raise EnvelopeRejected(fault, code=Code.BAD_PAYLOAD)
        if self.suite not in frozenset(Suite):
            raise EnvelopeRejected(f"content of suite {self.suite}", code=Code.UNSUPPORTED)

    def _fault_of_lengths(self) -> str:
        exact = (
            ("id", self.id, ID_BYTES),
            ("sender", self.sender, KEY_BYTES),
            ("signature", self.signature, SIGNATURE_BYTES),
            ("nonce", self.nonce, NONCE_BYTES),
            ("prev", self.prev, HASH_BYTES),
            ("commit", self.commit, HASH_BYTES),
        )
        for name, value, size in exact:
            if len(value) != size:
                return f"{name} of {len(value)} bytes instead of {size}"
        if self.id[6] >> 4 != 4 or self.id[8] >> 6 != 2:
            return "an id that is no random UUID"
        if self.recipient != BROADCAST and len(self.recipient) != KEY_BYTES:
            return f"recipient of {len(self.recipient)} bytes"
        if len(self.channel.encode()) > MAX_CHANNEL_BYTES or len(self.content) > MAX_CONTENT_BYTES:
            return "too long a channel or content"
        return ""

    def _fault_of_order(self) -> str:
        if not 1 <= self.type <= 0x7F:
            return f"message of type {self.type}"
        if max(self.seq, self.epoch, self.timestamp_ms) > MAX_NUMBER:
            return "a number that is no count and no time"
        if self.counted != (self.seq > 0) or self.counted != (self.epoch > 0):
            return "a counted message without its number, or a number where there is none"
        if (self.seq <= 1) and self.prev != NONE:
            return "a first message that names one before it"
        if (self.recipient == BROADCAST) != (self.suite == Suite.PLAIN):
            return "a broadcast that is sealed, or a letter that is not"
        if self.suite == Suite.PLAIN and (self.commit != NONE or self.nonce != bytes(NONCE_BYTES)):
            return "a plain message with the marks of a sealed one"
        return ""

    def _fault_of_chunk(self) -> str:
        chunk = self.chunk_info
        if (chunk is not None) != (self.type == MessageType.STREAM_CHUNK):
            return "a chunk without its place, or a place without a chunk"
        if chunk is None:
            return ""
        if len(chunk.stream_id) != ID_BYTES or len(chunk.hash) != HASH_BYTES:
            return "a chunk whose stream or hash has another length"
        if chunk.total and chunk.index >= chunk.total:
            return f"chunk {chunk.index} of {chunk.total}"
        return ""


def _chunk_to_pb(chunk: ChunkInfo) -> pb.ChunkInfo:
    return pb.ChunkInfo(
        stream_id=chunk.stream_id,
        index=chunk.index,
        total=chunk.total,
        offset=chunk.offset,
        size=chunk.size,
        hash=chunk.hash,
        last=chunk.last,
    )


def _chunk_of(found: pb.ChunkInfo) -> ChunkInfo:
    return ChunkInfo(
        stream_id=found.stream_id,
        index=found.index,
        total=found.total,
        offset=found.offset,
        size=found.size,
        hash=found.hash,
        last=found.last,
    )
