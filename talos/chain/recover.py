"""Saving what is whole of a damaged chain. Nothing is thrown away: the old files are renamed aside first.

What counts is the longest run of valid blocks from the genesis: of the old database, continued by blocks of an
export, an archive or another copy where they fit.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from talos.chain import files, schema
from talos.chain.archive import read_segment
from talos.chain.checkpoint import open_checkpoint, verifiers_of
from talos.chain.export import MANIFEST_NAME, read_blocks
from talos.chain.prune import ARCHIVE
from talos.chain.reading import Reading
from talos.chain.store import Store
from talos.chain.validation import Walker, check_genesis
from talos.errors import AuditError, ChainError, ProofInvalid, StoreCorrupt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from talos.chain.block import Block, Checked
    from talos.chain.effects import Stored
    from talos.chain.genesis import Params
    from talos.identity.wallet import Wallet

__all__ = ["Recovery", "chain_id_in", "recover_home"]

RUN_BLOCKS = 64
TRIED_HEADERS = 64
_log = logging.getLogger(__name__)
_NAMES = (
    schema.DATABASE_NAME,
    schema.DATABASE_NAME + "-wal",
    schema.DATABASE_NAME + "-shm",
    files.HEAD_NAME,
    files.LOCK_NAME,
)


@dataclass(slots=True, kw_only=True)
class Recovery:
    """What was saved."""

    chain_id: str | None = None
    height: int | None = None
    log_size: int = 0
    head_size: int | None = None
    """What the chain once had signed."""
    kept_aside: str | None = None
    missing: list[int] = field(default_factory=list)
    """First and last number of the entries that HEAD names and nobody had."""

    @property
    def reached(self) -> bool:
        return self.head_size is None or self.log_size >= self.head_size

    def fields(self) -> dict[str, object]:
        return {"reached": self.reached, **asdict(self)}

    def lines(self) -> Iterator[str]:
        yield f"saved {self.log_size} entries up to block {self.height}; the old files are in {self.kept_aside}"
        if self.missing:
            yield f"entries {self.missing[0]} to {self.missing[1]} are missing: once they were signed"


def chain_id_in(directory: Path) -> bytes:
    """Which chain it is, by any header that can still be read. AuditError when none can."""
    reading = Reading.open(directory / schema.DATABASE_NAME)
    try:
        for height in range(TRIED_HEADERS):
            with suppress(StoreCorrupt):
                stored = reading.header_at(height)
                if stored is not None:
                    return stored.header.chain_id
    finally:
        reading.close()
    raise AuditError(f"nothing in {directory} says any more which chain it was")


def recover_home(directory: Path, wallet: Wallet, source: Path | None, *, new_chain: bool) -> Recovery:
    """Makes a whole chain of what there is. The caller holds the home's lock. AuditError when there is nothing."""
    lock = files.Lock(directory)
    lock.release()
    head = files.read_head(directory)
    aside = directory / f"damaged-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1000:03d}"
    aside.mkdir(mode=0o700)
    _move(directory, aside)
    result = Recovery(kept_aside=str(aside))
    try:
        if new_chain:
            _begin_linked(directory, wallet, aside, result)
        else:
            _rebuild(directory, aside, source, result)
            _compare(directory, head, result)
    except BaseException:
        for name in _NAMES:
            (directory / name).unlink(missing_ok=True)
        _move(aside, directory)  # no home without its chain: the next start would begin another one
        aside.rmdir()
        raise
    return result


def _move(source: Path, target: Path) -> None:
    for name in _NAMES:
        if (source / name).exists():
            (source / name).rename(target / name)


def _rebuild(directory: Path, aside: Path, source: Path | None, result: Recovery) -> None:
    walker: Walker | None = None
    store: Store | None = None
    run: list[Checked] = []
    places = [*sorted((directory / ARCHIVE).glob("*.seg"), key=_first_height), aside / schema.DATABASE_NAME]
    try:
        for place in [*places, *([source] if source is not None else [])]:
            try:
                for block in _blocks_of(place, 0 if walker is None else walker.trail.height + 1):
                    walker, checked = _feed(walker, block)
                    if checked is None:
                        continue
                    store = store or Store(directory)
                    run.append(checked)
                    if len(run) == RUN_BLOCKS:
                        store.persist(run, _boxes(aside, run))
                        run = []
            except ChainError as error:
                _log.info("%s gives no more: %s", place, error)
        if store is None or walker is None:
            raise AuditError("nothing whole was found: not even the genesis")
        if run:
            store.persist(run, _boxes(aside, run))
        tip = store.reading.tip()
        assert tip is not None
        result.chain_id = tip.header.chain_id.hex()
        result.height, result.log_size = tip.header.height, tip.header.log_size
        _save_waiting(store, aside)
    finally:
        if store is not None:
            store.close()


