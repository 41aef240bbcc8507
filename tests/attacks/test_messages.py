"""Hostile writers of letters: rows DA of the catalogue. `tests/messaging/test_hostile.py` has all faults of an envelope."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from talos.chain import ChainKeys, ChainReader, verify_reader
from talos.cli.session import Session
from talos.cli.telling import tell_event
from talos.host.config import NodeConfig
from talos.identity.home import Home
from talos.identity.wallet import Wallet
from talos.messaging.code import Code
from talos.messaging.content import Text
from talos.messaging.reading import open_history
from talos.messaging.view import message_row
from tests.attacks.harness import Victim, attacked, victim
from tests.attacks.nodes import attacker_node
from tests.messaging.hostile import Mallory
from tests.messaging.writer import wallet as wallet_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from talos.identity.peer_id import PeerId

DAY_MS = 86_400_000
LIMITS = {"ip": {"exempt_loopback": True}}


@dataclass
class Target:
    """Whom the letters are for."""

    wallet: Wallet
    peer: PeerId

    def clock(self) -> int:
        return time.time_ns() // 1_000_000


@asynccontextmanager
async def writer_to(node: Victim, wallet: Wallet) -> AsyncIterator[Mallory]:
    async with attacker_node(NodeConfig(key=wallet.identity)) as host:
        await host.connect(None, [node.addr])
        attacker = Mallory(wallet, host, Target(wallet_of("bob"), node.peer))
        await attacker.connect()
        yield attacker


def stranger() -> Wallet:
    return Wallet.new("Mallory", now_ms=time.time_ns() // 1_000_000 - DAY_MS)


async def test_da01_da02_replays_and_conflicts_over_a_restart(tmp_path: Path) -> None:
    wallet, first = stranger(), None
    for run in range(2):
        async with (
            attacked(limits=LIMITS, messages=str(tmp_path), newcomers=run == 0) as node,
            writer_to(node, wallet) as attacker,
        ):
            first = first or attacker.seal()
            for _ in range(100):
                answer = await attacker.ask(first.envelope)
                assert (answer.code, bool(answer.ack_envelope)) == (Code.OK, True)
            other = attacker.seal(Text(body=b"I never said that").encode(), id=first.payload.id, seq=2)
            assert (await attacker.ask(other.envelope)).code == Code.ID_CONFLICT
            mine = first.payload.id.hex()
            letters = (await node.until(lambda status: status["letters"]["recorded"] == [mine]))["letters"]  # noqa: B023 - awaited
            assert letters["ids"] == [mine]
            assert letters["contents"] == [Text(body=b"hello").encode().hex()]


async def test_da03_da04_wrong_times_and_wrong_people(tmp_path: Path) -> None:
    other = stranger().identity.public_key.data
    async with (
        attacked(limits=LIMITS, messages=str(tmp_path)) as node,
        writer_to(node, stranger()) as attacker,
    ):
        now = attacker.victim.clock()
        payload = attacker.seal().payload
        wrong = {
            Code.BAD_TIMESTAMP: [
                attacker.seal(timestamp_ms=moment).envelope for moment in (now + 600_000, now - 16 * DAY_MS, 0)
            ],
            Code.BAD_PAYLOAD: [
                attacker.wrap(replace(payload, timestamp_ms=2**64 - 1).encode()),
                attacker.wrap(replace(payload, recipient=other).encode()),
            ],
            Code.REFUSED: [attacker.wrap(replace(payload, sender=other).encode())],
            Code.BAD_SIGNATURE: [attacker.wrap(replace(payload, signature=bytes(64)).encode())],
        }
        for code, envelopes in wrong.items():
            for envelope in envelopes:
                assert (await attacker.ask(envelope)).code == code
        assert (await node.status())["letters"]["ids"] == []
        assert (await attacker.ask(attacker.seal().envelope)).code == Code.OK


ESCAPES = [
    "\x1b[2J\x1b[31mred",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "you owe nothing\r12:00:00  bank → me  you owe all",
    "\x9b2J\x85\x9d0;x\x9c",
    "\u202etxt.exe\u2066\u200f",
    "line\u2028separator\u2029",
]


async def test_da09_escapes_drive_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In texts, subjects and media types, as `listen` and `history` show them, and in JSON."""
    async with (
        attacked(limits=LIMITS, messages=str(tmp_path)) as node,
        writer_to(node, stranger()) as attacker,
    ):
        for number, escape in enumerate(ESCAPES):
            text = Text(body=escape.encode(), subject=escape, media_type="text/" + escape[:20])
            odd = Text(body=b"x", media_type="x/" + escape[:20])
            for place, content in enumerate((text, odd)):
                letter = attacker.seal(content.encode(), seq=2 * number + place + 1)
                assert (await attacker.ask_until_done(letter.envelope)).code == Code.OK
        await node.until(lambda status: len(status["letters"]["recorded"]) == 2 * len(ESCAPES), 10)
    shown = Session(data_dir=str(tmp_path / "nobody"))
    as_json = Session(data_dir=str(tmp_path / "nobody"), json=True)
    with open_history(tmp_path, wallet_of("bob").store_key) as history:
        rows = [message_row(message) for message in history.messages()]
    assert len(rows) == 2 * len(ESCAPES)
    for row in rows:
        tell_event(shown, "message", row)
        tell_event(as_json, "message", row)
    said = capsys.readouterr().out
    assert not [character for character in said if character != "\n" and not character.isprintable()]
    for line in [line for line in said.splitlines() if line.startswith("{")]:
        assert line.isascii()
    headers = [line for line in said.splitlines() if not line.startswith((" ", "{"))]
    assert len(headers) == len(rows), "no line of a text passes for a header"


async def test_da11_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """Killed between two letters, three times: each that was acknowledged is there, recorded, once."""
    wallet, acknowledged, seq = stranger(), list[str](), 0
    for count in (1, 12, 3):
        async with victim(limits=LIMITS, messages=str(tmp_path)) as node, writer_to(node, wallet) as attacker:
            status = await node.until(lambda status: status["letters"]["ids"] == status["letters"]["recorded"], 10)
            assert status["letters"]["ids"] == acknowledged
            for _ in range(count):
                seq += 1
                letter = attacker.seal(seq=seq)
                answer = await attacker.ask_until_done(letter.envelope)
                assert (answer.code, bool(answer.ack_envelope)) == (Code.OK, True)
                acknowledged.append(letter.payload.id.hex())
            node.child.process.kill()
    async with attacked(limits=LIMITS, messages=str(tmp_path), newcomers=False) as node:
        letters = (await node.status())["letters"]
    assert letters["ids"] == letters["recorded"] == acknowledged
    keys = ChainKeys.of(wallet_of("bob"))
    with ChainReader(tmp_path / "chain", keys) as reader:
        assert verify_reader(reader, full=True).first_bad is None
        assert [one.entry.msg_id.hex() for one in reader.records() if one.entry.msg_id is not None] == acknowledged


def test_da11_a_second_process_on_a_home_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    with home.lock():
        done = subprocess.run(
            [sys.executable, "-m", "talos", "--data-dir", str(home.path), "init", "--name", "x", "--json"],
            check=False,
            capture_output=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
    assert done.returncode == 9, done.stderr
