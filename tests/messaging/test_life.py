"""What befalls a service of messages: copies put back, cancelled calls, times that run out, keys that are found late."""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from talos.abc import EntryKind, HandlerFailed
from talos.agent import open_host
from talos.errors import AuditError, EntryConflict, LimitExceeded, LocalProtocolError, RecipientUnknown, RoutingError
from talos.host.contain import is_expected_end
from talos.identity.key_record import KeyRecord
from talos.identity.peer_id import PeerId
from talos.identity.wallet import Wallet
from talos.messaging import WalletKeys, open_messaging
from talos.messaging.code import AckState, MessageType
from talos.messaging.config import DeliveryLimits, MessagingConfig, ReceiveLimits
from talos.messaging.content import Text
from talos.messaging.handling import Received, Verdict
from talos.messaging.lane import Express
from talos.messaging.order import OrderLimits
from talos.messaging.payload import MAX_CONTENT_BYTES, ChunkInfo
from talos.messaging.store import MessageState
from tests.messaging.harness import START_MS, Person, texts, until
from tests.messaging.hostile import mallory

if TYPE_CHECKING:
    from pathlib import Path

    from talos.abc import AuditEntry, AuditReceipt, Event
    from tests.conftest import MakeConfig

DAY_MS = 86_400_000


@pytest.fixture
def alice(memory_config: MakeConfig, tmp_path: Path) -> Person:
    return Person("Alice", tmp_path / "a", memory_config())


@pytest.fixture
def bob(memory_config: MakeConfig, tmp_path: Path) -> Person:
    return Person("Bob", tmp_path / "b", memory_config())


