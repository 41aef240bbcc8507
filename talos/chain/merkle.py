"""The RFC 6962 tree over all entries of a chain: roots, paths, and their verification (RFC 9162 section 2.1).

    MTH({}) = H("")      MTH(D[n]) = H(0x01 ‖ MTH(D[0:k]) ‖ MTH(D[k:n])), k the largest power of two below n

Rules:

- A subtree over 2^level leaves that begins at a multiple of 2^level never changes again: `node(level, index)`. All else
  is made of such nodes: a tree of n leaves is one of them for each bit of n, its frontier.
- They are kept in runs of 256, the tiles of C2SP: tile (L, n) holds the nodes of level 8·L from 256·n on. What lies
  between is hashed again when a tile is first needed, and kept as long as the cache has room.
- Verification raises ProofInvalid and returns nothing: there is no result to forget to look at.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol, Self

from talos.errors import LocalProtocolError, ProofInvalid, StoreCorrupt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "MAX_PATH",
    "TILE_WIDTH",
    "Frontier",
    "TileSource",
    "Tiles",
    "leaf_path",
    "merkle_root",
    "new_tiles",
    "tile_counts",
    "verify_consistency",
    "verify_inclusion",
]

HASH_BYTES = 32
TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
MAX_PATH = 63
"""Hashes in a proof: as many as a tree of 2^63 leaves has levels."""
EMPTY_ROOT: Final = sha256(b"").digest()
CACHE_BYTES = 32 * 1024 * 1024
EXPANDED_BYTES: Final = 2 * TILE_WIDTH * HASH_BYTES
"""What a tile takes with its inner nodes."""


# -- Roots ----------------------------------------------------------------------------------------------


class Frontier:
    """The right edge of a growing tree: all that appending needs, one hash for each bit of the size."""

    __slots__ = ("_hashes", "size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self.size = size
        self._hashes = list(hashes)
        if len(self._hashes) != size.bit_count():
            raise LocalProtocolError(f"the frontier of {size} leaves has {size.bit_count()} hashes")

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """Of the largest subtree first."""
        return tuple(self._hashes)

    def append(self, leaf: bytes) -> None:
        self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> None:
        hashes, size, digest = self._hashes, self.size, sha256
        for leaf in leaves:
            carry = size
            while carry & 1:
                leaf = digest(b"\x01" + hashes.pop() + leaf).digest()
                carry >>= 1
            hashes.append(leaf)
            size += 1
        self.size = size

    def root(self) -> bytes:
        return _fold(self._hashes)

    def copy(self) -> Self:
        return type(self)(self.size, self._hashes)

    def become(self, other: Frontier) -> None:
        """Takes the state of another that has grown from this one."""
        self.size, self._hashes = other.size, list(other._hashes)


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes."""
    row = list(leaves)
    while len(row) > 1:
        row = _row_above(row)
    return row[0] if row else EMPTY_ROOT


def leaf_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The inclusion path of one leaf in the tree over just these; for the proof within a block."""
    if not 0 <= index < len(leaves):
        raise LocalProtocolError(f"there is no leaf {index} of {len(leaves)}")
    row, path = list(leaves), []
    while len(row) > 1:
        if index ^ 1 < len(row):
            path.append(row[index ^ 1])
        row, index = _row_above(row), index >> 1
    return path


def _row_above(row: list[bytes]) -> list[bytes]:
    """The parents of a row; its last hash goes up as it is when it has no neighbour."""
    above = [sha256(b"\x01" + left + right).digest() for left, right in zip(row[::2], row[1::2], strict=False)]
    if len(row) & 1:
        above.append(row[-1])
    return above


def _fold(hashes: Sequence[bytes]) -> bytes:
    """The root above neighbouring subtrees that grow smaller from left to right."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = sha256(b"\x01" + left + root).digest()
    return root


# -- Tiles ----------------------------------------------------------------------------------------------


class TileSource(Protocol):
    """Where the runs of hashes are kept."""

    def tile(self, level: int, n: int) -> bytes:
        """The hashes of that run as far as there are some, 32 bytes each; b"" when there is none."""


