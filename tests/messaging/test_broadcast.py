"""What is said to everybody: over real gossip between two and three nodes, and judged message by message."""

from __future__ import annotations

import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from talos.abc import EntryKind, TopicMessage, Verdict
from talos.agent import open_host
from talos.errors import AuditError, ConfigError, LimitExceeded, LocalProtocolError, NotSupported
from talos.gossip import open_gossip
from talos.identity.wallet import Wallet
from talos.messaging.broadcast import MAX_BODY_BYTES
from talos.messaging.canonical import canonical, digest
from talos.messaging.channel import EVERYBODY_TOPIC as TOPIC
from talos.messaging.channel import check_channel, topic_of
from talos.messaging.code import MessageType
from talos.messaging.config import BroadcastLimits, MessagingConfig, Strangers
from talos.messaging.content import Text
from talos.messaging.envelope import OuterBody, seal_broadcast
from talos.messaging.payload import BROADCAST, Payload
from talos.messaging.people import WalletKeys
from talos.messaging.service import HistoryQuery, open_messaging
from talos.messaging.store import MessageState
from tests.messaging.harness import Person, texts, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from talos.gossip import Gossip
    from talos.identity.peer_id import PeerId
    from talos.messaging.people import Acquaintances
    from talos.messaging.service import Messaging
    from tests.conftest import MakeConfig

MARK = b"\x01\x00"


class Square(Person):
    """Somebody who hears what is said to all."""

    gossip: Gossip

    @asynccontextmanager
    async def meet(
        self, messages: MessagingConfig | None = None, *, people: Acquaintances | None = None
    ) -> AsyncIterator[Messaging]:
        async with (
            open_host(replace(self.config, key=self.wallet.identity)) as self.node,
            open_gossip(self.node) as self.gossip,
            open_messaging(
                self.node,
                WalletKeys(self.wallet),
                messages,
                directory=self.directory,
                audit=self.log,
                pubsub=self.gossip,
                people=people,
                now_ms=self.clock,
            ) as self.messaging,
        ):
            yield self.messaging

    async def dial(self, other: Square, topic: str = TOPIC) -> None:
        """Returns when they pass on to each other what they hear."""
        self.knows(other)
        await self.node.connect(other.peer)
        with trio.fail_after(60):
            for one, its in ((self, other), (other, self)):
                while its.peer not in one.gossip.mesh(topic):
                    await one.gossip.wait_for_mesh(topic, len(one.gossip.mesh(topic)) + 1)


class Town:
    """Makes people by name."""

    def __init__(self, base: Path, config: MakeConfig) -> None:
        self._base = base
        self._config = config

    def __call__(self, name: str) -> Square:
        return Square(name, self._base / name, self._config())


@pytest.fixture
def person(memory_config: MakeConfig, tmp_path: Path) -> Town:
    return Town(tmp_path, memory_config)


class Unwelcome:
    """Blocks one."""

    def __init__(self, peer: PeerId) -> None:
        self._peer = peer

    def known(self, peer: PeerId) -> bool:
        return peer == self._peer

    def blocked(self, peer: PeerId) -> bool:
        return peer == self._peer


