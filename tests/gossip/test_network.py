"""Nodes that gossip over the memory network, on a virtual clock."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from talos.abc import HandlerFailed, StreamReset, TopicMessage, Verdict
from talos.errors import ConfigError, LimitExceeded, LocalProtocolError, StreamCode
from talos.gossip import DriverConfig, GossipConfig, GossipLimits
from talos.gossip.service import open_gossip
from talos.gossip.version import PROTOCOLS
from talos.host.node import Node, open_node
from talos.identity.keys import PrivateKey
from talos.transport.memory import MemoryConfig
from talos.wire.length_prefix import frame
from tests.gossip.network import SETTLING_SECONDS, TOPIC, hearing, join_at_random, open_members
from tests.gossip.raw import RawPeer, subscribe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from talos.abc import Stream
    from talos.host.config import NodeConfig

FLOODSUB = PROTOCOLS[-1]


async def settle() -> None:
    await trio.sleep(SETTLING_SECONDS)


@asynccontextmanager
async def open_nodes(make_config: Callable[[], NodeConfig], count: int) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_node(make_config())) for _ in range(count)]


async def test_a_neighbour_hears_what_was_signed(autojump_clock: trio.testing.MockClock) -> None:
    async with open_members(2) as network:
        alice, bob = network.nodes
        async with hearing([bob]):
            await alice.dial(bob)
            await alice.gossip.wait_for_peers(TOPIC)
            message_id = await alice.gossip.publish(TOPIC, b"hello")
            await settle()
            (message,) = bob.heard
            assert message == TopicMessage(
                topic=TOPIC,
                data=b"hello",
                id=message_id,
                source=alice.peer_id,
                author=alice.peer_id,
                seqno=message.seqno,
            )
            assert message_id == alice.peer_id.to_bytes() + message.seqno


async def test_twenty_nodes_all_hear_each_message_once(autojump_clock: trio.testing.MockClock) -> None:
    """Each of them publishes; the network loses, delays, and is not fully joined."""
    async with open_members(20, memory=MemoryConfig(latency_seconds=0.02)) as network:
        members = network.nodes
        await join_at_random(members, degree=4)
        async with hearing(members):
            await settle()
            published = [b"from %d" % number for number in range(20)]
            for member, data in zip(members, published, strict=True):
                await member.gossip.publish(TOPIC, data)
            await settle()
            for number, member in enumerate(members):
                assert sorted(member.data) == sorted(set(published) - {published[number]})
                assert 1 <= len(member.gossip.mesh(TOPIC)) <= 12


async def test_messages_cross_a_node_that_speaks_floodsub_only(autojump_clock: trio.testing.MockClock) -> None:
    """A chain of gossipsub, floodsub, gossipsub."""
    old = {"driver": DriverConfig(protocols=(FLOODSUB,))}
    async with open_members(3, lambda number: old if number == 1 else {}) as network:
        first, middle, last = network.nodes
        async with hearing([middle, last]):
            await first.dial(middle)
            await middle.dial(last)
            await settle()
            assert {view.protocol for view in first.gossip.snapshot().peers} == {FLOODSUB}
            await first.gossip.publish(TOPIC, b"through the old one")
            await settle()
            assert (middle.data, last.data) == ([b"through the old one"], [b"through the old one"])
            assert first.gossip.mesh(TOPIC) == ()


async def test_a_mixed_network_delivers_everything(autojump_clock: trio.testing.MockClock) -> None:
    """Every third node is of each of three generations."""
    generations = [PROTOCOLS, PROTOCOLS[2:], (FLOODSUB,)]

    def options(number: int) -> dict[str, Any]:
        return {"driver": DriverConfig(protocols=generations[number % 3])}

    async with open_members(12, options) as network:
        members = network.nodes
        await join_at_random(members, degree=4, seed=5)
        async with hearing(members):
            await settle()
            for member in members[:3]:
                await member.gossip.publish(TOPIC, bytes(member.peer_id.to_bytes()) * 40)  # long enough for IDONTWANT
            await settle()
            for number, member in enumerate(members):
                assert len(member.heard) == len(set(member.data)) == (2 if number < 3 else 3)


@pytest.mark.parametrize("how", ["at once", "later"])
async def test_a_validator_decides_what_is_delivered_and_forwarded(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    """In a chain of three the one in the middle judges."""

    def verdict(message: TopicMessage) -> Verdict:
        return Verdict[message.data.decode().upper()]

    async def verdict_later(message: TopicMessage) -> Verdict:
        await trio.sleep(0.5)
        return verdict(message)

    async with open_members(3) as network:
        first, middle, last = network.nodes
        async with hearing([last]) as nursery:
            await nursery.start(middle.hear, TOPIC, verdict if how == "at once" else verdict_later)
            await first.dial(middle)
            await middle.dial(last)
            await settle()
            for word in (b"accept", b"ignore", b"reject"):
                await first.gossip.publish(TOPIC, word)
            await trio.sleep(2)
            assert (middle.data, last.data) == ([b"accept"], [b"accept"])
            counters = middle.gossip.snapshot().counters
            assert (counters["rejected"], counters["ignored"], counters["delivered"]) == (1, 1, 1)


async def test_a_burst_is_judged_whole_by_a_validator_that_answers_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_members(2) as network:
        alice, bob = network.nodes
        async with hearing([]) as nursery:
            await nursery.start(bob.hear, TOPIC, lambda _: Verdict.ACCEPT)
            await alice.dial(bob)
            await alice.gossip.wait_for_peers(TOPIC)
            for number in range(200):
                alice.gossip.publish_nowait(TOPIC, b"%d" % number)
            await settle()
            assert bob.data == [b"%d" % number for number in range(200)]
            assert bob.gossip.snapshot().counters["throttled"] == 0


async def test_slow_validators_are_asked_no_more_than_they_can_answer(autojump_clock: trio.testing.MockClock) -> None:
    running = most = 0

    async def slow(message: TopicMessage) -> Verdict:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(2)
        running -= 1
        return Verdict.ACCEPT

    limit = GossipConfig().limits.validation_per_peer
    async with open_members(2) as network:
        alice, bob = network.nodes
        async with hearing([]) as nursery:
            await nursery.start(bob.hear, TOPIC, slow)
            await alice.dial(bob)
            await alice.gossip.wait_for_peers(TOPIC)
            for number in range(limit + 20):
                alice.gossip.publish_nowait(TOPIC, b"%d" % number)
            await trio.sleep(2.5)
            assert most == limit
            assert len(bob.heard) == limit
            assert bob.gossip.snapshot().counters["throttled"] == 20


async def test_a_validator_that_takes_too_long_or_raises_costs_only_the_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def judge(message: TopicMessage) -> Verdict | Awaitable[Verdict]:
        if message.data == b"raise":
            raise ValueError("a bug of the application")
        return forever() if message.data == b"hang" else Verdict.ACCEPT

    async def forever() -> Verdict:
        await trio.sleep_forever()
        raise AssertionError

    async with open_members(2) as network:
        alice, bob = network.nodes
        async with hearing([]) as nursery:
            await nursery.start(bob.hear, TOPIC, judge)
            await alice.dial(bob)
            await alice.gossip.wait_for_peers(TOPIC)
            for data in (b"hang", b"raise", b"fine"):
                await alice.gossip.publish(TOPIC, data)
            await trio.sleep(6)
            assert bob.data == [b"fine"]
            counters = bob.gossip.snapshot().counters
            assert (counters["ignored"], counters["rejected"]) == (1, 1)


async def test_a_node_that_restarts_is_heard_again(memory_config: Any, autojump_clock: trio.testing.MockClock) -> None:
    """Its sequence numbers go on from the clock, so that nobody takes its new messages for old ones."""
    key = PrivateKey.generate()
    async with open_node(memory_config()) as other, open_gossip(other) as gossip, gossip.subscribe(TOPIC) as messages:
        seqnos = []
        for data in (b"before", b"after"):
            async with open_node(memory_config(key=key)) as node, open_gossip(node) as restarted:
                await node.connect(other.peer_id, other.addrs)
                await restarted.wait_for_peers(TOPIC)
                await restarted.publish(TOPIC, data)
                message = await messages.receive()
                assert message.data == data
                seqnos.append(message.seqno)
            await settle()
            assert gossip.peers() == ()
        assert seqnos == sorted(set(seqnos))


async def test_gossip_begins_with_connections_that_stand_already(
    memory_config: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_node(memory_config()) as one, open_node(memory_config()) as other:
        await one.connect(other.peer_id, other.addrs)
        async with open_gossip(one) as first:
            await trio.sleep(40)  # the other one does not speak it yet
            assert first.peers() == ()
            async with open_gossip(other) as second, second.subscribe(TOPIC) as messages:
                await first.wait_for_peers(TOPIC)
                await first.publish(TOPIC, b"late, but in time")
                assert (await messages.receive()).data == b"late, but in time"
            await settle()
            assert first.peers() == ()
            assert len(one.connections) == 1, "the connection is not gossip's"


async def test_a_slow_peer_loses_messages_and_nobody_else_does(
    memory_config: Any, autojump_clock: trio.testing.MockClock
) -> None:
    """It stops reading our stream; what its queue does not hold is dropped for it alone, and counted."""
    limits = GossipLimits(outbox_messages=20)
    async with (
        open_nodes(memory_config, 3) as (alice, slow, fast),
        open_gossip(alice, GossipConfig(limits=limits)) as gossip,
        open_gossip(fast) as other,
        other.subscribe(TOPIC, max_queued=200) as messages,
    ):
        peer = RawPeer(slow)
        peer.reads = False
        slow.handle(*PROTOCOLS)(peer.answer)
        await slow.connect(alice.peer_id, alice.addrs)
        await fast.connect(alice.peer_id, alice.addrs)
        await peer.open(alice.peer_id)
        await peer.send(subscribe(TOPIC))
        await gossip.wait_for_peers(TOPIC, 2)
        for _ in range(100):
            await gossip.publish(TOPIC, bytes(60_000))
        await settle()
        assert messages.statistics().current_buffer_used == 100
        views = {view.peer_id: view for view in gossip.snapshot().peers}
        assert views[slow.peer_id].queued <= 20
        assert views[fast.peer_id].queued == 0
        assert gossip.snapshot().counters["dropped_messages"] > 50
        peer.received.clear()


async def test_a_second_stream_replaces_the_first(memory_config: Any, autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(memory_config, 2) as (alice, node), open_gossip(alice) as gossip:
        peer = RawPeer(node)
        node.handle(*PROTOCOLS)(peer.answer)
        await node.connect(alice.peer_id, alice.addrs)
        first = await peer.open(alice.peer_id)
        await peer.send(subscribe("one"))
        await gossip.wait_for_peers("one")
        await peer.open(alice.peer_id)
        await peer.send(subscribe("two"))
        await gossip.wait_for_peers("two")
        with pytest.raises(StreamReset) as reset:
            await first.receive_some()
        assert reset.value.code == StreamCode.SUPPLANTED
        assert gossip.peers("one") == gossip.peers("two") == (node.peer_id,)


@pytest.mark.parametrize(
    "fault", [b"\xff" * 200, frame(b"\x0a\xff"), b"\xff\xff\xff\x7f", frame(subscribe(b"\xff\xfe"))], ids=repr
)
async def test_a_peer_that_breaks_the_protocol_loses_its_stream_only(
    memory_config: Any, fault: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    failed: list[HandlerFailed] = []
    async with open_nodes(memory_config, 2) as (alice, node), open_gossip(alice) as gossip:
        peer = RawPeer(node)
        node.handle(*PROTOCOLS)(peer.answer)
        await node.connect(alice.peer_id, alice.addrs)
        stream = await peer.open(alice.peer_id)
        with alice.observe(lambda event: failed.append(event) if isinstance(event, HandlerFailed) else None):
            await stream.send_all(fault)
            assert await peer.end() is StreamCode.PROTOCOL_VIOLATION
        assert [event.peer for event in failed] == [node.peer_id]
        await peer.open(alice.peer_id)
        await peer.send(subscribe("fine"))
        await gossip.wait_for_peers("fine")
        assert len(alice.connections) == 1


async def test_a_peer_that_resets_our_stream_gets_another_one(
    memory_config: Any, autojump_clock: trio.testing.MockClock
) -> None:
    streams: list[Stream] = []

    async def refuse(stream: Stream) -> None:
        streams.append(stream)
        stream.reset()

    config = DriverConfig(openings=3, reopen_seconds=1)
    async with open_nodes(memory_config, 2) as (alice, node), open_gossip(alice, driver=config) as gossip:
        node.handle(*PROTOCOLS)(refuse)
        await node.connect(alice.peer_id, alice.addrs)
        await trio.sleep(60)
        assert len(streams) == 3
        assert gossip.peers() == ()
        await RawPeer(node).open(alice.peer_id)
        await trio.sleep(60)
        assert len(streams) == 6, "who opens a stream to us is met again"


async def test_data_on_our_own_stream_ends_it(memory_config: Any, autojump_clock: trio.testing.MockClock) -> None:
    """It is one-way: nothing is read there but its end."""
    codes: list[int] = []

    async def talk_back(stream: Stream) -> None:
        await stream.send_all(b"hello")
        try:
            while await stream.receive_some():
                pass
        except StreamReset as reset:
            codes.append(reset.code)
            raise

    config = DriverConfig(openings=1)
    async with open_nodes(memory_config, 2) as (alice, node), open_gossip(alice, driver=config):
        node.handle(*PROTOCOLS)(talk_back)
        await node.connect(alice.peer_id, alice.addrs)
        await settle()
        assert codes == [StreamCode.PROTOCOL_VIOLATION]


async def test_subscriptions_are_counted_and_end(autojump_clock: trio.testing.MockClock) -> None:
    config = DriverConfig(subscriptions=2)
    async with open_members(2, lambda number: {"driver": config}) as network:
        alice, bob = network.nodes
        await alice.dial(bob)
        async with alice.gossip.subscribe(TOPIC), alice.gossip.subscribe(TOPIC):
            await bob.gossip.wait_for_peers(TOPIC)
            assert [*alice.gossip.topics] == [TOPIC]
            with pytest.raises(LimitExceeded, match="2 readers"):
                async with alice.gossip.subscribe(TOPIC):
                    pytest.fail("one too many")
        assert not alice.gossip.topics
        await settle()
        assert bob.gossip.peers(TOPIC) == ()
        assert bob.gossip.peers() == (alice.peer_id,)


async def test_a_topic_has_one_validator(autojump_clock: trio.testing.MockClock) -> None:
    async with open_members(1) as network:
        gossip = network.nodes[0].gossip
        with gossip.validating(TOPIC, lambda _: Verdict.ACCEPT):
            with pytest.raises(ConfigError, match="validator already"):
                async with gossip.subscribe(TOPIC, lambda _: Verdict.ACCEPT):
                    pytest.fail("two of them")
            async with gossip.subscribe(TOPIC):
                pass
            assert [*gossip.topics] == [TOPIC]
        assert not gossip.topics


async def test_a_message_over_the_limit_is_the_callers_fault(autojump_clock: trio.testing.MockClock) -> None:
    async with open_members(1) as network:
        gossip = network.nodes[0].gossip
        await gossip.publish(TOPIC, bytes(gossip.max_data(TOPIC)))
        with pytest.raises(LocalProtocolError):
            await gossip.publish(TOPIC, bytes(gossip.max_data(TOPIC) + 1))


async def test_direct_peers_are_dialled_again(memory_config: Any, autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(memory_config, 2) as (alice, bob):
        config = GossipConfig(direct_peers=frozenset({bob.peer_id}), direct_connect_ticks=30)
        async with open_gossip(alice, config) as gossip, open_gossip(bob):
            await alice.connect(bob.peer_id, bob.addrs)
            await settle()
            (connection,) = alice.connections
            await connection.aclose()
            await trio.sleep(40)
            assert gossip.peers() == (bob.peer_id,)


async def test_a_partition_heals(autojump_clock: trio.testing.MockClock) -> None:
    """Both halves go on by themselves; what was said meanwhile is not told, what is said later is."""
    async with open_members(10, memory=MemoryConfig(latency_seconds=0.01)) as network:
        members = network.nodes
        await join_at_random(members, degree=4, seed=3)
        async with hearing(members):
            await settle()
            network.partition(set(range(5)))
            await members[0].gossip.publish(TOPIC, b"in one half")
            await trio.sleep(60)
            network.heal()
            await join_at_random(members, degree=2, seed=4)
            await trio.sleep(75)
            await members[0].gossip.publish(TOPIC, b"for all")
            await settle()
            assert all(b"for all" in member.data for member in members[1:])
