"""Reading a chain's database: nothing comes out unchecked.

Every header, entry and blob is hashed and compared before it is given, for SQLite's own check finds no flipped bit in a
row. What differs raises StoreCorrupt with the name of its row.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Self

from talos.chain import schema
from talos.chain.block import Block, Item, Prepared, body_hash, decode_items
from talos.chain.effects import Stored
from talos.chain.entry import inspect
from talos.chain.merkle import Tiles
from talos.errors import LocalProtocolError, ProofInvalid, StoreCorrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["NUMBER_MASK", "POSITION_BITS", "PRUNED", "Reading", "Row"]

POSITION_BITS: Final = 12
NUMBER_MASK: Final = (1 << POSITION_BITS) - 1
PRUNED: Final = 1
"""`body.state` of a block whose blobs are gone."""
RECENT_HEADERS = 65_536
LAST_KEY = b"\xff" * 9
"""Behind a message id: greater than what follows one in any key."""


@dataclass(slots=True)
class Row:
    """An own entry on its way into a block."""

    key: bytes
    entry: bytes
    sealed: bytes
    box: bytes
    """What opens the entry, for us alone; empty where nothing does."""

    def kept(self) -> bytes:
        """The `sealed` column of `mempool`: blob and box together cost one page less in each commit."""
        return len(self.sealed).to_bytes(4, "big") + self.sealed + self.box

    @classmethod
    def of(cls, key: bytes, entry: bytes, kept: bytes) -> Row:
        size = int.from_bytes(kept[:4], "big")
        return cls(key, entry, kept[4 : 4 + size], kept[4 + size :])


class Reading:
    """A `ChainSource` on one connection, each row checked. One thread at a time."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self.path = path
        self.tiles = Tiles(self)
        self.on_damage: Callable[[], None] = _nobody_asks
        """Called where a row was found damaged, in whatever thread that is."""
        self._young: dict[bytes, Stored] = {}
        self._old: dict[bytes, Stored] = {}

    @classmethod
    def open(cls, path: Path) -> Self:
        """On a connection of its own, which only reads. AuditError, StoreCorrupt."""
        try:
            return cls(schema.open_reader(path), path)
        except sqlite3.Error as error:
            raise schema.translated(error, path) from error

    # -- Headers

    def tip(self) -> Stored | None:
        return self._header("ORDER BY height DESC LIMIT 1", ())

    def log_size(self) -> int:
        tip = self.tip()
        return 0 if tip is None else tip.header.log_size

    def header_at(self, height: int) -> Stored | None:
        return self._header("WHERE height=?", (height,))

    def header_of(self, block_id: bytes) -> Stored | None:
        """By id: one look into a dictionary where the header was asked for lately."""
        try:
            return self._young[block_id]
        except KeyError:
            found = self._old.get(block_id) or self._header("WHERE id=?", (block_id,))
        if found is not None:
            self._young[block_id] = found
            if len(self._young) > RECENT_HEADERS // 2:
                self._young, self._old = {}, self._young
        return found

    def ending_at(self, log_size: int) -> Stored | None:
        """The header of the block with which the log has exactly this size."""
        found = self._header("WHERE first_index<? ORDER BY first_index DESC LIMIT 1", (log_size,))
        return found if found is not None and found.header.log_size == log_size else None

    def containing(self, index: int) -> Stored | None:
        """The header of the block that holds the entry with this number in the log."""
        found = self._header("WHERE first_index<=? ORDER BY first_index DESC LIMIT 1", (index,))
        return found if found is not None and index < found.header.log_size else None

    def headers(self, start: int, end: int) -> list[Stored]:
        """Those from `start` to `end`, both included."""
        rows = self._all("SELECT id, raw, sig, total_work, height FROM header WHERE height BETWEEN ? AND ?"
                         " ORDER BY height", (start, end))  # fmt: skip
        return [self._stored(*row) for row in rows]

    # -- Bodies and entries

    def items_at(self, height: int) -> Sequence[Item]:
        """The items of a block; ProofInvalid when they were pruned."""
        stored = self.header_at(height)
        if stored is None:
            raise ProofInvalid(f"there is no block {height}")
        return self.items_of(stored)

    def items_of(self, stored: Stored) -> Sequence[Item]:
        height = stored.header.height
        row = self._one("SELECT state, items FROM body WHERE height=?", (height,))
        if row is None:
            if height < self.number("min_height"):
                raise ProofInvalid(f"block {height} was pruned")
            raise self.corrupt("body", height, "it is missing")
        try:
            items = decode_items(row[1], pruned=row[0] == PRUNED)
        except (ProofInvalid, TypeError) as error:
            raise self.corrupt("body", height, str(error)) from error
        if body_hash(items) != stored.header.body_hash or len(items) != stored.header.n_items:
            raise self.corrupt("body", height, "its hash differs from the header's")
        return items

    def block(self, stored: Stored) -> Block:
        return Block(stored.raw, stored.sig, tuple(self.items_of(stored)))

    def position(self, key: bytes) -> int | None:
        row = self._one("SELECT pos FROM mid WHERE k=?", (key,))
        return None if row is None else int(row[0])

    def positions(self, msg_id: bytes) -> list[int]:
        """Of all entries of a message, in the order of the log."""
        rows = self._all("SELECT pos FROM mid WHERE k BETWEEN ? AND ? ORDER BY pos", (msg_id, msg_id + LAST_KEY))
        return [int(row[0]) for row in rows]

    def entry_of(self, key: bytes) -> bytes | None:
        """By message key, from its block or from the pinned ones."""
        position = self.position(key)
        if position is None:
            return None
        found = self._entry_at(position)
        if inspect(found).key24 != key:
            raise self.corrupt("mid", position, "it names another entry")
        return found

    def entry_at(self, index: int) -> bytes:
        """By number in the log. ProofInvalid: not there, or pruned."""
        stored = self.containing(index)
        if stored is None:
            if 0 <= index < self.log_size():
                raise self.corrupt("header", "first_index", f"no block begins where entry {index} could be in it")
            raise ProofInvalid(f"there is no entry {index}")
        header = stored.header
        number = index - (header.log_size - header.n_items)
        return self._entry_at(header.height << POSITION_BITS | number)

    def index_of(self, position: int) -> int:
        """The number in the log of what stands at a position."""
        stored = self.header_at(position >> POSITION_BITS)
        if stored is None:
            raise self.corrupt("mid", position, "it names a block that is not there")
        number = position & NUMBER_MASK
        if number >= stored.header.n_items:
            raise self.corrupt("mid", position, "its block has fewer entries")
        return stored.header.log_size - stored.header.n_items + number

    def tile(self, level: int, n: int) -> bytes:
        row = self._one("SELECT hashes FROM tile WHERE level=? AND n=?", (level, n))
        return b"" if row is None else bytes(row[0])

    # -- For those who check everything

    def first_index(self, height: int) -> int | None:
        """The column, not the header's word."""
        row = self._one("SELECT first_index FROM header WHERE height=?", (height,))
        return None if row is None else int(row[0])

    def raw_items(self, height: int) -> list[bytes]:
        """The entries of a body as far as it can be read, unchecked: for finding what is wrong with it."""
        row = self._one("SELECT items FROM body WHERE height=?", (height,))
        found: list[bytes] = []
        data, at = (bytes(row[0]), 0) if row is not None else (b"", 0)
        while at + 2 <= len(data):
            size = int.from_bytes(data[at : at + 2], "big")
            entry, at = data[at + 2 : at + 2 + size], at + 2 + size
            sealed = int.from_bytes(data[at : at + 4], "big")
            found.append(entry)
            at += 4 + sealed
        return found

    def checkpoints(self) -> list[tuple[int, bytes]]:
        return self._all("SELECT size, note FROM checkpoint ORDER BY size", ())

    def pinned(self) -> list[tuple[int, bytes]]:
        return self._all("SELECT pos, entry FROM pinned ORDER BY pos", ())

    def count_of(self, table: str) -> int:
        row = self._one(f"SELECT count(*) FROM {table}", ())  # noqa: S608 - one of our own names
        assert row is not None
        return int(row[0])

    def integrity(self) -> str | None:
        """What SQLite finds wrong with its own pages and indexes; None when that is nothing."""
        rows = self._all("PRAGMA integrity_check(1)", ())
        return None if rows == [("ok",)] else str(rows[0][0])

    # -- The rest

    def pending(self) -> list[Row]:
        """The own entries that wait for a block, oldest first."""
        rows = self._all("SELECT k, entry, sealed FROM mempool ORDER BY seq", ())
        pending = [Row.of(*row) for row in rows]
        for row in pending:
            try:
                right = Prepared.of(Item(row.entry, row.sealed)).key == row.key
            except LocalProtocolError:
                right = False
            if not right:
                raise StoreCorrupt(f"chain {self.path.parent}: an entry that waits for its block is damaged")
        return pending

    def box(self, key: bytes) -> bytes:
        """What opens an entry; its tag is checked by whoever has the key."""
        row = self._one("SELECT box FROM receipt WHERE k=?", (key,))
        return b"" if row is None or row[0] is None else bytes(row[0])

    def boxes(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """As `box`, of a block's entries at once; what has none is missing."""
        query = f"SELECT k, box FROM receipt WHERE k IN ({','.join('?' * len(keys))})"  # noqa: S608 - question marks
        return {key: box for key, box in self._all(query, tuple(keys)) if box is not None}

    def checkpoint(self, size: int | None = None) -> bytes | None:
        """The signed one of this size, or the newest."""
        if size is not None:
            row = self._one("SELECT note FROM checkpoint WHERE size=?", (size,))
        else:
            row = self._one("SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1", ())
        return None if row is None else bytes(row[0])

    def evidence(self) -> list[tuple[bytes, bytes]]:
        rows = self._all("SELECT hash, file FROM evidence", ())
        for digest, file in rows:
            if sha256(file).digest() != digest:
                raise self.corrupt("evidence", digest.hex(), "its hash differs")
        return rows

    def meta(self, name: str) -> bytes | None:
        row = self._one("SELECT v FROM meta WHERE k=?", (name,))
        return None if row is None else bytes(row[0])

    def number(self, name: str) -> int:
        """A number in `meta`; 0 where it was never set."""
        return int.from_bytes(self.meta(name) or b"", "big")

    def corrupt(self, table: str, row: object, what: str) -> StoreCorrupt:
        """The error for a row that is not what was written."""
        self.on_damage()
        return StoreCorrupt(f"chain {self.path.parent}: {table} {row}: {what}")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read within the block is of one moment, whatever a writer does."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def close(self) -> None:
        self._db.close()

    def forget(self) -> None:
        """After headers were replaced."""
        self._young, self._old = {}, {}
        self.tiles.forget()

    def _header(self, where: str, arguments: tuple[object, ...]) -> Stored | None:
        row = self._one(f"SELECT id, raw, sig, total_work, height FROM header {where}", arguments)  # noqa: S608
        return None if row is None else self._stored(*row)

    def _stored(self, block_id: bytes, raw: bytes, sig: bytes, total_work: bytes, height: int) -> Stored:
        try:
            stored = Stored(raw, sig, block_id, int.from_bytes(total_work, "big"))
            right = sha256(b"talos/block/v1\n" + raw).digest() == block_id and stored.header.height == height
        except (ProofInvalid, TypeError) as error:
            raise self.corrupt("header", height, str(error)) from error
        if not right:
            raise self.corrupt("header", height, "its hash differs")
        return stored

    def _entry_at(self, position: int) -> bytes:
        height, number = position >> POSITION_BITS, position & NUMBER_MASK
        if height < self.number("min_height"):
            row = self._one("SELECT entry FROM pinned WHERE pos=?", (position,))
            if row is None:
                raise ProofInvalid(f"block {height} was pruned")
            return bytes(row[0])
        items = self.items_at(height)
        if number >= len(items):
            raise self.corrupt("mid", position, "its block has fewer entries")
        return items[number].entry

    def _one(self, query: str, arguments: tuple[object, ...]) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._db.execute(query, arguments).fetchone()
        except sqlite3.Error as error:
            raise schema.translated(error, self.path) from error
        return row

    def _all(self, query: str, arguments: tuple[object, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, arguments).fetchall()
        except sqlite3.Error as error:
            raise schema.translated(error, self.path) from error


def _nobody_asks() -> None:
    pass
