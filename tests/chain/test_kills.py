"""Killed while it prunes, exports or changes branches; and pruning on a disk that is full."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import trio

from talos.chain import ChainReader, verify_reader
from talos.chain.archive import read_segment, verify_segment
from talos.chain.entry import Entry, Kind
from talos.chain.export import verify_export
from tests.chain.conftest import keys_of
from tests.chain.test_faults import ROOT, ROUNDS, acknowledged, reopen
from tests.chain.worker import branches

if TYPE_CHECKING:
    from pathlib import Path

KEYS = keys_of(b"Alice")
FEW = 3


def work(what: str, directory: Path, limit: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chain.worker", what, str(directory), str(limit)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def killed(process: subprocess.Popen[str], chance: random.Random, *, lines: int) -> str:
    """What it had said when it was killed, some time after so many lines."""
    with process:
        assert process.stdout is not None
        said = "".join(process.stdout.readline() for _ in range(lines))
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        return said + process.stdout.read()


def number_of(entry: bytes) -> int | None:
    decoded = Entry.decode(entry)
    return int.from_bytes(decoded.fields[0], "big") if decoded.kind is Kind.MCP_CALL else None


def everywhere(directory: Path) -> list[int]:
    """The numbers of all entries, in the database and in the archives; each archive is whole."""
    with ChainReader(directory, KEYS) as reader:
        found = verify_reader(reader, full=True)
        assert found.first_bad is None, found
        numbers = {number_of(record.data) for record in reader.records()}
        gone = reader.reading.number("min_height")
    reached = 0
    for path in sorted((directory / "archive").glob("*.seg"), key=lambda path: int(path.name.split("-")[0])):
        segment = verify_segment(path)
        assert segment.first_height <= reached
        reached = max(reached, segment.last_height + 1)
        numbers |= {number_of(item.entry) for _, block in read_segment(path) for item in block.items}
    assert reached >= gone, "nothing is deleted that no archive holds"
    return sorted(number for number in numbers if number is not None)


def prune_rounds(directory: Path, rounds: int) -> None:
    chance, acked = random.Random(rounds), set[int]()
    for _ in range(rounds):
        acked |= acknowledged(killed(work("prune", directory), chance, lines=chance.randrange(3, 8)))
        assert acked <= set(everywhere(directory))
    trio.run(reopen, directory)
    assert acked <= set(everywhere(directory))


def export_rounds(directory: Path, rounds: int) -> None:
    killed(work("record", directory), random.Random(1), lines=3)
    trio.run(reopen, directory)
    for number in range(rounds):
        killed(work("export", directory, number), random.Random(number), lines=1)
    exported = sorted(directory.parent.glob("export-*"))
    assert len(exported) >= rounds
    assert all(verify_export(path).ok for path in exported)


def reorganise_rounds(directory: Path, rounds: int) -> None:
    """One branch or the other, whole, and each entry once: in a block or waiting."""
    tips = {blocks[-1].block_id for blocks in branches()}
    all_keys = {key for blocks in branches() for block in blocks for key in block.keys}
    for number in range(rounds):
        killed(work("reorganise", directory), random.Random(number), lines=1)
        with ChainReader(directory, None) as reader:
            assert verify_reader(reader, full=True).ok
            tip = reader.reading.tip()
            assert tip is not None
            assert tip.block_id in tips
            waiting = [row.key for row in reader.reading.pending()]
            assert len(waiting) == len(set(waiting))
            recorded = {key for key in all_keys if reader.reading.position(key) is not None}
            assert recorded | set(waiting) == all_keys
            assert not recorded & set(waiting)


LOOPS = {"prune": prune_rounds, "export": export_rounds, "reorganise": reorganise_rounds}


@pytest.mark.parametrize("what", LOOPS)
def test_killed_in_a_few_rounds(tmp_path: Path, what: str) -> None:
    LOOPS[what](tmp_path / "chain", FEW)


@pytest.mark.long
@pytest.mark.parametrize("what", LOOPS)
def test_killed_in_many_rounds(tmp_path: Path, what: str) -> None:
    LOOPS[what](tmp_path / "chain", ROUNDS // 2)


def test_pruning_on_a_full_disk_deletes_nothing(tmp_path: Path) -> None:
    """The archive cannot be written whole: all entries stay in the database, and nothing of it is left behind."""
    directory = tmp_path / "chain"
    said, _ = work("prune", directory, 8000).communicate(timeout=60)
    assert said.splitlines()[-1] == "refused StoreFull"
    assert not list((directory / "archive").iterdir())
    assert acknowledged(said) <= set(everywhere(directory))
    with ChainReader(directory, KEYS) as reader:
        assert reader.reading.number("min_height") == 0
