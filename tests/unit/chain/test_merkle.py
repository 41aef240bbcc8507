"""The tree against the public vectors, another implementation, and everything that must not pass as a proof."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pymerkle  # type: ignore[import-untyped]
import pytest

from talos.chain.entry import leaf_hash, node_hash
from talos.chain.merkle import (
    EMPTY_ROOT,
    EXPANDED_BYTES,
    HASH_BYTES,
    Frontier,
    Tiles,
    leaf_path,
    merkle_root,
    new_tiles,
    tile_counts,
    verify_consistency,
    verify_inclusion,
)
from talos.errors import LocalProtocolError, ProofInvalid, StoreCorrupt

VECTORS = Path(__file__).parents[2] / "vectors" / "chain"


def vectors(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return found


def b64(text: str | None) -> bytes:
    return base64.b64decode(text) if text else b""


class Kept(dict[tuple[int, int], bytes]):
    """Tiles in a dictionary."""

    reads = 0

    def tile(self, level: int, n: int) -> bytes:
        self.reads += 1
        return self.get((level, n), b"")


def leaves_of(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % number) for number in range(count)]


def kept(leaves: list[bytes]) -> Kept:
    found = Kept()
    found.update(new_tiles(found, 0, leaves))
    return found


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=path) for path, case in vectors(name)["cases"].items()]


@pytest.mark.parametrize("case", cases("inclusion"))
def test_public_inclusion_vectors(case: dict[str, Any]) -> None:
    path = [b64(found) for found in case["proof"] or ()]
    arguments = b64(case["leafHash"]), case["leafIdx"], case["treeSize"], path, b64(case["root"])
    if case["wantErr"]:
        with pytest.raises(ProofInvalid):
            verify_inclusion(*arguments)
    else:
        verify_inclusion(*arguments)


@pytest.mark.parametrize("case", cases("consistency"))
def test_public_consistency_vectors(case: dict[str, Any]) -> None:
    path = [b64(found) for found in case["proof"] or ()]
    arguments = case["size1"], case["size2"], path, b64(case["root1"]), b64(case["root2"])
    if case["wantErr"]:
        with pytest.raises(ProofInvalid):
            verify_consistency(*arguments)
    else:
        verify_consistency(*arguments)


def test_the_vectors_are_all_there() -> None:
    for name in ("inclusion", "consistency"):
        found = vectors(name)["cases"].values()
        assert (len(found), sum(case["wantErr"] for case in found)) == (98, 92)


def test_public_constants() -> None:
    found = vectors("rfc6962_hash")
    assert bytes.fromhex(found["empty_root"]) == EMPTY_ROOT == merkle_root([]) == Frontier().root()
    assert leaf_hash(b"").hex() == found["empty_leaf"]
    assert leaf_hash(b"L123456").hex() == found["leaf_L123456"]
    assert node_hash(b"N123", b"N456").hex() == found["node_N123_N456"]
    leaves = [leaf_hash(bytes.fromhex(leaf)) for leaf in found["leaves_hex"]]
    for size, root in enumerate(found["roots_by_size"]):
        assert merkle_root(leaves[:size]).hex() == root


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 1000])
def test_another_implementation_has_the_same_root_and_proofs(size: int) -> None:
    entries = [b"%d" % number for number in range(size)]
    theirs, tiles = pymerkle.InmemoryTree(), Tiles(kept(leaves_of(size)))
    theirs.append_entries(entries)
    root = theirs.get_root()
    assert merkle_root(leaves_of(size)) == root == tiles.root(size)
    for index in {0, size // 2, size - 1}:
        path = [bytes.fromhex(one) for one in theirs.prove_inclusion(index + 1, size).serialize()["path"]]
        assert [found.hex() for found in tiles.inclusion(index, size)] == [one.hex() for one in path[1:]]


def test_another_implementation_has_the_same_root_of_70000() -> None:
    theirs = pymerkle.InmemoryTree()
    theirs.append_entries([b"%d" % number for number in range(70_000)])
    tiles = Tiles(kept(leaves_of(70_000)))
    assert theirs.get_root() == tiles.root(70_000) == tiles.frontier(70_000).root()


def test_a_tree_of_70000_is_the_same_by_runs_and_by_the_frontier() -> None:
    leaves = leaves_of(70_000)
    found, frontier = Kept(), Frontier()
    for start in range(0, len(leaves), 7_001):
        part = leaves[start : start + 7_001]
        found.update(new_tiles(found, start, part))
        frontier.extend(part)
    tiles = Tiles(found)
    assert frontier.root() == tiles.root(70_000) == merkle_root(leaves)
    assert frontier.hashes == tiles.frontier(70_000).hashes
    assert tile_counts(70_000) == [(273, 112), (1, 17), (0, 1)]
    assert {level: sum(1 for one, _ in found if one == level) for level in range(3)} == {0: 274, 1: 2, 2: 1}
    path = tiles.inclusion(69_999, 70_000)
    verify_inclusion(leaves[69_999], 69_999, 70_000, path, frontier.root())
    verify_consistency(256, 70_000, tiles.consistency(256, 70_000), merkle_root(leaves[:256]), frontier.root())


def test_the_proof_within_a_block_is_that_of_the_log() -> None:
    leaves = leaves_of(77)
    tiles = Tiles(kept(leaves))
    for index in range(77):
        assert leaf_path(leaves, index) == tiles.inclusion(index, 77)
    for index in (-1, 77):
        with pytest.raises(LocalProtocolError):
            leaf_path(leaves, index)


def test_all_small_trees_are_consistent() -> None:
    leaves, frontier = leaves_of(33), Frontier()
    tiles, roots = Tiles(kept(leaves)), [EMPTY_ROOT]
    for leaf in leaves:
        frontier.append(leaf)
        roots.append(frontier.root())
    for new in range(1, 34):
        for old in range(1, new + 1):
            verify_consistency(old, new, tiles.consistency(old, new), roots[old], roots[new])


def test_a_duplicated_last_leaf_gives_another_root() -> None:
    """CVE-2012-2459: where odd rows repeat their last hash, [a, b, c] and [a, b, c, c] have one root."""
    leaves = leaves_of(3)
    assert merkle_root(leaves) != merkle_root([*leaves, leaves[-1]])


def test_an_entry_of_64_bytes_is_no_node() -> None:
    left, right = leaves_of(2)
    assert leaf_hash(left + right) != merkle_root([left, right])
    with pytest.raises(ProofInvalid, match="another root"):
        verify_inclusion(leaf_hash(left + right), 0, 1, [], merkle_root([left, right]))


def test_a_cut_tree_grows_another_way() -> None:
    first, second = leaves_of(600), leaves_of(300) + [leaf_hash(b"other %d" % n) for n in range(500)]
    found = kept(first)
    tiles = Tiles(found)
    assert tiles.root(600) == merkle_root(first)
    found.update(new_tiles(found, 300, second[300:]))
    tiles.forget()
    assert tiles.root(800) == merkle_root(second)


def test_the_cache_has_its_room_and_no_more() -> None:
    found = kept(leaves_of(1024))
    tiles = Tiles(found, cache_bytes=2 * EXPANDED_BYTES)
    for n in (0, 1, 0, 1):
        tiles.node(0, 256 * n)
    assert found.reads == 2
    tiles.node(0, 512)  # drops tile 0
    tiles.node(0, 0)
    assert found.reads == 4


def test_a_missing_hash_is_a_damaged_store() -> None:
    found = kept(leaves_of(300))
    tiles = Tiles(found)
    with pytest.raises(StoreCorrupt, match="tile 0/1 lacks hash 300"):
        tiles.root(301)
    with pytest.raises(StoreCorrupt, match="fewer than 45"):
        new_tiles(found, 301, leaves_of(1))


def test_a_tile_that_grew_is_read_again() -> None:
    leaves, found = leaves_of(10), kept(leaves_of(9))
    tiles = Tiles(found)
    assert tiles.root(9) == merkle_root(leaves[:9])
    found.update(new_tiles(found, 9, leaves[9:]))
    assert tiles.root(10) == merkle_root(leaves)


def test_proofs_that_cannot_be_made() -> None:
    tiles = Tiles(kept(leaves_of(5)))
    for index, size in ((5, 5), (-1, 5)):
        with pytest.raises(LocalProtocolError):
            tiles.inclusion(index, size)
    for old, new in ((0, 5), (5, 4)):
        with pytest.raises(LocalProtocolError):
            tiles.consistency(old, new)
    with pytest.raises(LocalProtocolError):
        Frontier(3, [bytes(32)])


def test_proofs_of_a_wrong_form() -> None:
    leaves = leaves_of(5)
    tiles, root = Tiles(kept(leaves)), merkle_root(leaves)
    path = tiles.inclusion(2, 5)
    for bad, message in (
        ([*path, bytes(32)], "too many"),
        (path[:-1], "too short"),
        ([path[0][:31], *path[1:]], "32 bytes"),
        ([bytes(32), *path[1:]], "another root"),
    ):
        with pytest.raises(ProofInvalid, match=message):
            verify_inclusion(leaves[2], 2, 5, bad, root)
    with pytest.raises(ProofInvalid, match="32 bytes"):
        verify_inclusion(leaves[2][:31], 2, 5, path, root)
    proof, old = tiles.consistency(3, 5), merkle_root(leaves[:3])
    for bad, message in (
        ([*proof, bytes(32)], "too many"),
        (proof[:-1], "too short"),
        ([], "empty"),
        ([proof[0], b"", *proof[2:]], "32 bytes"),
        ([bytes(32), *proof[1:]], "other roots"),
    ):
        with pytest.raises(ProofInvalid, match=message):
            verify_consistency(3, 5, bad, old, root)
    with pytest.raises(ProofInvalid, match="one size"):
        verify_consistency(5, 5, [bytes(32)], root, root)
    verify_consistency(5, 5, [], root, root)


def test_hashes_have_32_bytes() -> None:
    assert len(sha256().digest()) == HASH_BYTES
