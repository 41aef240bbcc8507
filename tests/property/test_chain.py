"""Properties of the chain: proofs of all small trees, one encoding each, and machines that converge or say why not."""

from __future__ import annotations

import random
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talos.chain.block import Header, Item, decode_items, encode_items
from talos.chain.evidence import Evidence
from talos.chain.genesis import Mode, Params
from talos.chain.machine import AlarmKind
from talos.chain.merkle import EMPTY_ROOT, Frontier, Tiles, merkle_root, new_tiles, verify_consistency, verify_inclusion
from talos.chain.note import Verifier, open_note, sign_note
from talos.chain.proof import LogProof
from talos.errors import ProofInvalid
from tests.unit.chain.memory_chain import KEYS, Builder, Network, Node, make_params
from tests.unit.chain.test_merkle import Kept, leaves_of

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = 300
LEAVES = leaves_of(SIZE)


@pytest.fixture(scope="module")
def tree() -> tuple[Tiles, list[bytes]]:
    """Tiles of 300 leaves, and the root of every size."""
    kept, frontier, roots = Kept(), Frontier(), [EMPTY_ROOT]
    for number, leaf in enumerate(LEAVES):
        kept.update(new_tiles(kept, number, [leaf]))
        frontier.append(leaf)
        roots.append(frontier.root())
    return Tiles(kept), roots


def test_all_proofs_to_size_300_hold(tree: tuple[Tiles, list[bytes]]) -> None:
    tiles, roots = tree
    for size in range(1, SIZE + 1):
        for number in range(size):
            verify_inclusion(LEAVES[number], number, size, tiles.inclusion(number, size), roots[size])
            verify_consistency(number + 1, size, tiles.consistency(number + 1, size), roots[number + 1], roots[size])


@given(st.data())
def test_every_changed_byte_of_a_proof_is_found(tree: tuple[Tiles, list[bytes]], data: st.DataObject) -> None:
    tiles, roots = tree
    size = data.draw(st.integers(2, SIZE))
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size - 1))
    inclusion, consistency = tiles.inclusion(index, size), tiles.consistency(old, size)
    mask = data.draw(st.integers(1, 255))
    for path in _mutants(inclusion, mask):
        with pytest.raises(ProofInvalid):
            verify_inclusion(LEAVES[index], index, size, path, roots[size])
    for path in _mutants(consistency, mask):
        with pytest.raises(ProofInvalid):
            verify_consistency(old, size, path, roots[old], roots[size])


def _mutants(path: Sequence[bytes], mask: int) -> list[list[bytes]]:
    """Each byte changed, each hash left out or doubled."""
    found = []
    for number, one in enumerate(path):
        for position in range(len(one)):
            changed = bytearray(one)
            changed[position] ^= mask
            found.append([*path[:number], bytes(changed), *path[number + 1 :]])
        found.append([*path[:number], *path[number + 1 :]])
        found.append([*path[: number + 1], one, *path[number + 1 :]])
    return found


@given(st.data())
def test_a_proof_holds_for_one_place_only(tree: tuple[Tiles, list[bytes]], data: st.DataObject) -> None:
    tiles, roots = tree
    size = data.draw(st.integers(2, SIZE))
    index, other = data.draw(st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True))
    with pytest.raises(ProofInvalid):
        verify_inclusion(LEAVES[index], other, size, tiles.inclusion(index, size), roots[size])
    with pytest.raises(ProofInvalid):
        verify_inclusion(LEAVES[other], index, size, tiles.inclusion(index, size), roots[size])


@given(st.integers(0, 700), st.lists(st.integers(1, 300), max_size=4))
def test_tiles_grow_alike_whatever_the_steps(cut: int, steps: list[int]) -> None:
    leaves, kept, size = leaves_of(sum(steps)), Kept(), 0
    for step in steps:
        kept.update(new_tiles(kept, size, leaves[size : size + step]))
        size += step
    assert Tiles(kept).root(size) == merkle_root(leaves)
    again = min(cut, size)  # cut there, and grown another way
    other = leaves[:again] + [sha256(leaf).digest() for leaf in leaves[again:]]
    kept.update(new_tiles(kept, again, other[again:]))
    assert Tiles(kept).root(size) == merkle_root(other)


