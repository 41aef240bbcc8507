"""Two processes that are killed again and again: nothing is lost, nothing comes twice, and both logs name all of it."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from talos.abc import EntryKind
from talos.chain import ChainKeys, ChainReader, verify_reader
from talos.messaging.content import Text
from talos.messaging.database import open_database
from talos.messaging.rows import RowCipher
from talos.messaging.store import SCHEMA, MessageState, Store
from tests.messaging.writer import wallet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from talos.messaging.store import StoredMessage

ROOT = Path(__file__).resolve().parents[2]


class Pair:
    """Alice writes to Bob, each in a process of its own."""

    def __init__(self, directory: Path, count: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.addr = f"/ip4/127.0.0.1/tcp/{port}/p2p/{wallet('bob').peer_id}"
        self.directory = directory
        self.count = count
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, role: str) -> None:
        """Returns when it serves."""
        self.processes[role] = process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.messaging.writer",
                role,
                str(self.directory / role),
                self.addr,
                str(self.count),
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def kill(self, role: str) -> None:
        process = self.processes.pop(role)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def wait_done(self) -> None:
        process = self.processes["alice"]
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"

    def close(self) -> None:
        for role in list(self.processes):
            self.kill(role)

    def history(self, role: str) -> list[StoredMessage]:
        with open_database(self.directory / role / "messages.db", SCHEMA) as database:
            return Store(database, RowCipher(wallet(role).store_key)).messages(limit=100_000)

    def shown(self) -> list[StoredMessage]:
        """Bob's, in the order in which a reader gets them."""
        with open_database(self.directory / "bob" / "messages.db", SCHEMA) as database:
            store = Store(database, RowCipher(wallet("bob").store_key))
            return [message for _, message in store.shown(store.cursor(), 100_000)]

    def logged(self, role: str, kind: EntryKind) -> list[bytes]:
        with ChainReader(self.directory / role / "chain", ChainKeys.of(wallet(role))) as reader:
            assert verify_reader(reader, full=True).first_bad is None
            entries = [record.entry for record in reader.records()]
        return [one.msg_id for one in entries if one.msg_id is not None and one.kind.name == kind.name]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path, 100)
    yield made
    made.close()


def check(pair: Pair) -> None:
    written = [message for message in pair.history("alice") if not message.incoming]
    assert [Text.decode(one.content).body.decode() for one in written] == [f"letter {n}" for n in range(pair.count)]
    assert {one.state for one in written} == {MessageState.DELIVERED}
    ids = [one.id for one in written]
    assert [one.id for one in pair.shown()] == ids, "each once, in order"
    assert {one.mark for one in pair.shown()} == {""}
    assert sorted(pair.logged("alice", EntryKind.SENT)) == sorted(ids)
    assert sorted(pair.logged("alice", EntryKind.RECEIPT_GOT)) == sorted(ids)
    assert sorted(pair.logged("bob", EntryKind.RECEIVED)) == sorted(ids)


def run(pair: Pair, rounds: int, longest: float, seed: int) -> None:
    chance = random.Random(seed)
    pair.start("bob")
    pair.start("alice")
    for number in range(rounds):
        time.sleep(chance.uniform(0.01, longest))
        role = ("alice", "bob")[number % 2]
        pair.kill(role)
        pair.start(role)
    pair.wait_done()
    pair.close()
    check(pair)


def test_killed_a_few_times_all_letters_come_once(pair: Pair) -> None:
    run(pair, 5, 0.8, 1)


@pytest.mark.long
def test_killed_at_random_all_letters_come_once(pair: Pair) -> None:
    """2,000 letters; 10,000 by hand (TALOS_LETTERS), four minutes on two busy cores."""
    pair.count = int(os.environ.get("TALOS_LETTERS", "2000"))
    run(pair, 30, 2.0, 2)