class Records:
    """Key records of the network."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.asked = 0
        self.fail = False

    async def get_value(self, key: bytes) -> bytes | None:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if self.fail:
            raise RoutingError("no network")
        return self.values.get(key)

    def has(self, wallet: Wallet, now_ms: int) -> None:
        self.values[b"/talos/keys/" + str(wallet.peer_id).encode()] = wallet.key_record(now_ms)


async def test_a_copy_put_back_counts_anew(alice: Person, bob: Person, tmp_path: Path) -> None:
    async with bob.open() as to_bob:
        async with alice.open() as from_alice:
            alice.knows(bob)
            first = (await (await from_alice.send(bob.peer, "1")).wait()).payload
        shutil.copytree(alice.directory, tmp_path / "copy")
        async with alice.open() as from_alice:
            alice.knows(bob)
            second = (await (await from_alice.send(bob.peer, "2")).wait()).payload
        for name in ("messages.db", "messages.db-wal", "messages.db-shm"):
            (alice.directory / name).unlink(missing_ok=True)
            if (tmp_path / "copy" / name).exists():
                shutil.copy(tmp_path / "copy" / name, alice.directory / name)
        async with alice.open() as from_alice:
            alice.knows(bob)
            third = (await (await from_alice.send(bob.peer, "3")).wait()).payload
        async with alice.open() as from_alice:
            alice.knows(bob)
            fourth = (await (await from_alice.send(bob.peer, "4")).wait()).payload
        assert (first.epoch, first.seq, second.seq) == (second.epoch, 1, 2)
        assert third.epoch > first.epoch
        assert (third.seq, fourth.epoch, fourth.seq) == (1, third.epoch, 2)
        assert await texts(to_bob, 4) == ["1", "2", "3", "4"]


async def test_letters_vanish_on_both_sides_when_their_time_is_over(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice, bob.open() as to_bob:
        alice.knows(bob)
        sent = await (await from_alice.send(bob.peer, "burn this", ttl_s=60)).wait()
        stays = await (await from_alice.send(bob.peer, "keep this")).wait()
        assert alice.log.entries[(EntryKind.SENT, sent.id)].sealed == b""
        assert alice.log.entries[(EntryKind.SENT, stays.id)].sealed != b""
    for person in (alice, bob):
        person.clock.offset_ms = 61_000
    async with alice.open() as from_alice, bob.open() as to_bob:
        await until(lambda: all(m.message(sent.id, sender=alice.peer).wiped for m in (from_alice, to_bob)))  # type: ignore[union-attr]
        assert [one.content for one in to_bob.history()] == [Text(body=b"keep this").encode(), b""]
        assert await texts(to_bob, 1) == ["keep this"]


async def test_what_is_not_delivered_in_time_expires(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice:
        sent = await from_alice.send(bob.peer, "now or never", ttl_s=10)
        late = await from_alice.send(bob.peer, "in a fortnight", ttl_s=2**32 - 1)
    alice.clock.offset_ms = 11_000
    async with alice.open() as from_alice:
        expired = from_alice.outgoing(sent.id)
        assert expired is not None
        assert (await expired.wait()).state is MessageState.EXPIRED
    alice.clock.offset_ms = 14 * DAY_MS + 1000
    async with alice.open() as from_alice:
        expired = from_alice.outgoing(late.id)
        assert expired is not None
        assert (await expired.wait()).state is MessageState.EXPIRED
        assert from_alice.outgoing(bytes(16)) is None


async def test_a_cancelled_send_is_sent_or_was_never_written(alice: Person, bob: Person) -> None:
    """At any moment: nothing hangs, and what comes later comes in its turn."""
    async with alice.open() as from_alice, bob.open() as to_bob:
        alice.knows(bob)
        await (await from_alice.send(bob.peer, "first")).wait()
        for steps in range(12):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(from_alice.send, bob.peer, f"cancelled {steps}")
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    await trio.sleep(steps / 2000)
                    scope.cancel()
        last = await (await from_alice.send(bob.peer, "last")).wait()
        assert last.state is MessageState.DELIVERED
        await until(lambda: not from_alice.outbox())
        came = [Text.decode(one.content).body for one in to_bob.history()][::-1]
        assert came == [Text.decode(one.content).body for one in from_alice.history()][::-1]
        assert {one.mark for one in to_bob.history()} == {""}
        # A send that is cancelled while it is recorded is recorded by the courier, maybe behind the next one.
        assert sorted(alice.log.of(EntryKind.SENT)) == sorted(bob.log.of(EntryKind.RECEIVED))


async def test_what_is_refused_by_the_log_leaves_no_gap(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice, bob.open() as to_bob:
        alice.knows(bob)
        await (await from_alice.send(bob.peer, "1")).wait()
        alice.log.refuse = True
        for _ in range(2):
            with pytest.raises(AuditError):
                await from_alice.send(bob.peer, "never")
        alice.log.refuse = False
        await from_alice.send(bob.peer, "2")
        with trio.fail_after(10):
            assert await texts(to_bob, 2) == ["1", "2"], "at once, without waiting for what was never sent"


async def test_what_a_crash_left_is_recorded_when_the_log_takes_it(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice:
        async with bob.open() as to_bob:
            alice.knows(bob)
            bob.log.refuse = True
            sent = await from_alice.send(bob.peer, "unrecorded")
            await until(lambda: len(list(to_bob.history())) == 1)
            with trio.move_on_after(0.1):
                await to_bob.received().receive()
                pytest.fail("shown before it was recorded")
        async with bob.open():
            pass
        bob.log.refuse = False
        async with bob.open() as to_bob:
            assert bob.log.of(EntryKind.RECEIVED) == [sent.id]
            assert await texts(to_bob, 1) == ["unrecorded"]
            alice.knows(bob)
            from_alice.retry(bob.peer)
            assert (await sent.wait()).state is MessageState.DELIVERED
        assert (await sent.wait(MessageState.SENT)).leaf


async def test_one_entry_in_conflict_does_not_hold_up_the_others(alice: Person, bob: Person) -> None:
    """A log that has another entry of the same message: its receipts count as recorded, others go on."""
    record = alice.log.record

    async def conflicting(entry: AuditEntry) -> AuditReceipt:
        if entry.kind is EntryKind.RECEIPT_GOT and not alice.log.of(EntryKind.RECEIPT_GOT):
            await record(entry)
            raise EntryConflict("another receipt is there")
        return await record(entry)

    alice.log.record = conflicting  # type: ignore[method-assign]
    async with alice.open() as from_alice, bob.open():
        alice.knows(bob)
        sent = [await from_alice.send(bob.peer, f"{number}") for number in range(5)]
        assert {(await one.wait()).state for one in sent} == {MessageState.DELIVERED}
        assert sorted(alice.log.of(EntryKind.RECEIPT_GOT)) == sorted(one.id for one in sent)


async def test_a_gap_is_shown_after_a_while_and_over_restarts(alice: Person, bob: Person) -> None:
    config = MessagingConfig(order=OrderLimits(seconds=0.3))
    async with AsyncExitStack() as stack:
        to_bob = await stack.enter_async_context(bob.open(MessagingConfig()))
        async with mallory(alice.wallet, bob) as attacker:
            third = attacker.seal(Text(body=b"3").encode(), seq=3, prev=b"\1" * 32)
            assert (await attacker.ask(third.envelope)).code == 0
            fourth = attacker.seal(Text(body=b"4").encode(), seq=4, prev=third.digest)
            assert (await attacker.ask(fourth.envelope)).code == 0
        with trio.move_on_after(0.1):
            await to_bob.received().receive()
            pytest.fail("shown before its turn")
    async with bob.open(config) as to_bob:
        assert await texts(to_bob, 2) == ["3 (gap)", "4"]
        async with mallory(alice.wallet, bob) as attacker:
            late = attacker.seal(Text(body=b"2").encode(), seq=2, prev=b"\2" * 32)
            assert (await attacker.ask(late.envelope)).code == 0
        assert await texts(to_bob, 1) == ["2 (gap)"]


async def test_older_epochs_are_forgotten(alice: Person, bob: Person) -> None:
    async with bob.open(MessagingConfig(receive=ReceiveLimits(flows=1))) as to_bob:
        async with mallory(alice.wallet, bob) as attacker:
            for epoch in range(1, 9):
                assert (await attacker.ask_until_done(attacker.seal(epoch=epoch).envelope)).code == 0
        rows = list(to_bob._state.store.database.read("SELECT epoch FROM flow ORDER BY epoch"))
        assert rows == [(5,), (6,), (7,), (8,)]


async def test_keys_are_found_in_the_network(alice: Person, bob: Person) -> None:
    records = Records()
    records.fail = True
    async with alice.open(records=records) as from_alice, bob.open() as to_bob:  # type: ignore[arg-type]
        sent = await from_alice.send(bob.peer, "by the DHT")
        await until(lambda: records.asked > 0)
        assert from_alice.outbox()[0].envelope == b""
        records.fail = False
        records.has(bob.wallet, bob.clock())
        alice.knows(bob)
        from_alice.retry(bob.peer)
        assert (await sent.wait()).state is MessageState.DELIVERED
        assert await texts(to_bob, 1) == ["by the DHT"]
        assert from_alice.at(1) == from_alice.message(sent.id)


async def test_of_two_key_records_the_newer_counts_for_good(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice:
        book, now = from_alice._state.book, alice.clock()
        old, new = bob.wallet.key_record(now), bob.wallet.key_record(now + 5000)
        heard: list[PeerId] = []
        book.learned = heard.append
        assert book.known(bob.peer) is None
        assert book.learn(bob.peer, b"nonsense") is None
        assert book.learn(bob.peer, alice.wallet.key_record(now)) is None
        for data, seq in ((old, now), (new, now + 5000), (old, now + 5000), (new, now + 5000)):
            found = book.learn(bob.peer, data)
            assert found is not None
            assert found.seq == seq
        assert heard == [bob.peer] * 2
        expired = replace_lifetime(bob.wallet, seq=now + 9000, end=alice.clock() + 200)
        assert book.learn(bob.peer, expired) is not None
        alice.clock.offset_ms += 1000
        assert book.known(bob.peer) is None, "it has expired"
        assert book.learn(bob.peer, new) is None, "and older ones do not come back"
    async with alice.open() as from_alice:
        book = from_alice._state.book
        assert book.known(bob.peer) is None
        assert book.learn(bob.peer, new) is None, "not after a restart either"
        assert book.learn(bob.peer, bob.wallet.key_record(now + 10_000)) is not None


def replace_lifetime(wallet: Wallet, *, seq: int, end: int) -> bytes:
    newest = wallet.encryption[0]
    record = KeyRecord(
        identity=wallet.identity.public_key.data,
        x25519=newest.public(),
        seq=seq,
        not_before_ms=end - 10_000,
        not_after_ms=end,
    )
    return record.seal(wallet.identity)


async def test_books_are_bounded(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talos.messaging.keybook.MAX_REMEMBERED", 2)
    async with alice.open() as from_alice:
        book = from_alice._state.book
        wallets = [Wallet.new("x", now_ms=START_MS - 1000) for _ in range(4)]
        for wallet in wallets:
            assert book.learn(wallet.peer_id, wallet.key_record(alice.clock())) is not None
        await until(lambda: from_alice._state.store.key_record(wallets[0].peer_id) is not None)
        assert len(book._entries) == 2
        assert book.known(wallets[0].peer_id) is not None, "the store has it"


async def test_what_no_message_may_be(alice: Person, bob: Person) -> None:
    hashed = PeerId.from_bytes(b"\x12\x20" + bytes(32))  # as of RSA keys
    async with alice.open() as from_alice:
        for kind in (0, 128, MessageType.ACK, MessageType.STREAM_CHUNK):
            with pytest.raises(LocalProtocolError, match="not kept"):
                await from_alice.post(bob.peer, kind, b"")
        with pytest.raises(LocalProtocolError, match="fit"):
            await from_alice.post(bob.peer, 0x40, bytes(MAX_CONTENT_BYTES))
        for ttl in (-1, 2**32):
            with pytest.raises(LocalProtocolError, match="time to live"):
                await from_alice.post(bob.peer, 0x40, b"", ttl_s=ttl)
        with pytest.raises(LocalProtocolError, match="not a letter"):
            await from_alice.send(bob.peer, "x", subject="s" * 257)
        with pytest.raises(RecipientUnknown):
            await from_alice.post_now(bob.peer, MessageType.ACK, b"")
        with pytest.raises(RecipientUnknown):
            await from_alice.send(hashed, "x")
        assert from_alice.outbox() == []


async def test_chunks_go_past_the_outbox(alice: Person, bob: Person) -> None:
    came: list[Received] = []

    async def take(received: Received) -> Verdict | None:
        await trio.lowlevel.checkpoint()
        if received.content == b"bad":
            raise ValueError("a fault")
        came.append(received)
        return Verdict(AckState.DELIVERED) if received.content != b"not mine" else None

    async with alice.open() as from_alice, bob.open() as to_bob:
        alice.knows(bob)
        info = ChunkInfo(stream_id=bytes(16), index=0)
        with to_bob.handling(MessageType.STREAM_CHUNK, take):
            for content in (b"one", b"bad", b"not mine", b"two"):
                await from_alice.post_now(bob.peer, MessageType.STREAM_CHUNK, content, chunk_info=info)
            await until(lambda: len(came) == 3)
        assert {one.content for one in came} == {b"one", b"not mine", b"two"}
        assert list(to_bob.history()) == []


async def test_express_letters_have_a_limit_and_are_dropped_with_the_peer(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice:
        async with bob.open():
            alice.knows(bob)
            await (await from_alice.send(bob.peer, "hello")).wait()
        courier = from_alice._courier
        for _ in range(1024):
            courier.express(bob.peer, Express(b"x"))
        with pytest.raises(LimitExceeded):
            courier.express(bob.peer, Express(b"x"))
        await until(lambda: bob.peer not in courier._lanes)


async def test_reading_is_told_without_fail(alice: Person, bob: Person) -> None:
    config = MessagingConfig(read_receipts=True)
    async with bob.open(config) as to_bob:
        async with alice.open() as from_alice:
            alice.knows(bob)
            sent = await (await from_alice.send(bob.peer, "x")).wait()
        to_bob._state.book._entries.clear()
        bob.clock.offset_ms = 60 * DAY_MS
        await to_bob.mark_read(alice.peer, sent.id)
        await to_bob.mark_read(alice.peer, bytes(16))
        message = to_bob.message(sent.id, sender=alice.peer)
        assert message is not None
        assert message.read_ms


async def test_readers_come_and_go(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice, bob.open() as to_bob:
        alice.knows(bob)
        for number in range(3):
            await (await from_alice.send(bob.peer, f"{number}")).wait()
        async with to_bob.received() as received:
            assert (await received.receive()).body == b"0"
            assert to_bob.received() is received
        await until(lambda: to_bob._received is None)
        assert await texts(to_bob, 2) == ["1", "2"]


async def test_a_recipient_that_does_not_answer_is_given_up_and_tried_again(alice: Person, bob: Person) -> None:
    limits = DeliveryLimits(result_seconds=0.1, idle_seconds=0.2)
    block = trio.Event()

    async def slow(_: Received) -> Verdict:
        await block.wait()
        return Verdict(AckState.ACCEPTED)

    async with alice.open(MessagingConfig(delivery=limits)) as from_alice, bob.open() as to_bob:
        alice.knows(bob)
        with to_bob.handling(0x40, slow):
            sent = await from_alice.post(bob.peer, 0x40, b"?")
            await until(lambda: from_alice._courier._lanes[bob.peer].attempt > 0)
            block.set()
            done = await sent.wait()
            assert (done.state, done.ack_state) == (MessageState.DELIVERED, AckState.ACCEPTED)
        await until(lambda: not from_alice._courier._lanes)  # an idle stream is closed


async def test_relayed_streams_carry_one_at_a_time(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice, bob.open() as to_bob:
        alice.knows(bob)
        most = 0
        courier = from_alice._courier
        send_some = courier._send_some

        async def watched(current: object, numbers: object) -> None:
            nonlocal most
            await send_some(current, numbers)  # type: ignore[arg-type]
            most = max(most, len(current.on_the_way))  # type: ignore[attr-defined]

        courier._send_some = watched  # type: ignore[method-assign]
        connection = await alice.node.connect(bob.peer)
        connection.limited = True  # type: ignore[misc,unused-ignore]
        for number in range(10):
            await from_alice.send(bob.peer, f"{number}")
        assert await texts(to_bob, 10) == [f"{number}" for number in range(10)]
        assert most == 1


async def test_a_full_store_is_busy_and_goes_on(alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob's disk is full for a moment: nothing is acknowledged, nothing lost, and the order stays."""
    async with alice.open() as from_alice, bob.open() as to_bob:
        alice.knows(bob)
        await (await from_alice.send(bob.peer, "0")).wait()
        store = to_bob._state.store
        add = store.add_message
        refused = 0

        def full(connection: object, message: object) -> int:
            nonlocal refused
            refused += 1
            if refused < 3:
                raise AuditError("no space")
            return add(connection, message)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "add_message", full)
        sent = [await from_alice.send(bob.peer, f"{number}") for number in range(1, 6)]
        with trio.fail_after(40):
            for one in sent:
                while (await one.wait(MessageState.SENT)).state is not MessageState.DELIVERED:
                    from_alice.retry(bob.peer)
                    await trio.sleep(0.05)
        assert [text.split(" ", maxsplit=1)[0] for text in await texts(to_bob, 6)] == ["0", "1", "2", "3", "4", "5"]


