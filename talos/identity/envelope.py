"""Signed envelopes (libp2p RFC 0002): a payload, its type and a signature that also covers a domain.

The domain is never sent: it is what keeps a record of one kind from being shown as another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from talos.errors import BadSignature, LocalProtocolError, MessageTooLarge, RemoteProtocolError
from talos.identity.keys import PrivateKey, PublicKey
from talos.wire import fields, varint

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_ENVELOPE_BYTES", "Envelope", "signed_bytes"]

MAX_ENVELOPE_BYTES = 8192

_PUBLIC_KEY, _PAYLOAD_TYPE, _PAYLOAD, _SIGNATURE = 1, 2, 3, 5


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope whose signature holds; `raw` is the encoding as made or received, to be passed on unchanged."""

    public_key: PublicKey
    payload_type: bytes
    payload: bytes
    signature: bytes
    raw: bytes

    @classmethod
    def seal(cls, key: PrivateKey, domain: str, payload_type: bytes, payload: bytes) -> Self:
        """Signs `payload` for `domain`; LocalProtocolError when the envelope would be over 8 KiB."""
        signature = key.sign(signed_bytes(domain, payload_type, payload))
        raw = b"".join(
            (
                fields.bytes_field(_PUBLIC_KEY, key.public_key.to_bytes()),
                fields.bytes_field(_PAYLOAD_TYPE, payload_type),
                fields.bytes_field(_PAYLOAD, payload),
                fields.bytes_field(_SIGNATURE, signature),
            )
        )
        if len(raw) > MAX_ENVELOPE_BYTES:
            raise LocalProtocolError(f"envelope of {len(raw)} bytes is over the limit of {MAX_ENVELOPE_BYTES}")
        return cls(key.public_key, payload_type, payload, signature, raw)

    @classmethod
    def open(cls, data: bytes, domains: Mapping[bytes, str]) -> Self:
        """The envelope in `data`; `domains` gives the domain of each payload type that is accepted.

        Checked in this order: size, form, payload type, key, signature. Nothing has looked into the payload
        then. Raises RemoteProtocolError (MessageTooLarge for size) or BadSignature.
        """
        if len(data) > MAX_ENVELOPE_BYTES:
            raise MessageTooLarge(f"envelope of {len(data)} bytes is over the limit of {MAX_ENVELOPE_BYTES}")
        found = fields.singular_bytes(data, (_PUBLIC_KEY, _PAYLOAD_TYPE, _PAYLOAD, _SIGNATURE))
        payload_type, payload = found.get(_PAYLOAD_TYPE, b""), found.get(_PAYLOAD, b"")
        domain = domains.get(payload_type)
        if domain is None:
            raise RemoteProtocolError(f"envelope of the unexpected payload type {payload_type[:64].hex()}")
        if _PUBLIC_KEY not in found:
            raise RemoteProtocolError("envelope without a public key")
        public_key = PublicKey.from_bytes(found[_PUBLIC_KEY])
        signature = found.get(_SIGNATURE)
        if signature is None:
            raise BadSignature("envelope without a signature")
        public_key.verify(signed_bytes(domain, payload_type, payload), signature)
        return cls(public_key, payload_type, payload, signature, data)


def signed_bytes(domain: str, payload_type: bytes, payload: bytes) -> bytes:
    """What the signature of an envelope covers: each part behind its length."""
    parts = (domain.encode(), payload_type, payload)
    return b"".join(varint.encode(len(part)) + part for part in parts)
