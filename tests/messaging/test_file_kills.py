"""A transfer whose sides are killed outright, again and again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from hashlib import file_digest, sha256
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.messaging.file_harness import MIB

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 20
SIZE = 1024 * MIB


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


def arrived(folder: Path) -> list[Path]:
    """The files that are whole."""
    return [path for path in (folder / "downloads").glob("*") if path.name != ".incoming"]


@pytest.mark.long
def test_killed_at_random_bytes(tmp_path: Path) -> None:
    path, random, digest = tmp_path / "data.bin", Random(7), sha256()
    with path.open("wb") as file:
        for _ in range(SIZE // MIB):
            data = os.urandom(MIB)
            file.write(data)
            digest.update(data)
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
                if arrived(tmp_path / "bob"):
                    break
                time.sleep(0.002)
            random.choice((alice, bob)).kill()
            kills += 1
            if arrived(tmp_path / "bob"):
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
    (came,) = arrived(tmp_path / "bob")
    assert came.name == "data.bin"
    with came.open("rb") as file:
        assert file_digest(file, "sha256").digest() == digest.digest()
    for large in (came, path):  # pytest keeps the directories of three runs
        large.unlink()
