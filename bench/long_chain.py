"""The rest of the chain's rows of P17: what a chain of 100,000 entries costs, each beside the library's own floor."""

from __future__ import annotations

import os
import random
import secrets
import sqlite3
import time
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING

import trio
from pymerkle import InmemoryTree  # type: ignore[import-untyped]

from interop.harness.statistics import percentile
from talos.chain import ChainConfig, ChainReader, verify_reader
from talos.chain.block import Item
from talos.chain.core import Core
from talos.chain.driver import now
from talos.chain.effects import Fault, Send
from talos.chain.entry import Kind, leaf_hash
from talos.chain.merkle import Frontier, Tiles, verify_inclusion
from talos.chain.messages import Request, Response, Status
from talos.chain.opening import OpenChain, open_replica
from talos.chain.pow import solve
from talos.chain.store import Store
from talos.chain.validation import Trail
from talos.host.block import background
from talos.identity.keys import PrivateKey
from tests.unit.chain.memory_chain import KEYS, Builder, make_entry, make_params

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from talos.chain.effects import Effect

    Put = Callable[[str, str, float], None]

__all__ = ["OWN", "RAW", "measure"]

OWN, RAW = "talos", "raw"
ENTRIES = 100_000
PER_BLOCK = 1000
HEADERS = 4000
LOOKUPS = 20_000
PROOFS = 5_000
BIG_SAVES = 20
BIG_ITEMS = 9
BIG_BLOB = 99_000


async def measure(directory: Path, put: Put) -> None:
    """Each number of both sides, by the names of `bench.chain.METRICS`."""
    builder = Builder(make_params())
    for first in range(1, ENTRIES + 1, PER_BLOCK):
        draft = builder.draft([Item(make_entry(number)) for number in range(first, first + PER_BLOCK)])
        builder._take(draft.finish(solve(draft.header.encode()), KEYS[0]))  # noqa: SLF001 - as its own `make`
    place = directory / "long"
    with closing(Store(place)) as store:
        for at in range(0, len(builder.blocks), 16):
            store.persist(builder.blocks[at : at + 16], {})
    _lookups(place, directory / "keys.db", put)
    _tree(builder, place, put)
    _audit(place, builder, put)
    began = time.perf_counter()
    opened = open_replica(place, None)
    put("P17 open", OWN, (time.perf_counter() - began) * 1000)
    opened.store.close()
    _headers(put)
    await _entries(directory / "copy", builder, put)
    _big_saves(directory / "big", put)


def _lookups(place: Path, bare: Path, put: Put) -> None:
    """Message ids in a random order, none of them looked for before."""
    numbers = random.Random(5).sample(range(1, ENTRIES + 1), LOOKUPS)
    ids = [number.to_bytes(16, "big") for number in numbers]
    with ChainReader(place) as reader:
        began = time.perf_counter()
        for msg_id in ids:
            reader.reading.positions(msg_id)
        put("P17 by id", OWN, LOOKUPS / (time.perf_counter() - began))
    with closing(sqlite3.connect(bare, isolation_level=None)) as db:
        db.execute("CREATE TABLE mid(k BLOB PRIMARY KEY, pos INTEGER) WITHOUT ROWID")
        db.execute("BEGIN")
        rows = ((number.to_bytes(16, "big") + bytes(8), number) for number in range(1, ENTRIES + 1))
        db.executemany("INSERT INTO mid VALUES(?,?)", rows)
        db.execute("COMMIT")
        began = time.perf_counter()
        for msg_id in ids:
            db.execute("SELECT pos FROM mid WHERE k=?", (msg_id + bytes(8),)).fetchone()
        put("P17 by id", RAW, LOOKUPS / (time.perf_counter() - began))


