"""kill -9 at any moment: what was acknowledged is there."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from talos.dht.journal import open_journal

ROOT = Path(__file__).resolve().parents[2]


def killed(store: Path, puts: int) -> list[int]:
    """Runs until so many PUTs were acknowledged, then kills: the numbers of all that were, until the last moment."""
    command = [sys.executable, "-m", "tests.dht.store_process", str(store)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(puts)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    return [int(line) for line in lines if line.endswith("\n")]


@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.long)])
def test_no_acknowledged_value_is_lost(rounds: int, tmp_path: Path) -> None:
    rng = random.Random(time.time_ns())
    store = tmp_path / "dht" / "records"
    acknowledged: set[int] = set()
    for _ in range(rounds):
        acknowledged.update(killed(store, rng.randrange(1, 300)))
        journal = open_journal(store)
        values = {stored.key: stored.value for stored in journal.values()}
        journal.close()
        lost = [number for number in acknowledged if values.get(b"/example/%d" % number) != b"value of %d" % number]
        assert not lost
    assert len(acknowledged) >= rounds
