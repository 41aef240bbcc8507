"""The rules that a block keeps, cheap ones first; the first that it breaks names the reason.

    1 SIZE lengths   2 DECODE form, version, chain   3 BITS in range   4 POW   5 LINK parent, height, log size
    6 TIME   7 AUTHOR in the set   8 SIGNATURE   9 BODY hash, numbers, sizes, blobs   10 ENTRY form, kind
    11 ROOT of the block, of the log   12 DUPLICATE message key, in the block or the chain

1 to 8 need the header and a `Trail`, what is known of the blocks before it; 9 to 12 are done in steps of a few
milliseconds.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from talos.chain.block import (
    HEADER_BYTES,
    ITEM_OVERHEAD,
    NO_HASH,
    SIGNED_HEADER_BYTES,
    BodyDigest,
    Checked,
    Header,
    Item,
    block_id,
    check_signature,
)
from talos.chain.entry import Kind, inspect, sealed_hash
from talos.chain.genesis import params_of
from talos.chain.merkle import Frontier
from talos.chain.pow import meets, work
from talos.errors import BlockRejected, ProofInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from talos.chain.block import Block
    from talos.chain.effects import ChainSource, Stored
    from talos.chain.genesis import Params

__all__ = [
    "MAX_AHEAD_MS",
    "MEDIAN_BLOCKS",
    "Linked",
    "Reason",
    "Trail",
    "Walker",
    "body_steps",
    "check_genesis",
    "check_size",
    "is_future",
]

MEDIAN_BLOCKS = 11
MAX_AHEAD_MS = 2 * 60 * 60 * 1000
_RARE = frozenset({Kind.CONFIG, Kind.KEY_ROTATE})
STEP_ITEMS = 256
"""Checked between two pauses: well under 4 ms."""


class Reason(enum.StrEnum):
    """Why a block is refused."""

    SIZE = "SIZE"
    DECODE = "DECODE"
    BITS = "BITS"
    POW = "POW"
    LINK = "LINK"
    TIME = "TIME"
    AUTHOR = "AUTHOR"
    SIGNATURE = "SIGNATURE"
    BODY = "BODY"
    ENTRY = "ENTRY"
    ROOT = "ROOT"
    DUPLICATE = "DUPLICATE"
    FINAL = "FINAL"


class Linked(NamedTuple):
    """A header that keeps rules 1 to 8."""

    header: Header
    raw: bytes
    sig: bytes
    block_id: bytes
    total_work: int


def is_future(header: Header, now_ms: int) -> bool:
    """Its time is too far ahead: refused for now, and nobody is blamed."""
    return header.time_ms > now_ms + MAX_AHEAD_MS


@dataclass(slots=True)
class Trail:
    """The end of a chain of headers, and what the next one is measured by."""

    params: Params
    height: int
    """-1 before the genesis."""
    block_id: bytes
    log_size: int
    total_work: int
    times: deque[int]
    """Of the last blocks."""

    @classmethod
    def empty(cls, params: Params) -> Trail:
        return cls(params, -1, NO_HASH, 0, 0, deque(maxlen=MEDIAN_BLOCKS))

    @classmethod
    def at(cls, params: Params, source: ChainSource, tip: Stored) -> Trail:
        """Behind a block of ours."""
        header = tip.header
        trail = cls(params, header.height, tip.block_id, header.log_size, tip.total_work, deque(maxlen=MEDIAN_BLOCKS))
        for height in range(max(0, header.height - MEDIAN_BLOCKS + 1), header.height):
            before = source.header_at(height)
            assert before is not None
            trail.times.append(before.header.time_ms)
        trail.times.append(header.time_ms)
        return trail

    def copy(self) -> Trail:
        return Trail(
            self.params, self.height, self.block_id, self.log_size, self.total_work, deque(self.times, MEDIAN_BLOCKS)
        )

    @property
    def median_ms(self) -> int:
        """The next block's time is above this."""
        return sorted(self.times)[len(self.times) // 2] if self.times else -1

    def advance(self, found: Linked | Checked) -> None:
        """Takes a block that keeps the rules."""
        self.height, self.block_id = found.header.height, found.block_id
        self.log_size, self.total_work = found.header.log_size, found.total_work
        self.times.append(found.header.time_ms)

    def check(self, raw: bytes, sig: bytes, now_ms: int | None) -> Linked:
        """Rules 1 to 8; without `now_ms`, for blocks that we have had, nothing is too far ahead. BlockRejected."""
        params, expected = self.params, self.height + 1
        if len(raw) + len(sig) != SIGNED_HEADER_BYTES:
            raise _rejected(Reason.SIZE, expected, f"header and signature have {len(raw) + len(sig)} bytes")
        try:
            header = Header.decode(raw)
        except ProofInvalid as error:
            raise _rejected(Reason.DECODE, expected, str(error)) from error
        if header.chain_id != params.chain_id:
            raise _rejected(Reason.DECODE, expected, "the block is of another chain")
        if not params.bits_min <= header.pow_bits <= params.bits_max:
            raise _rejected(Reason.BITS, expected, f"work of {header.pow_bits} bits")
        found = block_id(raw)
        if not meets(found, header.pow_bits):
            raise _rejected(Reason.POW, expected, "the work was not done")
        if (header.prev_id, header.height) != (self.block_id, expected):
            raise _rejected(Reason.LINK, expected, "the block does not follow the one before")
        if not header.n_items or header.log_size != self.log_size + header.n_items:
            raise _rejected(Reason.LINK, expected, "the log does not grow by the block's entries")
        self._check_time(header, now_ms)
        author = params.author(header.author_pk)
        if author is None or (not expected and author is not params.authors[0]):
            raise _rejected(Reason.AUTHOR, expected, "no author of this chain")
        try:
            check_signature(author.key, found, sig)
        except ProofInvalid as error:
            raise _rejected(Reason.SIGNATURE, expected, str(error)) from error
        return Linked(header, raw, sig, found, self.total_work + work(header.pow_bits))

    def _check_time(self, header: Header, now_ms: int | None) -> None:
        if not header.height and header.time_ms != self.params.created_ms:
            raise _rejected(Reason.TIME, 0, "the genesis is not of the time that its parameters say")
        if header.time_ms <= self.median_ms:
            raise _rejected(Reason.TIME, header.height, f"its time is not above the median of {MEDIAN_BLOCKS} blocks")
        if now_ms is not None and is_future(header, now_ms):
            raise _rejected(Reason.TIME, header.height, "its time is more than two hours ahead")


def check_size(params: Params, height: int, items: Sequence[Item]) -> None:
    """Rule 1 of a body: BlockRejected SIZE."""
    if len(items) > params.max_items:
        raise _rejected(Reason.SIZE, height, f"{len(items)} items are over {params.max_items}")
    total = SIGNED_HEADER_BYTES + ITEM_OVERHEAD * len(items)
    longest, largest = 0, 0
    for number, item in enumerate(items):
        entry = len(item.entry)
        total += entry + item.sealed_len
        largest = max(largest, entry + item.sealed_len) if item.sealed_len else largest
        if entry > longest and (height or number):  # the genesis' parameters may be long
            longest = entry
    if longest > params.max_entry:
        raise _rejected(Reason.SIZE, height, f"an entry of {longest} bytes is over {params.max_entry}")
    if max(longest, largest) > params.max_item:
        raise _rejected(Reason.SIZE, height, f"an item of {max(longest, largest)} bytes is over {params.max_item}")
    if total > params.max_block:
        raise _rejected(Reason.SIZE, height, f"a block of {total} bytes is over {params.max_block}")


def body_steps(
    params: Params,
    linked: Linked,
    items: Sequence[Item],
    frontier: Frontier,
    known: Callable[[bytes], bool],
) -> Generator[None, None, Checked]:
    """Rules 1 and 9 to 12 of a body, behind the tree of `frontier`, which grows. Next it to its end; BlockRejected.

    `known` says whether an entry with this message key is in the chain before the block.
    """
    header = linked.header
    check_size(params, header.height, items)
    if len(items) != header.n_items:
        raise _rejected(Reason.BODY, header.height, f"{len(items)} items, where the header says {header.n_items}")
    yield from _check_body_hash(header, items)
    leaves: list[bytes] = []
    keys: dict[bytes, None] = {}
    repeated = False
    block, log = Frontier(), frontier.copy()
    for start in range(0, len(items), STEP_ITEMS):
        part = items[start : start + STEP_ITEMS]
        for number, item in enumerate(part, start):
            key = _check_entry(params, header, number, item)
            if key in keys or known(key):
                repeated = True
            keys[key] = None
        run = [sha256(b"\x00" + item.entry).digest() for item in part]
        leaves += run
        block.extend(run)
        log.extend(run)
        yield
    if block.root() != header.entries_root:
        raise _rejected(Reason.ROOT, header.height, "the entries have another root")
    if log.root() != header.log_root:
        raise _rejected(Reason.ROOT, header.height, "the log has another root")
    if repeated:
        raise _rejected(Reason.DUPLICATE, header.height, "a message key stands in the chain twice")
    frontier.become(log)
    return Checked(
        header=header,
        raw=linked.raw,
        sig=linked.sig,
        block_id=linked.block_id,
        total_work=linked.total_work,
        items=tuple(items),
        leaves=tuple(leaves),
        keys=tuple(keys),
    )


def _check_body_hash(header: Header, items: Sequence[Item]) -> Generator[None, None, None]:
    """Blobs are hashed as they are: whether an entry may have one, and names this one, is seen with the entry."""
    digest = BodyDigest()
    for start in range(0, len(items), STEP_ITEMS):
        part = items[start : start + STEP_ITEMS]
        if any(item.sealed and len(item.sealed) != item.sealed_len for item in part):
            raise _rejected(Reason.BODY, header.height, "a blob of another length than its item says")
        digest.update(part, [_named(header, item) for item in part])
        yield
    if digest.digest() != header.body_hash:
        raise _rejected(Reason.BODY, header.height, "the body has another hash")


def _named(header: Header, item: Item) -> bytes | None:
    if item.sealed:
        return sealed_hash(item.sealed)
    if not item.sealed_len:
        return None
    try:
        return inspect(item.entry).sealed_hash
    except ProofInvalid as error:
        raise _rejected(Reason.ENTRY, header.height, str(error)) from error


def _check_entry(params: Params, header: Header, number: int, item: Item) -> bytes:
    """Its message key."""
    try:
        kind, key, named = inspect(item.entry)
    except ProofInvalid as error:
        raise _rejected(Reason.ENTRY, header.height, str(error)) from error
    if item.sealed_len and (named is None or (item.sealed and sealed_hash(item.sealed) != named)):
        raise _rejected(Reason.BODY, header.height, f"item {number} has a blob that its entry does not name")
    first = not number and not header.height
    if first or kind in _RARE:
        _check_kind(params, header, kind, item.entry, first=first)
    return key


def _check_kind(params: Params, header: Header, kind: Kind, entry: bytes, *, first: bool) -> None:
    if (kind is Kind.CONFIG) != first:
        raise _rejected(Reason.ENTRY, header.height, "CONFIG is the first entry of the genesis, and no other")
    if kind is Kind.KEY_ROTATE:
        raise _rejected(Reason.ENTRY, header.height, "no rule of this version rotates keys")
    if kind is Kind.CONFIG and params_of(entry).chain_id != params.chain_id:
        raise _rejected(Reason.ENTRY, header.height, "the genesis holds other parameters than the chain's name says")


def _rejected(reason: Reason, height: int, text: str) -> BlockRejected:
    return BlockRejected(f"block {height}: {text}", reason=reason.value, height=height)


# -- Whole chains ---------------------------------------------------------------------------------------


class Walker:
    """Checks a chain from its genesis on, block by block: full audits, exports, archives.

    With `remember=False` keys are compared within their block only, for those who look them up in an index.
    """

    def __init__(self, params: Params, *, remember: bool = True) -> None:
        self.trail = Trail.empty(params)
        self.frontier = Frontier()
        self._keys: set[bytes] | None = set() if remember else None

    def feed(self, block: Block, now_ms: int | None = None) -> Checked:
        """The next block. BlockRejected; then the walk is over."""
        linked = self.trail.check(block.raw, block.sig, now_ms)
        known = self._keys.__contains__ if self._keys is not None else _nothing
        checked = finish(body_steps(self.trail.params, linked, block.items, self.frontier, known))
        if self._keys is not None:
            self._keys.update(checked.keys)
        self.trail.advance(checked)
        return checked


def finish(steps: Generator[None, None, Checked]) -> Checked:
    """All steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            checked: Checked = done.value
            return checked


def _nothing(_: bytes) -> bool:
    return False


def check_genesis(block: Block, *, chain_id: bytes | None = None, now_ms: int | None = None) -> tuple[Params, Checked]:
    """What block 0 says of its chain, which may have to be a certain one. BlockRejected."""
    if len(block.raw) != HEADER_BYTES or not block.items:
        raise _rejected(Reason.SIZE, 0, "no genesis")
    try:
        params = params_of(block.items[0].entry)
    except ProofInvalid as error:
        raise _rejected(Reason.ENTRY, 0, str(error)) from error
    if chain_id is not None and params.chain_id != chain_id:
        raise _rejected(Reason.DECODE, 0, "the genesis is of another chain")
    return params, Walker(params).feed(block, now_ms)
