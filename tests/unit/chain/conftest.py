"""Facts and keys that the tests of the log share."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import pytest

from talos.abc import AuditEntry, Direction, EntryKind
from talos.chain import ChainKeys
from talos.identity.keys import PrivateKey

MakeEntry = Callable[..., AuditEntry]


def k_priv(random: bytes) -> bytes:
    return sha256(b"a wallet" + random).digest()


def audit_seed(random: bytes) -> bytes:
    return sha256(b"an author" + random).digest()


@pytest.fixture
def keys() -> ChainKeys:
    return ChainKeys(k_priv, audit_seed, PrivateKey.from_seed(b"\x02" * 32))


@pytest.fixture
def make_entry() -> MakeEntry:
    """Facts of one tool call; the number makes its id."""

    def make(number: int, detail: bytes = b"read_file", *, sealed: bytes = b"", time_ms: int = 1000) -> AuditEntry:
        return AuditEntry(
            kind=EntryKind.MCP_CALL,
            msg_id=number.to_bytes(16, "big"),
            direction=Direction.IN,
            counterparty=b"the other peer",
            time_ms=time_ms,
            sender=b"the other peer",
            detail=detail,
            session_commit=b"\x08" * 32,
            sealed=sealed,
            sealed_hash=b"" if sealed else b"\x09" * 32,
        )

    return make
