"""The namespace `talos`: `/talos/keys/<PeerId>`, key records that their identity signed.

Of two the higher sequence number is better, of equal ones the smaller bytes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from talos.errors import ConfigError, RecordRejected
from talos.identity.key_record import KeyRecord
from talos.identity.keys import KeyType
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["key_of", "select", "seq_of", "validate"]

PREFIX = b"/talos/keys/"
MAX_CACHED = 256
"""Records whose signature is not checked again; of up to 8 KiB each."""


def key_of(peer: PeerId) -> bytes:
    """Under which key the record of `peer` stands."""
    return PREFIX + str(peer).encode()


def validate(key: bytes, value: bytes, now: float) -> None:
    """RecordRejected, RemoteProtocolError or BadSignature unless `value` is a record of the key's peer, valid now."""
    identity = _identity(key)
    record = _opened(value)
    if record.identity != identity:
        raise RecordRejected("key record is about another identity")
    if now * 1000 >= record.not_after_ms:
        raise RecordRejected("key record has expired")


def select(_key: bytes, values: Sequence[bytes]) -> int:
    """The place of the best of valid records."""
    return min(range(len(values)), key=lambda place: (-_opened(values[place]).seq, values[place]))


def seq_of(value: bytes) -> int:
    """The sequence number of a valid record."""
    return _opened(value).seq


def _identity(key: bytes) -> bytes:
    """The Ed25519 key of the peer that `key` names, in the one spelling that names it."""
    if not key.startswith(PREFIX):
        raise RecordRejected("the namespace talos holds /talos/keys/<PeerId> alone")
    text = key.removeprefix(PREFIX).decode("ascii", "replace")
    try:
        peer = PeerId.parse(text)
    except ConfigError as error:
        raise RecordRejected(str(error)) from error
    public = peer.public_key()
    if public is None or public.type is not KeyType.ED25519 or str(peer) != text:
        raise RecordRejected("key records are kept for Ed25519 identities, in base58, alone")
    return public.data


@lru_cache(maxsize=MAX_CACHED)
def _opened(value: bytes) -> KeyRecord:
    """The record, its signature checked; its time is the caller's to judge."""
    return KeyRecord.open(value, now_ms=0)
