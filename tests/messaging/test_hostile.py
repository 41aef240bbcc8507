"""What peers send that they should not: each answered by its code, and nothing is kept of it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.abc import EntryKind, HandlerFailed, SignedReceipt
from talos.identity.key_record import KeyRecord
from talos.identity.wallet import Wallet
from talos.messaging.code import AckState, Code, MessageType
from talos.messaging.config import MessagingConfig, ReceiveLimits, StrangerLimits, Strangers
from talos.messaging.content import Ack, AckItem, Text
from talos.messaging.envelope import seal_broadcast, sealed_hash
from talos.messaging.frames import PROTOCOL_ID, Deliver, Frame, Result, decode, encode
from talos.messaging.handling import Received, Verdict
from talos.messaging.payload import ChunkInfo
from talos.messaging.store import MessageState
from talos.wire.message_stream import MessageStream
from tests.messaging.harness import START_MS, Person, texts, until
from tests.messaging.hostile import Mallory, mallory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from talos.abc import Event, Stream
    from tests.conftest import MakeConfig

DAY_MS = 86_400_000


@pytest.fixture
def bob(memory_config: MakeConfig, tmp_path: Path) -> Person:
    return Person("Bob", tmp_path / "b", memory_config())


@pytest.fixture
def alice(memory_config: MakeConfig, tmp_path: Path) -> Person:
    return Person("Alice", tmp_path / "a", memory_config())


@pytest.fixture
def wallet() -> Wallet:
    return Wallet.new("Mallory", now_ms=START_MS - 1000)


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :]


def resigned(attacker: Mallory, **changes: object) -> bytes:
    """Fields changed behind the signature."""
    return attacker.wrap(replace(attacker.seal().payload, **changes).encode())  # type: ignore[arg-type]


def overgrown_record(attacker: Mallory) -> bytes:
    """Signed well, and with a number that would count for good."""
    mine = attacker.wallet.encryption[0]
    record = KeyRecord(
        identity=attacker.wallet.identity.public_key.data,
        x25519=mine.public(),
        seq=2**63 - 1,
        not_before_ms=mine.not_before_ms,
        not_after_ms=mine.not_before_ms + DAY_MS,
    )
    return attacker.seal(key_record=record.seal(attacker.wallet.identity)).envelope


def useless_record(attacker: Mallory) -> bytes:
    """Signed well, for a key that everybody has the secrets of."""
    now = attacker.victim.clock()
    record = KeyRecord(
        identity=attacker.wallet.identity.public_key.data,
        x25519=bytes(32),
        seq=now,
        not_before_ms=now,
        not_after_ms=now + DAY_MS,
    )
    return attacker.seal(key_record=record.seal(attacker.wallet.identity)).envelope


OTHER = Wallet.new("Carol", now_ms=START_MS - 1000)
BAD: dict[str, tuple[Callable[[Mallory], bytes], Code]] = {
    "no key to answer to": (lambda m: m.seal(key_record=b"").envelope, Code.BAD_SIGNATURE),
    "another version": (lambda m: flipped(m.seal().envelope, 0), Code.UNSUPPORTED),
    "another suite": (lambda m: b"\x01\x07" + m.seal().envelope[2:], Code.UNSUPPORTED),
    "nothing": (lambda _: b"", Code.UNSUPPORTED),
    "another ephemeral key": (lambda m: flipped(m.seal().envelope, 5), Code.UNKNOWN_KEY),
    "another nonce": (lambda m: flipped(m.seal().envelope, 40), Code.UNKNOWN_KEY),
    "another ciphertext": (lambda m: flipped(m.seal().envelope, 100), Code.UNKNOWN_KEY),
    "no size class": (lambda m: m.seal().envelope + b"\0", Code.BAD_FRAME),
    "too long": (lambda _: b"\x01\x01" + bytes(100_000), Code.TOO_LARGE),
    "padding that says something": (lambda m: m.wrap(b"x", pad=b"y"), Code.BAD_PAYLOAD),
    "no protobuf": (lambda m: m.wrap(b"\xff\xff"), Code.BAD_PAYLOAD),
    "for somebody else": (
        lambda m: resigned(m, recipient=OTHER.identity.public_key.data),
        Code.BAD_PAYLOAD,
    ),
    "of the victim itself": (
        lambda m: resigned(m, sender=m.victim.wallet.identity.public_key.data),
        Code.BAD_PAYLOAD,
    ),
    "of a key of small order": (lambda m: resigned(m, sender=b"\x01" + bytes(31)), Code.BAD_PAYLOAD),
    "of somebody else": (lambda m: resigned(m, sender=OTHER.identity.public_key.data), Code.REFUSED),
    "type 0": (lambda m: resigned(m, type=0), Code.BAD_PAYLOAD),
    "type 128": (lambda m: resigned(m, type=128), Code.BAD_PAYLOAD),
    "no number": (lambda m: resigned(m, seq=0), Code.BAD_PAYLOAD),
    "a number past all columns": (lambda m: resigned(m, seq=2**64 - 1), Code.BAD_PAYLOAD),
    "an epoch past all columns": (lambda m: resigned(m, epoch=2**63), Code.BAD_PAYLOAD),
    "a time past all columns": (lambda m: resigned(m, timestamp_ms=2**63), Code.BAD_PAYLOAD),
    "a first one that points back": (lambda m: resigned(m, prev=b"\1" * 32), Code.BAD_PAYLOAD),
    "a short id": (lambda m: resigned(m, id=b"\1"), Code.BAD_PAYLOAD),
    "an id that is no UUID": (lambda m: resigned(m, id=bytes(16)), Code.BAD_PAYLOAD),
    "another suite inside": (lambda m: resigned(m, suite=9), Code.UNSUPPORTED),
    "another time than signed": (lambda m: resigned(m, timestamp_ms=m.victim.clock() + 1000), Code.BAD_SIGNATURE),
    "another content than signed": (lambda m: resigned(m, content=bytes(100)), Code.BAD_SIGNATURE),
    "another signature": (lambda m: resigned(m, signature=bytes(64)), Code.BAD_SIGNATURE),
    "the key record of somebody else": (
        lambda m: m.seal(key_record=OTHER.key_record(m.victim.clock())).envelope,
        Code.BAD_SIGNATURE,
    ),
    "a key record with an endless number": (overgrown_record, Code.BAD_SIGNATURE),
    "a key record of small order": (useless_record, Code.BAD_SIGNATURE),
    "16 days old": (lambda m: m.seal(timestamp_ms=m.victim.clock() - 16 * DAY_MS).envelope, Code.BAD_TIMESTAMP),
    "ten minutes ahead": (lambda m: m.seal(timestamp_ms=m.victim.clock() + 600_000).envelope, Code.BAD_TIMESTAMP),
    "past its time to live": (
        lambda m: m.seal(timestamp_ms=m.victim.clock() - 61_000, ttl_s=60).envelope,
        Code.BAD_TIMESTAMP,
    ),
    "no text": (lambda m: m.seal(b"\xff").envelope, Code.BAD_PAYLOAD),
    "a text over its limit": (lambda m: m.seal(Text(body=bytes(65_537)).encode()).envelope, Code.BAD_PAYLOAD),
    "a chunk that nobody waits for": (
        lambda m: (
            m.seal(
                b"", type=MessageType.STREAM_CHUNK, seq=0, epoch=0, chunk_info=ChunkInfo(stream_id=bytes(16), index=0)
            ).envelope
        ),
        Code.UNSUPPORTED,
    ),
    "a broadcast": (
        lambda m: seal_broadcast(m.draft(), Text(body=b"all").encode(), m.wallet.identity).envelope,
        Code.BAD_PAYLOAD,
    ),
}


async def test_whatever_is_wrong_with_an_envelope_is_answered_and_nothing_is_kept(bob: Person, wallet: Wallet) -> None:
    async with bob.open() as to_bob, mallory(wallet, bob) as attacker:
        for name, (make, code) in BAD.items():
            answer = await attacker.ask(make(attacker))
            assert answer.code == code, name
            assert bool(answer.key_record) == (code is Code.UNKNOWN_KEY), name
            assert bool(answer.clock_ms) == (code is Code.BAD_TIMESTAMP), name
        assert list(to_bob.history()) == []
        assert bob.log.entries == {}
        assert (await attacker.ask(attacker.seal().envelope)).code == Code.OK
        assert await texts(to_bob, 1) == ["hello"]


async def test_replays_and_second_messages_of_one_id(bob: Person, wallet: Wallet) -> None:
    async with bob.open() as to_bob, mallory(wallet, bob) as attacker:
        first = attacker.seal()
        answers = [await attacker.ask(first.envelope) for _ in range(3)]
        assert [answer.code for answer in answers] == [Code.OK] * 3
        assert all(answer.ack_envelope for answer in answers)
        anew = await attacker.ask(attacker.wrap(first.payload.encode()))
        assert anew.code == Code.OK, "the same message in a new outer layer"
        other = attacker.seal(Text(body=b"I never said that").encode(), id=first.payload.id, seq=2)
        assert (await attacker.ask(other.envelope)).code == Code.ID_CONFLICT
        assert [message.content for message in to_bob.history()] == [Text(body=b"hello").encode()]
        assert bob.log.of(EntryKind.RECEIVED) == [first.payload.id]


async def test_the_same_one_over_many_streams_at_once_is_kept_once(bob: Person, wallet: Wallet) -> None:
    """Also when the first stream is reset while it is written."""
    async with bob.open() as to_bob, mallory(wallet, bob) as attacker:
        made = attacker.seal()
        for _ in range(5):
            await attacker.frames.send(Deliver(made.envelope))
            await trio.testing.wait_all_tasks_blocked()
            attacker.frames.stream.reset()  # type: ignore[attr-defined]
            await attacker.connect()
        assert (await attacker.ask_until_done(made.envelope)).code == Code.OK
        assert len(list(to_bob.history())) == 1
        assert (await attacker.ask(attacker.seal(seq=2, prev=made.digest).envelope)).code == Code.OK


async def test_lost_and_forked_numbers_are_marked(bob: Person, wallet: Wallet) -> None:
    async with bob.open() as to_bob, mallory(wallet, bob) as attacker:
        first = attacker.seal(Text(body=b"1").encode())
        fork = attacker.seal(Text(body=b"1 again").encode())
        wrong = attacker.seal(Text(body=b"2").encode(), seq=2, prev=b"\x05" * 32)
        for made in (first, fork, wrong):
            assert (await attacker.ask(made.envelope)).code == Code.OK
        assert await texts(to_bob, 3) == ["1", "1 again (fork)", "2 (fork)"]


async def test_floods_are_refused_by_rate(bob: Person, wallet: Wallet) -> None:
    limits = MessagingConfig(receive=ReceiveLimits(messages_burst=3, messages_per_second=0.001))
    async with bob.open(limits) as to_bob, mallory(wallet, bob) as attacker:
        codes = [(await attacker.ask(attacker.seal(epoch=number).envelope)).code for number in range(1, 7)]
        assert codes == [Code.OK] * 3 + [Code.RATE_LIMITED] * 3
        assert len(list(to_bob.history())) == 3


async def test_strangers_share_a_smaller_rate(bob: Person, wallet: Wallet) -> None:
    limits = MessagingConfig(stranger=StrangerLimits(messages_burst=2, messages_per_second=0.001))
    async with bob.open(limits), mallory(wallet, bob) as first, mallory(OTHER, bob) as second:
        codes = [(await one.ask(one.seal(epoch=epoch).envelope)).code for epoch in (1, 2) for one in (first, second)]
        assert codes == [Code.OK] * 2 + [Code.RATE_LIMITED] * 2


async def test_strangers_that_wait_have_limits(bob: Person, wallet: Wallet) -> None:
    limits = MessagingConfig(strangers=Strangers.ASK, stranger=StrangerLimits(conversations=1, waiting_bytes=2500))
    async with bob.open(limits) as to_bob, mallory(wallet, bob) as first, mallory(OTHER, bob) as second:
        made = first.seal().envelope
        codes = [(await first.ask(made)).code for _ in range(3)]
        assert codes == [Code.STORED] * 3
        assert len(to_bob.waiting()) == 1, "the same letter is kept once"
        codes = [(await first.ask(first.seal(epoch=epoch).envelope)).code for epoch in (2, 3, 4)]
        assert codes == [Code.STORED, Code.RATE_LIMITED, Code.RATE_LIMITED]
        assert (await second.ask(second.seal().envelope)).code == Code.RATE_LIMITED
        assert len(to_bob.waiting()) == 2


async def test_so_many_ids_that_strangers_are_refused(bob: Person, wallet: Wallet) -> None:
    async with bob.open(MessagingConfig(receive=ReceiveLimits(seen=2))), mallory(wallet, bob) as attacker:
        codes = [(await attacker.ask(attacker.seal(epoch=number).envelope)).code for number in range(1, 5)]
        assert codes == [Code.OK, Code.OK, Code.REFUSED, Code.REFUSED]


async def test_gaps_of_many_epochs_are_given_up_and_bounded(bob: Person, wallet: Wallet) -> None:
    async with bob.open(MessagingConfig(receive=ReceiveLimits(flows=4))) as to_bob, mallory(wallet, bob) as attacker:
        gap: dict[str, Any] = {"seq": 7, "prev": b"\x05" * 32}
        for epoch in range(1, 5):
            made = attacker.seal(Text(body=str(epoch).encode()).encode(), epoch=epoch, **gap)
            assert (await attacker.ask(made.envelope)).code == Code.OK
        assert to_bob._turns._next_deadline() < float("inf")
        fifth = attacker.seal(Text(body=b"5").encode(), epoch=5, **gap).envelope
        assert (await attacker.ask_until_done(fifth)).code == Code.OK
        assert len(to_bob._turns._lines) <= 4
        assert await texts(to_bob, 1) == ["1 (gap)"]


async def test_handlers_that_raise_are_contained_and_asked_again(bob: Person, wallet: Wallet) -> None:
    faults: list[Event] = []
    fail = True

    async def handler(_: Received) -> Verdict:
        await trio.lowlevel.checkpoint()
        if fail:
            raise KeyError("a fault of the handler")
        return Verdict(AckState.DELIVERED)

    async with bob.open() as to_bob, mallory(wallet, bob) as attacker:
        with to_bob.handling(0x40, handler), bob.node.observe(faults.append):
            made = attacker.seal(b"app", type=0x40)
            assert (await attacker.ask(made.envelope)).code == Code.BUSY
            assert (await attacker.ask(attacker.seal(seq=2, prev=made.digest).envelope)).code == Code.OK
            fail = False
            assert (await attacker.ask(made.envelope)).code == Code.OK
            fail = True
            assert (await attacker.ask(made.envelope)).code == Code.OK, "a verdict is kept"
    assert len([event for event in faults if isinstance(event, HandlerFailed)]) == 1


async def test_frames_that_belong_to_the_other_side_end_the_stream(bob: Person, wallet: Wallet) -> None:
    async with bob.open(), mallory(wallet, bob) as attacker:
        await attacker.frames.send(Result(sealed_hash=bytes(32), code=0))
        with pytest.raises((trio.BrokenResourceError, EOFError)):
            await attacker.frames.receive()


# ----------------------------------------------------------------------------------- recipients


class Recipient:
    """Takes messages as a node would, and answers what the test says."""

    def __init__(self, attacker: Mallory) -> None:
        self.attacker = attacker
        self.came: list[bytes] = []
        self.answers: list[Frame] = []

    async def serve(self, stream: Stream) -> None:
        frames = MessageStream[Frame, Frame](stream, decode=decode, encode=encode, max_size=2**17)
        async for frame in frames:
            assert isinstance(frame, Deliver)
            self.came.append(frame.envelope)
            for answer in self.answers:
                if isinstance(answer, Result) and answer.sealed_hash == bytes(32):
                    answer = replace(answer, sealed_hash=sealed_hash(frame.envelope))
                await frames.send(answer)

    def ack(self, item: AckItem, *, kind: int = MessageType.ACK) -> bytes:
        number: dict[str, Any] = {"seq": 0, "epoch": 0} if kind == MessageType.ACK else {}
        return self.attacker.seal(Ack((item,)).encode(), type=kind, **number).envelope


async def test_forged_acknowledgements_settle_nothing(
    alice: Person, bob: Person, wallet: Wallet, caplog: pytest.LogCaptureFixture
) -> None:
    async with bob.open(), alice.open() as from_alice, mallory(wallet, alice) as attacker, AsyncExitStack() as stack:
        alice.knows(bob)
        honest = await (await from_alice.send(bob.peer, "to Bob")).wait()
        assert honest.receipt is not None
        fake = Recipient(attacker)
        stack.enter_context(attacker.node.mounted(PROTOCOL_ID, fake.serve))
        await attacker.ask(attacker.seal().envelope)  # its key is known by that
        sent = await from_alice.send(wallet.peer_id, "to Mallory")
        item = AckItem(id=sent.id, digest=sent.message.digest, state=AckState.DELIVERED, receipt=honest.receipt)
        assert sent.message.digest != honest.digest
        forged = {
            "receipt of another": item,
            "no receipt": replace(item, receipt=None),
            "a receipt that is no receipt": replace(item, receipt=SignedReceipt(b"\1" * 90, bytes(64))),
            "another digest": replace(item, digest=bytes(32)),
            "of what went to Bob": AckItem(id=honest.id, digest=honest.digest, state=AckState.READ),
            "read before it came": replace(item, state=AckState.READ),
        }
        for name, one in forged.items():
            fake.answers = [Result(sealed_hash=bytes(32), code=Code.OK, ack_envelope=fake.ack(one))]
            came = len(fake.came)
            from_alice.retry(wallet.peer_id)
            await until(lambda: len(fake.came) > came and sent.state is not MessageState.QUEUED)  # noqa: B023 - awaited
            assert (await attacker.ask(fake.ack(one))).code == Code.OK, "by an envelope of its own"
            assert sent.state is MessageState.SENT, name
        for garbage in (b"", b"x", fake.ack(item, kind=MessageType.TEXT), flipped(fake.ack(item), 60)):
            assert await from_alice._intake.acks.take(wallet.peer_id, [garbage]) == frozenset()
        assert (await (from_alice.outgoing(honest.id) or sent).wait()).state is MessageState.DELIVERED
        assert alice.log.of(EntryKind.RECEIPT_GOT) == [honest.id]
        assert len(set(fake.came)) == 1, "the same bytes each time"


async def test_recipients_that_answer_nonsense_get_nothing_twice_at_once(alice: Person, wallet: Wallet) -> None:
    async with alice.open() as from_alice, mallory(wallet, alice) as attacker, AsyncExitStack() as stack:
        fake = Recipient(attacker)
        stack.enter_context(attacker.node.mounted(PROTOCOL_ID, fake.serve))
        await attacker.ask(attacker.seal().envelope)  # its key is known by that
        fake.answers = [Result(sealed_hash=b"\x07" * 32, code=Code.OK), Deliver(b"x")]
        sent = await from_alice.send(wallet.peer_id, "nonsense")
        await sent.wait(MessageState.SENT)
        fake.answers = [Result(sealed_hash=bytes(32), code=Code.BUSY, retry_after_ms=2**32 - 1)]
        from_alice.retry(wallet.peer_id)
        await until(lambda: from_alice.outbox()[0].attempt > 0)
        assert from_alice.outbox()[0].due_ms - alice.clock() <= 3_600_000, "it cannot put us off for ever"
        fake.answers = [Result(sealed_hash=bytes(32), code=77)]
        from_alice.retry(wallet.peer_id)
        done = await sent.wait()
        assert (done.state, done.code) == (MessageState.FAILED, 77)


async def test_ever_newer_keys_do_not_grow_the_history(alice: Person, wallet: Wallet) -> None:
    async with alice.open() as from_alice, mallory(wallet, alice) as attacker, AsyncExitStack() as stack:
        fake = Recipient(attacker)
        await attacker.ask(attacker.seal().envelope)
        record = wallet.key_record(alice.clock() + 1000)
        fake.answers = [Result(sealed_hash=bytes(32), code=Code.UNKNOWN_KEY, key_record=record)]
        sent = [await from_alice.send(wallet.peer_id, f"{number}") for number in range(3)]
        stack.enter_context(attacker.node.mounted(PROTOCOL_ID, fake.serve))
        from_alice.retry(wallet.peer_id)
        await until(lambda: all(one.state is MessageState.SUPERSEDED for one in sent))
        for later in range(2, 6):
            record = wallet.key_record(alice.clock() + later * 1000)
            fake.answers = [Result(sealed_hash=bytes(32), code=Code.UNKNOWN_KEY, key_record=record)]
            from_alice.retry(wallet.peer_id)
            await trio.sleep(0.05)
        mine = [message for message in from_alice.history() if not message.incoming]
        assert len(mine) == 6, "each was said anew once"
        new = [message for message in mine if message.state is not MessageState.SUPERSEDED]
        assert len({message.payload.epoch for message in new}) == 1
        assert sorted(message.payload.seq for message in new) == [1, 2, 3]
        assert [one.message.superseded_by for one in sent] == [message.id for message in reversed(new)]
