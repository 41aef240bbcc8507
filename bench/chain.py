"""Row P16 and the chain's rows of P17: Talos beside the raw primitive, in one process on one disk."""

from __future__ import annotations

import os
import secrets
import sqlite3
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from bench import long_chain
from bench.measure import TALOS, Goal, Metric, Reading, Series
from interop.harness.statistics import percentile
from talos.abc import AuditEntry, Direction, EntryKind
from talos.chain import ChainConfig, ChainKeys, open_chain
from talos.chain.mining import mine
from talos.chain.pow import Solver
from talos.identity.keys import PrivateKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.report import Results
    from talos.chain import Chain

    Put = Callable[[str, str, float], None]

__all__ = ["METRICS", "run"]

RAW = "raw"
"""The primitive itself: fdatasync of 296 bytes, a bare SQLite batch, a dictionary, a hash loop."""
APPENDS = 1500
WARM = 2000
"""Appended before anything is measured: from then on the journal is written over, as in a chain that has lived."""
CALLERS = 256
EACH = 20
LOOKUPS = 300_000
MINED = 64
SAVES = 100
WHERE = Path(__file__).resolve().parent.parent


def _metric(row: str, name: str, title: str, unit: str, *goals: Goal) -> Metric:
    return Metric(row=row, name=f"{row} {name}", title=title, unit=unit, goals=goals)


def _least(bound: float, peer: str | None = None) -> Goal:
    return Goal(bound=bound, kind="at least", peer=peer)


def _most(bound: float, peer: str | None = None) -> Goal:
    return Goal(bound=bound, kind="at most", peer=peer)


METRICS = (
    _metric("P16", "1", "durable appends, one caller", "/s", _least(0.75, RAW), _least(4000)),
    _metric("P16", "256", "the same, 256 callers", "/s", _least(0.65, RAW), _least(30_000)),
    _metric("P16", "256 p99", "p99 of one of them", "ms", _most(25)),
    _metric("P16", "loop", "event loop's delay while sealing and mining, p99", "ms", _most(5)),
    _metric("P17", "lookup", "header by id, hot", "/s", _least(0.15, RAW), _least(5e6)),
    _metric("P17", "mine", "block of 8 bits with its header, mean", "ms", _most(0.3)),
    _metric("P17", "hashes", "proof of work", "/s", _least(0.8, RAW)),
    _metric("P17", "save 5 KB", "block of 5 KB saved, p50", "ms", _most(3, RAW), _most(0.5)),
    _metric("P17", "save 1 MB", "block of 0.9 MB saved, p50", "ms", _most(3, RAW), _most(5)),
    _metric("P17", "by id", "by message id from disk, of 100,000", "/s", _least(0.3, RAW), _least(100_000)),
    _metric("P17", "tree", "entries hashed and appended to the tree", "/s", _least(2, RAW), _least(300_000)),
    _metric("P17", "proof", "inclusion proofs made", "/s", _least(1, RAW), _least(25_000)),
    _metric("P17", "check", "inclusion proofs checked", "/s", _least(50_000)),
    _metric("P17", "audit", "entries fully verified", "/s", _least(0.15, RAW)),
    _metric("P17", "headers", "signed headers checked", "/s", _least(0.45, RAW), _least(5000)),
    _metric("P17", "entries", "entries checked and taken over", "/s", _least(30_000)),
    _metric("P17", "open", "chain of 100,000 entries opened", "ms", _most(50)),
)  # fmt: skip


async def run(rounds: int) -> Results:
    """Both sides of all metrics, in turns."""
    results: Results = {metric.name: (metric, {TALOS: Series(), RAW: Series()}) for metric in METRICS}

    def put(name: str, side: str, value: float) -> None:
        results[name][1][side].readings.append(Reading(value=value))

    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=WHERE, prefix=".bench-") as place:
            directory = Path(place)
            raw = _raw_syncs(directory / "raw", 296)
            put("P16 1", RAW, 1 / percentile(raw, 0.5))
            put("P17 save 5 KB", RAW, percentile(_raw_syncs(directory / "raw5", 5000), 0.5) * 1000)
            put("P16 256", RAW, _raw_batches(directory / "batch.db"))
            put("P17 hashes", RAW, _raw_hashes())
            await _measure(directory, put)
            await long_chain.measure(directory, put)
    return results


