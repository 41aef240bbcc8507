"""Crashes, broken disks and meddling: nothing that was acknowledged is lost, and nothing wrong is believed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from talos.chain import ChainConfig, ChainKeys, ChainReader, open_chain, verify_reader
from talos.chain.export import write_export
from talos.errors import (
    AuditError,
    ChainError,
    ChainInUse,
    EntryConflict,
    MempoolFull,
    RollbackSuspected,
    StoreCorrupt,
)
from tests.chain.conftest import call, keys_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
KEYS = keys_of(b"Alice")
ROUNDS = int(os.environ.get("TALOS_KILL_ROUNDS", "50"))
CHAIN_ROUNDS = 50
"""Of one chain, for each round verifies the whole of it."""
"""Of the long run; 1,000 by hand."""
SHIM = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <dlfcn.h>
static int left = -1;
static int fails(void) {
    if (left < 0) { const char *n = getenv("TALOS_SYNCS"); left = n ? atoi(n) : 1 << 30; }
    return left-- <= 0;
}
int fsync(int fd) { if (fails()) { errno = EIO; return -1; } return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"""


def appender(directory: Path, start: int, limit: int = 0, burst: int = 1, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chain.appender", str(directory), str(start), str(limit), str(burst)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
    )


def acknowledged(lines: str) -> set[int]:
    """Of whole lines alone: a killed process may have cut its last one."""
    whole = lines[: lines.rfind("\n") + 1].splitlines()
    return {int(word) for line in whole if line.startswith("ack") for word in line.split()[1:]}


def recorded(directory: Path, keys: ChainKeys = KEYS) -> list[int]:
    """The numbers of all entries, after a whole verification."""
    with ChainReader(directory, keys) as reader:
        found = verify_reader(reader, full=True)
        assert found.first_bad is None, found
        return [int.from_bytes(r.entry.fields[0], "big") for r in reader.records() if r.entry.msg_id is not None]


async def reopen(directory: Path, **config: object) -> None:
    async with open_chain(None, ChainConfig(**config), KEYS, directory=directory):  # type: ignore[arg-type]
        pass


def kill_rounds(directory: Path, rounds: int, burst: int, seed: int = 0) -> None:
    """Kill -9 at any moment: all that was acknowledged is there, once, and in order."""
    chance, acked, start = random.Random(seed), set[int](), 0
    for _ in range(rounds):
        with appender(directory, start, burst=burst) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(chance.random() * 0.15)
            process.send_signal(signal.SIGKILL)
            acked |= acknowledged(first + process.stdout.read())
        found = recorded(directory)
        assert acked <= set(found)
        assert len(found) == len(set(found))
        assert found == sorted(found)
        start = max(found) + 1
    trio.run(reopen, directory)
    assert acked <= set(recorded(directory))


@pytest.mark.parametrize("burst", [1, 100])
def test_killed_in_five_rounds(tmp_path: Path, burst: int) -> None:
    kill_rounds(tmp_path / "chain", 5 if burst == 1 else 2, burst)


@pytest.mark.long
def test_killed_often(tmp_path: Path) -> None:
    for seed in range(0, ROUNDS, CHAIN_ROUNDS):
        kill_rounds(tmp_path / str(seed), min(CHAIN_ROUNDS, ROUNDS - seed), 7, seed)


# -- What a crash leaves --------------------------------------------------------------------------------


async def crashed(directory: Path, copy: Path, count: int = 60) -> None:
    """A copy of a chain in the middle of its life, as a crash leaves it."""
    config = ChainConfig(seal_items=16, seal_seconds=30)
    async with open_chain(None, config, KEYS, directory=directory) as chain:
        for number in range(count):
            await chain.record(call(number))
        shutil.copytree(directory, copy)


def cuts(journal: bytes) -> Iterator[int]:
    """Each end of a frame, and one byte to either side."""
    for end in range(32, len(journal) + 1, 4096 + 24):
        yield from sorted({max(end - 1, 0), end, min(end + 1, len(journal))})


