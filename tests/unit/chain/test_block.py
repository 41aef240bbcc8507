"""Headers, items and drafts: the known answers, one encoding, and what no block may hold."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from talos.chain.block import (
    HEADER_BYTES,
    SIGNED_HEADER_BYTES,
    Block,
    Draft,
    Header,
    Item,
    Prepared,
    body_hash,
    check_signature,
    decode_items,
    encode_items,
)
from talos.chain.entry import commit, leaf_hash
from talos.chain.genesis import Mode, genesis_draft
from talos.chain.merkle import Frontier
from talos.chain.pow import SLICE_NONCES, Solver, meets, solve, work
from talos.errors import LocalProtocolError, ProofInvalid
from tests.unit.chain.memory_chain import CREATED_MS, KEYS, Builder, make_entry, make_params
from tests.unit.chain.test_entry import SENT

K_PRIV = b"\x03" * 32


def test_known_answers_of_two_blocks() -> None:
    params = make_params()
    assert len(params.encode()) == 249
    assert params.chain_id.hex() == "e512b53de949b60554ae19f3039d549215287baddd065a26dff79c235426eba1"
    draft = genesis_draft(params)
    assert solve(draft.header.encode()) == 49
    first = draft.finish(49, KEYS[0])
    assert first.block_id.hex() == "0015706abf53531e6eef4d6735b8b4bc3b868ed63d34f46d10e1f76f49c8e1c4"
    committed = commit(SENT, K_PRIV)
    builder = Builder(params, first)
    draft = builder.draft([Item(committed.entry, SENT.sealed)], time_ms=CREATED_MS + 2000)
    assert solve(draft.header.encode()) == 765
    block = draft.finish(765, KEYS[0])
    assert block.block_id.hex() == "000f87c99b626f22e3339db20c1ca0bb6c12d82fe055b1ffa1cf4125f9dbf7fb"
    assert block.header.log_root.hex() == "07e2bb741aec2f762a079ec6bf08d7dfca760e3466279fb6429e4f7737bb3206"
    assert (block.header.log_size, block.total_work, block.first_index) == (2, 512, 1)
    assert block.sig.hex() == (
        "4625344ee770abf1754a8b790f6f2a4124f3e45876c8217ff0d190deac01dfe1"
        "03d7f1e68ede41e6ba35fc8ad436889c94859aebc78a30496d8b90ca5117cf0a"
    )
    check_signature(params.authors[0].key, block.block_id, block.sig)
    with pytest.raises(ProofInvalid):
        check_signature(params.authors[0].key, first.block_id, block.sig)
    assert block.leaves == (leaf_hash(committed.entry),)
    assert block.block.size == 296 + 2 + 148 + 4 + 12


def test_a_header_has_one_encoding() -> None:
    header = Builder(make_params()).make(1).header
    raw = header.encode()
    assert len(raw) == HEADER_BYTES == 232
    assert SIGNED_HEADER_BYTES == 296
    assert Header.decode(raw) == header
    assert header.block_id == sha256(b"talos/block/v1\n" + raw).digest()
    assert Block(raw, b"", ()).header == header
    for bad in (raw[:-1], raw + b"\0", b"\0\2" + raw[2:], b""):
        with pytest.raises(ProofInvalid):
            Header.decode(bad)
    with pytest.raises(LocalProtocolError):
        replace(header, height=2**64).encode()


def test_items_have_one_encoding() -> None:
    items = [Item(b"entry"), Item(b"", b"blob"), Item(b"x" * 300, b"y" * 1000)]
    data = encode_items(items)
    assert decode_items(data) == items
    assert decode_items(b"") == []
    pruned = [item.without_blob() for item in items]
    assert [item.pruned for item in pruned] == [False, True, True]
    assert pruned[0] is items[0]
    assert decode_items(encode_items(pruned), pruned=True) == pruned
    assert [item.size for item in pruned] == [item.size for item in items] == [11, 10, 1306]
    for cut in (1, 3, 7, len(data) - 1):
        with pytest.raises(ProofInvalid):
            decode_items(data[:cut])


def test_the_body_hash_survives_pruning() -> None:
    blob = b"ciphertext"
    sealed = sha256(b"talos/sealed/v1\n" + blob).digest()
    items = [Item(make_entry(1, sealed_hash=sealed), blob), Item(make_entry(2))]
    whole = body_hash(items)
    assert body_hash([item.without_blob() for item in items]) == whole
    assert body_hash(items, [sealed, None]) == whole
    assert body_hash([Item(items[0].entry), items[1]]) != whole


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "empty"),
        ([Item(b"\1\7")], "no entry"),
        ([Item(make_entry(1), b"blob")], "not the one"),
        ([Item(make_entry(1), b"", 4)], "not the one"),
    ],
)
def test_drafts_that_are_refused(items: list[Item], message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        Builder(make_params()).draft(items)


def test_a_draft_is_finished_by_its_author_and_its_nonce() -> None:
    draft = Builder(make_params()).draft([Item(make_entry(1))])
    nonce = solve(draft.header.encode())
    with pytest.raises(LocalProtocolError, match="another author"):
        draft.finish(nonce, KEYS[1])
    wrong = next(n for n in range(1000) if not meets(replace(draft.header, nonce=n).block_id, 8))
    with pytest.raises(LocalProtocolError, match="no proof of work"):
        draft.finish(wrong, KEYS[0])


def test_a_draft_leaves_the_frontier_as_it_was() -> None:
    params, frontier = make_params(Mode.SHARED, 2), Frontier()
    common: dict[str, Any] = {"chain_id": params.chain_id, "height": 0, "prev_id": bytes(32), "time_ms": 1, "bits": 8}
    draft = Draft.build(
        [Prepared.of(Item(make_entry(1)))],
        frontier=frontier,
        author_pk=KEYS[0].public_key.data,
        parent_work=7,
        **common,
    )
    assert frontier.size == 0
    assert draft.finish(solve(draft.header.encode()), KEYS[0]).total_work == 7 + 256


# -- Work -----------------------------------------------------------------------------------------------


def test_work_is_found_in_slices_and_is_the_smallest() -> None:
    raw = replace(Builder(make_params()).make(1).header, pow_bits=13, nonce=0).encode()
    solver, slices = Solver(raw), 0
    while (nonce := solver.run(256)) is None:
        slices += 1
    assert slices > 0
    assert meets(Header.decode(raw[:-8] + nonce.to_bytes(8, "big")).block_id, 13)
    assert not any(meets(Header.decode(raw[:-8] + n.to_bytes(8, "big")).block_id, 13) for n in range(nonce))
    assert solve(raw, start=nonce) == nonce == solver.nonce
    assert solve(raw, start=nonce + 1) > nonce
    assert SLICE_NONCES == 4096
    assert work(13) == 8192


def test_work_that_cannot_be_done() -> None:
    header = Builder(make_params()).make(1).header
    for bits in (0, 256):
        with pytest.raises(LocalProtocolError, match="bits"):
            Solver(replace(header, pow_bits=bits).encode())
    with pytest.raises(LocalProtocolError, match="232"):
        Solver(header.encode()[:-1])
    with pytest.raises(LocalProtocolError, match="no nonce"):
        solve(replace(header, pow_bits=255).encode(), start=2**64 - 300)
