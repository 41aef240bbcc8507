"""Every rule of a block: the first that it breaks names the reason, and costly ones come last."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from talos.chain.block import Block, Checked, Header, Item, body_hash, sign_block
from talos.chain.entry import Entry, Kind, inspect, leaf_hash
from talos.chain.fork_choice import Branch, Choice, choose, final_height
from talos.chain.genesis import Mode, Params
from talos.chain.merkle import Frontier, merkle_root
from talos.chain.pow import solve
from talos.chain.validation import (
    MAX_AHEAD_MS,
    STEP_ITEMS,
    Linked,
    Reason,
    Trail,
    Walker,
    body_steps,
    check_genesis,
    check_size,
)
from talos.errors import BlockRejected
from tests.unit.chain.memory_chain import CREATED_MS, KEYS, Builder, genesis, make_entry, make_params

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PARAMS = make_params()
BLOB = b"a sealed message"
SEALED = sha256(b"talos/sealed/v1\n" + BLOB).digest()


def signed(header: Header, key: int = 0) -> tuple[bytes, bytes]:
    """Worked and signed, whatever it says."""
    header = replace(header, nonce=solve(header.encode())) if 0 < header.pow_bits <= 40 else header
    raw = header.encode()
    return raw, sign_block(KEYS[key], header.block_id)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(BlockRejected) as caught:
        call()
    return caught.value.reason


def next_header(builder: Builder | None = None, **changes: Any) -> tuple[Trail, Header]:
    builder = builder or Builder(PARAMS).grow(3, 1)
    return builder.trail, replace(builder.draft([Item(make_entry(99))]).header, **changes)


# -- Rules 1 to 8 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chain_id": bytes(32)}, Reason.DECODE),
        ({"pow_bits": 7}, Reason.BITS),
        ({"pow_bits": 33}, Reason.BITS),
        ({"prev_id": bytes(32)}, Reason.LINK),
        ({"height": 5}, Reason.LINK),
        ({"n_items": 2}, Reason.LINK),
        ({"n_items": 0, "log_size": 4}, Reason.LINK),
        ({"log_size": 9}, Reason.LINK),
        ({"time_ms": CREATED_MS + 2000}, Reason.TIME),
        ({"time_ms": CREATED_MS + MAX_AHEAD_MS + 1}, Reason.TIME),
        ({"author_pk": KEYS[1].public_key.data}, Reason.AUTHOR),
    ],
)
def test_headers_that_break_a_rule(changes: dict[str, Any], reason: Reason) -> None:
    trail, header = next_header(**changes)
    bits = changes.get("pow_bits", 8)
    raw, sig = signed(header) if bits == 8 else (header.encode(), bytes(64))
    assert refused(lambda: trail.check(raw, sig, CREATED_MS)) == reason


def test_lengths_come_first_and_versions_next() -> None:
    trail, header = next_header()
    raw, sig = signed(header)
    assert refused(lambda: trail.check(raw + b"\0", sig, None)) == Reason.SIZE
    assert refused(lambda: trail.check(raw, sig[:-1], None)) == Reason.SIZE
    assert refused(lambda: trail.check(b"\0\2" + raw[2:], sig, None)) == Reason.DECODE
    assert refused(lambda: trail.check(raw + sig[:1], sig[1:], None)) == Reason.DECODE


def test_work_is_looked_at_before_signatures_and_signatures_before_bodies() -> None:
    trail, header = next_header()
    raw, sig = signed(header)
    worthless = next(raw[:-1] + bytes((n,)) for n in range(256) if Header.decode(raw[:-1] + bytes((n,))).block_id[0])
    assert refused(lambda: trail.check(worthless, bytes(64), None)) == Reason.POW
    for bad in (bytes(64), sig[:-1] + b"\0", sign_block(KEYS[1], header.block_id)):
        assert refused(lambda bad=bad: trail.check(raw, bad, None)) == Reason.SIGNATURE  # type: ignore[misc]
    linked = trail.check(raw, sig, None)
    assert (linked.total_work, linked.header.height) == (5 * 256, 4)


def test_times_are_above_the_median_and_not_far_ahead() -> None:
    builder = Builder(PARAMS)
    for number in range(1, 12):
        builder.make(number, time_ms=CREATED_MS + 1000 * number)
    assert builder.trail.median_ms == CREATED_MS + 6000
    trail, header = next_header(builder, time_ms=CREATED_MS + 6001)  # before its parent, and yet in order
    trail.check(*signed(header), CREATED_MS)
    _, late = next_header(builder, time_ms=CREATED_MS + 6000)
    assert refused(lambda: trail.check(*signed(late), None)) == Reason.TIME
    _, edge = next_header(builder, time_ms=CREATED_MS + MAX_AHEAD_MS)
    trail.check(*signed(edge), CREATED_MS)
    assert refused(lambda: trail.check(*signed(edge), CREATED_MS - 1)) == Reason.TIME
    trail.check(*signed(edge), None)


def test_a_trail_copies_and_is_found_again_in_a_store() -> None:
    from tests.unit.chain.memory_chain import MemoryChain

    builder = Builder(PARAMS).grow(20, 1)
    chain = MemoryChain(builder.blocks[0])
    chain.append(builder.blocks[1:])
    tip = chain.tip()
    assert tip is not None
    assert Trail.at(PARAMS, chain, tip) == builder.trail == builder.trail.copy()


# -- The genesis ----------------------------------------------------------------------------------------


def test_a_genesis_is_checked_as_a_whole() -> None:
    good = genesis(PARAMS).block
    params, checked = check_genesis(good, chain_id=PARAMS.chain_id)
    assert (params, checked.height) == (PARAMS, 0)
    assert refused(lambda: check_genesis(good, chain_id=bytes(32))) == Reason.DECODE
    assert refused(lambda: check_genesis(replace(good, items=()))) == Reason.SIZE
    assert refused(lambda: check_genesis(replace(good, raw=b""))) == Reason.SIZE
    assert refused(lambda: check_genesis(replace(good, items=(Item(make_entry(1)),)))) == Reason.ENTRY


def remade(params: Params, *, key: int = 0, items: Sequence[Item] | None = None, **changes: Any) -> Block:
    """A genesis with other values, worked and signed."""
    first = genesis(params)
    items = first.items if items is None else items
    leaves = [leaf_hash(item.entry) for item in items]
    header = replace(
        first.header,
        n_items=len(items),
        log_size=len(items),
        body_hash=body_hash(items),
        entries_root=merkle_root(leaves),
        log_root=merkle_root(leaves),
        **changes,
    )
    return Block(*signed(header, key), tuple(items))


def test_a_genesis_of_another_time_or_author() -> None:
    assert refused(lambda: Walker(PARAMS).feed(remade(PARAMS, time_ms=CREATED_MS + 1))) == Reason.TIME
    shared = make_params(Mode.SHARED, 2)
    second = remade(shared, key=1, author_pk=KEYS[1].public_key.data)
    assert refused(lambda: Walker(shared).feed(second)) == Reason.AUTHOR


def test_the_genesis_alone_holds_parameters_and_its_own() -> None:
    config = genesis(PARAMS).items[0]
    other = Item(Entry(Kind.CONFIG, 1, (make_params(finality_depth=3).encode(),)).encode())
    assert refused(lambda: Walker(PARAMS).feed(remade(PARAMS, items=[other]))) == Reason.ENTRY
    assert refused(lambda: Walker(PARAMS).feed(remade(PARAMS, items=[Item(make_entry(1))]))) == Reason.ENTRY
    assert refused(lambda: Walker(PARAMS).feed(remade(PARAMS, items=[config, other]))) == Reason.ENTRY
    assert len(Walker(PARAMS).feed(remade(PARAMS, items=[config, Item(make_entry(1))])).keys) == 2
    assert refused(lambda: body_of([config])) == Reason.ENTRY


def test_long_parameters_are_let_in_the_genesis_only() -> None:
    wide = make_params(Mode.SHARED, 8, max_entry=400)
    assert len(genesis(wide).items[0].entry) > 400
    Walker(wide).feed(genesis(wide).block)
    assert refused(lambda: check_size(wide, 1, [Item(bytes(401))])) == Reason.SIZE
    assert refused(lambda: check_size(wide, 0, [Item(b""), Item(bytes(401))])) == Reason.SIZE


# -- Rules 1 and 9 to 12 --------------------------------------------------------------------------------


def body_of(
    items: Sequence[Item],
    *,
    params: Params = PARAMS,
    given: Sequence[Item] | None = None,
    known: Callable[[bytes], bool] = lambda _: False,
    **changes: Any,
) -> Checked:
    """Checks `given`, or the items themselves, under a header that was made for `items`."""
    leaves, frontier = [leaf_hash(item.entry) for item in items], Frontier(1, [bytes(32)])
    grown = frontier.copy()
    grown.extend(leaves)
    values: dict[str, Any] = {
        "n_items": len(items),
        "body_hash": body_hash(items, [None if not item.sealed_len else SEALED for item in items]),
        "entries_root": merkle_root(leaves),
        "log_size": grown.size,
        "log_root": grown.root(),
    }
    header = replace(Builder(params).make(1).header, **(values | changes))
    linked = Linked(header, header.encode(), bytes(64), header.block_id, 512)
    steps = body_steps(params, linked, items if given is None else given, frontier, known)
    count = 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as done:
            checked: Checked = done.value
            assert frontier.root() == header.log_root
            assert count >= len(items) // STEP_ITEMS
            return checked


GOOD = [Item(make_entry(1, sealed_hash=SEALED), BLOB), Item(make_entry(2))]


def test_a_good_body() -> None:
    checked = body_of(GOOD)
    assert checked.keys == tuple(inspect(item.entry).key24 for item in GOOD)
    assert body_of([item.without_blob() for item in GOOD]).items[0].pruned
    assert len(body_of([Item(make_entry(n)) for n in range(1000)]).leaves) == 1000


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (GOOD[:1], Reason.BODY),
        ([*GOOD, GOOD[1]], Reason.BODY),
        ([GOOD[1], GOOD[0]], Reason.BODY),
        ([Item(GOOD[0].entry), GOOD[1]], Reason.BODY),
        ([Item(GOOD[0].entry, b"another blob...."), GOOD[1]], Reason.BODY),
        ([Item(GOOD[0].entry, BLOB, len(BLOB) + 1), GOOD[1]], Reason.BODY),
        ([GOOD[0], Item(make_entry(3))], Reason.BODY),
        ([Item(b"\1\x63", b"", 5), GOOD[1]], Reason.ENTRY),
    ],
)
def test_bodies_that_are_not_those_of_their_header(given: list[Item], reason: Reason) -> None:
    assert refused(lambda: body_of(GOOD, given=given)) == reason


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([Item(make_entry(1, sealed_hash=bytes(32)), BLOB)], Reason.BODY),
        ([Item(make_entry(1, kind=Kind.SENT)[:-1])], Reason.ENTRY),
        ([Item(make_entry(1) + b"\0")], Reason.ENTRY),
        ([Item(b"")], Reason.ENTRY),
        ([Item(b"\2" + make_entry(1)[1:])], Reason.ENTRY),
        ([Item(b"\1\x0c" + make_entry(1)[2:])], Reason.ENTRY),
        ([Item(Entry(Kind.EVIDENCE, 1, (bytes(32),)).encode(), BLOB)], Reason.BODY),
        ([Item(Entry(Kind.KEY_ROTATE, 1, (bytes(32), bytes(32), bytes(64), bytes(64))).encode())], Reason.ENTRY),
        ([Item(make_entry(1)), Item(make_entry(1))], Reason.DUPLICATE),
        ([Item(make_entry(1, time_ms=1)), Item(make_entry(1, time_ms=2))], Reason.DUPLICATE),
    ],
)
def test_bodies_that_break_a_rule(items: list[Item], reason: Reason) -> None:
    assert refused(lambda: body_of(items)) == reason


def test_roots_and_earlier_keys() -> None:
    assert refused(lambda: body_of(GOOD, entries_root=bytes(32))) == Reason.ROOT
    assert refused(lambda: body_of(GOOD, log_root=bytes(32))) == Reason.ROOT
    key = inspect(GOOD[1].entry).key24
    assert refused(lambda: body_of(GOOD, known=lambda found: found == key)) == Reason.DUPLICATE


def test_sizes_are_looked_at_before_anything_is_hashed() -> None:
    many = [Item(b"")] * 4097
    assert refused(lambda: body_of(GOOD, given=many)) == Reason.SIZE
    assert refused(lambda: check_size(PARAMS, 1, [Item(b"", b"", 100_001)])) == Reason.SIZE
    assert refused(lambda: check_size(PARAMS, 1, [Item(b"", b"", 2**32 - 1)])) == Reason.SIZE
    assert refused(lambda: check_size(PARAMS, 1, [Item(bytes(4097))])) == Reason.SIZE
    full = [Item(b"", b"", 99_000)] * 10
    check_size(PARAMS, 1, full)
    assert refused(lambda: check_size(PARAMS, 1, [*full, Item(b"", b"", 10_000)])) == Reason.SIZE


def test_a_walk_over_a_whole_chain() -> None:
    builder = Builder(PARAMS).grow(5, 1)
    walker = Walker(PARAMS)
    for block in builder.blocks:
        assert walker.feed(block.block) == block
    again = builder.make(3)
    assert refused(lambda: walker.feed(again.block)) == Reason.DUPLICATE
    forgetful = Walker(PARAMS, remember=False)
    for block in builder.blocks:
        forgetful.feed(block.block)
    assert forgetful.trail.height == 6


# -- Fork choice ----------------------------------------------------------------------------------------


def test_fork_choice() -> None:
    feed, shared = PARAMS, make_params(Mode.SHARED, 2)
    ours = Branch(20, 2000, b"m" * 32)
    for params in (feed, shared):
        assert choose(params, ours, Branch(21, 2100, b"z" * 32), 20) is Choice.EXTEND
        assert choose(params, ours, ours, 20) is Choice.KEEP
        assert choose(params, ours, Branch(15, 1500, b"a" * 32), 15) is Choice.KEEP
    assert choose(feed, ours, Branch(30, 9000, b"a" * 32), 19) is Choice.EQUIVOCATION
    for theirs, fork, choice in (
        (Branch(30, 9000, b"z" * 32), 8, Choice.SWITCH),
        (Branch(30, 9000, b"z" * 32), 7, Choice.FINAL),
        (Branch(30, 1999, b"a" * 32), 12, Choice.KEEP),
        (Branch(20, 2000, b"a" * 32), 12, Choice.SWITCH),
        (Branch(20, 2000, b"z" * 32), 12, Choice.KEEP),
    ):
        assert choose(shared, ours, theirs, fork) is choice
    assert (final_height(feed, 20), final_height(shared, 20), final_height(shared, 3)) == (20, 8, 0)
