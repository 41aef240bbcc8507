"""Letting old blocks go: archive, verify, say so in the chain, and only then delete.

Headers, tiles of level 1 and above, the right edge, checkpoints, message keys and the chain's own entries stay.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from talos.chain.archive import Segment, write_segment
from talos.chain.block import encode_items
from talos.chain.checkpoint import open_checkpoint, verifiers_of
from talos.chain.entry import Kind
from talos.chain.merkle import TILE_WIDTH

if TYPE_CHECKING:
    from pathlib import Path

    from talos.chain.audit import Chain
    from talos.chain.config import Retention
    from talos.chain.genesis import Params
    from talos.chain.reading import Reading
    from talos.identity.wallet import Wallet

__all__ = ["ARCHIVE", "PruneReport", "prune_chain", "prune_home"]

ARCHIVE = "archive"
BLOCKS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """What went, or would."""

    dry_run: bool
    first_height: int | None
    last_height: int | None
    min_index: int
    archive: str | None

    def fields(self) -> dict[str, object]:
        return asdict(self)

    def text(self) -> str:
        if self.first_height is None:
            return "nothing is old enough"
        verb = "would go" if self.dry_run else "went"
        where = f" into {self.archive}" if self.archive else ""
        return f"blocks {self.first_height} to {self.last_height} {verb}{where}"


async def prune_home(directory: Path, wallet: Wallet, retention: Retention, dry_run: bool) -> PruneReport:  # noqa: FBT001 - trio.run passes no keywords
    """As `prune_chain`, of a chain that nobody has open."""
    from talos.chain import ChainConfig, ChainKeys, open_chain

    async with open_chain(None, ChainConfig(), ChainKeys.of(wallet), directory=directory) as chain:
        return await prune_chain(chain, retention, dry_run=dry_run)


async def prune_chain(chain: Chain, retention: Retention, *, dry_run: bool = False) -> PruneReport:
    """Archives and deletes what the retention lets go. StoreFull, StoreFailed; ProofInvalid for a bad archive."""
    await chain.seal()
    core = chain.core
    reading, store = core.reading, core.store
    first = reading.number("min_height")
    found = _last(reading, retention, core.params)
    if found is None or found < first:
        return PruneReport(
            dry_run=dry_run, first_height=None, last_height=None, min_index=reading.number("min_index"), archive=None
        )  # fmt: skip
    last_header = reading.header_at(found)
    assert last_header is not None
    min_index = last_header.header.log_size // TILE_WIDTH * TILE_WIDTH
    report = PruneReport(
        dry_run=dry_run, first_height=first, last_height=found, min_index=min_index, archive=None
    )  # fmt: skip
    if dry_run:
        return report
    if not retention.bodies:
        for start in range(first, found + 1, BLOCKS_AT_ONCE):
            stop = min(found, start + BLOCKS_AT_ONCE - 1)
            await core.writer.alone(store.prune_blobs, _without_blobs(reading, start, stop))
        return report
    path = await core.writer.alone(_archive, reading, chain.directory / ARCHIVE, first, found)
    digest = bytes.fromhex(path.stem.rsplit("-", 1)[1])
    await chain.note(Kind.PRUNE_NOTICE, (min_index.to_bytes(8, "big"), digest.ljust(32, b"\x00")))
    for start in range(first, found + 1, BLOCKS_AT_ONCE):
        stop = min(found, start + BLOCKS_AT_ONCE - 1)
        await core.writer.alone(store.prune_bodies, start, stop, min_index)
    core.machine.min_height, core.machine.min_index = found + 1, min_index
    return PruneReport(**{**asdict(report), "archive": str(path)})


def _last(reading: Reading, retention: Retention, params: Params) -> int | None:
    """The last block that may go: old, below the newest checkpoint, and with enough behind it; ends a run of 256."""
    note, tip = reading.checkpoint(), reading.tip()
    assert tip is not None
    if note is None:
        return None
    size = open_checkpoint(note, verifiers_of(params)).size
    border = time.time_ns() // 1_000_000 - int(retention.age_seconds * 1000)
    height = tip.header.height - retention.keep_blocks
    while height >= reading.number("min_height"):
        header = reading.header_at(height)
        assert header is not None
        if header.header.time_ms <= border and header.header.log_size <= size:
            return height
        height -= 1
    return None


def _archive(reading: Reading, directory: Path, first: int, last: int) -> Path:
    reading = type(reading).open(reading.path)  # a thread of its own, a connection of its own
    try:
        start, end = reading.header_at(first), reading.header_at(last)
        assert start is not None
        assert end is not None
        segment = Segment(
            chain_id=start.header.chain_id,
            first_height=first,
            last_height=last,
            first_index=start.header.first_index,
            entries=end.header.log_size - start.header.first_index,
        )
        blocks = (reading.block(stored) for h in range(first, last + 1) if (stored := reading.header_at(h)) is not None)
        return write_segment(directory, segment, blocks)
    finally:
        reading.close()


def _without_blobs(reading: Reading, first: int, last: int) -> list[tuple[int, bytes]]:
    found = []
    for height in range(first, last + 1):
        items = reading.items_at(height)
        found.append((height, encode_items([item.without_blob() for item in items])))
    return found