@pytest.mark.parametrize("way", ["cut", "garbled"])
async def test_a_journal_cut_at_some_frames(tmp_path: Path, way: str) -> None:
    await replay(tmp_path, way, 20)


@pytest.mark.long
@pytest.mark.parametrize("way", ["cut", "garbled"])
async def test_a_journal_cut_at_each_frame(tmp_path: Path, way: str) -> None:
    await replay(tmp_path, way, 10_000)


async def replay(tmp_path: Path, way: str, most: int) -> None:
    """The chain is a prefix of what was attempted, whole and in order; or it is said that something is missing."""
    await crashed(tmp_path / "chain", tmp_path / "copy", 24)
    journal = (tmp_path / "copy" / "chain.db-wal").read_bytes()
    places = list(cuts(journal))
    step = max(1, len(places) // most)
    lengths = []
    for number, place in enumerate(places[::step]):
        here = tmp_path / f"try-{number}"
        shutil.copytree(tmp_path / "copy", here)
        damaged = journal[:place] if way == "cut" else journal[:place] + bytes(len(journal) - place)
        (here / "chain.db-wal").write_bytes(damaged)
        (here / "chain.db-shm").unlink(missing_ok=True)
        try:
            await reopen(here)
        except RollbackSuspected:
            continue
        found = recorded(here)
        assert found == list(range(len(found)))
        lengths.append(len(found))
        shutil.rmtree(here)
    assert lengths == sorted(lengths)
    assert lengths[-1] > 0


async def test_a_journal_that_is_gone(tmp_path: Path) -> None:
    await crashed(tmp_path / "chain", tmp_path / "copy")
    (tmp_path / "copy" / "chain.db-wal").unlink()
    with pytest.raises(RollbackSuspected, match="journal is gone"):
        await reopen(tmp_path / "copy")


@pytest.mark.parametrize("lost", ["chain.db", "HEAD"])
async def test_a_file_that_is_gone(tmp_path: Path, lost: str) -> None:
    async with open_chain(None, ChainConfig(), KEYS, directory=tmp_path / "chain") as chain:
        await chain.record(call(1))
    (tmp_path / "chain" / lost).unlink()
    with pytest.raises(RollbackSuspected):
        await reopen(tmp_path / "chain")


async def test_an_older_copy_under_a_newer_head(tmp_path: Path) -> None:
    """A restored backup: HEAD alone tells, and it does."""
    directory = tmp_path / "chain"
    async with open_chain(None, ChainConfig(), KEYS, directory=directory) as chain:
        await chain.record(call(1))
    shutil.copy(directory / "chain.db", tmp_path / "backup")
    async with open_chain(None, ChainConfig(), KEYS, directory=directory) as chain:
        await chain.record(call(2))
    shutil.copy(tmp_path / "backup", directory / "chain.db")
    with pytest.raises(RollbackSuspected, match="has 2 entries, and once had 3"):
        await reopen(directory)


# -- The disk -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [40_000, 333_333])
def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path, limit: int) -> None:
    filled(tmp_path / "chain", limit)


@pytest.mark.long
def test_a_disk_that_is_full_at_each_write(tmp_path: Path) -> None:
    """A page of the journal further each time, and a byte to either side."""
    for page in range(8, 24):
        for limit in (page * 4096 - 1, page * 4096, page * 4096 + 1):
            filled(tmp_path / f"chain-{limit}", limit)


def filled(directory: Path, limit: int) -> None:
    """No file may grow past the limit: recording ends with StoreFull, and opens again with space."""
    process = appender(directory, 0, limit)
    out, _ = process.communicate(timeout=60)
    assert "StoreFull" in out, limit
    acked = acknowledged(out)
    trio.run(reopen, directory)
    assert acked <= set(recorded(directory))