async def test_everybody_hears_it_once_also_through_others(person: Town) -> None:
    alice, bob, carol = person("Alice"), person("Bob"), person("Carol")
    async with alice.meet() as from_alice, bob.meet() as to_bob, carol.meet() as to_carol:
        await alice.dial(bob)
        await bob.dial(carol)
        sent = await from_alice.send("*", "hear, hear")
        done = await sent.wait(MessageState.READ)
        assert (done.state, done.peer, done.receipt) == (MessageState.SENT, None, None)
        with trio.fail_after(60):
            for reader in (to_bob, to_carol):
                heard = await reader.received().receive()
                assert (heard.sender, heard.id, heard.body) == (alice.peer, sent.id, b"hear, hear")
                assert (heard.to_all, heard.mark) == (True, "")
        assert alice.log.of(EntryKind.SENT) == [sent.id]
        for one in (bob, carol):
            assert one.log.of(EntryKind.RECEIVED) == [sent.id]
            (entry,) = (entry for (kind, _), entry in one.log.entries.items() if kind is EntryKind.RECEIVED)
            assert (entry.counterparty, entry.recipient) == (TOPIC.encode(), b"*")
            assert entry.sender == alice.peer.to_bytes()
            assert entry.sealed_hash == done.sealed_hash
            assert [one.id for one in one.messaging.history()] == [sent.id]
        (told,) = (entry for (kind, _), entry in alice.log.entries.items() if kind is EntryKind.SENT)
        assert (told.counterparty, told.sender, told.recipient) == (TOPIC.encode(), alice.peer.to_bytes(), b"*")
        assert alice.log.of(EntryKind.RECEIPT_GOT) == [], "nobody acknowledges it"
        assert await from_alice.cancel(sent.id) is False
        await to_bob.mark_read(alice.peer, sent.id)


async def test_they_keep_their_order_beside_letters(person: Town) -> None:
    alice, bob = person("Alice"), person("Bob")
    async with alice.meet() as from_alice, bob.meet() as to_bob:
        await alice.dial(bob)
        for number in range(3):
            await from_alice.send("*", f"all {number}")
        letter = await from_alice.send(bob.peer, "you")
        await letter.wait()
        with trio.fail_after(60):
            heard = await texts(to_bob, 4)
        assert [text for text in heard if text != "you"] == ["all 0", "all 1", "all 2"]
        assert "you" in heard


async def test_a_channel_is_heard_by_those_who_listen_to_it(person: Town) -> None:
    alice, bob, carol = person("Alice"), person("Bob"), person("Carol")
    ops = MessagingConfig(channels=("ops", "lunch"))
    async with alice.meet(ops) as from_alice, bob.meet(ops) as to_bob, carol.meet() as to_carol:
        await alice.dial(bob, topic_of("ops"))
        await alice.dial(carol)
        for number in range(2):
            sent = await from_alice.send("*", f"deployed {number}", channel="ops")
        await from_alice.send("*", "to all")
        with trio.fail_after(60):
            heard = [await to_bob.received().receive() for _ in range(3)]
            assert await texts(to_carol, 1) == ["to all"]
        told = [(one.channel, one.body, one.mark) for one in heard if one.channel]
        assert told == [("ops", b"deployed 0", ""), ("ops", b"deployed 1", "")], "counted by itself, in order"
        assert [(one.channel, one.body, one.to_all) for one in heard if not one.channel] == [("", b"to all", True)]
        assert next(one.id for one in to_bob.history(HistoryQuery(channel="ops"))) == sent.id
        assert len(list(to_bob.history(HistoryQuery(channel="")))) == 1
        assert {entry.counterparty for entry in bob.log.entries.values()} == {topic_of("ops").encode(), TOPIC.encode()}
        assert len(list(to_carol.history())) == 1


async def test_a_channel_that_nobody_listens_to_holds_up_no_other(person: Town) -> None:
    alice, bob = person("Alice"), person("Bob")
    async with alice.meet() as from_alice, bob.meet() as to_bob:
        await alice.dial(bob)
        unheard = await from_alice.send("*", "hello?", channel="empty")
        await from_alice.send("*", "to all")
        with trio.fail_after(60):
            assert await texts(to_bob, 1) == ["to all"]
        assert unheard.state is MessageState.QUEUED
    async with alice.meet(), bob.meet(MessagingConfig(channels=("empty",))) as to_bob:
        await alice.dial(bob)
        with trio.fail_after(60):
            assert await texts(to_bob, 1) == ["hello?"]


@pytest.mark.parametrize("name", ["", "x" * 65, "two words", "a\nb", "\u202ex", "#ops"])
async def test_names_that_no_channel_has(person: Town, name: str) -> None:
    with pytest.raises(LocalProtocolError):
        check_channel(name)
    with pytest.raises(ConfigError):
        MessagingConfig(channels=(name,))
    alice = person("Alice")
    async with alice.meet() as messaging:
        if name:
            with pytest.raises(LocalProtocolError):
                await messaging.send("*", "hello", channel=name)
        with pytest.raises(LocalProtocolError, match="not for one peer"):
            await messaging.send(alice.peer, "hello", channel="ops")


