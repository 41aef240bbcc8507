"""The database of one chain: its tables, how it is opened, and what SQLite's refusals mean here."""

from __future__ import annotations

import os
import resource
import sqlite3
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from talos.errors import AuditError, StoreCorrupt, StoreFailed, StoreFull

if TYPE_CHECKING:
    from pathlib import Path

    from talos.errors import ChainError

__all__ = ["DATABASE_NAME", "TABLES", "create", "open_reader", "open_writer", "translated"]

DATABASE_NAME: Final = "chain.db"
SCHEMA_VERSION: Final = 1
BUSY_SECONDS = 5.0

TABLES: Final = """
CREATE TABLE meta(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID;
CREATE TABLE header(height INTEGER PRIMARY KEY, id BLOB UNIQUE, raw BLOB, sig BLOB, first_index INTEGER UNIQUE,
                    total_work BLOB);
CREATE TABLE body(height INTEGER PRIMARY KEY, state INTEGER, items BLOB);
CREATE TABLE mid(k BLOB PRIMARY KEY, pos INTEGER) WITHOUT ROWID;
CREATE TABLE tile(level INTEGER, n INTEGER, hashes BLOB, PRIMARY KEY(level, n)) WITHOUT ROWID;
CREATE TABLE mempool(seq INTEGER PRIMARY KEY AUTOINCREMENT, k BLOB UNIQUE, entry BLOB, sealed BLOB);
CREATE TABLE checkpoint(size INTEGER PRIMARY KEY, note BLOB);
CREATE TABLE pinned(pos INTEGER PRIMARY KEY, entry BLOB);
CREATE TABLE evidence(hash BLOB PRIMARY KEY, file BLOB);
CREATE TABLE receipt(k BLOB PRIMARY KEY, box BLOB);
CREATE TABLE stage_header(height INTEGER PRIMARY KEY, id BLOB, raw BLOB, sig BLOB);
CREATE TABLE stage_body(height INTEGER PRIMARY KEY, items BLOB);
CREATE TABLE cosig(size INTEGER, key_id BLOB, line BLOB, PRIMARY KEY(size, key_id)) WITHOUT ROWID;
CREATE TABLE peer_checkpoint(origin_hash BLOB, size INTEGER, note BLOB, PRIMARY KEY(origin_hash, size)) WITHOUT ROWID;
"""
_PRAGMAS: Final = (
    "page_size=4096",
    "journal_mode=WAL",
    "synchronous=FULL",
    "fullfsync=ON",
    "wal_autocheckpoint=0",  # a commit on the event loop must not pay for it; the writer's thread does
    "cache_size=-16384",
    "trusted_schema=OFF",
)
_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA}


def create(path: Path) -> None:
    """An empty file of the right mode, of which SQLite makes its journals' modes too."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def open_writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes; any thread may use it, one at a time. sqlite3.Error."""
    db = _connect(path, "rw")
    try:
        for pragma in _PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            db.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads, beside a writer or alone. sqlite3.Error."""
    return _connect(path, "ro")


def translated(error: sqlite3.Error, path: Path) -> ChainError:
    """The chain's error for SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    where = path.parent
    if primary == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR_WRITE and _is_at_size_limit(path)):
        return StoreFull(f"no space is left for the chain in {where}")
    if primary in _DAMAGE or isinstance(error, sqlite3.NotSupportedError):
        return StoreCorrupt(f"the database in {where} is damaged: {error}")
    if primary in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
        return StoreFailed(f"the chain in {where} failed: {error}")
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return AuditError(f"the database in {where} is held by another program")
    return StoreFailed(f"the chain in {where} failed: {error}")


def _is_at_size_limit(path: Path) -> bool:
    """A file that may grow no further (RLIMIT_FSIZE) fails like a broken disk; no byte of it is in doubt."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    files = (path, path.with_name(path.name + "-wal"))
    return any(file.exists() and file.stat().st_size + 65_536 > limit for file in files)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
