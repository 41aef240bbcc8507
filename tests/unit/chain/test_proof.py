"""Proofs, openings and evidence as files: what others wrote, what we write, and what proves nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from talos.chain.block import Item
from talos.chain.checkpoint import Checkpoint, verifiers_of
from talos.chain.entry import Entry, Meta, commit, meta_commit, salt
from talos.chain.evidence import Evidence, Statements
from talos.chain.genesis import Mode
from talos.chain.merkle import MAX_PATH, Tiles, leaf_path, new_tiles
from talos.chain.pow import solve
from talos.chain.proof import MAX_PROOF_BYTES, BlockProof, LogProof, Opening
from talos.errors import ProofInvalid
from tests.unit.chain.memory_chain import KEYS, Builder, make_params
from tests.unit.chain.test_entry import CALL, SENT
from tests.unit.chain.test_merkle import Kept

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "chain" / "tlog_proof.json").read_text())
K_PRIV = b"\x03" * 32
PARAMS = make_params()


def b64(text: str) -> bytes:
    import base64

    return base64.b64decode(text)


@pytest.mark.parametrize("case", VECTORS["marshal"], ids=lambda case: case["name"])
def test_foreign_proofs_are_read_and_written_alike(case: dict[str, Any]) -> None:
    extra = None if case["extra"] is None else case["extra"].encode()
    proof = LogProof(case["index"], tuple(map(b64, case["hashes"])), case["checkpoint"].encode(), extra)
    assert proof.encode().decode() == case["want"]
    assert LogProof.decode(case["want"].encode()) == proof


@pytest.mark.parametrize("case", VECTORS["unmarshal_must_fail"], ids=lambda case: case["name"])
def test_foreign_proofs_that_must_fail(case: dict[str, Any]) -> None:
    with pytest.raises(ProofInvalid):
        LogProof.decode(case["text"].encode())


def a_chain() -> Builder:
    builder = Builder(PARAMS)
    committed = commit(SENT, K_PRIV)
    draft = builder.draft([Item(committed.entry, SENT.sealed), Item(commit(CALL, K_PRIV).entry)])
    builder._take(draft.finish(solve(draft.header.encode()), KEYS[0]))
    return builder.grow(3, 10)


def log_proof(index: int = 1) -> LogProof:
    builder = a_chain()
    leaves = [leaf for block in builder.blocks for leaf in block.leaves]
    entries = [item.entry for block in builder.blocks for item in block.items]
    kept = Kept()
    kept.update(new_tiles(kept, 0, leaves))
    header = builder.blocks[-1].header
    note = Checkpoint(PARAMS.origin, header.log_size, header.log_root).sign(KEYS[0])
    return LogProof(index, tuple(Tiles(kept).inclusion(index, len(leaves))), note, entries[index])


def test_a_log_proof_holds_offline() -> None:
    proof = LogProof.decode(log_proof().encode())
    checkpoint = proof.verify(verifiers_of(PARAMS))
    assert (checkpoint.origin, checkpoint.size) == (PARAMS.origin, 6)
    for bad in (
        replace(proof, index=2),
        replace(proof, path=proof.path[:-1]),
        replace(proof, entry=commit(CALL, K_PRIV).entry),
        replace(proof, entry=b"junk"),
        replace(proof, entry=None),
        replace(proof, checkpoint=Checkpoint(PARAMS.origin, 6, bytes(32)).sign(KEYS[0])),
        replace(proof, checkpoint=Checkpoint(PARAMS.origin, 6, checkpoint.root).sign(KEYS[1])),
    ):
        with pytest.raises(ProofInvalid):
            bad.verify(verifiers_of(PARAMS))


def test_every_changed_byte_of_a_log_proof_is_found() -> None:
    data, verifiers = log_proof().encode(), verifiers_of(PARAMS)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(ProofInvalid):
            LogProof.decode(bytes(changed)).verify(verifiers)


def test_malformed_log_proofs() -> None:
    good = log_proof().encode()
    hashes = b"".join(b"A" * 43 + b"=\n" for _ in range(MAX_PATH + 1))
    for bad in (
        b"",
        good[:30],
        good.partition(b"\n\n")[0] + b"\n\n",
        good.partition(b"\n\n")[0],
        good.replace(b"index 1", b"index 01"),
        good.replace(b"index 1", b"index  1"),
        good.replace(b"extra ", b"extra  "),
        good.replace(b"index", "índex".encode()),
        good.replace(b"\nindex 1\n", b"\nindex 1\n" + hashes),
        b"c2sp.org/tlog-proof@v1",
        good + bytes(MAX_PROOF_BYTES),
    ):
        with pytest.raises(ProofInvalid):
            LogProof.decode(bad)


def block_proof() -> BlockProof:
    block = a_chain().blocks[1]
    return BlockProof(block.items[0].entry, 0, tuple(leaf_path(block.leaves, 0)), block.raw, block.sig)


def test_a_block_proof_holds_offline() -> None:
    author = {KEYS[0].public_key.data}
    proof = BlockProof.from_json(block_proof().to_json())
    assert proof == block_proof()
    assert proof.verify(author, chain_id=PARAMS.chain_id).height == 1
    wrong_work = bytearray(proof.header)
    wrong_work[-1] ^= 1
    for bad in (
        replace(proof, index=1),
        replace(proof, path=()),
        replace(proof, entry=commit(CALL, K_PRIV).entry),
        replace(proof, sig=bytes(64)),
        replace(proof, sig=b""),
        replace(proof, header=bytes(wrong_work)),
        replace(proof, header=b""),
    ):
        with pytest.raises(ProofInvalid):
            bad.verify(author)
    with pytest.raises(ProofInvalid, match="author"):
        proof.verify({KEYS[1].public_key.data})
    with pytest.raises(ProofInvalid, match="another chain"):
        proof.verify(author, chain_id=bytes(32))


def test_a_block_proof_of_an_unusable_key() -> None:
    from talos.chain.block import Header

    header = replace(Header.decode(block_proof().header), author_pk=bytes(32), nonce=0)
    nonce = solve(header.encode())
    proof = replace(block_proof(), header=replace(header, nonce=nonce).encode())
    with pytest.raises(ProofInvalid, match="cannot be used"):
        proof.verify({bytes(32)})


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"index": "0"},
        {"index": True},
        {"path": "00"},
        {"path": ["zz"]},
        {"path": ["00"] * 64},
        {"entry": "0G"},
        {"entry": "AB"},
        {"entry": 5},
        {"more": 1},
    ],
)
def test_malformed_block_proofs(change: dict[str, Any]) -> None:
    fields = json.loads(block_proof().to_json()) | change
    with pytest.raises(ProofInvalid):
        BlockProof.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "[]", "{", "1", "[" * 100_000, " " * (1024 * 1024 + 1), b"\xff"])
def test_what_is_no_block_proof(text: str | bytes) -> None:
    with pytest.raises(ProofInvalid):
        BlockProof.from_json(text)


def opening(sealed: bytes | None = SENT.sealed) -> Opening:
    meta = commit(SENT, K_PRIV).meta
    return Opening(salt(K_PRIV, SENT.kind, meta), meta, sealed)


def test_an_opening_shows_who_and_when_of_one_entry() -> None:
    entry = commit(SENT, K_PRIV).entry
    for one in (opening(), opening(None)):
        found = Opening.from_json(one.to_json())
        assert found == one
        assert found.check(entry).recipient == SENT.recipient
    for bad in (replace(opening(), salt=bytes(32)), replace(opening(), sealed=b"other")):
        with pytest.raises(ProofInvalid):
            bad.check(entry)
    with pytest.raises(ProofInvalid):
        opening().check(commit(CALL, K_PRIV).entry)
    with pytest.raises(ProofInvalid):
        Opening.from_json(json.dumps({"format": "talos/opening/v1", "salt": "00"}))


def test_an_opening_of_another_message() -> None:
    meta, fields = Meta(msg_id=b"o" * 16).encode(), Entry.decode(commit(SENT, K_PRIV).entry)
    forged = Entry(fields.kind, 1, (*fields.fields[:3], meta_commit(b"s" * 32, meta), bytes(32))).encode()
    with pytest.raises(ProofInvalid, match="another message"):
        Opening(b"s" * 32, meta).check(forged)


# -- Evidence -------------------------------------------------------------------------------------------


def two_headers(mode: Mode = Mode.FEED) -> tuple[Any, Evidence]:
    params = make_params(mode, 1 if mode is Mode.FEED else 2)
    builder = Builder(params).grow(2, 1)
    one = builder.fork(1).make(50)
    other = builder.fork(1).make(60)
    return params, Evidence(Statements.HEADERS, one.raw + one.sig, other.raw + other.sig)


def test_two_headers_prove_equivocation() -> None:
    for mode in Mode:
        params, evidence = two_headers(mode)
        data = evidence.encode()
        assert len(data) == 18 + 1 + 2 * 296
        assert Evidence.decode(data) == evidence
        assert "two blocks at height 2" in evidence.verify(params)
        for bad in (
            replace(evidence, second=evidence.first),
            replace(evidence, second=evidence.second[:232] + bytes(64)),
        ):
            with pytest.raises(ProofInvalid):
                bad.verify(params)
        with pytest.raises(ProofInvalid):
            evidence.verify(make_params(Mode.SHARED, 3))


def test_different_parents_prove_nothing_in_a_shared_chain() -> None:
    params = make_params(Mode.SHARED, 2)
    builder = Builder(params).grow(1, 1)
    one, other = builder.fork(1).make(50, key=1), builder.fork(0)
    other.make(70)
    second = other.make(71, key=1)
    evidence = Evidence(Statements.HEADERS, one.raw + one.sig, second.raw + second.sig)
    with pytest.raises(ProofInvalid, match="different parents"):
        evidence.verify(params)


def note(params: Any, size: int, root: bytes, key: int = 0) -> bytes:
    return Checkpoint(params.origin, size, root).sign(KEYS[key])


def test_two_notes_prove_equivocation() -> None:
    evidence = Evidence(Statements.NOTES, note(PARAMS, 5, bytes(32)), note(PARAMS, 5, b"\1" * 32))
    assert Evidence.decode(evidence.encode()) == evidence
    assert "two roots at size 5" in evidence.verify(PARAMS)
    for other in (evidence.first, note(PARAMS, 6, b"\1" * 32), note(PARAMS, 5, b"\1" * 32, key=1)):
        with pytest.raises(ProofInvalid):
            replace(evidence, second=other).verify(PARAMS)


def test_notes_of_two_authors_are_a_split_and_no_fraud() -> None:
    params = make_params(Mode.SHARED, 2)
    evidence = Evidence(Statements.NOTES, note(params, 5, bytes(32)), note(params, 5, b"\1" * 32, key=1))
    with pytest.raises(ProofInvalid, match="one key"):
        evidence.verify(params)


def test_a_header_and_a_note_prove_equivocation_in_a_feed() -> None:
    block = Builder(PARAMS).make(1)
    first = block.raw + block.sig
    evidence = Evidence(Statements.HEADER_AND_NOTE, first, note(PARAMS, 2, bytes(32)))
    assert Evidence.decode(evidence.encode()) == evidence
    assert "two roots at size 2" in evidence.verify(PARAMS)
    for other in (note(PARAMS, 2, block.header.log_root), note(PARAMS, 3, bytes(32))):
        with pytest.raises(ProofInvalid):
            replace(evidence, second=other).verify(PARAMS)
    shared = make_params(Mode.SHARED, 2)
    with pytest.raises(ProofInvalid, match="orphaned"):
        replace(evidence, second=note(shared, 2, bytes(32))).verify(shared)


def test_malformed_evidence() -> None:
    headers = two_headers()[1].encode()
    notes = Evidence(Statements.NOTES, b"a", b"b").encode()
    for bad in (
        b"",
        headers[:18],
        headers[:-1],
        headers + b"\0",
        headers[:18] + b"\4" + headers[19:],
        headers[:18] + b"\0" + headers[19:],
        b"x" + headers[1:],
        notes[:-1],
        notes[:19] + b"\xff\xff\xff\xff" + notes[23:],
    ):
        with pytest.raises(ProofInvalid):
            Evidence.decode(bad)
