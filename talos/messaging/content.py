"""What messages say: the contents of each type, bytes ↔ dataclasses (docs/protocols/messaging.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from talos.abc import SignedReceipt
from talos.errors import EnvelopeRejected
from talos.messaging.code import AckState, Code
from talos.wire.pb import messaging_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_ACK_ITEMS", "MAX_BODY_BYTES", "Ack", "AckItem", "StreamEnd", "StreamKind", "StreamStart", "Text"]

MAX_BODY_BYTES = 64 * 1024
MAX_MEDIA_TYPE_BYTES = 128
MAX_SUBJECT_BYTES = 256
MAX_ACK_ITEMS = 64
MAX_INLINE_MANIFEST_BYTES = 32 * 1024
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_NAME_BYTES = 1024
MAX_CODEC_BYTES = 64
ID_BYTES = 16
HASH_BYTES = 32

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A letter."""

    body: bytes
    media_type: str = "text/plain"
    reply_to: bytes = b""
    """The id of the message that this one answers."""
    subject: str = ""

    def encode(self) -> bytes:
        return pb.Text(
            media_type=self.media_type, body=self.body, reply_to=self.reply_to, subject=self.subject
        ).SerializeToString()

    @classmethod
    def decode(cls, data: bytes) -> Text:
        found = _parsed(pb.Text, data, "a text")
        _check(len(found.body) <= MAX_BODY_BYTES, "a text over 64 KiB")
        _check(len(found.media_type.encode()) <= MAX_MEDIA_TYPE_BYTES, "a media type over 128 bytes")
        _check(len(found.subject.encode()) <= MAX_SUBJECT_BYTES, "a subject over 256 bytes")
        _check(len(found.reply_to) in (0, ID_BYTES), "an answer to no message id")
        return cls(body=found.body, media_type=found.media_type, reply_to=found.reply_to, subject=found.subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class AckItem:
    """What became of one message. `code` says why one was declined."""

    id: bytes
    digest: bytes
    state: AckState
    code: int = 0
    receipt: SignedReceipt | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """Acknowledgement of up to 64 messages."""

    items: Sequence[AckItem]

    def encode(self) -> bytes:
        return pb.Ack(items=[_ack_item_to_pb(item) for item in self.items]).SerializeToString()

    @classmethod
    def decode(cls, data: bytes) -> Ack:
        found = _parsed(pb.Ack, data, "an acknowledgement")
        _check(1 <= len(found.items) <= MAX_ACK_ITEMS, f"an acknowledgement of {len(found.items)} messages")
        return cls(tuple(_ack_item_of(item) for item in found.items))


class StreamKind:
    """What a stream carries."""

    FILE = 1
    LIVE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStart:
    """An offer: a file, a directory, or a live stream."""

    stream_id: bytes
    kind: int
    codec: str = ""
    media_type: str = ""
    priority: int = 0
    total_size: int = 0
    files: int = 0
    key: bytes = b""
    manifest: bytes = b""
    manifest_hash: bytes = b""
    manifest_size: int = 0
    name: str = ""

    def encode(self) -> bytes:
        return pb.StreamStart(
            stream_id=self.stream_id,
            kind=self.kind,
            codec=self.codec,
            media_type=self.media_type,
            priority=self.priority,
            total_size=self.total_size,
            files=self.files,
            key=self.key,
            manifest=self.manifest,
            manifest_hash=self.manifest_hash,
            manifest_size=self.manifest_size,
            name=self.name,
        ).SerializeToString()

    @classmethod
    def decode(cls, data: bytes) -> StreamStart:
        found = _parsed(pb.StreamStart, data, "an offer")
        _check(len(found.stream_id) == ID_BYTES, "a stream whose id has another length")
        _check(found.kind in (StreamKind.FILE, StreamKind.LIVE), f"a stream of kind {found.kind}")
        _check(len(found.name.encode()) <= MAX_NAME_BYTES, "a name over 1,024 bytes")
        _check(len(found.codec.encode()) <= MAX_CODEC_BYTES, "a codec's name over 64 bytes")
        _check(len(found.media_type.encode()) <= MAX_MEDIA_TYPE_BYTES, "a media type over 128 bytes")
        if found.kind == StreamKind.FILE:
            _check(len(found.key) == HASH_BYTES, "an offer of files without their key")
            _check(len(found.manifest_hash) == HASH_BYTES, "an offer of files without the hash of their list")
            _check(len(found.manifest) <= MAX_INLINE_MANIFEST_BYTES, "a list of files over 32 KiB in the offer")
            _check(0 < found.manifest_size <= MAX_MANIFEST_BYTES, "a list of files over 4 MiB, or none")
        return cls(
            stream_id=found.stream_id,
            kind=found.kind,
            codec=found.codec,
            media_type=found.media_type,
            priority=found.priority,
            total_size=found.total_size,
            files=found.files,
            key=found.key,
            manifest=found.manifest,
            manifest_hash=found.manifest_hash,
            manifest_size=found.manifest_size,
            name=found.name,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnd:
    """How a stream ended: status 0 when it is whole, else a code of files."""

    stream_id: bytes
    status: int = 0
    bytes_total: int = 0
    chunks: int = 0
    root: bytes = b""

    def encode(self) -> bytes:
        return pb.StreamEnd(
            stream_id=self.stream_id, status=self.status, bytes=self.bytes_total, chunks=self.chunks, root=self.root
        ).SerializeToString()

    @classmethod
    def decode(cls, data: bytes) -> StreamEnd:
        found = _parsed(pb.StreamEnd, data, "the end of a stream")
        _check(len(found.stream_id) == ID_BYTES, "a stream whose id has another length")
        _check(len(found.root) in (0, HASH_BYTES), "a root of another length")
        return cls(
            stream_id=found.stream_id,
            status=found.status,
            bytes_total=found.bytes,
            chunks=found.chunks,
            root=found.root,
        )


def _ack_item_to_pb(item: AckItem) -> pb.AckItem:
    made = pb.AckItem(id=item.id, digest=item.digest, state=item.state, code=item.code)
    if item.receipt is not None:
        made.receipt.CopyFrom(pb.Receipt(body=item.receipt.body, sig=item.receipt.sig))
    return made


def _ack_item_of(found: pb.AckItem) -> AckItem:
    _check(len(found.id) == ID_BYTES and len(found.digest) == HASH_BYTES, "an acknowledgement of no message")
    _check(found.state in frozenset(AckState), f"an acknowledgement of state {found.state}")
    receipt = SignedReceipt(found.receipt.body, found.receipt.sig) if found.HasField("receipt") else None
    return AckItem(id=found.id, digest=found.digest, state=AckState(found.state), code=found.code, receipt=receipt)


def _parsed(kind: type[M], data: bytes, what: str) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise EnvelopeRejected(f"{what} that is no protobuf", code=Code.BAD_PAYLOAD) from error


def _check(holds: bool, fault: str) -> None:  # noqa: FBT001 - an assertion about what a peer sent
    if not holds:
        raise EnvelopeRejected(fault, code=Code.BAD_PAYLOAD)