def test_so_many_channels_are_listened_to() -> None:
    with pytest.raises(ConfigError, match="at most 64"):
        MessagingConfig(channels=tuple(map(str, range(65))))


async def test_it_waits_for_a_neighbour_also_over_a_restart(person: Town) -> None:
    alice, bob = person("Alice"), person("Bob")
    async with alice.meet() as from_alice:
        waiting = await from_alice.send("*", "is anybody there")
        given_up = await from_alice.send("*", "nobody is")
        assert await from_alice.cancel(given_up.id) is True
        assert waiting.state is MessageState.QUEUED
    async with alice.meet(), bob.meet() as to_bob:
        await alice.dial(bob)
        with trio.fail_after(60):
            assert await texts(to_bob, 1) == ["is anybody there"]
        assert bob.log.of(EntryKind.RECEIVED) == [waiting.id]


async def test_what_nobody_wants_in_time_is_over(person: Town) -> None:
    alice = person("Alice")
    async with alice.meet() as from_alice:
        hurried = await from_alice.send("*", "now or never", ttl_s=1)
        with trio.fail_after(60):
            assert (await hurried.wait()).state is MessageState.EXPIRED
        late = await from_alice.send("*", "yesterday")
    alice.clock.offset_ms += 601_000
    async with alice.meet() as from_alice:
        outgoing = from_alice.outgoing(late.id)
        assert outgoing is not None
        with trio.fail_after(60):
            assert (await outgoing.wait()).state is MessageState.EXPIRED


async def test_what_cannot_be_said_to_all(person: Town, alone: Person) -> None:
    alice = person("Alice")
    limits = MessagingConfig(broadcast=BroadcastLimits(queued=2))
    async with alice.meet(limits) as messaging:
        with pytest.raises(LocalProtocolError, match="32768 fit"):
            await messaging.send("*", bytes(MAX_BODY_BYTES + 1))
        with pytest.raises(LocalProtocolError, match="for one peer"):
            await messaging.announce(MessageType.STREAM_START, b"")
        alice.log.refuse = True
        with pytest.raises(AuditError):
            await messaging.send("*", "off the record")
        assert [one.state for one in messaging.history()] == [MessageState.FAILED]
        alice.log.refuse = False
        await messaging.send("*", "one")
        await messaging.send("*", "two")
        with pytest.raises(LimitExceeded):
            await messaging.send("*", "three")
    async with alone.open() as messaging:
        with pytest.raises(NotSupported):
            await messaging.send("*", "without gossip")


@pytest.fixture
def alone(memory_config: MakeConfig, tmp_path: Path) -> Person:
    return Person("Alone", tmp_path / "alone", memory_config())


async def test_a_message_that_the_network_does_not_carry_fails(person: Town) -> None:
    alice, bob = person("Alice"), person("Bob")
    async with alice.meet() as from_alice, bob.meet():
        await alice.dial(bob)

        async def refuse(topic: str, data: bytes) -> bytes:
            await trio.lowlevel.checkpoint()
            raise LocalProtocolError(f"{topic} takes less than {len(data)}")

        alice.gossip.publish = refuse  # type: ignore[method-assign]
        sent = await from_alice.send("*", "too much")
        with trio.fail_after(60):
            assert (await sent.wait()).state is MessageState.FAILED


async def test_where_the_log_refuses_letters_still_come(person: Town) -> None:
    alice, bob = person("Alice"), person("Bob")
    async with alice.meet() as from_alice, bob.meet() as to_bob:
        await alice.dial(bob)
        bob.log.refuse = True
        sent = await from_alice.send("*", "not on the record")
        with trio.fail_after(60):
            assert await texts(to_bob, 1) == ["not on the record"]
        assert bob.log.of(EntryKind.RECEIVED) == []
        bob.log.refuse = False
        await (await from_alice.send(bob.peer, "a letter")).wait()
        with trio.fail_after(60):
            assert await texts(to_bob, 1) == ["a letter"]
        assert sent.id in [one.id for one in to_bob.history()]


