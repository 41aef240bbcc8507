"""A process that works until it is killed: `python -m tests.chain.worker record|prune|export|reorganise DIR LIMIT`."""

from __future__ import annotations

import itertools
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from talos.chain import ChainConfig, ChainReader, Retention, open_chain
from talos.chain.entry import inspect
from talos.chain.export import write_export
from talos.chain.genesis import Mode
from talos.chain.prune import prune_chain
from talos.chain.reading import Row
from talos.chain.store import Store
from talos.errors import AuditError
from tests.chain.conftest import call, keys_of
from tests.unit.chain.memory_chain import Builder, make_params

if TYPE_CHECKING:
    from talos.chain import Chain
    from talos.chain.block import Checked

BLOCKS, ENTRIES = 3, 90
PARAMS = make_params(Mode.SHARED, 2)
SLOW = ChainConfig(seal_seconds=60)


def say(*words: object) -> None:
    print(*words, flush=True)


async def add_blocks(chain: Chain, start: int) -> None:
    for first in range(start, start + BLOCKS * ENTRIES, ENTRIES):
        await chain.record_many([call(number) for number in range(first, first + ENTRIES)])
        await chain.seal()
        say("ack", *range(first, first + ENTRIES))


async def record(directory: Path) -> None:
    async with open_chain(None, SLOW, keys_of(b"Alice"), directory=directory) as chain:
        for start in itertools.count(chain.count, BLOCKS * ENTRIES):
            await add_blocks(chain, start)


async def prune(directory: Path, limit: int) -> None:
    """Records some blocks and lets all but the last go, again and again."""
    async with open_chain(None, SLOW, keys_of(b"Alice"), directory=directory) as chain:
        for start in itertools.count(chain.count, BLOCKS * ENTRIES):
            await add_blocks(chain, start)
            if limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                await prune_chain(chain, Retention(age_seconds=0, keep_blocks=1))
            except AuditError as error:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                say("refused", type(error).__name__)
                return
            say("pruned")


def export(directory: Path) -> None:
    with ChainReader(directory, keys_of(b"Alice")) as reader:
        for number in itertools.count():
            write_export(reader, directory.parent / f"export-{number}-{sys.argv[3]}")
            say("exported", number)


def branches() -> tuple[list[Checked], list[Checked]]:
    """Two branches behind one genesis; the same in every process."""
    one, other = Builder(PARAMS).grow(12, 1), Builder(PARAMS).grow(9, 100, key=1)
    return one.blocks, other.blocks


def reorganise(directory: Path) -> None:
    """From one branch to the other and back; what loses its block waits again."""
    one, other = branches()
    store = Store(directory)
    if store.reading.tip() is None:
        store.persist(one, {})
    tip = store.reading.tip()
    assert tip is not None
    ours, theirs = (one, other) if tip.block_id == one[-1].block_id else (other, one)
    for number in itertools.count():
        lost = [item for block in ours[1:] for item in block.items]
        store.stage(theirs[1:4])
        store.stage(theirs[4:])
        store.replace(0, [Row(inspect(item.entry).key24, item.entry, b"", b"") for item in lost])
        ours, theirs = theirs, ours
        say("replaced", number)


if __name__ == "__main__":
    what, where, most = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if what == "prune":
        trio.run(prune, where, most)
    elif what == "record":
        trio.run(record, where)
    else:
        {"export": export, "reorganise": reorganise}[what](where)