# -- One encoding ---------------------------------------------------------------------------------------


@given(st.binary(max_size=400))
def test_bytes_are_one_thing_or_nothing(data: bytes) -> None:
    for kind in (Header, Params, Evidence, LogProof):
        try:
            found = kind.decode(data)
        except ProofInvalid:
            continue
        assert found.encode() == data


@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300))))
def test_items_are_read_as_they_were_written(parts: list[tuple[bytes, bytes]]) -> None:
    items = [Item(entry, sealed) for entry, sealed in parts]
    assert decode_items(encode_items(items)) == items
    bare = [item.without_blob() for item in items]
    assert decode_items(encode_items(bare), pruned=True) == bare


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_of_parameters_is_found(position: int, mask: int) -> None:
    """Also the random bytes and times, for the identity signed them."""
    data = bytearray(make_params().encode())
    data[position % len(data)] ^= mask
    try:
        found = Params.decode(bytes(data))
    except ProofInvalid:
        return
    assert found.chain_id != make_params().chain_id
    assert found.encode() == bytes(data)


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]) | st.just("\n")), st.integers(1, 255))
def test_notes_are_read_as_they_were_signed(text: str, mask: int) -> None:
    verifier = Verifier("name", KEYS[0].public_key.data)
    note = sign_note(text + "\n", [("name", KEYS[0])])
    assert open_note(note, [verifier]).text == text + "\n"
    changed = bytearray(note)
    changed[random.Random(mask).randrange(len(note))] ^= mask
    with pytest.raises(ProofInvalid):
        open_note(bytes(changed), [verifier])


# -- Machines -------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.data())
def test_shared_authors_converge_or_report_a_split(seed: int, data: st.DataObject) -> None:
    """Three authors write while links come and go; joined again, all have one chain, or say that it is split."""
    params = make_params(Mode.SHARED, 3, finality_depth=4)
    nodes = [Node(name, params, key=key) for key, name in enumerate("abc")]
    network = Network(*nodes, seed=seed)
    pairs = [("a", "b"), ("b", "c"), ("a", "c")]
    number = 0
    for _ in range(data.draw(st.integers(1, 12))):
        match data.draw(st.integers(0, 3)):
            case 0:
                for pair in pairs:
                    network.part(*pair)
            case 1:
                _join(network, *data.draw(st.sampled_from(pairs)))
            case _:
                number += 1
                data.draw(st.sampled_from(nodes)).record(number, network.now)
        network.pass_time(data.draw(st.floats(0.1, 4)))
    for _ in range(4):
        for pair in pairs:
            _join(network, *pair)
        network.pass_time(35)
    alarms = {alarm for node in nodes for alarm in node.alarms}
    if AlarmKind.SPLIT not in alarms:
        assert len({node.tip for node in nodes}) == 1
        assert nodes[0].numbers == set(range(1, number + 1)), "every entry is there exactly once"
        assert sum(node.machine.waiting for node in nodes) == 0
    assert AlarmKind.EQUIVOCATION not in alarms
    assert not any(fault.reason != "FINAL" for node in nodes for fault in node.faults)


def _join(network: Network, one: str, other: str) -> None:
    if frozenset((one, other)) not in network.links:
        network.join(one, other)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 70), st.integers(0, 20))
def test_two_machines_agree_in_whatever_order_their_words_come(seed: int, ahead: int, common: int) -> None:
    builder = Builder(make_params()).grow(common, 1)
    behind = list(builder.blocks)
    builder.grow(ahead, 1000)
    one, other = Node("one", builder.params, builder.blocks), Node("other", builder.params, behind)
    third = Node("third", builder.params, behind[:1])
    network = Network(one, other, third, seed=seed)
    for pair in (("one", "other"), ("other", "third"), ("one", "third")):
        network.join(*pair)
    network.pass_time(3)
    assert one.tip == other.tip == third.tip
    assert not (one.faults)
    assert not (other.faults)
    assert not (third.faults)