class Author:
    """Makes what is published, and how it looks to a validator."""

    def __init__(self, reader: Square) -> None:
        self.wallet = Wallet.new("Author", now_ms=reader.clock())
        self.reader = reader
        self.seq = 0

    def draft(self, **changes: object) -> Payload:
        self.seq += 1
        made = Payload(
            id=uuid.uuid4().bytes,
            type=MessageType.TEXT,
            sender=self.wallet.identity.public_key.data,
            recipient=BROADCAST,
            timestamp_ms=self.reader.clock(),
            suite=0,
            epoch=1,
            seq=self.seq,
        )
        return replace(made, **changes)  # type: ignore[arg-type]

    def envelope(self, content: bytes | None = None, **changes: object) -> bytes:
        content = Text(body=b"hello").encode() if content is None else content
        return seal_broadcast(self.draft(**changes), content, self.wallet.identity).envelope

    def message(self, data: bytes, author: PeerId | None = None) -> TopicMessage:
        return TopicMessage(
            topic=TOPIC, data=data, id=data[:20], source=self.wallet.peer_id, author=author or self.wallet.peer_id
        )


async def test_what_no_honest_neighbour_passes_on_is_rejected(person: Town) -> None:
    bob = person("Bob")
    async with bob.meet() as messaging:
        judge = messaging._broadcasts.judge  # type: ignore[union-attr]
        author = Author(bob)
        other = Wallet.new("Other", now_ms=bob.clock())
        good = author.draft()
        content = Text(body=b"hello").encode()
        signed = author.envelope()

        def raw(payload: Payload) -> bytes:
            return MARK + OuterBody(payload.encode(), b"").encode()

        whole = replace(good, content=content, signature=bytes(64))
        hostile = {
            "nothing": b"",
            "sealed": b"\x01\x01" + bytes(1100),
            "too long": MARK + bytes(64 * 1024),
            "no protobuf": MARK + b"\xff" * 40,
            "unsigned": raw(whole),
            "altered": signed[:-1] + bytes((signed[-1] ^ 1,)),
            "to one": raw(replace(whole, recipient=other.identity.public_key.data, suite=1)),
            "another channel": author.envelope(channel="elsewhere"),
            "an acknowledgement": raw(replace(whole, type=MessageType.ACK, seq=0, epoch=0)),
            "an offer": author.envelope(type=MessageType.STREAM_START),
            "no text": author.envelope(b"\xff\xff"),
            "too long a text": author.envelope(Text(body=bytes(MAX_BODY_BYTES + 1)).encode()),
            "a time that is none": raw(replace(whole, timestamp_ms=2**63)),
            "a key of small order": raw(replace(whole, sender=bytes(32))),
        }
        for name, data in hostile.items():
            assert judge(author.message(data)) is Verdict.REJECT, name
        assert judge(author.message(signed, other.peer_id)) is Verdict.REJECT, "published by another one"
        unsigned = replace(author.message(signed), author=None)
        assert judge(unsigned) is Verdict.REJECT
        assert judge(author.message(signed)) is Verdict.ACCEPT
        assert list(messaging.history()) == [], "judging keeps nothing"


async def test_what_may_be_honest_and_is_not_wanted_is_ignored(person: Town) -> None:
    bob = person("Bob")
    async with bob.meet() as messaging:
        judge = messaging._broadcasts.judge  # type: ignore[union-attr]
        author, now = Author(bob), bob.clock()
        for moment in (now - 601_000, now + 310_000, 0):
            assert judge(author.message(author.envelope(timestamp_ms=moment))) is Verdict.IGNORE
        late = author.envelope(timestamp_ms=now - 5000, ttl_s=1)
        assert judge(author.message(late)) is Verdict.IGNORE
        mine = Author(bob)
        mine.wallet = bob.wallet
        assert judge(mine.message(mine.envelope())) is Verdict.IGNORE


