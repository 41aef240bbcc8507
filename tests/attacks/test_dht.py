"""DH04–DH13: authenticated peers that fill, poison, flood or surround the DHT of a node."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from talos.abc import StreamReset
from talos.addr import parse
from talos.dht import TALOS_KAD, RoutingTable, key_namespace, provider_key
from talos.dht.key import preimage
from talos.dht.peer import PeerInfo
from talos.dht.routing_table import Added, address_group
from talos.dht.wire import MAX_PEERS, Message, MessageType, Record, decode, encode
from talos.errors import StreamCode
from talos.host.config import NodeConfig
from talos.identify import open_identify
from talos.identity.key_record import DAY_MS, KeyRecord
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.wire.length_prefix import LengthPrefixDecoder, frame
from tests.attacks.harness import Victim, attacked
from tests.attacks.hostile import LOOPBACK
from tests.attacks.nodes import attacker_node
from tests.simulation.dht import MISCHIEF, Churn, eclipse, misbehaving
from tests.simulation.dht_network import Network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from talos.abc import Connection, Stream
    from talos.host.node import Node

EXEMPT = {"ip": {"exempt_loopback": True}}
ADDR = parse("/ip4/127.0.0.1/tcp/4001")
HOURS = 3600.0


def somebody(rng: random.Random) -> PeerId:
    return PeerId(b"\x12\x20" + rng.randbytes(32))


def put(key: bytes, value: bytes, record_key: bytes | None = None) -> Message:
    return Message(MessageType.PUT_VALUE, key, Record(key if record_key is None else record_key, value))


class Asker:
    """Requests on one stream, each answered or refused."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._decoder = LengthPrefixDecoder(1 << 20)

    async def ask(self, message: Message) -> Message:
        await self.stream.send_all(frame(encode(message)))
        return await self.answer()

    async def answer(self) -> Message:
        while (data := self._decoder.next_message()) is None:
            chunk = await self.stream.receive_some()
            if not chunk:
                raise EOFError
            self._decoder.feed(chunk)
        return decode(data)


async def asker(host: Node, connection: Connection) -> Asker:
    return Asker(await host.open_stream(connection, TALOS_KAD))


@asynccontextmanager
async def visitor(node: Victim) -> AsyncIterator[tuple[Node, Connection]]:
    async with attacker_node() as host:
        yield host, await host.connect(None, [node.addr])


async def refusal(host: Node, connection: Connection, message: Message) -> int:
    """The code with which the stream of a request is reset."""
    asking = await asker(host, connection)
    with pytest.raises(StreamReset) as reset, trio.fail_after(5):
        await asking.ask(message)
    return reset.value.code


# ------------------------------------------------------------------------------------------ records


async def test_dh04_what_no_namespace_allows_is_refused() -> None:
    async with attacked(limits=EXEMPT, dht={}) as node, visitor(node) as (host, connection):
        key = PrivateKey.generate()
        mine = key_namespace.key_of(PeerId.from_key(key.public_key))
        record = key_record(key)
        refused = [
            put(b"", b"value"),
            put(b"nothing", b"value"),
            put(b"/unknown/a", b"value"),
            put(b"/example/a", b"value", b"/example/b"),
            Message(MessageType.PUT_VALUE, b"/example/a"),
            put(mine, record[:-1] + bytes([record[-1] ^ 1])),
            put(key_namespace.key_of(host.peer_id), record),
            put(b"/pk/" + host.peer_id.raw, key.public_key.to_bytes()),
            put(b"/example/a", bytes(10 * 1024 + 1)),
            put(b"/example/a", bytes(64 * 1024 + 1)),
        ]
        for message in refused:
            assert await refusal(host, connection, message) == StreamCode.PROTOCOL_VIOLATION
        assert (await node.status())["dht"]["values"] == 0
        asking = await asker(host, connection)
        assert await asking.ask(put(mine, record)) == put(mine, record)
        assert (await node.status())["dht"]["values"] == 1


def key_record(key: PrivateKey, seq: int = 1, not_before_ms: int | None = None) -> bytes:
    import time

    start = int(time.time() * 1000) if not_before_ms is None else not_before_ms
    return KeyRecord(
        identity=key.public_key.data,
        x25519=bytes(32),
        seq=seq,
        not_before_ms=start,
        not_after_ms=start + 30 * DAY_MS,
    ).seal(key)


async def flood(host: Node, connection: Connection, messages: Callable[[int], Message], count: int) -> int:
    """Sends one request behind the other, on as many streams as it takes; how many streams were reset."""
    resets = number = 0
    while number < count:
        stream = await host.open_stream(connection, TALOS_KAD)

        async def drain(stream: Stream = stream) -> None:
            try:
                while await stream.receive_some():
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            try:
                while number < count:
                    end = min(number + 100, count)
                    await stream.send_all(b"".join(frame(encode(messages(at))) for at in range(number, end)))
                    number = end
                await stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                resets += 1
                number += 100
                await trio.sleep(0.01)
        stream.reset()
    return resets


