"""Disks and logs that say no in the middle of things: nothing is lost, shown twice, or acknowledged too early."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.errors import AuditError, ConfigError, EnvelopeRejected, StoreFailed, StoreFull
from talos.identity.wallet import Wallet
from talos.messaging.code import AckState, Code, MessageType
from talos.messaging.config import DeliveryLimits, MessagingConfig, ReceiveLimits, Strangers
from talos.messaging.content import Ack, AckItem, Text
from talos.messaging.frames import Deliver, Result
from talos.messaging.handling import Received, Verdict
from talos.messaging.payload import ChunkInfo
from talos.messaging.rate import MAX_BUCKETS, Buckets
from talos.messaging.store import MessageState
from tests.messaging.harness import START_MS, Person, texts, until
from tests.messaging.hostile import mallory

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeConfig

ASK = MessagingConfig(strangers=Strangers.ASK)
DAY_MS = 86_400_000


@pytest.fixture
def alice(memory_config: MakeConfig, tmp_path: Path) -> Person:
    return Person("Alice", tmp_path / "a", memory_config())


@pytest.fixture
def bob(memory_config: MakeConfig, tmp_path: Path) -> Person:
    return Person("Bob", tmp_path / "b", memory_config())


@pytest.fixture
def wallet() -> Wallet:
    return Wallet.new("Mallory", now_ms=START_MS - 1000)


class Failing:
    """Raises at the first `times` calls, then does what was there before."""

    def __init__(self, function: Any, times: int, error: type[Exception] = StoreFull) -> None:
        self.function = function
        self.left = times
        self.error = error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            raise self.error("no space is left")
        return self.function(*args, **kwargs)


async def test_a_turn_that_cannot_be_written_is_taken_back_whole(
    bob: Person, wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits for the first, which cannot be kept: both are shown in order when it can."""
    monkeypatch.setattr("talos.messaging.turns.RESTORE_SECONDS", 0.05)
    async with bob.open() as to_bob, mallory(wallet, bob) as attacker:
        first = attacker.seal(Text(body=b"1").encode())
        second = attacker.seal(Text(body=b"2").encode(), seq=2, prev=first.digest)
        assert (await attacker.ask(second.envelope)).code == Code.OK
        store = to_bob._state.store
        monkeypatch.setattr(store, "show", Failing(store.show, 1))
        assert (await attacker.ask(first.envelope)).code == Code.BUSY
        assert len(list(to_bob.history())) == 1
        await until(lambda: [len(line.order.held) for line in to_bob._turns._lines.values()] == [1])
        assert (await attacker.ask_until_done(first.envelope)).code == Code.OK
        assert await texts(to_bob, 2) == ["1", "2"]
        assert next(store.database.read("SELECT count(*) FROM held"))[0] == 0


