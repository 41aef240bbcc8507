"""Noise_XX_25519_ChaChaPoly_SHA256: the handshake of the Noise Protocol Framework, revision 34.

Names and section numbers are the framework's. Nothing here knows libp2p: messages and payloads are bytes.

    -> e
    <- e, ee, s, es
    -> s, se

Whatever a peer's message makes fail raises HandshakeError, and the state is then done with.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from talos.errors import HandshakeError, LocalProtocolError

__all__ = ["DH_BYTES", "PROTOCOL_NAME", "TAG_BYTES", "HandshakeState", "KeyPair", "nonce_bytes"]

PROTOCOL_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
DH_BYTES = 32
TAG_BYTES = 16

_PATTERN = (("e",), ("e", "ee", "s", "es"), ("s", "se"))


def nonce_bytes(n: int) -> bytes:
    """32 zero bits, then `n` in little-endian (section 12.3)."""
    return (n << 32).to_bytes(12, "little")


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """A Diffie-Hellman key pair and the bytes of its public half (section 12.1)."""

    private: X25519PrivateKey
    public: bytes

    @classmethod
    def of(cls, private: X25519PrivateKey) -> KeyPair:
        """The pair of a private key."""
        return cls(private, private.public_key().public_bytes_raw())

    @classmethod
    def from_bytes(cls, private: bytes) -> KeyPair:
        """The pair of a private key of 32 bytes."""
        return cls.of(X25519PrivateKey.from_private_bytes(private))


class SymmetricState:
    """Chaining key, handshake hash and the current cipher (sections 5.1 and 5.2)."""

    __slots__ = ("_chaining_key", "_cipher", "_nonce", "hash")

    def __init__(self, prologue: bytes) -> None:
        self.hash = PROTOCOL_NAME  # exactly as long as a hash, so it is not hashed
        self._chaining_key = PROTOCOL_NAME
        self._cipher: ChaCha20Poly1305 | None = None
        self._nonce = 0
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        """MixHash."""
        self.hash = hashlib.sha256(self.hash + data).digest()

    def mix_key(self, input_key_material: bytes) -> None:
        """MixKey."""
        self._chaining_key, key = _hkdf(self._chaining_key, input_key_material)
        self._cipher = ChaCha20Poly1305(key)
        self._nonce = 0

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """EncryptAndHash: in the clear while there is no key."""
        ciphertext = plaintext
        if self._cipher is not None:
            ciphertext = self._cipher.encrypt(self._next_nonce(), plaintext, self.hash)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        """DecryptAndHash."""
        plaintext = ciphertext
        if self._cipher is not None:
            try:
                plaintext = self._cipher.decrypt(self._next_nonce(), ciphertext, self.hash)
            except InvalidTag:
                raise HandshakeError("noise handshake message does not decrypt") from None
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """Split: the key of the initiator's direction, then the responder's."""
        return _hkdf(self._chaining_key, b"")

    def _next_nonce(self) -> bytes:
        nonce = nonce_bytes(self._nonce)
        self._nonce += 1
        return nonce


class HandshakeState:
    """One side of the handshake (section 5.3): write and read in turns until `finished`.

    `ephemeral` must be used for this one handshake only.
    """

    __slots__ = (
        "_ephemeral",
        "_initiator",
        "_remote_ephemeral",
        "_static",
        "_step",
        "_symmetric",
        "remote_static",
    )

    def __init__(self, *, initiator: bool, static: KeyPair, ephemeral: KeyPair, prologue: bytes = b"") -> None:
        self._initiator = initiator
        self._static = static
        self._ephemeral = ephemeral
        self._symmetric = SymmetricState(prologue)
        self._remote_ephemeral = b""
        self.remote_static = b""
        self._step = 0

    @property
    def finished(self) -> bool:
        """Whether all three messages have passed."""
        return self._step == len(_PATTERN)

    @property
    def my_turn(self) -> bool:
        """Whether the next message is ours to write."""
        return not self.finished and (self._step % 2 == 0) == self._initiator

    @property
    def overhead(self) -> int:
        """The length of the next message with an empty payload."""
        return (32, 96, 64)[self._step]

    @property
    def handshake_hash(self) -> bytes:
        """Unique to this session once finished (section 11.2)."""
        return self._symmetric.hash

    def write_message(self, payload: bytes) -> bytes:
        """WriteMessage."""
        if not self.my_turn:
            raise LocalProtocolError("not our turn to write a noise handshake message")
        symmetric, parts = self._symmetric, []
        for word in _PATTERN[self._step]:
            if word == "e":
                parts.append(self._ephemeral.public)
                symmetric.mix_hash(self._ephemeral.public)
            elif word == "s":
                parts.append(symmetric.encrypt_and_hash(self._static.public))
            else:
                symmetric.mix_key(self._dh(word))
        parts.append(symmetric.encrypt_and_hash(payload))
        self._step += 1
        return b"".join(parts)

    def read_message(self, message: bytes) -> bytes:
        """ReadMessage: the payload."""
        if self.finished or self.my_turn:
            raise LocalProtocolError("not the peer's turn to send a noise handshake message")
        if len(message) < self.overhead:
            raise HandshakeError("noise handshake message is too short")
        symmetric = self._symmetric
        for word in _PATTERN[self._step]:
            if word == "e":
                self._remote_ephemeral, message = message[:DH_BYTES], message[DH_BYTES:]
                symmetric.mix_hash(self._remote_ephemeral)
            elif word == "s":
                sealed, message = message[: DH_BYTES + TAG_BYTES], message[DH_BYTES + TAG_BYTES :]
                self.remote_static = symmetric.decrypt_and_hash(sealed)
            else:
                symmetric.mix_key(self._dh(word))
        payload = symmetric.decrypt_and_hash(message)
        self._step += 1
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """The keys to send and to receive with, once finished."""
        if not self.finished:
            raise LocalProtocolError("the noise handshake is not finished")
        first, second = self._symmetric.split()
        return (first, second) if self._initiator else (second, first)

    def _dh(self, word: str) -> bytes:
        # The first letter is the initiator's key, the second the responder's.
        ours, theirs = (0, 1) if self._initiator else (1, 0)
        own = self._ephemeral if word[ours] == "e" else self._static
        public = self._remote_ephemeral if word[theirs] == "e" else self.remote_static
        try:
            return own.private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise HandshakeError("noise key of small order: the shared secret is zero") from None


def _hkdf(chaining_key: bytes, input_key_material: bytes) -> tuple[bytes, bytes]:
    """HKDF with two outputs (section 4.3)."""
    temporary = hmac.digest(chaining_key, input_key_material, "sha256")
    first = hmac.digest(temporary, b"\x01", "sha256")
    return first, hmac.digest(temporary, first + b"\x02", "sha256")
