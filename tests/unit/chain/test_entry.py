"""Entries against the known answers, and against everything that must not pass as one."""

from __future__ import annotations

import hmac
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from talos.abc import AuditEntry, Direction, EntryKind, SignedReceipt
from talos.chain.entry import (
    Entry,
    Kind,
    Meta,
    commit,
    inspect,
    leaf_hash,
    meta_commit,
    msg_key,
    node_hash,
    open_meta,
    party,
    receipt_hash,
    salt,
    sealed_hash,
)
from talos.errors import LocalProtocolError, ProofInvalid
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

CREATED_MS = 1_700_000_000_000
K_PRIV = b"\x03" * 32
AUDIT, IDENTITY, PEER = (PrivateKey.from_seed(bytes((n,)) * 32) for n in (1, 2, 5))
ME = PeerId.from_key(IDENTITY.public_key).to_bytes()
OTHER = PeerId.from_key(PEER.public_key).to_bytes()
MSG_ID = bytes.fromhex("00112233445566778899aabbccddeeff")

SENT = AuditEntry(
    kind=EntryKind.SENT,
    msg_id=MSG_ID,
    direction=Direction.OUT,
    counterparty=OTHER,
    time_ms=CREATED_MS + 1000,
    sender=ME,
    recipient=OTHER,
    type=1,
    size=12,
    sent_ms=CREATED_MS + 1000,
    sealed=b"sealed-bytes",
)
CALL = AuditEntry(
    kind=EntryKind.MCP_CALL,
    msg_id=b"\x07" * 16,
    direction=Direction.IN,
    counterparty=OTHER,
    time_ms=CREATED_MS,
    sender=OTHER,
    recipient=ME,
    detail=b"tool",
    session_commit=b"\x08" * 32,
    sealed_hash=b"\x09" * 32,
)
EXAMPLES = {
    Kind.SENT: SENT,
    Kind.RECEIVED: replace(SENT, kind=EntryKind.RECEIVED, direction=Direction.IN),
    Kind.RECEIPT_GOT: AuditEntry(
        kind=EntryKind.RECEIPT_GOT,
        msg_id=MSG_ID,
        direction=Direction.OUT,
        counterparty=OTHER,
        time_ms=1,
        receipt=SignedReceipt(b"body", b"sig"),
    ),
    Kind.FILE: replace(SENT, kind=EntryKind.FILE, file_root=b"\x06" * 32, size=8 << 20),
    Kind.MCP_CALL: CALL,
    Kind.MCP_RESULT: replace(CALL, kind=EntryKind.MCP_RESULT),
}