async def test_what_follows_a_turn_that_failed_fails_too(
    bob: Person, wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bob.open() as to_bob, mallory(wallet, bob) as attacker:
        made, prev = [], bytes(32)
        for seq in range(1, 6):
            made.append(attacker.seal(Text(body=str(seq).encode()).encode(), seq=seq, prev=prev))
            prev = made[-1].digest
        store = to_bob._state.store
        monkeypatch.setattr(store, "add_message", Failing(store.add_message, 1))
        for one in made:
            await attacker.frames.send(Deliver(one.envelope))
        answers = [await attacker.frames.receive() for _ in made]
        assert any(isinstance(answer, Result) and answer.code == Code.BUSY for answer in answers)
        for one in made:
            assert (await attacker.ask_until_done(one.envelope)).code == Code.OK
        assert await texts(to_bob, 5) == ["1", "2", "3", "4", "5"]


async def test_a_handlers_verdict_counts_when_it_is_kept(
    bob: Person, wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def accept(_: Received) -> Verdict:
        await trio.lowlevel.checkpoint()
        return Verdict(AckState.ACCEPTED)

    async with bob.open() as to_bob, mallory(wallet, bob) as attacker:
        store = to_bob._state.store
        with to_bob.handling(0x40, accept):
            monkeypatch.setattr(store, "change", Failing(store.change, 1))
            made = attacker.seal(b"", type=0x40)
            assert (await attacker.ask(made.envelope)).code == Code.BUSY
            assert (await attacker.ask_until_done(made.envelope)).code == Code.OK
        message = to_bob.message(made.payload.id, sender=wallet.peer_id)
        assert message is not None
        assert message.ack_state == AckState.ACCEPTED


async def test_letters_of_strangers_wait_until_they_can_be_taken_in(
    bob: Person, wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bob.open(ASK) as to_bob, mallory(wallet, bob) as attacker:
        store = to_bob._state.store
        monkeypatch.setattr(store, "add_waiting", Failing(store.add_waiting, 1))
        good = attacker.seal()
        assert (await attacker.ask(good.envelope)).code == Code.BUSY
        chunk = attacker.seal(
            b"x", type=MessageType.STREAM_CHUNK, seq=0, epoch=0, chunk_info=ChunkInfo(stream_id=bytes(16), index=0)
        )
        stale = attacker.seal(timestamp_ms=bob.clock() - 16 * DAY_MS)
        for one in (good, chunk, stale):
            assert (await attacker.ask(one.envelope)).code == Code.STORED
        bob.log.refuse = True
        assert await to_bob.admit(wallet.peer_id) == 0
        assert [letter.envelope for letter in to_bob.waiting()] == [good.envelope]
        bob.log.refuse = False
        assert await to_bob.admit(wallet.peer_id) == 1
        assert to_bob.waiting() == []
        assert await texts(to_bob, 1) == ["hello"]


async def test_a_replay_of_what_has_vanished_is_out_of_time(bob: Person, wallet: Wallet) -> None:
    async with bob.open() as to_bob, mallory(wallet, bob) as attacker:
        made = attacker.seal(ttl_s=60)
        assert (await attacker.ask(made.envelope)).code == Code.OK
        store, later = to_bob._state.store, bob.clock() + 61_000
        await until(lambda: not store.unrecorded())
        assert await store.database.write(lambda c: store.wipe(c, later)) == 1
        assert (await attacker.ask(made.envelope)).code == Code.BAD_TIMESTAMP


async def test_receipts_wait_for_our_log(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice, bob.open():
        alice.knows(bob)
        honest = await (await from_alice.send(bob.peer, "1")).wait()
        assert honest.receipt is not None
        record_many, alice.log.record_many = alice.log.record_many, Failing(None, 10**6, AuditError)  # type: ignore[method-assign]
        item = AckItem(id=honest.id, digest=honest.digest, state=AckState.DELIVERED, receipt=honest.receipt)
        store = from_alice._state.store
        message = store.message(from_alice._state.me, honest.id)
        assert message is not None
        back = replace(message, state=MessageState.SENT)
        await store.database.write(lambda c: store.set_message(c, back))
        with pytest.raises(AuditError):
            await from_alice._intake.acks._acknowledged(bob.peer, [item])
        ack = Ack((item,))
        with pytest.raises(EnvelopeRejected) as caught:
            await from_alice._intake.acks.note(bob.peer, ack)
        assert caught.value.code == Code.BUSY
        alice.log.record_many = record_many  # type: ignore[method-assign]
        assert await from_alice._intake.acks.note(bob.peer, ack) is Code.OK


async def test_a_home_that_cannot_be_written_is_not_opened(alice: Person) -> None:
    (alice.directory / "messages.run").mkdir()
    with pytest.raises(StoreFailed, match=r"messages\.run"):
        async with alice.open():
            pass


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        MessagingConfig(delivery=DeliveryLimits(unanswered=0))
    with pytest.raises(ConfigError, match="live longer"):
        MessagingConfig(receive=ReceiveLimits(past_seconds=86_400))


def test_buckets_are_bounded() -> None:
    buckets = Buckets[int](1.0, 1.0)
    for key in range(MAX_BUCKETS + 10):
        assert buckets.take(key, 0.0)
    assert len(buckets._buckets) == MAX_BUCKETS
    assert not buckets.take(MAX_BUCKETS, 0.0)
    assert buckets.take(MAX_BUCKETS, 1.0)
