"""Envelopes: a message sealed to its reader, signed around that, and sealed once more against those who carry it.

    inner  content  = 32 e.pub | ct                              under "talos/content/v1\\n", context M
    outer  envelope = 01 | 01 | 32 e.pub | 12 nonce | ct         under "talos/envelope/v1\\n", context 01 01 ‖ recipient

M, which names sender and recipient, is in the inner key and the recipient in the signed bytes and the outer context:
neither layer can be passed on as meant for, or written by, somebody else. The outer layer hides who wrote and when.
Broadcasts are `01 00 ‖ OuterBody`, open to all.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from google.protobuf.message import DecodeError

from talos.errors import BadSignature, EnvelopeRejected, LocalProtocolError, RemoteProtocolError
from talos.identity.keys import KeyType, PublicKey
from talos.messaging.canonical import SIGNATURE_DOMAIN, canonical, digest
from talos.messaging.code import Code, Suite
from talos.messaging.payload import BROADCAST, Payload
from talos.messaging.seal import KEY_BYTES, NONCE_BYTES, TAG_BYTES, Fresh, KeySource, Sealed, open_sealed, seal
from talos.wire.pb import messaging_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.identity.keys import PrivateKey

__all__ = [
    "MAX_BROADCAST_BYTES",
    "MAX_ENVELOPE_BYTES",
    "Opened",
    "OuterBody",
    "Outgoing",
    "is_broadcast",
    "open_inner",
    "open_outer",
    "plain_envelope",
    "seal_broadcast",
    "seal_message",
    "sealed_hash",
    "verify",
]

VERSION = 1
_CONTENT_DOMAIN: Final = b"talos/content/v1\n"
_ENVELOPE_DOMAIN: Final = b"talos/envelope/v1\n"
_SEALED_MARK: Final = bytes((VERSION, Suite.SEALED))
_PLAIN_MARK: Final = bytes((VERSION, Suite.PLAIN))
_FRONT_BYTES = len(_SEALED_MARK) + KEY_BYTES + NONCE_BYTES
_LENGTH_BYTES = 4

KIB = 1024
SMALLEST_PADDED = KIB
DOUBLING_TO = 64 * KIB
STEP = 8 * KIB
LARGEST_PADDED = 88 * KIB

MAX_ENVELOPE_BYTES = _FRONT_BYTES + LARGEST_PADDED + TAG_BYTES
MAX_BROADCAST_BYTES = 64 * KIB


class OuterBody(NamedTuple):
    """What the outer layer holds."""

    payload: bytes
    key_record: bytes
    """The sender's signed key record, at first contact and after a change; may be empty."""

    def encode(self) -> bytes:
        return pb.OuterBody(payload=self.payload, sender_key_record=self.key_record).SerializeToString()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A finished message: retries send these very bytes."""

    payload: Payload
    envelope: bytes
    digest: bytes
    frank: bytes
    """Opens the commitment: with it and the content a third party can be shown what was said."""


class Opened(NamedTuple):
    """What the reader gets."""

    content: bytes
    frank: bytes


def seal_message(
    draft: Payload,
    content: bytes,
    sender: PrivateKey,
    to: bytes,
    *,
    key_record: bytes = b"",
    keys: KeySource | None = None,
) -> Outgoing:
    """The envelope of `content` to the X25519 key `to` of `draft.recipient`.

    `draft` has all that is signed but commit, nonce and signature. LocalProtocolError where it breaks the rules of
    a message or does not fit an envelope.
    """
    keys = keys or Fresh()
    inner_ephemeral, frank, nonce = keys.key(), keys.key(), keys.nonce()
    commit = hmac.digest(frank, content, "sha256")
    draft = replace(draft, suite=Suite.SEALED, commit=commit, nonce=nonce, content=b"", signature=b"")
    m = canonical(draft)
    inner = seal(to, _CONTENT_DOMAIN, m, frank + content, ephemeral=inner_ephemeral, nonce=nonce)
    payload = _sign(draft, m, inner.ephemeral + inner.ciphertext, sender)
    padded = _pad(OuterBody(payload.encode(), key_record).encode())
    outer_nonce = keys.nonce()
    outer = seal(
        to, _ENVELOPE_DOMAIN, _SEALED_MARK + payload.recipient, padded, ephemeral=keys.key(), nonce=outer_nonce
    )
    envelope = b"".join((_SEALED_MARK, outer.ephemeral, outer_nonce, outer.ciphertext))
    return Outgoing(payload, envelope, digest(m, payload.content), frank)


def seal_broadcast(draft: Payload, content: bytes, sender: PrivateKey) -> Outgoing:
    """The open envelope of `content` to everybody. LocalProtocolError as `seal_message`."""
    draft = replace(draft, suite=Suite.PLAIN, recipient=BROADCAST, content=b"", signature=b"")
    m = canonical(draft)
    payload = _sign(draft, m, content, sender)
    envelope = plain_envelope(payload, content)
    if len(envelope) > MAX_BROADCAST_BYTES:
        raise LocalProtocolError(f"a broadcast of {len(envelope)} bytes; {MAX_BROADCAST_BYTES} fit")
    return Outgoing(payload, envelope, digest(m, content), b"")


def plain_envelope(payload: Payload, content: bytes) -> bytes:
    """The envelope of a broadcast that is signed already."""
    return _PLAIN_MARK + OuterBody(replace(payload, content=content).encode(), b"").encode()


def is_broadcast(envelope: bytes) -> bool:
    """Whether it says that it is open to all."""
    return envelope.startswith(_PLAIN_MARK)


def sealed_hash(envelope: bytes) -> bytes:
    """How receipts and the audit log name an envelope."""
    return sha256(b"talos/sealed/v1\n" + envelope).digest()


def open_outer(envelope: bytes, recipient: bytes, secrets: Sequence[bytes]) -> OuterBody:
    """The outer layer's content, by the first of our X25519 `secrets` that fits; `recipient` is our identity.

    EnvelopeRejected: TOO_LARGE, UNSUPPORTED or UNKNOWN_KEY, and BAD_PAYLOAD for padding that is not zero.
    """
    mark, broadcast = envelope[:2], envelope.startswith(_PLAIN_MARK)
    if len(envelope) > (MAX_BROADCAST_BYTES if broadcast else MAX_ENVELOPE_BYTES):
        raise EnvelopeRejected(f"an envelope of {len(envelope)} bytes", code=Code.TOO_LARGE)
    if broadcast:
        return _outer_body(envelope[len(mark) :])
    if mark != _SEALED_MARK:
        raise EnvelopeRejected("an envelope of another version or suite", code=Code.UNSUPPORTED)
    if not _padded_size(len(envelope) - _FRONT_BYTES - TAG_BYTES):
        raise EnvelopeRejected(f"an envelope of {len(envelope)} bytes, which is no size class", code=Code.BAD_FRAME)
    sealed, nonce = Sealed(envelope[2 : 2 + KEY_BYTES], envelope[_FRONT_BYTES:]), envelope[2 + KEY_BYTES : _FRONT_BYTES]
    for secret in secrets:
        padded = open_sealed(secret, _ENVELOPE_DOMAIN, _SEALED_MARK + recipient, sealed, nonce=nonce)
        if padded is not None:
            return _outer_body(_unpad(padded))
    raise EnvelopeRejected("an envelope for a key that is not ours", code=Code.UNKNOWN_KEY)


def verify(payload: Payload) -> tuple[bytes, bytes]:
    """M and the digest of a payload that its sender signed; EnvelopeRejected(BAD_SIGNATURE) otherwise."""
    m = canonical(payload)
    found = digest(m, payload.content)
    try:
        PublicKey(KeyType.ED25519, payload.sender).verify(SIGNATURE_DOMAIN + found, payload.signature)
    except (BadSignature, RemoteProtocolError) as error:
        raise EnvelopeRejected("a message that its sender did not sign", code=Code.BAD_SIGNATURE) from error
    return m, found


def open_inner(payload: Payload, m: bytes, secrets: Sequence[bytes]) -> Opened:
    """The content, by the first of our secrets that fits; EnvelopeRejected(BAD_PAYLOAD) when none does."""
    if payload.suite == Suite.PLAIN:
        return Opened(payload.content, b"")
    sealed = Sealed(payload.content[:KEY_BYTES], payload.content[KEY_BYTES:])
    if len(sealed.ephemeral) == KEY_BYTES:
        for secret in secrets:
            plain = open_sealed(secret, _CONTENT_DOMAIN, m, sealed, nonce=payload.nonce)
            if plain is not None:
                return _opened(plain, payload.commit)
    raise EnvelopeRejected("content that our keys do not open", code=Code.BAD_PAYLOAD)


def _opened(plain: bytes, commit: bytes) -> Opened:
    frank, content = plain[:KEY_BYTES], plain[KEY_BYTES:]
    if len(frank) != KEY_BYTES or not hmac.compare_digest(hmac.digest(frank, content, "sha256"), commit):
        raise EnvelopeRejected("content that is not what was committed to", code=Code.BAD_PAYLOAD)
    return Opened(content, frank)


def _sign(draft: Payload, m: bytes, content: bytes, sender: PrivateKey) -> Payload:
    if sender.public_key.type is not KeyType.ED25519 or sender.public_key.data != draft.sender:
        raise LocalProtocolError("a message is signed by its sender's Ed25519 key")
    signature = sender.sign(SIGNATURE_DOMAIN + digest(m, content))
    payload = replace(draft, content=content, signature=signature)
    try:
        payload.check()
    except EnvelopeRejected as error:
        raise LocalProtocolError(f"not a message: {error}") from error
    return payload


def _pad(body: bytes) -> bytes:
    """`u32 length ‖ body ‖ zeros` up to the next size class."""
    used = _LENGTH_BYTES + len(body)
    size = SMALLEST_PADDED
    while size < used:
        size += size if size < DOUBLING_TO else STEP
    if size > LARGEST_PADDED:
        raise LocalProtocolError(f"a message of {len(body)} bytes does not fit an envelope")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body + bytes(size - used)


def _padded_size(size: int) -> bool:
    if not SMALLEST_PADDED <= size <= LARGEST_PADDED:
        return False
    return size.bit_count() == 1 if size <= DOUBLING_TO else size % STEP == 0


def _unpad(padded: bytes) -> bytes:
    end = _LENGTH_BYTES + int.from_bytes(padded[:_LENGTH_BYTES], "big")
    if end > len(padded) or padded.count(0, end) != len(padded) - end:
        raise EnvelopeRejected("padding that is not zero", code=Code.BAD_PAYLOAD)
    return padded[_LENGTH_BYTES:end]


def _outer_body(data: bytes) -> OuterBody:
    try:
        found = pb.OuterBody.FromString(data)
    except DecodeError as error:
        raise EnvelopeRejected("an envelope without a message", code=Code.BAD_PAYLOAD) from error
    return OuterBody(found.payload, found.sender_key_record)