def lp(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def genesis_params() -> bytes:
    """chain.md 4.3, with the values of 4.7 and the limits of 5."""
    random = b"\x04" * 16
    bound = b"talos/audit-key/v1\n" + random + CREATED_MS.to_bytes(8, "big") + AUDIT.public_key.data
    return b"".join((
        b"\x01\x00", CREATED_MS.to_bytes(8, "big"), random, (8).to_bytes(2, "big"), (32).to_bytes(2, "big"),
        (12).to_bytes(4, "big"), (1_000_000).to_bytes(4, "big"), (100_000).to_bytes(4, "big"),
        (4096).to_bytes(2, "big"), (4096).to_bytes(2, "big"), bytes(64), b"\x01",
        AUDIT.public_key.data, lp(ME), lp(IDENTITY.sign(bound)),
    ))  # fmt: skip


def test_known_answers_of_a_sent_message() -> None:
    committed = commit(SENT, K_PRIV)
    entry = Entry.decode(committed.entry)
    assert len(committed.entry) == 148
    assert entry.sealed_hash == bytes.fromhex("e6c37e3ecc8e709ff466842b33e4ca9da48009c6611cfc72d65c183b73116a08")
    assert entry.meta_commit == bytes.fromhex("8dbfd2e02c30e7d1df723ecd5719d731f8782b012f9ae604c62327e73f5e167b")
    assert committed.party == bytes.fromhex("fe552b6416fcbf55bab0e534c3214c83") == entry.fields[1]
    assert committed.leaf == bytes.fromhex("daed945f4b4b149dd601d7f89e522ea2cf6ee9de46602abd6546174d1eeb6239")
    assert committed.key == MSG_ID + bytes.fromhex("b43d5b74aaef1562")


def test_known_answers_of_the_parameters_and_of_the_tree() -> None:
    params = genesis_params()
    assert len(params) == 249
    chain_id = sha256(b"talos/chain/v1\n" + params).hexdigest()
    assert chain_id == "e512b53de949b60554ae19f3039d549215287baddd065a26dff79c235426eba1"
    config = Entry(Kind.CONFIG, CREATED_MS, (params,)).encode()
    log_root = node_hash(leaf_hash(config), commit(SENT, K_PRIV).leaf)
    assert log_root.hex() == "07e2bb741aec2f762a079ec6bf08d7dfca760e3466279fb6429e4f7737bb3206"


def test_the_kinds_are_those_of_the_seam_and_the_logs_own() -> None:
    assert {kind.name: int(kind) for kind in EntryKind}.items() <= {kind.name: int(kind) for kind in Kind}.items()
    assert set(EXAMPLES) == {Kind(kind) for kind in EntryKind}


@pytest.mark.parametrize("kind", list(EXAMPLES))
def test_each_kind_comes_back_from_its_bytes(kind: Kind) -> None:
    facts = EXAMPLES[kind]
    committed = commit(facts, K_PRIV)
    entry = Entry.decode(committed.entry)
    assert (entry.kind, entry.time_ms, entry.msg_id) == (kind, facts.time_ms, facts.msg_id)
    assert entry.encode() == committed.entry
    assert committed.key == msg_key(entry)
    assert entry.fields[1] == party(K_PRIV, facts.direction, facts.msg_id, facts.counterparty)
    if kind is Kind.RECEIPT_GOT:
        assert facts.receipt is not None
        assert committed.meta == b""
        assert entry.fields[2] == receipt_hash(facts.receipt)
    else:
        opened = open_meta(entry, committed.meta, K_PRIV)
        assert (opened.sender, opened.recipient, opened.detail) == (facts.sender, facts.recipient, facts.detail)
        assert (opened.type, opened.size, opened.sent_ms) == (facts.type, facts.size, facts.sent_ms)


@pytest.mark.parametrize(
    "entry",
    [
        Entry(Kind.CONFIG, 1, (b"p" * 5000,)),
        Entry(Kind.PRUNE_NOTICE, 2, (bytes(8), b"\x01" * 32)),
        Entry(Kind.EVIDENCE, 3, (b"\x02" * 32,)),
    ],
)
def test_the_logs_own_entries(entry: Entry) -> None:
    assert Entry.decode(entry.encode()) == entry
    assert (entry.msg_id, entry.meta_commit, entry.sealed_hash) == (None, None, None)
    assert msg_key(entry) == sha256(entry.encode()).digest()[:24]


def test_a_leaf_tells_nothing_of_its_facts() -> None:
    facts = replace(CALL, detail=b"read_file", sender=OTHER, recipient=ME)
    entry = commit(facts, K_PRIV).entry
    assert all(secret not in entry for secret in (b"read_file", OTHER, ME))
    assert len(entry) == len(commit(replace(facts, detail=b"x" * 3000), K_PRIV).entry)


def test_a_commitment_opens_with_its_salt_alone() -> None:
    committed = commit(CALL, K_PRIV)
    shown = salt(K_PRIV, Kind.MCP_CALL, committed.meta)
    assert meta_commit(shown, committed.meta) == Entry.decode(committed.entry).meta_commit
    assert hmac.digest(K_PRIV, b"talos/salt/v1\n\x05" + committed.meta, "sha256") == shown


def test_the_size_of_a_file_is_told_by_its_bit_length() -> None:
    assert Entry.decode(commit(EXAMPLES[Kind.FILE], K_PRIV).entry).fields[3] == bytes((24,))


def test_other_meta_or_another_secret_opens_nothing() -> None:
    committed = commit(CALL, K_PRIV)
    entry = Entry.decode(committed.entry)
    for position in range(len(committed.meta)):
        changed = bytearray(committed.meta)
        changed[position] ^= 1
        with pytest.raises(ProofInvalid):
            open_meta(entry, bytes(changed), K_PRIV)
    with pytest.raises(ProofInvalid):
        open_meta(entry, committed.meta, b"\x04" * 32)
    with pytest.raises(ProofInvalid):
        open_meta(Entry(Kind.EVIDENCE, 0, (bytes(32),)), committed.meta, K_PRIV)


def test_meta_of_another_message_is_refused_though_committed() -> None:
    meta = Meta(msg_id=b"\x01" * 16).encode()
    committed = meta_commit(salt(K_PRIV, Kind.MCP_CALL, meta), meta)
    entry = Entry(Kind.MCP_CALL, 0, (b"\x02" * 16, bytes(16), bytes(32), bytes(32), committed))
    with pytest.raises(ProofInvalid, match="another message"):
        open_meta(entry, meta, K_PRIV)


@pytest.mark.parametrize("kind", list(EXAMPLES))
def test_every_other_length_is_refused(kind: Kind) -> None:
    data = commit(EXAMPLES[kind], K_PRIV).entry
    for length in range(len(data)):
        with pytest.raises(ProofInvalid):
            Entry.decode(data[:length])
    for extra in (b"\x00", b"\x00\x00", data):
        with pytest.raises(ProofInvalid):
            Entry.decode(data + extra)


@pytest.mark.parametrize(("position", "value"), [(0, 0), (0, 2), (1, 0), (1, 0x0C), (1, 0xFF)])
def test_unknown_versions_and_kinds_are_refused(position: int, value: int) -> None:
    data = bytearray(commit(CALL, K_PRIV).entry)
    data[position] = value
    with pytest.raises(ProofInvalid, match="unknown"):
        Entry.decode(bytes(data))


@pytest.mark.parametrize("kind", Kind)
def test_a_look_at_the_bytes_says_what_decoding_says(kind: Kind) -> None:
    entry = entry_of(kind)
    data = entry.encode()
    assert inspect(data) == (kind, msg_key(entry), entry.sealed_hash)
    for position in range(len(data) + 1):
        changed = data[:position] + b"\xff" + data[position + 1 :]
        for bad in (changed, data[:position], data + changed[:position] or b"x"):
            assert same_verdict(bad)


def entry_of(kind: Kind) -> Entry:
    if kind in EXAMPLES:
        return Entry.decode(commit(EXAMPLES[kind], K_PRIV).entry)
    fields = {
        Kind.PEER_CHECKPOINT: (bytes(32),),
        Kind.CONFIG: (genesis_params(),),
        Kind.PRUNE_NOTICE: (bytes(8), bytes(32)),
        Kind.EVIDENCE: (bytes(32),),
        Kind.KEY_ROTATE: (bytes(32), bytes(32), bytes(64), bytes(64)),
    }
    return Entry(kind, 1, fields[kind])


def same_verdict(data: bytes) -> bool:
    try:
        entry = Entry.decode(data)
    except ProofInvalid:
        with pytest.raises(ProofInvalid):
            inspect(data)
        return True
    return inspect(data) == (entry.kind, msg_key(entry), entry.sealed_hash)


def test_meta_accepts_one_encoding() -> None:
    data = Meta(msg_id=MSG_ID, sender=ME, recipient=OTHER, type=3, size=9, sent_ms=7, detail=b"d").encode()
    assert Meta.decode(data).encode() == data
    for wrong in (*(data[:length] for length in range(len(data))), data + b"\x00", b"\x02" + data[1:]):
        with pytest.raises(ProofInvalid):
            Meta.decode(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"msg_id": b"short"},
        {"session_commit": b""},
        {"sealed_hash": b""},
        {"sealed": b"line"},  # the hash given is not this blob's
        {"detail": bytes(0x10000)},
        {"type": 256},
        {"size": -1},
        {"time_ms": 1 << 64},
    ],
)
def test_facts_that_make_no_entry(wrong: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        commit(replace(CALL, **wrong), K_PRIV)


def test_a_receipt_entry_needs_its_receipt() -> None:
    with pytest.raises(LocalProtocolError, match="receipt"):
        commit(replace(EXAMPLES[Kind.RECEIPT_GOT], receipt=None), K_PRIV)


def test_a_blob_gives_its_hash() -> None:
    with_blob = commit(replace(CALL, sealed=b"salt and line", sealed_hash=b""), K_PRIV)
    assert Entry.decode(with_blob.entry).sealed_hash == sealed_hash(b"salt and line")
    both = commit(replace(CALL, sealed=b"salt and line", sealed_hash=sealed_hash(b"salt and line")), K_PRIV)
    assert both == with_blob


def test_a_signature_goes_in_as_its_hash() -> None:
    entry = Entry.decode(commit(replace(SENT, signature=b"s" * 64), K_PRIV).entry)
    assert entry.fields[4] == sha256(b"s" * 64).digest()
    assert Entry.decode(commit(SENT, K_PRIV).entry).fields[4] == bytes(32)
