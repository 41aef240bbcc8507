"""Hostile neighbours of a gossiping node: rows GS of the catalogue."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from talos.errors import StreamCode
from talos.gossip import open_gossip
from talos.gossip.version import PROTOCOLS
from talos.host.config import NodeConfig
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.wire import fields, varint
from tests.attacks.harness import SOON_SECONDS, Victim, attacked
from tests.attacks.nodes import attacker_node, ignoring_the_end
from tests.attacks.victim import FLEET
from tests.gossip.raw import RawPeer, control, graft, ihave, iwant, message, prune, publish, subscribe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from talos.abc import Host

EXEMPT = {"ip": {"exempt_loopback": True}}
MIB = 1 << 20


@asynccontextmanager
async def gossiping(**gossip: object) -> AsyncIterator[Victim]:
    """A node that gossips, with its bystanders."""
    async with attacked(limits=EXEMPT, gossip=gossip) as node:
        yield node


@asynccontextmanager
async def hostile(node: Victim, key: PrivateKey | None = None) -> AsyncIterator[RawPeer]:
    """A neighbour of the node that says what we want, in the mesh of its topic."""
    async with attacker_node(NodeConfig(key=key)) as host:
        peer = RawPeer(host)
        host.handle(*PROTOCOLS)(peer.answer)
        await peer.open(await host.connect(None, [node.addr]))
        await peer.send(subscribe(FLEET) + graft(FLEET))
        await node.until(lambda status: FLEET in (view(status, host) or {"topics": ()})["topics"])
        yield peer


def view(status: dict[str, Any], host: Host) -> dict[str, Any] | None:
    """What the node thinks of a neighbour."""
    views = status["gossip"]["peers"]
    return next((one for one in views if one["peer_id"] == str(host.peer_id)), None)


def counter(name: str) -> Callable[[dict[str, Any]], int]:
    return lambda status: int(status["gossip"]["counters"][name])


async def counted(node: Victim, name: str, count: int) -> dict[str, Any]:
    """Waits until a counter has reached `count`."""
    return await node.until(lambda status: counter(name)(status) >= count)


async def score(node: Victim, peer: RawPeer) -> float:
    found = view(await node.status(), peer.host)
    assert found is not None
    return float(found["score"])


async def hears(node: Victim) -> None:
    """The node hears an honest newcomer."""
    async with attacker_node() as host, open_gossip(host) as gossip:
        await host.connect(None, [node.addr])
        with trio.fail_after(SOON_SECONDS):
            await gossip.wait_for_peers(FLEET)
        word = os.urandom(4).hex()
        await gossip.publish(FLEET, word.encode())
        await node.until(lambda status: word in status["gossip"]["heard"])


def seqno(number: int) -> bytes:
    return number.to_bytes(8, "big")


# ------------------------------------------------------------------------------------------ GS01


async def test_gs01_messages_that_are_not_their_authors() -> None:
    key, other = PrivateKey.generate(), PrivateKey.generate()
    author, stranger = PeerId.from_key(key.public_key), PeerId.from_key(other.public_key)
    foreign = fields.bytes_field(6, other.public_key.to_bytes())
    forged = {
        "unsigned": message(FLEET, b"f", author=author, seqno=seqno(1)),
        "signed by another": message(FLEET, b"f", author=author, seqno=seqno(2), key=other),
        "of another, who did not sign": message(FLEET, b"f", author=stranger, seqno=seqno(3), key=key),
        "with another's key": message(FLEET, b"f", author=author, seqno=seqno(4), key=other, more=foreign),
        "with a signature of zeros": message(FLEET, b"f", author=author, seqno=seqno(5), signature=bytes(64)),
        "without a number": message(FLEET, b"f", author=author, key=key),
        "without an author": message(FLEET, b"f", seqno=seqno(6), key=key),
        "with a number of nine bytes": message(FLEET, b"f", author=author, seqno=bytes(9), key=key),
        "its data twice": message(
            FLEET, b"f", author=author, seqno=seqno(7), key=key, more=fields.bytes_field(2, b"g")
        ),
    }
    async with gossiping() as node, hostile(node, key) as peer:
        good = message(FLEET, b"good", author=author, seqno=seqno(100), key=key)
        await peer.send(publish(good))
        await node.until(lambda status: status["gossip"]["heard"] == ["good"])
        last = await score(node, peer)
        for count, (name, forgery) in enumerate(forged.items(), 1):
            await peer.send(publish(forgery))
            status = await counted(node, "rejected", count)
            assert status["gossip"]["heard"] == ["good"], name
            now = await score(node, peer)
            assert now < last, name
            last = now if count < 3 else 0.0  # further on it decays as fast as it grows
        await peer.send(publish(good, good))
        await hears(node)
        assert (await node.status())["gossip"]["heard"].count("good") == 1


async def test_gs01_a_signature_where_nobody_signs() -> None:
    key = PrivateKey.generate()
    author = PeerId.from_key(key.public_key)
    async with gossiping(policy="strict-no-sign") as node, hostile(node, key) as peer:
        await peer.send(publish(message(FLEET, b"signed", author=author, seqno=seqno(1), key=key)))
        await peer.send(publish(message(FLEET, b"numbered", seqno=seqno(1)), message(FLEET, b"plain")))
        await node.until(lambda status: status["gossip"]["heard"] == ["plain"])
        await counted(node, "rejected", 2)


# ------------------------------------------------------------------------------------------ GS02


async def test_gs02_subscriptions_without_end() -> None:
    async with gossiping() as node:
        async with hostile(node) as peer:

            async def subscribe_to_everything() -> None:
                for start in range(0, 100_000, 1000):
                    await peer.send(subscribe(*(f"topic {number}" for number in range(start, start + 1000))))

            await ignoring_the_end(subscribe_to_everything)
            await hears(node)
            status = await node.status()
            found = view(status, peer.host)
            assert found is None or len(found["topics"]) <= 100
            assert len(status["gossip"]["topics"]) <= 102

            huge = subscribe(*["x" * 6] * 349_525)
            assert len(huge) > 4 * 1_000_000
            stream = await peer.open(peer.host.connections[0])
            await ignoring_the_end(stream.send_all, varint.encode(len(huge)) + huge)
            assert await peer.end() is StreamCode.PROTOCOL_VIOLATION
        status = await node.until(lambda status: not status["gossip"]["peers"])
        assert [one["topic"] for one in status["gossip"]["topics"]] == [FLEET]


# ------------------------------------------------------------------------------------------ GS03 – GS05


async def test_gs03_gs04_announcements_and_questions_without_end() -> None:
    """Of IHAVEs ten a beat are read, and at most 5,000 ids asked for; one message is answered three times."""
    async with gossiping(heartbeat_interval=60.0) as node, hostile(node) as peer:
        for part in range(20):
            await peer.send(ihave(FLEET, [b"id %d %d" % (part, number) for number in range(600)]))
        status = await counted(node, "ignored_control", 10)
        assert 600 <= counter("iwant_sent")(status) <= 5000

        await node.child.ask("publish", count=1, size=100)
        with trio.fail_after(SOON_SECONDS):
            await peer.until(lambda received: peer.messages())
        (sent,) = peer.messages()
        parts = dict(fields.read(sent))
        author, number = parts[1], parts[3]
        assert isinstance(author, bytes)
        assert isinstance(number, bytes)
        peer.received.clear()
        for _ in range(1000):
            await peer.send(iwant([author + number]))
        await counted(node, "iwant_answered", 3)
        await hears(node)
        assert peer.messages().count(sent) <= 3
        assert counter("iwant_answered")(await node.status()) == 3


async def test_gs05_announced_and_never_sent() -> None:
    async with gossiping(iwant_followup_time=1.0, heartbeat_interval=0.5) as node, hostile(node) as peer:
        for number in range(10):
            await peer.send(ihave(FLEET, [b"nobody has this %d" % number]))
        await counted(node, "iwant_sent", 1)
        status = await node.until(lambda status: blamed(status, peer), 4)
        assert counter("broken_promises")(status) >= 1
        await hears(node)


def blamed(status: dict[str, Any], peer: RawPeer) -> bool:
    found = view(status, peer.host)
    return found is not None and found["score"] < 0


# ------------------------------------------------------------------------------------------ GS06, GS07


async def test_gs06_gs07_grafts_and_prunes_that_are_not_due() -> None:
    """Back-offs of nothing and of eternity; ten thousand peers to dial instead; GRAFT in a back-off, without end, and
    of topics that nobody has."""
    peers = [PeerId.from_key(PrivateKey.generate().public_key).to_bytes() for _ in range(400)]
    async with gossiping(limits={"control_bytes": 256 * 1024}) as node, hostile(node) as peer:
        before = await score(node, peer)
        for backoff in (0, (1 << 63) - 1, (1 << 64) - 1):
            await peer.send(prune(FLEET, backoff=backoff), graft(FLEET))
        for _ in range(25):
            await peer.send(prune(FLEET, backoff=60, peers=peers))
        for number in range(200):
            await peer.send(graft(FLEET), graft(f"nobody's {number}"))
        await counted(node, "grafts_refused", 1)
        await hears(node)
        status = await node.status()
        assert status["gossip"]["counters"]["dialled"] <= 16
        assert [one["topic"] for one in status["gossip"]["topics"]] == [FLEET]
        assert not status["events"].get("ServiceFault")
        found = view(status, peer.host)
        assert found is not None
        assert (found["mesh"], found["score"] < before) == ([], True)


# ------------------------------------------------------------------------------------------ GS08


async def test_gs08_too_long_before_it_is_decoded() -> None:
    """A frame over the limit, data over its topic's, and a control part of a million ids of a byte."""
    many = control(iwant=[b"\x0a\x01x" * (MIB // 3 - 100)])
    async with gossiping() as node:
        for fault in (varint.encode(MIB + 1), varint.encode(1 << 62), varint.encode(len(many)) + many):
            async with hostile(node) as peer:
                stream = await peer.open(peer.host.connections[0])
                await ignoring_the_end(stream.send_all, fault)
                assert await peer.end() is StreamCode.PROTOCOL_VIOLATION
        key = PrivateKey.generate()
        author = PeerId.from_key(key.public_key)
        async with hostile(node, key) as peer:
            await peer.send(publish(message(FLEET, bytes(65_537), author=author, seqno=seqno(1), key=key)))
            status = await counted(node, "rejected", 1)
            assert status["gossip"]["heard"] == []
        await hears(node)


# ------------------------------------------------------------------------------------------ GS10


async def test_gs10_a_neighbour_that_does_not_read() -> None:
    """What it does not take is dropped for it alone; who reads misses nothing."""
    async with gossiping(limits={"outbox_messages": 50}) as node, attacker_node() as host:
        peer = RawPeer(host)
        peer.reads = False
        host.handle(*PROTOCOLS)(peer.answer)
        await peer.open(await host.connect(None, [node.addr]))
        await peer.send(subscribe(FLEET))
        await node.until(lambda status: view(status, host) is not None)
        async with (
            attacker_node() as honest,
            open_gossip(honest) as gossip,
            gossip.subscribe(FLEET, max_queued=1000) as messages,
        ):
            await honest.connect(None, [node.addr])
            await node.until(lambda status: len(status["gossip"]["topics"][0]["peers"]) == 2)
            await node.child.ask("publish", count=200, size=10_000)
            status = await counted(node, "dropped_messages", 10)
            stuck = view(status, host)
            assert stuck is not None
            assert 0 < stuck["queued"] <= 50
            with trio.fail_after(SOON_SECONDS):
                heard = [await messages.receive() for _ in range(200)]
            assert len({one.id for one in heard}) == 200


# ------------------------------------------------------------------------------------------ GS11


async def test_gs11_what_ends_others() -> None:
    """Random bytes, a topic that is no text, a key that is no key, a message at which the validator raises."""
    key = PrivateKey.generate()
    author = PeerId.from_key(key.public_key)
    async with gossiping() as node:
        for fault in (os.urandom(200), b"\x7f" + os.urandom(127), graft(b"\xff\xfe"), subscribe(b"\xff\xfe")):
            async with hostile(node) as peer:
                stream = await peer.open(peer.host.connections[0])
                await ignoring_the_end(stream.send_all, varint.encode(len(fault)) + fault)
        async with hostile(node, key) as peer:
            junk = fields.bytes_field(6, os.urandom(40))
            await peer.send(publish(message(FLEET, b"junk", author=author, seqno=seqno(1), key=key, more=junk)))
            await peer.send(publish(message(FLEET, b"raise", author=author, seqno=seqno(2), key=key)))
            await peer.send(publish(message(FLEET, b"fine", author=author, seqno=seqno(3), key=key)))
            status = await node.until(lambda status: status["gossip"]["heard"] == ["fine"])
            assert counter("rejected")(status) == 2
        await hears(node)