@pytest.mark.parametrize("count", [10_000, pytest.param(300_000, marks=pytest.mark.long)])
async def test_dh05_one_peer_fills_no_more_than_its_share(count: int, tmp_path: Path) -> None:
    store = tmp_path / "dht" / "records"
    async with attacked(limits=EXEMPT, dht={"store": str(store)}) as node, visitor(node) as (host, connection):
        value = bytes(1000)
        resets = await flood(host, connection, lambda at: put(b"/example/%d" % at, value), count)
        assert resets > 0
        provider = (PeerInfo(host.peer_id, (ADDR,)),)
        await flood(
            host,
            connection,
            lambda at: Message(MessageType.ADD_PROVIDER, provider_key(b"%d" % at), providers=provider),
            count,
        )
        status = (await node.status())["dht"]
        assert 0 < status["values"] <= 64
        assert status["value_bytes"] < 64 * 1100
        assert status["providers"] == 1024
        assert status["counters"]["providers refused"] == count - 1024
        assert status["counters"]["records refused"] > 0
        assert sum(path.stat().st_size for path in store.parent.iterdir()) < 8 << 20


async def test_dh06_a_provider_speaks_for_itself_alone_and_once() -> None:
    rng = random.Random(6)
    async with attacked(limits=EXEMPT, dht={}) as node, visitor(node) as (host, connection):
        asking = await asker(host, connection)
        key = provider_key("a file")
        others = tuple(PeerInfo(somebody(rng), (ADDR,)) for _ in range(50))
        for providers in (others, (PeerInfo(host.peer_id, ()),), ()):
            await asking.stream.send_all(frame(encode(Message(MessageType.ADD_PROVIDER, key, providers=providers))))
        # What is not answered cannot be waited for; the next request of the stream comes behind it.
        assert (await asking.ask(Message(MessageType.GET_PROVIDERS, key))).providers == ()
        mine = Message(MessageType.ADD_PROVIDER, key, providers=(*others, PeerInfo(host.peer_id, (ADDR,))))
        for _ in range(1000):
            await asking.stream.send_all(frame(encode(mine)))
        found = await asking.ask(Message(MessageType.GET_PROVIDERS, key))
        assert found.providers == (PeerInfo(host.peer_id, (ADDR,)),)
        assert (await node.status())["dht"]["providers"] == 1


# ------------------------------------------------------------------------------------------ answers


@asynccontextmanager
async def liar(node: Victim, answer: Callable[[Message], bytes]) -> AsyncIterator[Node]:
    """A server of the swarm, known to the node, whose every answer is `answer`."""

    async def serve(stream: Stream) -> None:
        decoder = LengthPrefixDecoder(1 << 20)
        async for chunk in stream:
            for data in decoder.receive_data(chunk):
                await stream.send_all(answer(decode(data)))

    async with attacker_node(NodeConfig(listen=(LOOPBACK,))) as host, open_identify(host):
        with host.mounted(TALOS_KAD, serve):
            await host.connect(None, [node.addr])
            await node.until(lambda status: status["dht"]["peers"] == 1)
            yield host


def naming(peers: Sequence[PeerInfo]) -> Callable[[Message], bytes]:
    return lambda request: frame(encode(Message(request.type, request.key, closer=tuple(peers))))


@pytest.mark.parametrize("count", [1000, 10_000])
async def test_dh07_poisoned_answers_are_cut_and_filtered(count: int) -> None:
    rng = random.Random(7)
    poison = [PeerInfo(somebody(rng), (parse("/ip4/127.0.0.1/tcp/1"),)) for _ in range(count)]
    answers: list[Sequence[PeerInfo]] = [[]]  # honest until the node believes in it

    def answer(request: Message) -> bytes:
        return naming(answers[0])(request)

    async with attacked(limits=EXEMPT, dht={"request_seconds": 2.0}) as node, liar(node, answer) as host:
        ourselves = PeerInfo(node.peer, (ADDR,))
        answers[0] = [ourselves, PeerInfo(host.peer_id, (ADDR,)), PeerInfo(somebody(rng), ()), *poison]
        found = await node.child.ask("find peer", peer=str(somebody(rng)))
        assert found["addrs"] == []
        assert len(found["asked"]) == len(set(found["asked"])) <= 1 + MAX_PEERS
        assert str(node.peer) not in found["asked"]
        # 10,000 peers do not fit what is read of an answer: that one counts for nothing.
        assert (len(found["asked"]) > 1) == (count == 1000)