async def _measure(directory: Path, put: Put) -> None:
    keys = ChainKeys(_secret, _secret, PrivateKey.from_seed(b"\x02" * 32))
    async with open_chain(None, ChainConfig(), keys, directory=directory / "chain") as chain:
        for _ in range(WARM):
            await chain.record(_entry())
        await chain.seal()
        seconds = []
        for _ in range(APPENDS):
            entry = _entry()
            began = time.perf_counter()
            await chain.record(entry)
            seconds.append(time.perf_counter() - began)
        put("P16 1", TALOS, 1 / percentile(seconds, 0.5))
        await chain.seal()
        rate, waits, delays = await _crowd(chain)
        put("P16 256", TALOS, rate)
        put("P16 256 p99", TALOS, percentile(waits, 0.99) * 1000)
        put("P16 loop", TALOS, percentile(delays, 0.99) * 1000)
        await chain.seal()
        _lookups(chain, put)
        await _mining(chain, put)
        put("P17 save 5 KB", TALOS, await _saves(chain))


async def _crowd(chain: Chain) -> tuple[float, list[float], list[float]]:
    """Many callers at once, and how late the loop was meanwhile."""
    waits: list[float] = []
    delays: list[float] = []

    async def caller(entries: list[AuditEntry]) -> None:
        for entry in entries:
            began = time.perf_counter()
            await chain.record(entry)
            waits.append(time.perf_counter() - began)

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await trio.sleep(0.001)
            delays.append(max(0.0, time.perf_counter() - began - 0.001))

    work = [[_entry() for _ in range(EACH)] for _ in range(CALLERS)]
    async with trio.open_nursery() as outer:
        outer.start_soon(watch)
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for entries in work:
                nursery.start_soon(caller, entries)
        took = time.perf_counter() - began
        outer.cancel_scope.cancel()
    return CALLERS * EACH / took, waits, delays


def _lookups(chain: Chain, put: Put) -> None:
    stored = chain.header(0)
    assert stored is not None
    bare = {stored.block_id: stored}
    for side, get in ((TALOS, chain.header), (RAW, bare.get)):
        began = time.perf_counter()
        for _ in range(LOOKUPS):
            get(stored.block_id)
        put("P17 lookup", side, LOOKUPS / (time.perf_counter() - began))


async def _mining(chain: Chain, put: Put) -> None:
    """Blocks of 8 bits as they are sealed, and the loop over nonces by itself."""
    stored = chain.header(0)
    assert stored is not None
    header = replace(stored.header, nonce=0)
    began = time.perf_counter()
    for height in range(MINED):
        await mine(replace(header, height=height))
    put("P17 mine", TALOS, (time.perf_counter() - began) / MINED * 1000)
    hard = replace(header, pow_bits=32)
    began = time.perf_counter()
    Solver(hard.encode()).run(200_000)
    put("P17 hashes", TALOS, 200_000 / (time.perf_counter() - began))


async def _saves(chain: Chain) -> float:
    """The middle time to save a block of about 30 entries, whole, with its index, tree and sync; milliseconds."""
    seconds = []
    store = chain.core.store
    persist = store.persist

    def timed(*args: object) -> None:
        began = time.perf_counter()
        persist(*args)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - began)

    store.persist = timed  # type: ignore[method-assign, assignment]
    for _ in range(SAVES):
        await chain.record_many([_entry() for _ in range(30)])
        await chain.seal()
    store.persist = persist  # type: ignore[method-assign]
    return percentile(seconds, 0.5) * 1000


def _raw_syncs(path: Path, size: int) -> list[float]:
    """Appends of `size` bytes, each with fdatasync."""
    seconds, data = [], secrets.token_bytes(size)
    with path.open("wb", buffering=0) as file:
        for _ in range(APPENDS // 2):
            began = time.perf_counter()
            file.write(data)
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - began)
    return seconds


def _raw_batches(path: Path) -> float:
    """Rows a second of bare SQLite, 256 in a durable transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE row(k BLOB PRIMARY KEY, entry BLOB) WITHOUT ROWID")
        batches = [[(secrets.token_bytes(24), secrets.token_bytes(296)) for _ in range(CALLERS)] for _ in range(EACH)]
        began = time.perf_counter()
        for batch in batches:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO row VALUES(?,?)", batch)
            db.execute("COMMIT")
        return CALLERS * EACH / (time.perf_counter() - began)


def _raw_hashes() -> float:
    base = sha256(b"talos/block/v1\n" + bytes(224))
    target = bytes(4)
    began = time.perf_counter()
    for nonce in range(200_000):
        one = base.copy()
        one.update(nonce.to_bytes(8, "big"))
        if one.digest() < target:
            break
    return 200_000 / (time.perf_counter() - began)


def _entry() -> AuditEntry:
    return AuditEntry(
        kind=EntryKind.MCP_CALL,
        msg_id=secrets.token_bytes(16),
        direction=Direction.IN,
        counterparty=b"a peer",
        time_ms=time.time_ns() // 1_000_000,
        sender=b"a peer",
        detail=b"read_file",
        session_commit=b"\x08" * 32,
        sealed_hash=b"\x09" * 32,
    )


def _secret(random: bytes) -> bytes:
    return sha256(random).digest()
