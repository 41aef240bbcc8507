"""A chain's database as its one writer has it: what the machine decided goes in as one transaction.

Calls block on the disk and are for one thread at a time. Reading goes over a connection of its own (`reading`), so that
the event loop reads while a worker thread commits.

    StoreFull      nothing of the transaction is there; later ones may work
    StoreFailed    a write or a sync failed: nothing is known, and nothing more is written
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from talos.chain import files, schema
from talos.chain.block import Checked, Header, decode_items, encode_items
from talos.chain.entry import Kind, inspect, leaf_hash
from talos.chain.merkle import HASH_BYTES, new_tiles, tile_counts
from talos.chain.pow import work
from talos.chain.reading import POSITION_BITS, PRUNED, Reading, Row
from talos.errors import RollbackSuspected, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from talos.chain.block import Block
    from talos.chain.effects import Stored
    from talos.errors import ChainError

__all__ = ["Store"]

PINNED: Final = frozenset(map(int, (Kind.CONFIG, Kind.PRUNE_NOTICE, Kind.EVIDENCE)))
MAX_EVIDENCE = 1024
MAX_ASKED = 4096
"""Keys in one question; SQLite takes 32,766."""
JOURNAL_PAGES = 1024
"""Written about so many times, the journal is written back by the writer's thread, and then written over."""
APPEND_PAGES = 3
BLOCK_PAGES = 8
WAL_HEADER_BYTES = 32
_KEEP: Final = "INSERT INTO mempool(k, entry, sealed) VALUES(?,?,?)"
MAX_LEVELS = 8


