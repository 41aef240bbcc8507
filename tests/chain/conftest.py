"""Wallets without files, and what a chain records."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import pytest

from talos.abc import AuditEntry, Direction, EntryKind
from talos.chain import ChainKeys
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

MakeEntry = Callable[..., AuditEntry]


def keys_of(name: bytes) -> ChainKeys:
    """The keys of a wallet that follows from a name."""
    identity = PrivateKey.from_seed(sha256(b"identity" + name).digest())
    return ChainKeys(
        lambda random: sha256(b"private" + name + random).digest(),
        lambda random: sha256(b"audit" + name + random).digest(),
        identity,
    )


def peer_of(keys: ChainKeys) -> PeerId:
    return PeerId.from_key(keys.identity.public_key)


def call(number: int, detail: bytes = b"read_file", *, counterparty: bytes = b"the other peer") -> AuditEntry:
    """Facts of one tool call; the number makes its id."""
    return AuditEntry(
        kind=EntryKind.MCP_CALL,
        msg_id=number.to_bytes(16, "big"),
        direction=Direction.IN,
        counterparty=counterparty,
        time_ms=1000 + number,
        sender=counterparty,
        detail=detail,
        session_commit=b"\x08" * 32,
        sealed_hash=b"\x09" * 32,
    )


@pytest.fixture
def keys() -> ChainKeys:
    return keys_of(b"Alice")
