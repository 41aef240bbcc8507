"""Letters between two nodes: delivered, kept, recorded, in order."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from talos.abc import EntryKind
from talos.addr import parse
from talos.agent import open_host
from talos.errors import AuditError, LimitExceeded, LocalProtocolError, RecipientUnknown
from talos.identity.wallet import EncryptionKey, Wallet
from talos.messaging.code import AckState, Code, MessageType
from talos.messaging.config import DeliveryLimits, MessagingConfig, Strangers
from talos.messaging.handling import Received, Verdict
from talos.messaging.service import HistoryQuery
from talos.messaging.store import MessageState
from talos.relay import open_circuit, open_relay
from tests.carriers import over_carriers
from tests.messaging.harness import Person, texts, until

if TYPE_CHECKING:
    from pathlib import Path

    from talos.identity.peer_id import PeerId
    from tests.conftest import MakeConfig

ASK = MessagingConfig(strangers=Strangers.ASK)


@pytest.fixture
def alice(memory_config: MakeConfig, tmp_path: Path) -> Person:
    return Person("Alice", tmp_path / "a", memory_config())


@pytest.fixture
def bob(memory_config: MakeConfig, tmp_path: Path) -> Person:
    return Person("Bob", tmp_path / "b", memory_config())


class Book:
    """Contacts and the blocked."""

    def __init__(self) -> None:
        self.contacts: set[PeerId] = set()
        self.unwanted: set[PeerId] = set()

    def known(self, peer: PeerId) -> bool:
        return peer in self.contacts

    def blocked(self, peer: PeerId) -> bool:
        return peer in self.unwanted


@over_carriers
async def test_a_letter_arrives(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice, bob.open() as to_bob:
        alice.knows(bob)
        sent = await from_alice.send(bob.peer, "I am online.")
        done = await sent.wait()
        assert done.state is MessageState.DELIVERED
        assert done.receipt is not None
        assert await texts(to_bob, 1) == ["I am online."]
        assert from_alice.outbox() == []
        assert alice.log.of(EntryKind.SENT) == bob.log.of(EntryKind.RECEIVED) == [sent.id]
        assert alice.log.of(EntryKind.RECEIPT_GOT) == [sent.id]
        assert [one.content for one in from_alice.history()] == [one.content for one in to_bob.history()]


async def test_a_letter_through_a_relay(alice: Person, bob: Person, memory_config: MakeConfig) -> None:
    async with (
        open_host(memory_config()) as relay,
        open_relay(relay) as serving,
        alice.open() as from_alice,
        bob.open() as to_bob,
        open_circuit(alice.node),
        open_circuit(bob.node, listen=(parse(f"{relay.addrs[0]}/p2p-circuit"),)) as circuit,
    ):
        await until(lambda: bool(circuit.relays))
        alice.node.peerstore.add_addrs(bob.peer, [addr for addrs in circuit.relays.values() for addr in addrs])
        sent = await from_alice.send(bob.peer, "By a detour.")
        assert (await sent.wait()).state is MessageState.DELIVERED
        assert await texts(to_bob, 1) == ["By a detour."]
        assert serving.circuits == 1
        assert all(one.limited for one in alice.node.connections if one.remote_peer == bob.peer)


@over_carriers
async def test_many_at_once_keep_their_order_both_ways(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice, bob.open() as from_bob:
        alice.knows(bob)
        for number in range(150):
            await from_alice.send(bob.peer, f"a{number}")
            await from_bob.send(alice.peer, f"b{number}")
        assert await texts(from_bob, 150) == [f"a{number}" for number in range(150)]
        assert await texts(from_alice, 150) == [f"b{number}" for number in range(150)]


@over_carriers
async def test_what_nobody_takes_waits_over_restarts(alice: Person, bob: Person) -> None:
    """Written before a key of the recipient was ever seen, delivered when it comes."""
    async with alice.open() as from_alice:
        sent = [await from_alice.send(bob.peer, f"{number}") for number in range(3)]
        assert alice.log.of(EntryKind.SENT) == [], "nothing is sealed yet"
    async with bob.open() as to_bob, alice.open() as from_alice:
        assert [row.envelope for row in from_alice.outbox()] == [b""] * 3
        alice.knows(bob)
        from_alice.retry(bob.peer)
        assert await texts(to_bob, 3) == ["0", "1", "2"]
        assert alice.log.of(EntryKind.SENT) == [one.id for one in sent]


async def test_a_recipient_that_connects_is_tried_at_once(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice:
        sent = await from_alice.send(bob.peer, "wait for it")
        await trio.sleep(0.1)
        async with bob.open():
            bob.knows(alice)
            await bob.node.connect(alice.peer)
            assert (await sent.wait()).state is MessageState.DELIVERED


async def test_reading_goes_on_where_it_stopped(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice:
        async with bob.open() as to_bob:
            alice.knows(bob)
            for text in ("one", "two", "three"):
                await (await from_alice.send(bob.peer, text)).wait()
            assert await texts(to_bob, 1) == ["one"]
        async with bob.open() as to_bob:
            assert await texts(to_bob, 2) == ["two", "three"]


async def test_replies_subjects_and_kinds(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice, bob.open() as to_bob:
        alice.knows(bob)
        await from_alice.send(bob.peer, b"{}", media_type="application/json", subject="state", reply_to=bytes(16))
        incoming = await to_bob.received().receive()
        assert (incoming.media_type, incoming.subject, incoming.sender) == ("application/json", "state", alice.peer)


async def test_reading_is_told_where_that_is_wanted(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice, bob.open(MessagingConfig(read_receipts=True)) as to_bob:
        alice.knows(bob)
        sent = await from_alice.send(bob.peer, "read me")
        await sent.wait()
        await to_bob.mark_read(alice.peer, sent.id)
        await to_bob.mark_read(alice.peer, sent.id)
        assert (await sent.wait(MessageState.READ)).read_ms


async def test_strangers_wait_until_they_are_admitted(alice: Person, bob: Person) -> None:
    book = Book()
    async with alice.open() as from_alice, bob.open(ASK, people=book) as to_bob:
        alice.knows(bob)
        sent = await from_alice.send(bob.peer, "we do not know each other")
        assert (await sent.wait(MessageState.STORED)).state is MessageState.STORED
        assert [letter.peer for letter in to_bob.waiting()] == [alice.peer]
        assert list(to_bob.history()) == []
        book.contacts.add(alice.peer)
        assert await to_bob.admit(alice.peer) == 1
        assert (await sent.wait()).state is MessageState.DELIVERED
        assert await texts(to_bob, 1) == ["we do not know each other"]
        assert to_bob.waiting() == []


async def test_strangers_that_are_declined_or_refused(alice: Person, bob: Person) -> None:
    book = Book()
    async with alice.open() as from_alice, AsyncExitStack() as stack:
        to_bob = await stack.enter_async_context(bob.open(ASK, people=book))
        alice.knows(bob)
        await (await from_alice.send(bob.peer, "hello")).wait(MessageState.STORED)
        await to_bob.decline(alice.peer)
        assert to_bob.waiting() == []
        book.unwanted.add(alice.peer)
        blocked = await (await from_alice.send(bob.peer, "hello?")).wait()
        assert (blocked.state, blocked.code) == (MessageState.FAILED, Code.REFUSED)
    refuse = replace(ASK, strangers=Strangers.REFUSE)
    async with alice.open() as from_alice, bob.open(refuse):
        alice.knows(bob)
        refused = await (await from_alice.send(bob.peer, "anybody?")).wait()
        assert (refused.state, refused.code) == (MessageState.FAILED, Code.REFUSED)


async def test_whoever_was_written_to_is_no_stranger(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice, bob.open(ASK) as to_bob:
        alice.knows(bob)
        bob.knows(alice)
        await (await to_bob.send(alice.peer, "who are you?")).wait()
        assert (await (await from_alice.send(bob.peer, "alice")).wait()).state is MessageState.DELIVERED


async def test_nothing_is_acknowledged_unrecorded(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice, bob.open():
        alice.knows(bob)
        bob.log.refuse = True
        sent = await from_alice.send(bob.peer, "for the record")
        await sent.wait(MessageState.SENT)
        await trio.sleep(0.2)
        assert sent.state is MessageState.SENT
        assert bob.log.entries == {}
        bob.log.refuse = False
        assert (await sent.wait()).state is MessageState.DELIVERED
        assert bob.log.of(EntryKind.RECEIVED) == [sent.id]


async def test_nothing_is_sent_unrecorded(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice, bob.open() as to_bob:
        alice.knows(bob)
        await (await from_alice.send(bob.peer, "first")).wait()
        alice.log.refuse = True
        with pytest.raises(AuditError):
            await from_alice.send(bob.peer, "secret")
        await trio.sleep(0.2)
        assert len(list(to_bob.history())) == 1


async def test_a_recipient_with_new_keys_gets_it_all_the_same(alice: Person, bob: Person) -> None:
    """Restored from its words: the old secrets are gone, the new record says so."""
    async with alice.open() as from_alice:
        async with bob.open():
            alice.knows(bob)
            await (await from_alice.send(bob.peer, "first")).wait()
        restored = Wallet.new("Bob", now_ms=bob.clock(), root=bob.wallet.root)
        bob.wallet = replace(restored, encryption=(EncryptionKey(b"\x09" * 32, bob.clock() - 1000),))
        bob.directory = bob.directory.parent / "restored"
        bob.directory.mkdir(mode=0o700)
        sent = await from_alice.send(bob.peer, "second")
        async with bob.open() as to_bob:
            alice.knows(bob)
            from_alice.retry(bob.peer)
            assert await texts(to_bob, 1) == ["second"]
            anew = await sent.wait()
            assert (sent.state, sent.message.superseded_by) == (MessageState.SUPERSEDED, anew.id)
            assert anew.state is MessageState.DELIVERED


async def test_handlers_give_the_verdict_once(alice: Person, bob: Person) -> None:
    seen: list[Received] = []

    async def decline(received: Received) -> Verdict:
        await trio.lowlevel.checkpoint()
        seen.append(received)
        return Verdict(AckState.DECLINED, 5)

    async with alice.open() as from_alice, bob.open() as to_bob:
        alice.knows(bob)
        with to_bob.handling(0x41, decline):
            done = await (await from_alice.post(bob.peer, 0x41, b"app")).wait()
            assert (done.state, done.ack_state, done.code) == (MessageState.DELIVERED, AckState.DECLINED, 5)
            with pytest.raises(LocalProtocolError, match="handled already"), to_bob.handling(0x41, decline):
                pass
        unknown = await (await from_alice.post(bob.peer, 0x20, b"?")).wait()
        assert unknown.ack_state == AckState.UNSUPPORTED
    assert [(one.sender, one.content) for one in seen] == [(alice.peer, b"app")]


async def test_history_is_searched(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice:
        for text in ("Straße", "apple", "pear"):
            await from_alice.send(bob.peer, text)
        oldest = [one.content for one in from_alice.history(HistoryQuery(oldest_first=True))]
        assert oldest == [one.content for one in from_alice.history()][::-1]
        assert len(list(from_alice.history(HistoryQuery(search="STRASSE")))) == 1
        assert len(list(from_alice.history(HistoryQuery(peer=alice.peer)))) == 0
        assert len(list(from_alice.history(HistoryQuery(since_ms=alice.clock() + 10_000)))) == 0
        assert len(list(from_alice.history(HistoryQuery(until_ms=1)))) == 0
        assert len(list(from_alice.history(HistoryQuery(types=frozenset((MessageType.ACK,)))))) == 0


async def test_what_cannot_be_sent(alice: Person, bob: Person) -> None:
    limits = MessagingConfig(delivery=DeliveryLimits(queued_per_peer=2, queued=3))
    other = Wallet.new("Carol", now_ms=0).peer_id
    async with alice.open(limits) as from_alice:
        with pytest.raises(RecipientUnknown, match="oneself"):
            await from_alice.send(alice.peer, "me")
        with pytest.raises(LocalProtocolError, match="over 64 KiB"):
            await from_alice.send(bob.peer, bytes(65_537))
        first = await from_alice.send(bob.peer, "1")
        await from_alice.send(bob.peer, "2")
        with pytest.raises(LimitExceeded):
            await from_alice.send(bob.peer, "3")
        await from_alice.send(other, "1")
        with pytest.raises(LimitExceeded):
            await from_alice.send(other, "2")
        assert await from_alice.cancel(first.id)
        assert not await from_alice.cancel(first.id)
        assert first.state is MessageState.EXPIRED
        assert from_alice.status() == {"outbox": 2, "waiting": 0}