class Store:
    """The database in `directory`, locked for this process from construction to `close`.

    ChainInUse, RollbackSuspected, StoreCorrupt, StoreFull, StoreFailed at construction.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / schema.DATABASE_NAME
        self._journal = self.path.with_name(self.path.name + "-wal")
        self._failed: StoreFailed | None = None
        self._pages = 0
        """That went into the journal since it was written back, about."""
        files.make_directory(directory)
        self._lock = files.Lock(directory)
        try:
            self._check_files()
            self._db = self._open()
        except BaseException:
            self._lock.release()
            raise
        try:
            with self._transaction() as db:  # the journal has content from now on
                db.execute("DELETE FROM stage_header")
                db.execute("DELETE FROM stage_body")
                db.execute("INSERT OR REPLACE INTO meta VALUES('opened', randomblob(8))")
            self._lock.opened()
            self.reading = Reading.open(self.path)
        except BaseException:
            self._db.close()
            self._lock.release()
            raise
        self._inside = Reading(self._db, self.path)
        """For what the writer itself looks up, within its transactions."""

    def close(self) -> None:
        """Writes the journal back and lets go of the lock last. Idempotent."""
        self.reading.close()
        clean = False
        if self._failed is None:
            with suppress(sqlite3.Error):
                clean = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        if clean:
            with suppress(OSError):
                self._lock.closed()
        self._db.close()
        if not clean and not self._journal.exists():  # a failed chain whose journal SQLite wrote back at the end
            with suppress(OSError):
                self._lock.closed()
        self._lock.release()

    # -- Own entries

    def append(self, rows: Sequence[Row]) -> None:
        """Makes entries durable that wait for their block."""
        self._pages += APPEND_PAGES + len(rows) // BLOCK_PAGES
        if len(rows) > 1:
            with self._transaction() as db:
                self._keep(db, rows)
            return
        self._check()
        try:
            for row in rows:  # one statement is a transaction by itself
                self._db.execute(_KEEP, (row.key, row.entry, row.kept()))
        except sqlite3.Error as error:
            raise self._failure(error) from error

    @staticmethod
    def _keep(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
        db.executemany(_KEEP, [(row.key, row.entry, row.kept()) for row in rows])

    def known(self, keys: Sequence[bytes]) -> set[bytes]:
        """Which of these message keys the chain's blocks have. In the writer's turn: its own pages are at hand."""
        found: set[bytes] = set()
        try:
            if len(keys) == 1:
                return {key for (key,) in self._db.execute("SELECT k FROM mid WHERE k=?", keys)}
            for at in range(0, len(keys), MAX_ASKED):
                part = keys[at : at + MAX_ASKED]
                query = f"SELECT k FROM mid WHERE k IN ({','.join('?' * len(part))})"  # noqa: S608 - question marks
                found.update(key for (key,) in self._db.execute(query, part))
        except sqlite3.Error as error:
            raise schema.translated(error, self.path) from error
        return found

    # -- Blocks

    def persist(
        self,
        blocks: Sequence[Checked],
        boxes: Mapping[bytes, bytes],
        note: tuple[int, bytes] | None = None,
        waiting: Sequence[Row] = (),
    ) -> None:
        """Blocks behind the tip, what opens our entries in them, a checkpoint of the last, and rows that wait on."""
        self._pages += sum([BLOCK_PAGES + len(block.keys) for block in blocks])
        with self._transaction() as db:
            for block in blocks:
                self._insert(db, block, boxes)
            if waiting:
                self._keep(db, waiting)
            if note is not None:
                db.execute("INSERT OR REPLACE INTO checkpoint VALUES(?,?)", note)

    def stage(self, blocks: Sequence[Checked]) -> None:
        """Keeps blocks of a candidate, in order, until `replace` or `drop_stage`."""
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO stage_header VALUES(?,?,?,?)",
                [(block.height, block.block_id, block.raw, block.sig) for block in blocks],
            )
            db.executemany(
                "INSERT INTO stage_body VALUES(?,?)", [(block.height, encode_items(block.items)) for block in blocks]
            )

    def drop_stage(self) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM stage_header")
            db.execute("DELETE FROM stage_body")

    def replace(self, fork_height: int, readmit: Sequence[Row]) -> None:
        """Everything above `fork_height` gives way to what is staged; `readmit` waits for a block again."""
        with self._transaction() as db:
            fork = self._inside.header_at(fork_height)
            assert fork is not None
            branch = list(self._staged(db, fork))
            size = fork.header.log_size
            db.execute("DELETE FROM mid WHERE pos>=?", ((fork_height + 1) << POSITION_BITS,))
            db.execute("DELETE FROM pinned WHERE pos>=?", ((fork_height + 1) << POSITION_BITS,))
            for table in ("header", "body"):
                db.execute(f"DELETE FROM {table} WHERE height>?", (fork_height,))  # noqa: S608
            db.execute("DELETE FROM checkpoint WHERE size>?", (size,))
            self._cut(db, size)
            for block in branch:
                self._insert(db, block, {})
            db.executemany(
                "INSERT OR IGNORE INTO mempool(k, entry, sealed) VALUES(?,?,?)",
                [(row.key, row.entry, row.kept()) for row in readmit],
            )
            db.execute("DELETE FROM stage_header")
            db.execute("DELETE FROM stage_body")

    def mend(self, block: Block) -> None:
        """Puts a block, checked by the caller, in the place of its damaged rows."""
        header = block.header
        pruned = any(item.sealed_len and not item.sealed for item in block.items)
        with self._transaction() as db:
            db.execute(
                "UPDATE header SET id=?, raw=?, sig=?, first_index=? WHERE height=?",
                (header.block_id, block.raw, block.sig, header.first_index, header.height),
            )
            db.execute(
                "INSERT OR REPLACE INTO body VALUES(?,?,?)",
                (header.height, PRUNED if pruned else 0, encode_items(block.items)),
            )

    # -- Pruning

    def prune_blobs(self, heights: Sequence[tuple[int, bytes]]) -> None:
        """Bodies without their blobs take the place of whole ones."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE body SET state=?, items=? WHERE height=?",
                [(PRUNED, items, height) for height, items in heights],
            )

    def prune_bodies(self, first: int, last: int, min_index: int) -> None:
        """Bodies from `first` to `last` go; with the last of them the minima move."""
        with self._transaction() as db:
            db.execute("DELETE FROM body WHERE height BETWEEN ? AND ?", (first, last))
            db.execute("INSERT OR REPLACE INTO meta VALUES('min_height', ?)", ((last + 1).to_bytes(8, "big"),))
            db.execute("INSERT OR REPLACE INTO meta VALUES('min_index', ?)", (min_index.to_bytes(8, "big"),))
            db.execute("DELETE FROM tile WHERE level=0 AND n<?", (min_index >> 8,))

    # -- Small things

    def set_meta(self, name: str, value: bytes) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (name, value))

    def put_checkpoint(self, size: int, note: bytes) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO checkpoint VALUES(?,?)", (size, note))

    def put_evidence(self, file: bytes) -> None:
        """Keeps a proof of somebody's fault; the oldest beyond 1,024 are dropped."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO evidence VALUES(?,?)", (sha256(file).digest(), file))
            db.execute(
                "DELETE FROM evidence WHERE rowid NOT IN (SELECT rowid FROM evidence ORDER BY rowid DESC LIMIT ?)",
                (MAX_EVIDENCE,),
            )

    def write_head(self, note: bytes) -> None:
        """After the commit of what it covers."""
        files.write_head(self.directory, note)

    def tidy(self) -> None:
        """Writes the journal back where it has grown long, so that commits write over it.

        What its file has is no measure: it stays, for a commit that makes a file longer takes twice the time.
        """
        if self._failed is None and self._pages > JOURNAL_PAGES:
            self._pages = 0
            with suppress(sqlite3.Error):  # a full disk shows at the next commit, which tells its caller
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _insert(self, db: sqlite3.Connection, block: Checked, boxes: Mapping[bytes, bytes]) -> None:
        height, first = block.height, block.first_index
        db.execute(
            "INSERT INTO header VALUES(?,?,?,?,?,?)",
            (height, block.block_id, block.raw, block.sig, first, block.total_work.to_bytes(32, "big")),
        )
        pruned = any(item.sealed_len and not item.sealed for item in block.items)
        db.execute("INSERT INTO body VALUES(?,?,?)", (height, PRUNED if pruned else 0, encode_items(block.items)))
        start, keys = height << POSITION_BITS, block.keys
        db.executemany("INSERT INTO mid VALUES(?,?)", sorted(zip(keys, range(start, start + len(keys)), strict=True)))
        tiles = new_tiles(self._inside, first, block.leaves)
        db.executemany("INSERT OR REPLACE INTO tile VALUES(?,?,?)", [(*where, run) for where, run in tiles.items()])
        pinned = [(start + n, item.entry) for n, item in enumerate(block.items) if item.entry[1] in PINNED]
        if pinned:
            db.executemany("INSERT INTO pinned VALUES(?,?)", pinned)
        if db.execute("SELECT EXISTS(SELECT 1 FROM mempool)").fetchone()[0]:
            db.executemany("DELETE FROM mempool WHERE k=?", zip(keys))
        kept = sorted([(key, box) for key in keys if (box := boxes.get(key))])
        db.executemany("INSERT OR REPLACE INTO receipt VALUES(?,?)", kept)

    @staticmethod
    def _staged(db: sqlite3.Connection, fork: Stored) -> Iterator[Checked]:
        """The candidate's blocks, which the machine has checked before they were staged."""
        total = fork.total_work
        rows = db.execute("SELECT raw, sig, items FROM stage_header JOIN stage_body USING(height) ORDER BY height")
        for raw, sig, data in rows:
            header = Header.decode(raw)
            total += work(header.pow_bits)
            items = tuple(decode_items(data))
            yield Checked(
                header=header,
                raw=raw,
                sig=sig,
                block_id=header.block_id,
                total_work=total,
                items=items,
                leaves=tuple(leaf_hash(item.entry) for item in items),
                keys=tuple(inspect(item.entry).key24 for item in items),
            )

    @staticmethod
    def _cut(db: sqlite3.Connection, size: int) -> None:
        """Leaves the hashes of the first `size` entries."""
        counts = tile_counts(size)
        for level in range(MAX_LEVELS):
            full, width = counts[level] if level < len(counts) else (0, 0)
            db.execute("DELETE FROM tile WHERE level=? AND n>=?", (level, full + (width > 0)))
            db.execute(
                "UPDATE tile SET hashes=substr(hashes, 1, ?) WHERE level=? AND n=?", (width * HASH_BYTES, level, full)
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._check()
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failure(error) from error
        except BaseException:
            self._roll_back()
            raise

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed.__class__(*self._failed.args) from self._failed

    def _failure(self, error: sqlite3.Error) -> ChainError:
        """What becomes of a transaction that SQLite refused: nothing of it is there."""
        found = schema.translated(error, self.path)
        if isinstance(found, StoreFailed):
            self._failed = found
        self._roll_back()
        return found

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            with suppress(sqlite3.Error):  # what cannot be undone in memory was never committed either
                self._db.execute("ROLLBACK")

    def _check_files(self) -> None:
        """A chain that was here before must be here still, with its journal."""
        if not self.path.exists():
            if self._lock.was_open or (self.directory / files.HEAD_NAME).exists():
                raise RollbackSuspected(f"the chain in {self.directory} is gone, what names it is still there")
            schema.create(self.path)
            return
        if self._lock.was_open and not (self._journal.exists() and self._journal.stat().st_size >= WAL_HEADER_BYTES):
            raise RollbackSuspected(f"the chain in {self.directory} was not closed, and its journal is gone")

    def _open(self) -> sqlite3.Connection:
        try:
            return schema.open_writer(self.path)
        except sqlite3.Error as error:
            raise schema.translated(error, self.path) from error
