"""Hostile writers of letters: rows DA of the catalogue. `tests/messaging/test_hostile.py` has all faults of an envelope."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from talos.host.config import NodeConfig
from talos.identity.wallet import Wallet
from talos.messaging.code import Code
from talos.messaging.content import Text
from tests.attacks.harness import Victim, attacked
from tests.attacks.nodes import attacker_node
from tests.messaging.hostile import Mallory
from tests.messaging.writer import wallet as wallet_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

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
