"""A transfer whose sides are killed outright, again and again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.messaging.file_harness import MIB, tree

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 20
SIZE = 128 * MIB + 12_345


def start(stack: ExitStack, folder: Path, name: str, *words: str) -> tuple[subprocess.Popen[str], str]:
    """A side, and its address."""
    side = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", "tests.messaging.file_side", str(folder), name, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(side.kill)
    assert side.stdout is not None
    return side, side.stdout.readline()


def tell(side: subprocess.Popen[str], address: str) -> None:
    assert side.stdin is not None
    side.stdin.write(address)
    side.stdin.flush()


def written(folder: Path) -> int:
    """Bytes on the disk of all that is unfinished."""
    return sum(path.stat().st_blocks * 512 for path in (folder / "downloads" / ".incoming").rglob("*.part"))


@pytest.mark.long
def test_killed_at_random_bytes(tmp_path: Path) -> None:
    path, random = tmp_path / "data.bin", Random(7)
    with path.open("wb") as file:
        for _ in range(128):
            file.write(os.urandom(MIB))
        file.write(b"x" * 12_345)
    kills = 0
    for folder in ("alice", "bob"):
        (tmp_path / folder).mkdir(mode=0o700)
    while kills < ROUNDS:
        with ExitStack() as stack:
            bob, bobs = start(stack, tmp_path / "bob", "Bob")
            alice, alices = start(stack, tmp_path / "alice", "Alice", str(path))
            tell(bob, alices)
            tell(alice, bobs)
            wanted = written(tmp_path / "bob") + random.randrange(SIZE // ROUNDS)
            deadline = time.monotonic() + 30
            while written(tmp_path / "bob") < wanted and time.monotonic() < deadline:
                if tree(tmp_path / "bob" / "downloads"):
                    break
                time.sleep(0.002)
            random.choice((alice, bob)).kill()
            kills += 1
            if tree(tmp_path / "bob" / "downloads"):
                break
    with ExitStack() as stack:
        bob, bobs = start(stack, tmp_path / "bob", "Bob")
        alice, alices = start(stack, tmp_path / "alice", "Alice", str(path))
        tell(bob, alices)
        tell(alice, bobs)
        for side in (alice, bob):
            assert side.stdout is not None
            assert side.stdout.readline() == "complete\n"
    assert kills >= ROUNDS // 2
    assert tree(tmp_path / "bob" / "downloads") == {"data.bin": path.read_bytes()}
