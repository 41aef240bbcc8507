"""Reading a chain without its lock: beside the node that writes it, or when none does. For commands and threads.

All of it is synchronous. A reader follows a chain that grows: asked again for records, it goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from talos.chain import files, schema
from talos.chain.box import Boxes
from talos.chain.checkpoint import verifiers_of
from talos.chain.entry import Entry, inspect, leaf_hash
from talos.chain.opening import read_params
from talos.chain.reading import POSITION_BITS, Reading, Row
from talos.errors import AuditError, ProofInvalid
from talos.identity.keys import PrivateKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from talos.chain.config import ChainKeys
    from talos.chain.effects import Stored
    from talos.chain.entry import Meta
    from talos.chain.genesis import Params

__all__ = ["ChainReader", "Record", "chains_of"]


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a chain, opened where it is ours."""

    index: int
    """Its number in the log; of one that waits, the number that it will have."""
    height: int | None
    """Its block; None while it waits."""
    data: bytes
    entry: Entry
    leaf: bytes
    meta: Meta | None
    meta_bytes: bytes
    blob: bytes
    """Empty where none was kept; a RECEIPT_GOT has its receipt here, body and signature."""


class ChainReader:
    """A chain's records, blocks and proofs, all checked as they are read.

    AuditError when there is no chain in `directory`, or it cannot be read; StoreCorrupt names a bad row.
    """

    def __init__(self, directory: Path, keys: ChainKeys | None = None) -> None:
        self.directory = directory
        path = directory / schema.DATABASE_NAME
        if not path.is_file():
            raise AuditError(f"there is no chain in {directory}")
        self.reading = Reading.open(path)
        try:
            self.params = self._read_params()
            self.key, self.boxes = self._ours(keys)
        except BaseException:
            self.reading.close()
            raise
        self._height = 0
        self._waiting: set[bytes] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reading.close()

    def records(self) -> Iterator[Record]:
        """The entries that came since the last call, oldest first; those that wait for a block come once, too."""
        reading = self.reading
        pending = reading.pending()  # before the blocks: what is sealed meanwhile is found there
        self._height = max(self._height, reading.number("min_height"))
        while (stored := reading.header_at(self._height)) is not None:
            yield from self._of_block(stored)
            self._height += 1
        size = reading.log_size()
        for number, row in enumerate(pending):
            position = reading.position(row.key)
            if row.key not in self._waiting and (position is None or position >> POSITION_BITS >= self._height):
                self._waiting.add(row.key)
                yield self._record(size + number, None, row)

    def record_at(self, index: int) -> Record:
        """One entry by its number. ProofInvalid: not there, or pruned."""
        stored = self.reading.containing(index)
        if stored is None:
            raise ProofInvalid(f"there is no entry {index}")
        for record in self._of_block(stored, all_of_it=True):
            if record.index == index:
                return record
        raise AssertionError("a block holds what its header counts")

    def block(self, which: int | bytes) -> Stored:
        """By height or id. ProofInvalid when there is none."""
        found = self.reading.header_at(which) if isinstance(which, int) else self.reading.header_of(which)
        if found is None:
            name = which if isinstance(which, int) else which.hex()
            raise ProofInvalid(f"there is no block {name}")
        return found

    def block_records(self, stored: Stored) -> list[Record]:
        return list(self._of_block(stored, all_of_it=True))

    def status(self) -> dict[str, object]:
        """As `Chain.status`, from the database alone."""
        reading, params = self.reading, self.params
        with reading.snapshot():
            tip = reading.tip()
            assert tip is not None
            header = tip.header
            return {
                "chain_id": params.chain_id.hex(),
                "origin": params.origin,
                "mode": params.mode.name.lower(),
                "height": header.height,
                "tip": tip.block_id.hex(),
                "log_size": header.log_size,
                "log_root": header.log_root.hex(),
                "total_work": str(tip.total_work),
                "mempool": len(reading.pending()),
                "min_index": reading.number("min_index"),
                "frozen": reading.meta("frozen") is not None,
                "failed": None,
                "vkeys": [verifier.vkey for verifier in verifiers_of(params)],
            }

    @property
    def owner(self) -> int | None:
        """The process that wrote here last."""
        return files.owner_of(self.directory)

    def _read_params(self) -> Params:
        if self.reading.tip() is None:
            raise AuditError(f"the chain in {self.directory} has no genesis yet")
        return read_params(self.reading)

    def _ours(self, keys: ChainKeys | None) -> tuple[PrivateKey | None, Boxes | None]:
        if keys is None:
            return None, None
        key = PrivateKey.from_seed(keys.audit_seed(self.params.random))
        if self.params.author(key.public_key.data) is None:
            return None, None
        return key, Boxes(keys.k_priv(self.params.random))

    def _of_block(self, stored: Stored, *, all_of_it: bool = False) -> Iterator[Record]:
        header, items = stored.header, self.reading.items_of(stored)
        keys = [inspect(item.entry).key24 for item in items]
        boxes = self.reading.boxes(keys)
        for index, (key, item) in enumerate(zip(keys, items, strict=True), header.first_index):
            if key in self._waiting and not all_of_it:
                self._waiting.discard(key)
                continue
            yield self._record(index, header.height, Row(key, item.entry, item.sealed, boxes.get(key, b"")))

    def _record(self, index: int, height: int | None, row: Row) -> Record:
        entry, leaf = Entry.decode(row.entry), leaf_hash(row.entry)
        if not row.box or self.boxes is None:
            return Record(index, height, row.entry, entry, leaf, None, b"", row.sealed)
        try:
            opened = self.boxes.open_entry(entry, row.entry, leaf, row.box)
        except ProofInvalid as error:
            raise self.reading.corrupt("receipt", row.key.hex(), f"of entry {index}: {error}") from error
        blob = row.sealed or opened.extra
        return Record(index, height, row.entry, entry, leaf, opened.meta, opened.meta_bytes, blob)


def chains_of(own: Path, slots: Path) -> list[Path]:
    """The directories of a home's chains that exist: its own, then those of `mcp-connect`, by name."""
    found = [own, *sorted(slots.iterdir())] if slots.is_dir() else [own]
    return [directory for directory in found if (directory / schema.DATABASE_NAME).is_file()]