@pytest.mark.parametrize("size", ["256k", "2m"])
def test_a_small_disk_that_runs_full(tmp_path: Path, size: str) -> None:
    """A file system of its own: also what SQLite and the checkpoints beside it write finds no space."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        process = appender(disk / "chain", 0, burst=20)
        out, _ = process.communicate(timeout=60)
        assert "StoreFull" in out
        acked = acknowledged(out)
        shutil.copytree(disk / "chain", tmp_path / "chain")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    trio.run(reopen, tmp_path / "chain")
    assert acked <= set(recorded(tmp_path / "chain"))


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler: a failing fsync cannot be made")
    directory = tmp_path_factory.mktemp("shim")
    (directory / "shim.c").write_text(SHIM)
    library = directory / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, directory / "shim.c", "-ldl"], check=True)
    return library


@pytest.mark.parametrize("syncs", [15, 23, 40])
def test_a_failed_sync_is_final(tmp_path: Path, shim: Path, syncs: int) -> None:
    """EIO: no acknowledgement after it, and what was acknowledged before is there."""
    process = appender(tmp_path / "chain", 0, LD_PRELOAD=str(shim), TALOS_SYNCS=str(syncs))
    out, _ = process.communicate(timeout=60)
    assert "StoreFailed" in out
    assert out.splitlines()[-1].startswith("refused")
    trio.run(reopen, tmp_path / "chain")
    assert acknowledged(out) <= set(recorded(tmp_path / "chain"))


# -- Meddling -------------------------------------------------------------------------------------------

TABLES = {
    "header": ("id", "raw", "sig", "first_index", "total_work"),
    "body": ("items",),
    "mid": ("k", "pos"),
    "tile": ("hashes",),
    "mempool": ("k", "entry", "sealed"),
    "checkpoint": ("size", "note"),
    "pinned": ("pos", "entry"),
    "evidence": ("hash", "file"),
    "receipt": ("box",),
}


KEYS_OF = {"mid": "k", "tile": "level, n", "checkpoint": "size", "pinned": "pos"}


async def full(directory: Path) -> None:
    """A chain with rows in every table."""
    async with open_chain(None, ChainConfig(seal_seconds=60), KEYS, directory=directory) as chain:
        for number in range(300):
            await chain.record(call(number))
        await chain.seal()
        await chain.core.writer.alone(chain.core.store.put_evidence, b"talos/evidence/v1\nsomething")
        await chain.record(call(1000))
        shutil.copytree(directory, directory.with_name("full"))


def flipped(value: object, chance: random.Random) -> object:
    if isinstance(value, int):
        return value ^ (1 << chance.randrange(12))
    assert isinstance(value, bytes)
    data = bytearray(value)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def is_whole(directory: Path) -> bool:
    try:
        with ChainReader(directory, KEYS) as reader:
            return verify_reader(reader, full=True).ok
    except StoreCorrupt:
        return False


async def test_each_flipped_bit_is_found(tmp_path: Path) -> None:
    await full(tmp_path / "chain")
    directory, chance = tmp_path / "full", random.Random(5)
    assert len(recorded(directory)) == 301
    with closing(sqlite3.connect(directory / "chain.db", isolation_level=None)) as db:
        for table, columns in TABLES.items():
            for column in columns:
                key = KEYS_OF.get(table, "rowid")
                rows = db.execute(f"SELECT {column}, {key} FROM {table} WHERE {column} IS NOT NULL").fetchall()
                assert rows, table
                value, *place = chance.choice(rows)
                where = " AND ".join(f"{name}=?" for name in key.split(", "))
                changed = flipped(value, chance)
                db.execute("BEGIN")
                db.execute(f"UPDATE OR IGNORE {table} SET {column}=? WHERE {where}", (changed, *place))
                db.execute("COMMIT")
                assert not is_whole(directory), f"{table}.{column} of {place}"
                back = [changed if name == column else old for name, old in zip(key.split(", "), place, strict=True)]
                db.execute(f"UPDATE {table} SET {column}=? WHERE {where}", (value, *back))
    assert len(recorded(directory)) == 301, "everything was put back"


async def test_a_damaged_body_is_not_given_out(tmp_path: Path) -> None:
    directory = tmp_path / "chain"
    async with open_chain(None, ChainConfig(), KEYS, directory=directory) as chain:
        await chain.record(call(1))
        await chain.seal()
        with closing(sqlite3.connect(directory / "chain.db", isolation_level=None)) as db:
            items = db.execute("SELECT items FROM body WHERE height=1").fetchone()[0]
            db.execute("UPDATE body SET items=? WHERE height=1", (items[:-3] + b"\x00\x00\x01",))
        with pytest.raises(StoreCorrupt, match="body 1"):
            await chain.prove((1).to_bytes(16, "big"))


async def test_one_writer(tmp_path: Path) -> None:
    directory = tmp_path / "chain"
    async with open_chain(None, ChainConfig(), KEYS, directory=directory) as chain:
        with pytest.raises(ChainInUse, match=f"in use by process {os.getpid()}"):
            await reopen(directory)
        await chain.record(call(1))
        assert recorded(directory) == [1], "readers need no lock"
    for path in directory.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700


async def test_a_message_is_recorded_once(tmp_path: Path) -> None:
    """In the mempool, in a block, and after an opening; with other content it is a conflict."""
    directory = tmp_path / "chain"
    async with open_chain(None, ChainConfig(), KEYS, directory=directory) as chain:
        first = await chain.record(call(1))
        for sealed in (False, True):
            if sealed:
                await chain.seal()
            again = await chain.record(call(1))
            assert (again.leaf, again.duplicate, first.duplicate) == (first.leaf, True, False)
            with pytest.raises(EntryConflict):
                await chain.record(call(1, b"write_file"))
        both = await chain.record_many([call(2), call(2)])
        assert [receipt.duplicate for receipt in both] == [False, True]
    async with open_chain(None, ChainConfig(), KEYS, directory=directory) as chain:
        assert (await chain.record(call(2))).duplicate
    assert recorded(directory) == [1, 2]


async def test_a_full_mempool_refuses_until_it_is_sealed(tmp_path: Path) -> None:
    config = ChainConfig(mempool_items=5, seal_seconds=3600)
    async with open_chain(None, config, KEYS, directory=tmp_path / "chain") as chain:
        for number in range(5):
            await chain.record(call(number))
        with pytest.raises(MempoolFull):
            await chain.record(call(9))
        await chain.seal()
        await chain.record(call(9))
    assert recorded(tmp_path / "chain") == [0, 1, 2, 3, 4, 9]


def everything_in(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def test_nothing_private_is_to_be_read(tmp_path: Path) -> None:
    """Who, what and how: in no file of the chain, its journal, archive or export."""
    directory = tmp_path / "chain"
    secrets = [b"the-counterparty-of-it", b"a_very_private_tool"]
    async with open_chain(None, ChainConfig(), KEYS, directory=directory) as chain:
        await chain.record(call(1, secrets[1], counterparty=secrets[0]))
        await chain.seal()
        await chain.record(call(2, secrets[1], counterparty=secrets[0]))
        with ChainReader(directory, KEYS) as reader:
            write_export(reader, tmp_path / "export", sealed=True)
        data = everything_in(tmp_path)
    assert len(data) > 10_000
    for secret in secrets:
        assert secret not in data
        assert secret.hex().encode() not in data


def test_errors_are_the_chains(tmp_path: Path) -> None:
    """A database that is none, and a directory that cannot be."""
    (tmp_path / "chain").mkdir(mode=0o700)
    (tmp_path / "chain" / "chain.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ChainError):
        trio.run(reopen, tmp_path / "chain")
    with pytest.raises(AuditError):
        ChainReader(tmp_path / "nothing")
