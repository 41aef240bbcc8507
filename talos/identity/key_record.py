"""Key records: an X25519 key for sealed messages, signed by the Ed25519 identity that it belongs to.

Published under `/talos/keys/<peer id>` as a signed envelope, so that any libp2p node can check the signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from talos.errors import LocalProtocolError, RemoteProtocolError
from talos.identity.envelope import Envelope
from talos.identity.keys import KeyType
from talos.wire import fields

if TYPE_CHECKING:
    from talos.identity.keys import PrivateKey

__all__ = ["DOMAIN", "MAX_LIFETIME_MS", "MAX_NAME_BYTES", "PAYLOAD_TYPE", "KeyRecord"]

DOMAIN = "talos-keys-v1"
PAYLOAD_TYPE = b"/talos/keys"
VERSION = 1
MAX_NAME_BYTES = 64
DAY_MS = 86_400_000
MAX_LIFETIME_MS = 40 * DAY_MS

_VERSION, _IDENTITY, _X25519, _SEQ, _NOT_BEFORE, _NOT_AFTER, _NAME, _STAMP_BITS = range(1, 9)
_NUMBERS = (_VERSION, _SEQ, _NOT_BEFORE, _NOT_AFTER, _STAMP_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What the record says; times are Unix milliseconds. `name` is a claim of its signer and proves nothing."""

    identity: bytes
    x25519: bytes
    seq: int
    not_before_ms: int
    not_after_ms: int
    name: str = ""
    stamp_bits: int = 0

    def seal(self, key: PrivateKey) -> bytes:
        """The signed envelope; LocalProtocolError when `key` is not that of `identity`."""
        if key.public_key.type is not KeyType.ED25519 or key.public_key.data != self.identity:
            raise LocalProtocolError("a key record is signed by its identity alone")
        return Envelope.seal(key, DOMAIN, PAYLOAD_TYPE, self._encode()).raw

    @classmethod
    def open(cls, data: bytes, *, now_ms: int, identity: bytes | None = None) -> Self:
        """The record in a signed envelope, of `identity` where that is known.

        Checked in this order: size, form, signature, that the signer is the Ed25519 identity named, version,
        lengths, lifetime. RemoteProtocolError or BadSignature.
        """
        envelope = Envelope.open(data, {PAYLOAD_TYPE: DOMAIN})
        record = cls._decode(envelope.payload)
        signer = envelope.public_key
        if signer.type is not KeyType.ED25519 or signer.data != record.identity:
            raise RemoteProtocolError("key record is not signed by the identity that it names")
        if identity is not None and record.identity != identity:
            raise RemoteProtocolError("key record is about another identity")
        if not 0 < record.not_after_ms - record.not_before_ms <= MAX_LIFETIME_MS:
            raise RemoteProtocolError("key record lives longer than 40 days, or not at all")
        if now_ms >= record.not_after_ms:
            raise RemoteProtocolError("key record has expired")
        return record

    def _encode(self) -> bytes:
        """Fields in order, zeros left out, as a proto3 encoder does."""
        numbers = {
            _VERSION: VERSION,
            _SEQ: self.seq,
            _NOT_BEFORE: self.not_before_ms,
            _NOT_AFTER: self.not_after_ms,
            _STAMP_BITS: self.stamp_bits,
        }
        texts = {_IDENTITY: self.identity, _X25519: self.x25519, _NAME: self.name.encode()}
        parts = [(number, fields.uint64_field(number, value)) for number, value in numbers.items() if value]
        parts += [(number, fields.bytes_field(number, value)) for number, value in texts.items() if value]
        return b"".join(part for _, part in sorted(parts))

    @classmethod
    def _decode(cls, data: bytes) -> Self:
        found: dict[int, int | bytes] = {}
        for number, value in fields.read(data):
            if not _VERSION <= number <= _STAMP_BITS:
                continue
            if number in found or not isinstance(value, int if number in _NUMBERS else bytes):
                raise RemoteProtocolError(f"field {number} of a key record is repeated or of another type")
            assert value is not None
            found[number] = value
        numbers = {number: value for number, value in found.items() if isinstance(value, int)}
        texts = {number: value for number, value in found.items() if isinstance(value, bytes)}
        if numbers.get(_VERSION) != VERSION:
            raise RemoteProtocolError(f"key record of version {numbers.get(_VERSION, 0)}")
        x25519, name = texts.get(_X25519, b""), texts.get(_NAME, b"")
        if len(x25519) != 32 or len(name) > MAX_NAME_BYTES:
            raise RemoteProtocolError("key record with an X25519 key of other than 32 bytes, or too long a name")
        try:
            return cls(
                identity=texts.get(_IDENTITY, b""),
                x25519=x25519,
                seq=numbers.get(_SEQ, 0),
                not_before_ms=numbers.get(_NOT_BEFORE, 0),
                not_after_ms=numbers.get(_NOT_AFTER, 0),
                name=name.decode(),
                stamp_bits=numbers.get(_STAMP_BITS, 0),
            )
        except UnicodeDecodeError as error:
            raise RemoteProtocolError("name in a key record is not text") from error