async def test_an_author_may_say_so_much(person: Town) -> None:
    """Ten a second, fifty at once; a mebibyte at once. Another author is heard meanwhile."""
    bob = person("Bob")
    async with bob.meet() as messaging:
        judge = messaging._broadcasts.judge  # type: ignore[union-attr]
        many, long, other = Author(bob), Author(bob), Author(bob)
        envelopes = [many.envelope() for _ in range(200)]
        verdicts = [judge(many.message(one)) for one in envelopes]
        assert verdicts[:50] == [Verdict.ACCEPT] * 50
        assert Verdict.IGNORE in verdicts[50:]
        big = Text(body=bytes(MAX_BODY_BYTES)).encode()
        sizes = [judge(long.message(long.envelope(big))) for _ in range(40)]
        assert sizes[:31] == [Verdict.ACCEPT] * 31
        assert Verdict.IGNORE in sizes[31:]
        assert judge(other.message(other.envelope())) is Verdict.ACCEPT


async def test_what_is_passed_on_is_not_always_kept(person: Town) -> None:
    alice = person("Alice")
    for config in (
        MessagingConfig(strangers=Strangers.REFUSE),
        MessagingConfig(strangers=Strangers.ASK),
        MessagingConfig(receive=replace(MessagingConfig().receive, seen=0)),
    ):
        async with alice.meet(config) as messaging:
            broadcasts = messaging._broadcasts
            assert broadcasts is not None
            author = Author(alice)
            message = author.message(author.envelope())
            assert broadcasts.judge(message) is Verdict.ACCEPT
            assert broadcasts._begin(message) is None
    async with alice.meet(people=Unwelcome(author.wallet.peer_id)) as messaging:
        assert messaging._broadcasts is not None
        assert messaging._broadcasts.judge(author.message(author.envelope())) is Verdict.IGNORE


async def test_replays_and_conflicts(person: Town) -> None:
    """The same again, under a new number of gossip's, and another text under its id: kept once, the first."""
    alice, bob = person("Alice"), person("Bob")
    async with alice.meet(), bob.meet() as to_bob:
        await alice.dial(bob)
        author = Author(bob)
        author.wallet = alice.wallet
        draft = author.draft()
        first = seal_broadcast(draft, Text(body=b"first").encode(), alice.wallet.identity)
        second = seal_broadcast(draft, Text(body=b"second").encode(), alice.wallet.identity)
        await alice.gossip.publish(TOPIC, first.envelope)
        with trio.fail_after(60):
            assert await texts(to_bob, 1) == ["first"]
        for envelope in (first.envelope, second.envelope):
            await alice.gossip.publish(TOPIC, envelope)
        third = author.envelope(
            Text(body=b"third").encode(), prev=digest(canonical(first.payload), first.payload.content)
        )
        await alice.gossip.publish(TOPIC, third)
        with trio.fail_after(60):
            assert await texts(to_bob, 1) == ["third"]
        assert len(bob.log.of(EntryKind.RECEIVED)) == 2
        await until(lambda: len(list(to_bob.history())) == 2)


@pytest.mark.long
async def test_twenty_hear_each_once(person: Town) -> None:
    people = [person(f"P{number}") for number in range(20)]
    async with AsyncExitStack() as stack:
        for one in people:
            await stack.enter_async_context(one.meet())
        for number, one in enumerate(people[1:], 1):
            await one.dial(people[number // 3])
        await people[0].messaging.send("*", "to the twenty")
        with trio.fail_after(60):
            for one in people[1:]:
                assert await texts(one.messaging, 1) == ["to the twenty"]
        await people[-1].messaging.send("*", "and back")
        with trio.fail_after(60):
            for one in people[:-1]:
                assert await texts(one.messaging, 1) == ["and back"]
        for one in people:
            assert len(list(one.messaging.history())) == 2