def test_dh08_sybils_of_one_network_get_three_places() -> None:
    rng = random.Random(8)
    table = RoutingTable(somebody(rng))
    results = []
    for number in range(200):
        addr = parse(f"/ip4/1.2.{number % 256}.{number // 256 + 1}/tcp/4001")
        results.append(table.add(somebody(rng), 0.0, address_group(addr)))
    assert results.count(Added.MEMBER) == len(table) <= 3
    assert max(table.bucket_sizes().values()) <= 2
    crowded = RoutingTable(somebody(rng))
    for _ in range(20):
        near = PeerId(preimage(crowded.own_kad, 3, rng, exact=True))
        crowded.add(near, 0.0, address_group(parse("/ip4/1.2.3.4/tcp/1")))
    assert crowded.bucket_sizes() == {3: 2}


@pytest.mark.long
@pytest.mark.parametrize("sybils", [20, 60])
def test_dh09_a_key_among_sybils_is_found_by_its_region(sybils: int) -> None:
    assert eclipse(Network(1000, random.Random(9)), sybils, 5).region.rate >= 0.95


@pytest.mark.parametrize("name", MISCHIEF)
def test_dh10_a_third_of_the_nodes_drop_or_lie(name: str) -> None:
    for row in misbehaving(Network(200, random.Random(10)), 40, name, MISCHIEF[name]):
        assert row.rate >= 0.97  # of 40; the simulation of 1,000 nodes holds 99 %


@pytest.mark.long
def test_dh11_half_of_the_nodes_are_replaced_within_an_hour() -> None:
    churn = Churn(Network(200, random.Random(11)), 200)
    assert churn.get.rate >= 0.99
    assert churn.find.rate >= 0.99


# ------------------------------------------------------------------------------------------ time, bootstrap


@pytest.mark.parametrize("hours", [-49, 49])
async def test_dh12_a_shifted_clock_serves_nothing_that_is_not_of_now(hours: float) -> None:
    async with attacked(limits=EXEMPT, dht={}) as node, visitor(node) as (host, connection):
        asking = await asker(host, connection)
        key = provider_key("a file")
        await asking.ask(put(b"/example/a", b"value"))
        provider = (PeerInfo(host.peer_id, (ADDR,)),)
        await asking.stream.send_all(frame(encode(Message(MessageType.ADD_PROVIDER, key, providers=provider))))
        assert (await asking.ask(Message(MessageType.GET_VALUE, b"/example/a"))).record is not None
        assert (await asking.ask(Message(MessageType.GET_PROVIDERS, key))).providers == provider
        await node.child.ask("shift", seconds=hours * HOURS)
        assert (await asking.ask(Message(MessageType.GET_VALUE, b"/example/a"))).record is None
        assert (await asking.ask(Message(MessageType.GET_PROVIDERS, key))).providers == ()
        assert (await node.child.ask("value", key=b"/example/a".hex()))["value"] is None


async def test_dh12_an_expired_record_is_not_taken() -> None:
    async with attacked(limits=EXEMPT, dht={}) as node, visitor(node) as (host, connection):
        key = PrivateKey.generate()
        name = key_namespace.key_of(PeerId.from_key(key.public_key))
        expired = put(name, key_record(key, not_before_ms=1_600_000_000_000))
        assert await refusal(host, connection, expired) == StreamCode.PROTOCOL_VIOLATION
        asking = await asker(host, connection)
        good = put(name, key_record(key))
        assert await asking.ask(good) == good
        await node.child.ask("shift", seconds=31 * 24 * HOURS)  # it has ended, before its time in the store has
        assert (await asking.ask(Message(MessageType.GET_VALUE, name))).record is None


async def test_dh13_a_dead_or_malicious_bootstrap_is_tried_again_and_told() -> None:
    async def babble(stream: Stream) -> None:
        await stream.send_all(b"\xff" * 100)

    async with attacker_node(NodeConfig(listen=(LOOPBACK,))) as host, open_identify(host):
        with host.mounted(TALOS_KAD, babble):
            dead = f"/ip4/127.0.0.1/tcp/1/p2p/{somebody(random.Random(13))}"
            bad = [str(host.addrs[0]), dead]
            retry = {"bootstrap_retry_seconds": 0.1, "bootstrap_retry_most": 0.5}
            async with attacked(limits=EXEMPT, dht={"bootstrap": bad, **retry}) as node:
                status = await node.until(lambda status: status["dht"]["bootstrap_failures"] >= 6, seconds=10)
                assert status["dht"]["bootstrap"].startswith("unreachable")
                assert status["dht"]["peers"] == 0
                await node.child.ask("find peer", peer=str(somebody(random.Random(1))))
                for connection in host.connections:
                    await connection.aclose()
