"""The one sealing primitive: to an X25519 key, under a key used once.

    e = new X25519 pair; dh = X25519(e, R); nonce = 12 random bytes
    key = HKDF-SHA256(dh, salt = e.pub ‖ R, info = domain ‖ SHA-256(ctx), 32)
    ct  = ChaCha20-Poly1305(key, nonce, plaintext, ad = ctx)

An all-zero dh, which small-order keys give, is refused.
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from talos.errors import LocalProtocolError

__all__ = ["Fresh", "KeySource", "Sealed", "is_usable", "open_sealed", "seal"]

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


class KeySource(Protocol):
    """Where secrets come from; tests of exact bytes bring their own."""

    def key(self) -> bytes:
        """32 bytes, never given twice: an X25519 secret or a franking key."""

    def nonce(self) -> bytes:
        """12 bytes."""


class Fresh:
    """The operating system's random source."""

    def key(self) -> bytes:
        return secrets.token_bytes(KEY_BYTES)

    def nonce(self) -> bytes:
        return secrets.token_bytes(NONCE_BYTES)


class Sealed(NamedTuple):
    """What travels beside the nonce."""

    ephemeral: bytes
    ciphertext: bytes


def seal(to: bytes, domain: bytes, context: bytes, plaintext: bytes, *, ephemeral: bytes, nonce: bytes) -> Sealed:
    """Seals for the holder of the X25519 key `to`. LocalProtocolError when that key is of small order."""
    pair = X25519PrivateKey.from_private_bytes(ephemeral)
    public = pair.public_key().public_bytes_raw()
    try:
        shared = pair.exchange(X25519PublicKey.from_public_bytes(to))
    except ValueError as error:
        raise LocalProtocolError("the recipient's encryption key is of small order") from error
    key = _derive(shared, public + to, domain, context)
    return Sealed(public, ChaCha20Poly1305(key).encrypt(nonce, plaintext, context))


def open_sealed(secret: bytes, domain: bytes, context: bytes, sealed: Sealed, *, nonce: bytes) -> bytes | None:
    """The plaintext; None when it was sealed to another key, for another context, or altered: nobody can tell."""
    pair = X25519PrivateKey.from_private_bytes(secret)
    try:
        shared = pair.exchange(X25519PublicKey.from_public_bytes(sealed.ephemeral))
        key = _derive(shared, sealed.ephemeral + pair.public_key().public_bytes_raw(), domain, context)
        return ChaCha20Poly1305(key).decrypt(nonce, sealed.ciphertext, context)
    except (ValueError, InvalidTag):
        return None


def is_usable(public: bytes) -> bool:
    """Whether an X25519 key can be sealed to: of small-order ones every secret makes the same, which is refused."""
    try:
        X25519PrivateKey.from_private_bytes(bytes(KEY_BYTES)).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def _derive(shared: bytes, salt: bytes, domain: bytes, context: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=salt, info=domain + sha256(context).digest()).derive(shared)