def _tree(builder: Builder, place: Path, put: Put) -> None:
    entries = [item.entry for block in builder.blocks for item in block.items]
    began = time.perf_counter()
    frontier = Frontier()
    frontier.extend([leaf_hash(entry) for entry in entries])
    put("P17 tree", OWN, len(entries) / (time.perf_counter() - began))
    library = InmemoryTree(algorithm="sha256")
    began = time.perf_counter()
    for entry in entries:
        library.append_entry(entry)
    put("P17 tree", RAW, len(entries) / (time.perf_counter() - began))

    size, root = len(entries), frontier.root()
    chosen = random.Random(7).sample(range(size), PROOFS)
    with ChainReader(place) as reader:
        tiles = Tiles(reader.reading)
        tiles.inclusion(0, size)
        began = time.perf_counter()
        paths = [tiles.inclusion(index, size) for index in chosen]
        put("P17 proof", OWN, PROOFS / (time.perf_counter() - began))
    began = time.perf_counter()
    for index in chosen[: PROOFS // 10]:
        library.prove_inclusion(index + 1)
    put("P17 proof", RAW, PROOFS // 10 / (time.perf_counter() - began))
    leaves = [leaf_hash(entries[index]) for index in chosen]
    began = time.perf_counter()
    for leaf, index, path in zip(leaves, chosen, paths, strict=True):
        verify_inclusion(leaf, index, size, path, root)
    put("P17 check", OWN, PROOFS / (time.perf_counter() - began))


def _audit(place: Path, builder: Builder, put: Put) -> None:
    with ChainReader(place) as reader:
        began = time.perf_counter()
        assert verify_reader(reader, full=True).ok
        put("P17 audit", OWN, builder.trail.log_size / (time.perf_counter() - began))
    leaf = b"\x00" + secrets.token_bytes(255)
    began = time.perf_counter()
    for _ in range(ENTRIES):
        sha256(leaf).digest()
    put("P17 audit", RAW, ENTRIES / (time.perf_counter() - began))


def _headers(put: Put) -> None:
    builder = Builder(make_params()).grow(HEADERS, 1)
    trail = Trail.empty(builder.params)
    began = time.perf_counter()
    for block in builder.blocks:
        trail.advance(trail.check(block.raw, block.sig, block.header.time_ms))
    put("P17 headers", OWN, HEADERS / (time.perf_counter() - began))
    key = PrivateKey.from_seed(bytes(32))
    message, public = secrets.token_bytes(50), key.public_key
    signature = key.sign(message)
    began = time.perf_counter()
    for _ in range(HEADERS):
        public.verify(message, signature)
    put("P17 headers", RAW, HEADERS / (time.perf_counter() - began))


async def _entries(directory: Path, builder: Builder, put: Put) -> None:
    """A copy from nothing: decoded blocks are given to the machine, checked in full and stored durably."""
    store = Store(directory)
    store.persist(builder.blocks[:1], {})
    core = Core(OpenChain(store=store, params=builder.params, key=None, boxes=None), ChainConfig())
    send, asked = trio.open_memory_channel[Request](100)

    def hear(effect: Effect) -> None:
        assert not isinstance(effect, Fault), effect
        if isinstance(effect, Send) and isinstance(effect.message, Request):
            send.send_nowait(effect.message)
        core.tell(effect)

    async def answer() -> None:
        async for request in asked:
            span = request.headers or request.blocks
            assert span is not None
            found = builder.blocks[span.start : span.end + 1]
            blocks = tuple(block.block for block in found) if request.blocks else ()
            headers = tuple(block.raw + block.sig for block in found) if request.headers else ()
            response = Response(id=request.id, headers=headers, blocks=blocks)
            core.driver.do(core.machine.receive("peer", response, now()))

    core.driver.hears = hear
    tip = builder.blocks[-1]
    claim = Status(
        chain_id=builder.params.chain_id, height=tip.height, total_work=tip.total_work, tip_id=tip.block_id,
        log_size=tip.header.log_size, log_root=tip.header.log_root, now_ms=now().unix_ms,
    )  # fmt: skip
    try:
        async with background() as nursery:
            nursery.start_soon(core.run)
            nursery.start_soon(answer)
            with core.listen() as events:
                core.driver.do(core.machine.peer_joined("peer", now(), reader=True))
                began = time.perf_counter()
                core.driver.do(core.machine.receive("peer", claim, now()))
                while core.machine.tip.block_id != tip.block_id:
                    await events.receive()
                put("P17 entries", OWN, ENTRIES / (time.perf_counter() - began))
    finally:
        core.close()


def _big_saves(directory: Path, put: Put) -> None:
    """Blocks of nearly a megabyte, each in one durable transaction; milliseconds, the middle one."""
    builder, seconds = Builder(make_params()), []
    with closing(Store(directory)) as store:
        store.persist(builder.blocks, {})
        for height in range(BIG_SAVES):
            items = []
            for number in range(BIG_ITEMS):
                blob = secrets.token_bytes(BIG_BLOB)
                digest = sha256(b"talos/sealed/v1\n" + blob).digest()
                entry = make_entry(height * BIG_ITEMS + number + 1, kind=Kind.SENT, sealed_hash=digest)
                items.append(Item(entry, blob))
            draft = builder.draft(items)
            block = draft.finish(solve(draft.header.encode()), KEYS[0])
            builder._take(block)  # noqa: SLF001
            began = time.perf_counter()
            store.persist((block,), {})
            seconds.append(time.perf_counter() - began)
            store.tidy()
    put("P17 save 1 MB", OWN, percentile(seconds, 0.5) * 1000)
    data, seconds = secrets.token_bytes(BIG_ITEMS * BIG_BLOB), []
    with (directory / "raw").open("wb", buffering=0) as file:
        for _ in range(BIG_SAVES):
            began = time.perf_counter()
            file.write(data)
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - began)
    put("P17 save 1 MB", RAW, percentile(seconds, 0.5) * 1000)
