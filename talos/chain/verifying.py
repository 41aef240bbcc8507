"""Whether a chain is whole: every link, signature, hash, index, tile and box, and the first that is not right.

All of it reads; nothing is repaired. Synchronous: for commands and worker threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from talos.abc import SignedReceipt
from talos.chain.checkpoint import open_checkpoint, verifiers_of
from talos.chain.effects import Stored
from talos.chain.entry import Entry, Kind, inspect, leaf_hash
from talos.chain.merkle import HASH_BYTES, TILE_WIDTH, Frontier, merkle_root
from talos.chain.opening import check_head, check_tip
from talos.chain.reading import POSITION_BITS
from talos.chain.receipt import Receipt, check_receipt
from talos.chain.validation import Trail, body_steps, finish
from talos.errors import ChainError, ProofInvalid
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.chain.block import Header, Item
    from talos.chain.reading import Reading
    from talos.chain.records import ChainReader
    from talos.chain.validation import Linked

T = TypeVar("T")

__all__ = ["Bad", "Verification", "verify_reader"]


@dataclass(frozen=True, slots=True)
class Bad:
    """The first thing that is wrong; height or index where it has one."""

    height: int | None
    index: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    checked: int
    """Entries that were in order before anything was wrong."""
    blocks: int
    first_bad: Bad | None = None

    @property
    def ok(self) -> bool:
        return self.first_bad is None


class _Found(Exception):
    """Ends a verification: what was found."""

    def __init__(self, height: int | None, index: int | None, reason: str) -> None:
        super().__init__(reason)
        self.bad = Bad(height, index, reason)


def verify_reader(reader: ChainReader, *, full: bool, receipts: bool = False) -> Verification:
    """Checks links, signatures, tip and HEAD; with `full` also every entry, index and tile, and the small tables.

    `receipts`: those that peers gave us are what our entries say. Boxes are opened where the reader has the keys.
    """
    walk = _Walk(reader, full=full, receipts=receipts)
    try:
        walk.run()
    except _Found as found:
        return Verification(checked=walk.checked, blocks=walk.height, first_bad=found.bad)
    return Verification(checked=walk.checked, blocks=walk.height)


class _Walk:
    """One pass over a chain."""

    def __init__(self, reader: ChainReader, *, full: bool, receipts: bool) -> None:
        self._reader = reader
        self._reading: Reading = reader.reading
        self._params = reader.params
        self._full = full
        self._receipts = receipts
        self._trail = Trail.empty(reader.params)
        self._frontier = Frontier()
        self._tiles = _TileCheck(self._reading)
        self._pruned = False
        self.checked = 0
        self.height = 0

    def run(self) -> None:
        min_height = self._at(None, None, lambda: self._reading.number("min_height"))
        tip = self._at(None, None, self._reading.tip)
        if tip is None:
            raise _Found(0, None, "there is no genesis")
        while self.height <= tip.header.height:
            linked, total = self._header()
            if self.height < min_height:
                self._pruned = True
            elif self._full or self._receipts:
                self._body(linked)
            self.checked, self.height = total, self.height + 1
        self._at(tip.header.height, None, lambda: check_tip(self._reading, self._params))
        self._at(None, None, lambda: check_head(self._reading, self._params, self._reader.directory))
        if self._full:
            if (wrong := self._reading.integrity()) is not None:
                raise _Found(None, None, f"the database's pages: {wrong}")
            if not self._pruned:
                self._tiles.finish()
            self._small_tables(tip)

    def _header(self) -> tuple[Linked, int]:
        height, first = self.height, self.checked
        stored = self._at(height, first, lambda: self._reading.header_at(height))
        if stored is None:
            raise _Found(height, first, "the header is missing")
        linked = self._at(height, first, lambda: self._trail.check(stored.raw, stored.sig, None))
        self._trail.advance(linked)
        if linked.total_work != stored.total_work:
            raise _Found(height, first, "its total work is not the sum")
        if self._full and self._reading.first_index(height) != first:
            raise _Found(height, first, "the index of its first entry is wrong")
        return linked, linked.header.log_size

    def _body(self, linked: Linked) -> None:
        header = linked.header
        stored = Stored(linked.raw, linked.sig, linked.block_id, linked.total_work)
        try:
            items = self._reading.items_of(stored)
            if self._pruned:  # the tree before is gone: the block's own root has to do
                if merkle_root([leaf_hash(item.entry) for item in items]) != header.entries_root:
                    raise ProofInvalid("its entries are not those of the header")
            else:
                finish(body_steps(self._params, linked, items, self._frontier, lambda _: False))
        except ChainError as error:
            raise _Found(header.height, self._first_differing(header), str(error)) from error
        for number, item in enumerate(items):
            self._entry(header, header.first_index + number, number, item)

    def _entry(self, header: Header, index: int, number: int, item: Item) -> None:
        height = header.height
        key = inspect(item.entry).key24
        if not self._pruned:
            self._tiles.feed(height, leaf_hash(item.entry))
        if self._reading.position(key) != height << POSITION_BITS | number:
            raise _Found(height, index, "the index of messages names another place")
        boxes = self._reader.boxes
        box = self._reading.box(key) if boxes is not None else b""
        if boxes is not None and box:
            opened = self._at(height, index, lambda: boxes.open(item.entry, box))
            if self._receipts and opened.extra and Entry.decode(item.entry).kind is Kind.RECEIPT_GOT:
                self._at(height, index, lambda: _check_receipt(opened.extra))
        self.checked = index + 1

    def _first_differing(self, header: Header) -> int:
        """The first entry of a damaged body that is not the one in the tree."""
        items = self._reading.raw_items(header.height)
        for number, entry in enumerate(items):
            index = header.first_index + number
            run = self._reading.tile(0, index // TILE_WIDTH)
            at = index % TILE_WIDTH * HASH_BYTES
            if leaf_hash(entry) != run[at : at + HASH_BYTES]:
                return index
        return header.first_index + min(len(items), header.n_items - 1)

    def _small_tables(self, tip: Stored) -> None:
        reading, size = self._reading, tip.header.log_size
        for stored_size, note in reading.checkpoints():
            checkpoint = self._at(None, None, partial(open_checkpoint, note, verifiers_of(self._params)))
            if checkpoint.size != stored_size or checkpoint.size > size:
                raise _Found(None, None, f"checkpoint {stored_size} is of another size")
            if (
                checkpoint.size >= reading.number("min_index")
                and reading.tiles.root(checkpoint.size) != checkpoint.root
            ):
                raise _Found(None, checkpoint.size - 1, f"checkpoint {stored_size} signs another root")
        for position, entry in reading.pinned():
            if reading.position(inspect(entry).key24) != position:
                raise _Found(position >> POSITION_BITS, None, "a pinned entry is not the one at its place")
        self._at(None, None, reading.evidence)
        self._at(None, None, lambda: self._waiting(size))
        if reading.count_of("mid") != size:
            raise _Found(None, None, "the index of messages has rows too many or too few")
        if not reading.number("min_height") and reading.count_of("body") != tip.header.height + 1:
            raise _Found(None, None, "there are bodies too many or too few")

    def _waiting(self, size: int) -> None:
        for number, row in enumerate(self._reading.pending()):
            if row.box and self._reader.boxes is not None:
                try:
                    self._reader.boxes.open(row.entry, row.box)
                except ProofInvalid as error:
                    raise _Found(None, size + number, f"of an entry that waits: {error}") from error

    @staticmethod
    def _at(height: int | None, index: int | None, check: Callable[[], T]) -> T:
        """What `check` gives; what it finds wrong has this place."""
        try:
            return check()
        except ChainError as error:
            raise _Found(height, index, str(error)) from error


class _TileCheck:
    """Compares the stored runs with those that the entries give."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._runs: list[list[bytes]] = [[]]
        self._numbers = [0]

    def feed(self, height: int, leaf: bytes) -> None:
        level, found = 0, leaf
        while True:
            if level == len(self._runs):
                self._runs.append([])
                self._numbers.append(0)
            run = self._runs[level]
            run.append(found)
            if len(run) < TILE_WIDTH:
                return
            self._compare(height, level)
            found = merkle_root(run)
            run.clear()
            self._numbers[level] += 1
            level += 1

    def finish(self) -> None:
        for level, run in enumerate(self._runs):
            if run:
                self._compare(None, level)

    def _compare(self, height: int | None, level: int) -> None:
        n = self._numbers[level]
        if self._reading.tile(level, n) != b"".join(self._runs[level]):
            first = (n * TILE_WIDTH) << (8 * level)
            raise _Found(height, first, f"tile {level}/{n} is not made of the entries")


def _check_receipt(data: bytes) -> None:
    """A receipt that we got is signed by whoever it names as the receiver."""
    body, sig = data[:-64], data[-64:]
    receipt = Receipt.decode(body)
    sender, receiver = PeerId.from_bytes(receipt.sender), PeerId.from_bytes(receipt.receiver)
    check_receipt(
        SignedReceipt(body, sig),
        msg_id=receipt.msg_id,
        sealed_hash=receipt.sealed_hash,
        sender=sender,
        receiver=receiver,
    )
