"""The audit log under any facts: what is committed opens again, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from talos.abc import AuditEntry, Direction, EntryKind
from talos.chain.box import Boxes
from talos.chain.entry import Entry, Kind, Meta, commit, open_meta
from talos.errors import ProofInvalid

HASH = st.binary(min_size=32, max_size=32)
SMALL = st.integers(0, (1 << 64) - 1)
FACTS = st.builds(
    AuditEntry,
    kind=st.sampled_from([kind for kind in EntryKind if kind is not EntryKind.RECEIPT_GOT]),
    msg_id=st.binary(min_size=16, max_size=16),
    direction=st.sampled_from(Direction),
    counterparty=st.binary(max_size=64),
    time_ms=SMALL,
    sender=st.binary(max_size=64),
    recipient=st.binary(max_size=64),
    type=st.integers(0, 255),
    size=SMALL,
    sent_ms=SMALL,
    detail=st.binary(max_size=300),
    sealed_hash=HASH,
    session_commit=HASH,
    file_root=HASH,
)


@given(FACTS, HASH)
def test_what_is_committed_opens_again(facts: AuditEntry, k_priv: bytes) -> None:
    committed = commit(facts, k_priv)
    boxes = Boxes(k_priv)
    opened = boxes.open(committed.entry, boxes.seal(committed.entry, committed.leaf, committed.meta, b""))
    assert Entry.decode(committed.entry).kind == Kind(facts.kind)
    assert opened.meta == Meta(
        msg_id=facts.msg_id, sender=facts.sender, recipient=facts.recipient, type=facts.type, size=facts.size,
        sent_ms=facts.sent_ms, detail=facts.detail,
    )  # fmt: skip


@given(FACTS, HASH, st.data())
def test_any_other_entry_or_box_is_refused(facts: AuditEntry, k_priv: bytes, data: st.DataObject) -> None:
    committed, boxes = commit(facts, k_priv), Boxes(k_priv)
    box = boxes.seal(committed.entry, committed.leaf, committed.meta, b"")
    position = data.draw(st.integers(0, len(committed.entry) + len(box) - 1))
    flipped = data.draw(st.integers(1, 255))
    both = bytearray(committed.entry + box)
    both[position] ^= flipped
    with pytest.raises(ProofInvalid):
        boxes.open(bytes(both[: len(committed.entry)]), bytes(both[len(committed.entry) :]))


@given(FACTS, FACTS, HASH)
def test_a_commitment_opens_to_one_meta(facts: AuditEntry, other: AuditEntry, k_priv: bytes) -> None:
    committed, foreign = commit(facts, k_priv), commit(other, k_priv)
    assume(committed.meta != foreign.meta)
    with pytest.raises(ProofInvalid):
        open_meta(Entry.decode(committed.entry), foreign.meta, k_priv)


@given(st.binary(max_size=300))
def test_decoding_gives_one_entry_or_says_no(data: bytes) -> None:
    for kind in (Entry, Meta):
        try:
            found = kind.decode(data)
        except ProofInvalid:
            continue
        assert found.encode() == data