class Tiles:
    """Nodes, roots and paths of a tree whose tiles a source keeps.

    Growing needs no notice; `forget` when the tree was cut. StoreCorrupt when the source lacks what must be there.
    """

    __slots__ = ("_cache", "_room", "_source")

    def __init__(self, source: TileSource, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._source = source
        self._room = max(1, cache_bytes // EXPANDED_BYTES)
        self._cache: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()

    def forget(self) -> None:
        """Leaves that were read may have changed since."""
        self._cache.clear()

    def node(self, level: int, index: int) -> bytes:
        """The root of the 2^level leaves from index·2^level on."""
        tile_level, inner = divmod(level, TILE_HEIGHT)
        n = index >> (TILE_HEIGHT - inner)
        start = (index - (n << (TILE_HEIGHT - inner))) * HASH_BYTES
        rows = self._cache.get((tile_level, n))
        if rows is None or len(rows[inner]) <= start:
            rows = self._read(tile_level, n)
            if len(rows[inner]) <= start:
                raise StoreCorrupt(f"tile {tile_level}/{n} lacks hash {index} of level {level}")
        return rows[inner][start : start + HASH_BYTES]

    def frontier(self, size: int) -> Frontier:
        """The frontier of the first `size` leaves."""
        return Frontier(size, self._nodes(0, size))

    def root(self, size: int) -> bytes:
        return _fold(self._nodes(0, size))

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The path of one leaf to the root of the first `size` leaves."""
        if not 0 <= index < size:
            raise LocalProtocolError(f"there is no leaf {index} of {size}")
        path, level, last = [], 0, size - 1
        while last:
            sibling = index ^ 1
            if sibling < last:
                path.append(self.node(level, sibling))
            elif sibling == last:  # the right edge, which is the neighbour on one level only
                path.append(_fold(self._nodes(sibling << level, size)))
            index, last, level = index >> 1, last >> 1, level + 1
        return path

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the first `old` leaves are a prefix of the first `new`."""
        if not 0 < old <= new:
            raise LocalProtocolError(f"there is no proof from {old} to {new} leaves")
        path: list[bytes] = []
        start, end, whole = 0, new, True  # RFC 6962 SUBPROOF: the part in which the old tree ends
        while old != end:
            half = 1 << ((end - start - 1).bit_length() - 1)
            if old - start <= half:
                path.append(_fold(self._nodes(start + half, end)))
                end = start + half
            else:
                path.append(_fold(self._nodes(start, start + half)))
                start, whole = start + half, False
        if not whole:
            path.append(_fold(self._nodes(start, end)))
        path.reverse()
        return path

    def _nodes(self, start: int, end: int) -> list[bytes]:
        """The nodes over [start, end), largest first; start is a multiple of the largest."""
        found = []
        while start < end:
            level = (end - start).bit_length() - 1
            found.append(self.node(level, start >> level))
            start += 1 << level
        return found

    def _read(self, level: int, n: int) -> list[bytes]:
        """A tile with its inner nodes: row k holds those 2^k of its hashes wide."""
        data = self._source.tile(level, n)
        row = [data[at : at + HASH_BYTES] for at in range(0, len(data) - HASH_BYTES + 1, HASH_BYTES)][:TILE_WIDTH]
        rows = []
        for _ in range(TILE_HEIGHT):
            rows.append(b"".join(row))
            row = [sha256(b"\x01" + left + right).digest() for left, right in zip(row[::2], row[1::2], strict=False)]
        self._cache[level, n] = rows
        self._cache.move_to_end((level, n))
        if len(self._cache) > self._room:
            self._cache.popitem(last=False)
        return rows


def new_tiles(source: TileSource, size: int, leaves: Sequence[bytes]) -> Mapping[tuple[int, int], bytes]:
    """The tiles that are new or longer once `leaves` follow the first `size`, whole, by level and number.

    Hashes that the source has beyond `size` are dropped from them, so that a cut tree may grow another way.
    """
    found: dict[tuple[int, int], bytes] = {}
    level, hashes = 0, leaves
    while hashes:
        full = []
        n, have = divmod(size, TILE_WIDTH)
        begun = source.tile(level, n)[: have * HASH_BYTES] if have else b""
        if len(begun) != have * HASH_BYTES:
            raise StoreCorrupt(f"tile {level}/{n} has fewer than {have} hashes")
        run = [begun[at : at + HASH_BYTES] for at in range(0, len(begun), HASH_BYTES)]
        run.extend(hashes)
        for at in range(0, len(run), TILE_WIDTH):
            part = run[at : at + TILE_WIDTH]
            found[level, n] = b"".join(part)
            n += 1
            if len(part) == TILE_WIDTH:
                full.append(merkle_root(part))
        level, hashes, size = level + 1, full, size // TILE_WIDTH
    return found


def tile_counts(size: int) -> list[tuple[int, int]]:
    """For each level the full tiles and the width of the one behind them, in a tree of `size` leaves."""
    counts = []
    while size:
        counts.append(divmod(size, TILE_WIDTH))
        size //= TILE_WIDTH
    return counts


# -- Verification ---------------------------------------------------------------------------------------


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """RFC 9162 section 2.1.3.2. ProofInvalid unless `leaf` is the one with this index under `root`."""
    if not 0 <= index < size:
        raise ProofInvalid(f"there is no leaf {index} in a tree of {size}")
    _check_hashes(leaf, root)
    last, here = size - 1, leaf
    for sibling in path:
        if not last:
            raise ProofInvalid("the path has hashes too many")
        if len(sibling) != HASH_BYTES:
            raise ProofInvalid(f"a hash has {HASH_BYTES} bytes, not {len(sibling)}")
        if index & 1:
            here = sha256(b"\x01" + sibling + here).digest()
        elif index == last:
            # The right edge has no neighbour until it has gone up to the level where it is a right child.
            while not index & 1:
                index >>= 1
                last >>= 1
            here = sha256(b"\x01" + sibling + here).digest()
        else:
            here = sha256(b"\x01" + here + sibling).digest()
        index >>= 1
        last >>= 1
    if last:
        raise ProofInvalid("the path is too short")
    if here != root:
        raise ProofInvalid("the path leads to another root")


def verify_consistency(old: int, new: int, path: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """RFC 9162 section 2.1.4.2. ProofInvalid unless the tree of `old` leaves is a prefix of that of `new`."""
    if not 0 < old <= new:
        raise ProofInvalid(f"a tree of {old} leaves is not shown to be a prefix of one of {new}")
    if old == new:
        if path or old_root != new_root:
            raise ProofInvalid("trees of one size with different roots, or with a proof")
        return
    _check_hashes(old_root, new_root, *path)
    shift = (old & -old).bit_length() - 1
    node, last = (old - 1) >> shift, (new - 1) >> shift
    if node and not path:
        raise ProofInvalid("the proof is empty")
    # The old tree ends with a whole subtree: the proof begins with it, unless it is that subtree.
    before, rest = (path[0], path[1:]) if node else (old_root, path)
    if _climb(before, before, node, last, rest) != (old_root, new_root):
        raise ProofInvalid("the proof leads to other roots")


def _climb(before: bytes, after: bytes, node: int, last: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The roots of the old and the new tree, from the subtree that both have and its neighbours upwards."""
    for sibling in path:
        if not last:
            raise ProofInvalid("the proof has hashes too many")
        if node & 1 or node == last:
            before = sha256(b"\x01" + sibling + before).digest()
            after = sha256(b"\x01" + sibling + after).digest()
            while node and not node & 1:
                node >>= 1
                last >>= 1
        else:
            after = sha256(b"\x01" + after + sibling).digest()
        node >>= 1
        last >>= 1
    if last:
        raise ProofInvalid("the proof is too short")
    return before, after


def _check_hashes(*hashes: bytes) -> None:
    for found in hashes:
        if len(found) != HASH_BYTES:
            raise ProofInvalid(f"a hash has {HASH_BYTES} bytes, not {len(found)}")