async def test_unasked_writing_survives_a_log_that_refuses(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talos.messaging.state.PATIENCE_SECONDS", 0.01)
    tries = 0

    async def refused() -> None:
        nonlocal tries
        tries += 1
        await trio.lowlevel.checkpoint()
        if tries < 3:
            raise AuditError("full")

    async with alice.open() as from_alice:
        await from_alice._state.patiently(refused)
    assert tries == 3


async def test_a_host_of_another_identity_is_refused(alice: Person, bob: Person) -> None:
    async with open_host(replace(alice.config, key=bob.wallet.identity)) as node:
        with pytest.raises(LocalProtocolError, match="identity"):
            async with open_messaging(node, WalletKeys(alice.wallet), directory=alice.directory, audit=alice.log):
                pass


async def test_what_a_peer_began_ends_before_the_store_closes(alice: Person, bob: Person) -> None:
    """Its stream is served by a task of the host, which goes on after messages have ended."""
    events: list[Event] = []
    asked, over = trio.Event(), trio.Event()

    async def slow(received: Received) -> Verdict:
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            over.set()
        raise AssertionError(received)

    async with alice.open() as from_alice, open_host(replace(bob.config, key=bob.wallet.identity)) as bob.node:
        opening = open_messaging(
            bob.node, WalletKeys(bob.wallet), directory=bob.directory, audit=bob.log, now_ms=bob.clock
        )
        with bob.node.observe(events.append):
            async with opening as to_bob:
                to_bob._intake.handlers._by_type[0x40] = [slow]
                alice.knows(bob)
                sent = await from_alice.post(bob.peer, 0x40, b"x")
                with trio.fail_after(60):
                    await asked.wait()
                guests = to_bob._guests
                assert len(guests._scopes) == 1
        assert over.is_set(), "before the block was left"
        assert not guests._scopes
        with pytest.raises(trio.ClosedResourceError):
            await guests.inside(trio.sleep, 0)
        assert sent.state is not MessageState.DELIVERED
        assert not [one for one in events if isinstance(one, HandlerFailed) and not is_expected_end(one.exception)]
