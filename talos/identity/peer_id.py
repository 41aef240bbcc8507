"""Peer ids: the multihash of a serialized public key (libp2p peer-ids)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import total_ordering
from typing import Self

from talos.errors import BadSignature, ConfigError, RemoteProtocolError
from talos.identity import multibase
from talos.identity.keys import PublicKey

__all__ = ["MAX_INLINE_BYTES", "MAX_TEXT_LENGTH", "PeerId"]

MAX_INLINE_BYTES = 42
"""A serialized key up to this long is its own hash, so that it can be read out of the id."""
MAX_TEXT_LENGTH = 128
"""Base58 costs time in the square of the length; the longest id in base58btc has 60 characters."""

_IDENTITY = 0x00
_SHA2_256 = b"\x12\x20"
_CID_PREFIX = b"\x01\x72"  # CIDv1, libp2p-key


@total_ordering
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class PeerId:
    """The id of a peer; equal, ordered and hashed by its multihash bytes, printed in base58btc.

    Building one checks it: RemoteProtocolError when it is not a sha2-256 hash or an inlined, usable key.
    """

    raw: bytes
    _text: str = field(init=False, default="", compare=False)

    def __post_init__(self) -> None:
        raw = self.raw
        if len(raw) == 34 and raw[:2] == _SHA2_256:
            return
        _inlined_key(raw)

    @classmethod
    def from_key(cls, key: PublicKey) -> Self:
        """The id of `key`."""
        serialized = key.to_bytes()
        if len(serialized) <= MAX_INLINE_BYTES:
            return cls(bytes((_IDENTITY, len(serialized))) + serialized)
        return cls(_SHA2_256 + hashlib.sha256(serialized).digest())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The id whose multihash is `data`."""
        return cls(data)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The id that `text` names: base58btc (`12D3Koo…`, `Qm…`) or a CIDv1 in any multibase.

        ConfigError when it is neither; no text over 128 characters is looked at.
        """
        if len(text) > MAX_TEXT_LENGTH:
            raise ConfigError(f"peer id is longer than {MAX_TEXT_LENGTH} characters")
        try:
            if text.startswith(("1", "Qm")):
                return cls(multibase.decode_base58btc(text))
            cid = multibase.decode(text)
            if cid[:2] != _CID_PREFIX:
                raise ConfigError(f"not a peer id: {text!r} is no CID of version 1 with the codec libp2p-key")
            return cls(cid[2:])
        except (ValueError, RemoteProtocolError) as error:
            raise ConfigError(f"not a peer id: {text!r} ({error})") from error

    def to_bytes(self) -> bytes:
        """The multihash bytes."""
        return self.raw

    def public_key(self) -> PublicKey | None:
        """The key, where the id holds it (Ed25519 and secp256k1); None where the id is a hash."""
        if self.raw[0] != _IDENTITY:
            return None
        return _inlined_key(self.raw)

    def cid(self) -> str:
        """The id as a CIDv1 in lower-case base32 (`bafz…`)."""
        return "b" + multibase.encode_bits(_CID_PREFIX + self.raw, multibase.BASE32)

    def __bytes__(self) -> bytes:
        return self.raw

    def __str__(self) -> str:
        if not self._text:
            object.__setattr__(self, "_text", multibase.encode_base58btc(self.raw))
        return self._text

    def __repr__(self) -> str:
        return f"PeerId({self})"

    def __hash__(self) -> int:
        return hash(self.raw)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PeerId):
            return NotImplemented
        return self.raw == other.raw

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, PeerId):
            return NotImplemented
        return self.raw < other.raw


def _inlined_key(raw: bytes) -> PublicKey:
    if len(raw) < 2 or raw[0] != _IDENTITY or raw[1] != len(raw) - 2 or raw[1] > MAX_INLINE_BYTES:
        raise RemoteProtocolError("peer id is neither a sha2-256 multihash nor an inlined key")
    try:
        return PublicKey.from_bytes(raw[2:])
    except BadSignature as error:  # an id claims no signature: to its reader it is as malformed as any
        raise RemoteProtocolError(f"peer id of a key that is refused: {error}") from error