def _feed(walker: Walker | None, block: Block) -> tuple[Walker, Checked | None]:
    """None for a block that is there already."""
    if walker is None:
        params, _ = check_genesis(block)
        walker = Walker(params)
    if block.header.height <= walker.trail.height:
        return walker, None
    return walker, walker.feed(block)


def _first_height(segment: Path) -> int:
    first = segment.name.split("-", 1)[0]
    return int(first) if first.isdecimal() else 0


def _blocks_of(place: Path, height: int) -> Iterator[Block]:
    """Blocks of an archive, a database, an export or another copy, from this height on where that can be chosen."""
    if place.name == schema.DATABASE_NAME or (place / schema.DATABASE_NAME).exists():
        yield from _of_database(place if place.is_file() else place / schema.DATABASE_NAME, height)
    elif place.is_file():
        for _, block in read_segment(place):
            yield block
    elif (place / MANIFEST_NAME).exists():
        yield from read_blocks(place)


def _of_database(path: Path, height: int) -> Iterator[Block]:
    if not path.exists():
        return
    reading = Reading.open(path)
    try:
        while (stored := reading.header_at(height)) is not None:
            yield reading.block(stored)
            height += 1
    finally:
        reading.close()


def _boxes(aside: Path, blocks: list[Checked]) -> dict[bytes, bytes]:
    """What opens our entries, as far as the old database still tells."""
    try:
        reading = Reading.open(aside / schema.DATABASE_NAME)
    except ChainError:
        return {}
    try:
        return {key: reading.box(key) for block in blocks for key in block.keys}
    except ChainError:
        return {}
    finally:
        reading.close()


def _save_waiting(store: Store, aside: Path) -> None:
    """The entries that were durable and in no block yet."""
    try:
        reading = Reading.open(aside / schema.DATABASE_NAME)
    except ChainError:
        return
    try:
        rows = [row for row in reading.pending() if store.reading.position(row.key) is None]
    except ChainError:
        rows = []
    finally:
        reading.close()
    if rows:
        store.append(rows)


def _compare(directory: Path, head: bytes | None, result: Recovery) -> None:
    """What HEAD says that there was. What was reached is its HEAD again; what was not is listed."""
    if head is None:
        return
    reading = Reading.open(directory / schema.DATABASE_NAME)
    try:
        from talos.chain.opening import read_params

        params: Params = read_params(reading)
        checkpoint = open_checkpoint(head, verifiers_of(params))
        result.head_size = checkpoint.size
        if result.log_size < checkpoint.size:
            result.missing = [result.log_size, checkpoint.size - 1]
        elif reading.tiles.root(checkpoint.size) != checkpoint.root:
            raise ProofInvalid("what was saved is another chain than the one that HEAD signs")
    finally:
        reading.close()
    # Also over a chain that is shorter: it must not be continued, for its author has signed those heights once.
    files.write_head(directory, head)


def _begin_linked(directory: Path, wallet: Wallet, aside: Path, result: Recovery) -> None:
    """A new chain that names the old one and the last block that could be read of it."""
    from talos.chain.config import ChainConfig, ChainKeys
    from talos.chain.opening import begin

    before: Stored | None = None
    try:
        reading = Reading.open(aside / schema.DATABASE_NAME)
        try:
            before = reading.tip()
        finally:
            reading.close()
    except ChainError:
        pass
    store = Store(directory)
    try:
        begin(store, ChainConfig(), ChainKeys.of(wallet), before=before)
        tip = store.reading.tip()
        assert tip is not None
        result.chain_id, result.height, result.log_size = tip.header.chain_id.hex(), 0, 1
    finally:
        store.close()
