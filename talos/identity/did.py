"""The spellings of an Ed25519 public key: peer id and did:key.

Working on bytes and text alone, for commands that only print and compare: no cryptography is loaded.
"""

from __future__ import annotations

from talos.errors import BadSignature, ConfigError, RemoteProtocolError
from talos.identity import multibase
from talos.identity.keys import check_ed25519

__all__ = ["did_key", "key_of_did", "key_of_hex", "key_of_peer_id", "peer_id_text"]

MAX_TEXT_LENGTH = 128
"""Base58 costs time in the square of the length; a did:key has 56 characters."""

_DID = "did:key:z"
_MULTICODEC = b"\xed\x01"  # ed25519-pub
_PEER_ID = bytes.fromhex("002408011220")  # identity multihash, 36 bytes, KeyType 1, 32 bytes


def did_key(key: bytes) -> str:
    """`did:key:z6Mk…` of the 32-byte key."""
    return _DID + multibase.encode_base58btc(_MULTICODEC + key)


def peer_id_text(key: bytes) -> str:
    """`12D3KooW…` of the 32-byte key."""
    return multibase.encode_base58btc(_PEER_ID + key)


def key_of_did(text: str) -> bytes:
    """The key that a did:key names; ConfigError when it is none, or of another type than Ed25519."""
    if len(text) > MAX_TEXT_LENGTH or not text.startswith(_DID):
        raise ConfigError(f"not a did:key of an Ed25519 key: {text[:MAX_TEXT_LENGTH]!r}")
    return _key(_base58(text.removeprefix(_DID), text), _MULTICODEC, text)


def key_of_peer_id(text: str) -> bytes:
    """The key inside a base58 peer id `12D3KooW…`; ConfigError when it is none, or of another type."""
    if len(text) > MAX_TEXT_LENGTH:
        raise ConfigError(f"peer id is longer than {MAX_TEXT_LENGTH} characters")
    return _key(_base58(text, text), _PEER_ID, text)


def key_of_hex(text: str) -> bytes:
    """The key that 64 hexadecimal digits spell."""
    try:
        return _key(bytes.fromhex(text), b"", text)
    except ValueError as error:
        raise ConfigError(f"not a public key: {text[:MAX_TEXT_LENGTH]!r}") from error


def _base58(body: str, text: str) -> bytes:
    try:
        return multibase.decode_base58btc(body)
    except ValueError as error:
        raise ConfigError(f"{text!r} is mistyped: {error}") from error


def _key(data: bytes, prefix: bytes, text: str) -> bytes:
    key = data.removeprefix(prefix)
    if len(key) != 32 or len(data) != 32 + len(prefix):
        raise ConfigError(f"{text!r} does not name an Ed25519 key")
    try:
        check_ed25519(key)
    except (BadSignature, RemoteProtocolError) as error:
        raise ConfigError(f"{text!r} names a key that is refused: {error}") from error
    return key
