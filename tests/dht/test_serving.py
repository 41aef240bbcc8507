"""What a server answers, and what a client makes of servers that behave otherwise."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from talos.abc import StreamReset
from talos.addr import parse
from talos.agent import open_host
from talos.dht import DhtMode, DhtScope, provider_key
from talos.dht.key import kad_id
from talos.dht.peer import PeerInfo
from talos.dht.providers import StoredProvider
from talos.dht.request import RequestFailed
from talos.dht.wire import MAX_ANSWER_BYTES, Message, MessageType, Record, Request, decode, encode
from talos.errors import RoutingError, StreamCode
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.transport.memory import MemoryNetwork
from talos.wire.length_prefix import LengthPrefixDecoder, frame
from talos.wire.message_stream import MessageStream
from tests.dht.network import TEST_CONFIG, dht_network, node_config, open_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

    from talos.abc import Stream
    from talos.dht import DhtConfig
    from talos.host.node import Node
    from tests.dht.network import Peer

PROTOCOL = TEST_CONFIG.protocol_id
KEY = provider_key("a file")
ADDR = parse("/ip4/1.2.3.4/tcp/4001")
CLIENT = replace(TEST_CONFIG, mode=DhtMode.CLIENT)


def somebody() -> PeerId:
    return PeerId.from_key(PrivateKey.generate().public_key)


class Asking:
    """A client that sends what it likes, on one stream."""

    def __init__(self, node: Node, stream: Stream) -> None:
        self.node = node
        self.stream = stream
        self._messages: MessageStream[Message, Message] = MessageStream(
            stream, decode=decode, encode=encode, max_size=1 << 20
        )

    async def ask(self, message: Message) -> Message:
        await self._messages.send(message)
        return await self.answer()

    async def answer(self) -> Message:
        return await self._messages.receive()

    async def send(self, *messages: Message) -> None:
        await self.stream.send_all(b"".join(frame(encode(message)) for message in messages))


@asynccontextmanager
async def asking(memory: MemoryNetwork, server: Peer, number: int = 50) -> AsyncIterator[Asking]:
    async with open_host(node_config(memory, number)) as node:
        connection = await node.connect(server.id, [server.addr])
        async with await node.open_stream(connection, PROTOCOL) as stream:
            yield Asking(node, stream)


@asynccontextmanager
async def server_and_client(config: DhtConfig = TEST_CONFIG) -> AsyncIterator[tuple[Peer, Asking]]:
    memory = MemoryNetwork()
    async with open_peer(memory, 0, config) as server, asking(memory, server) as client:
        yield server, client


class TestAnswers:
    async def test_many_requests_at_once_are_answered_in_order(self, autojump_clock: MockClock) -> None:
        async with server_and_client() as (_, client):
            requests = [Message(MessageType.FIND_NODE, b"key %d" % number) for number in range(50)]
            await client.send(*requests, Message(MessageType.PING))
            assert [(await client.answer()).key for _ in requests] == [request.key for request in requests]
            assert await client.answer() == Message(MessageType.PING)

    async def test_add_provider_is_not_answered(self, autojump_clock: MockClock) -> None:
        async with server_and_client() as (_, client):
            mine = (PeerInfo(client.node.peer_id, (ADDR,)),)
            await client.send(Message(MessageType.ADD_PROVIDER, KEY, providers=mine))
            answer = await client.ask(Message(MessageType.GET_PROVIDERS, KEY))
            assert (answer.type, answer.providers) == (MessageType.GET_PROVIDERS, mine)

    async def test_unless_configured(self, autojump_clock: MockClock) -> None:
        async with server_and_client(replace(TEST_CONFIG, add_provider_echo=True)) as (_, client):
            told = Message(MessageType.ADD_PROVIDER, KEY, providers=(PeerInfo(client.node.peer_id, (ADDR,)),))
            assert await client.ask(told) == told

    async def test_find_node_names_the_target_first_and_not_the_asker(self, autojump_clock: MockClock) -> None:
        memory = MemoryNetwork()
        async with dht_network(8, memory=memory) as peers, asking(memory, peers[0]) as client:
            await trio.sleep(1)
            servers = [peer.id for peer in peers[1:]]
            us = await client.ask(Message(MessageType.FIND_NODE, peers[0].id.raw))
            assert us.closer[0].peer == peers[0].id
            member = await client.ask(Message(MessageType.FIND_NODE, peers[3].id.raw))
            assert member.closer[0].peer == peers[3].id
            assert sorted(info.peer for info in member.closer) == sorted(servers)
            itself = await client.ask(Message(MessageType.FIND_NODE, client.node.peer_id.raw))
            assert client.node.peer_id not in [info.peer for info in itself.closer]
            unknown = await client.ask(Message(MessageType.FIND_NODE, KEY))
            target = kad_id(KEY)
            assert [info.peer for info in unknown.closer] == sorted(servers, key=lambda peer: kad_id(peer.raw) ^ target)
            async with asking(memory, peers[0], 51) as other:
                client_id = client.node.peer_id
                found = await other.ask(Message(MessageType.FIND_NODE, client_id.raw))
                assert found.closer[0] == PeerInfo(client_id, client.node.config.listen)

    @pytest.mark.parametrize(
        "request_",
        [
            Message(MessageType.FIND_NODE),
            Message(MessageType.GET_VALUE),
            Message(MessageType.PUT_VALUE, b"/example/a"),
            Message(MessageType.PUT_VALUE, b"/example/a", Record(b"/example/b", b"value")),
            Message(MessageType.PUT_VALUE, b"/unknown/a", Record(b"/unknown/a", b"value")),
            Message(MessageType.GET_PROVIDERS),
            Message(MessageType.GET_PROVIDERS, bytes(81)),
            Message(MessageType.ADD_PROVIDER, bytes(81)),
            Message(MessageType.PUT_VALUE, b"/example/a", Record(b"/example/a", bytes(16 * 1024))),
        ],
    )
    async def test_an_invalid_request_ends_the_stream(self, autojump_clock: MockClock, request_: Message) -> None:
        async with server_and_client() as (_, client):
            with pytest.raises(StreamReset) as reset:
                await client.ask(request_)
            assert reset.value.code == StreamCode.PROTOCOL_VIOLATION

    async def test_an_idle_stream_is_ended(self, autojump_clock: MockClock) -> None:
        async with server_and_client() as (_, client):
            await client.ask(Message(MessageType.PING))
            await trio.sleep(59)
            await client.ask(Message(MessageType.PING))
            started = trio.current_time()
            with pytest.raises(StreamReset):
                await client.answer()
            assert trio.current_time() - started == pytest.approx(60)

    async def test_writes_have_a_rate(self, autojump_clock: MockClock) -> None:
        limits = replace(TEST_CONFIG.limits, writes_burst=3, writes_per_second=1.0)
        async with server_and_client(replace(TEST_CONFIG, limits=limits)) as (server, client):
            message = Message(MessageType.PUT_VALUE, b"/example/a", Record(b"/example/a", b"value"))
            for _ in range(3):
                await client.ask(message)
            await trio.sleep(1)
            await client.ask(message)
            with pytest.raises(StreamReset) as reset:
                await client.ask(message)
            assert reset.value.code == StreamCode.RATE_LIMITED
            assert server.dht.status().counters["writes over the rate"] == 1

    async def test_an_answer_stays_within_what_others_read(self, autojump_clock: MockClock) -> None:
        async with server_and_client() as (server, client):
            addrs = tuple(parse(f"/ip4/1.2.3.4/tcp/{port}").to_bytes() for port in range(1, 17))
            for _ in range(300):
                server.dht.state.keep_provider(
                    StoredProvider(KEY, somebody().raw, addrs, server.dht.state.clock(), None)
                )
            first = await client.ask(Message(MessageType.GET_PROVIDERS, KEY))
            assert len(encode(first)) <= MAX_ANSWER_BYTES
            assert len(first.providers) == 100
            second = await client.ask(Message(MessageType.GET_PROVIDERS, KEY))
            assert {info.peer for info in first.providers} != {info.peer for info in second.providers}

    async def test_a_provider_is_named_without_the_addresses_that_are_too_old(self, autojump_clock: MockClock) -> None:
        async with server_and_client() as (server, client):
            peer, clock = somebody(), server.dht.state.clock
            for hours, addrs in ((23, (ADDR,)), (25, ())):
                stored = StoredProvider(KEY, peer.raw, (ADDR.to_bytes(), b"\xff"), clock() - hours * 3600, None)
                server.dht.state.keep_provider(stored)
                found = await client.ask(Message(MessageType.GET_PROVIDERS, KEY))
                assert found.providers == (PeerInfo(peer, addrs),)

    async def test_only_public_addresses_are_told_where_these_count(self, autojump_clock: MockClock) -> None:
        public = replace(TEST_CONFIG, scope=DhtScope.PUBLIC, mode=DhtMode.SERVER)
        async with server_and_client(public) as (server, client):
            private = parse("/ip4/10.0.0.1/tcp/1")
            mine = PeerInfo(client.node.peer_id, (private, ADDR))
            await client.send(Message(MessageType.ADD_PROVIDER, KEY, providers=(mine,)))
            found = await client.ask(Message(MessageType.GET_PROVIDERS, KEY))
            assert found.providers == (PeerInfo(client.node.peer_id, (ADDR,)),)
            await client.send(
                Message(MessageType.ADD_PROVIDER, KEY[::-1], providers=(PeerInfo(client.node.peer_id, (private,)),))
            )
            assert (await client.ask(Message(MessageType.GET_PROVIDERS, KEY[::-1]))).providers == ()
            assert server.dht.status().counters["providers ignored"] == 1


@asynccontextmanager
async def odd_server(
    serve: Callable[[Stream], Awaitable[None]],
) -> AsyncIterator[tuple[Node, Peer]]:
    """A server that is not one of ours, and a client that knows no other."""
    memory = MemoryNetwork()
    async with open_host(node_config(memory, 1)) as host:
        with host.mounted(PROTOCOL, serve):
            async with open_peer(memory, 2, replace(CLIENT, bootstrap=(host.addrs[0],))) as client:
                await client.dht.bootstrapped()
                yield host, client


async def each(stream: Stream, answer: Callable[[Message], Awaitable[bool]]) -> None:
    decoder = LengthPrefixDecoder(1 << 20)
    async for chunk in stream:
        for data in decoder.receive_data(chunk):
            if not await answer(decode(data)):
                return


class TestOddServers:
    async def test_one_that_echoes_what_is_provided(self, autojump_clock: MockClock) -> None:
        streams = 0

        async def serve(stream: Stream) -> None:
            nonlocal streams
            streams += 1

            async def echo(request: Message) -> bool:
                await stream.send_all(frame(encode(request)))
                return True

            await each(stream, echo)

        async with odd_server(serve) as (host, client):
            await client.dht.closest_peers(KEY)
            before = streams
            for _ in range(3):
                assert await client.dht.provide(KEY) == 1
                assert await client.dht.closest_peers(KEY) == [host.peer_id]
            assert await client.dht.find_providers(KEY[::-1]) == []
            assert client.dht.status().counters.get("requests failed", 0) == 0
            assert streams == before

    async def test_one_that_ends_the_stream_behind_each_answer(self, autojump_clock: MockClock) -> None:
        async def serve(stream: Stream) -> None:
            async def once(request: Message) -> bool:
                await stream.send_all(frame(encode(request)))
                return False

            await each(stream, once)

        async with odd_server(serve) as (_, client):
            for _ in range(3):
                assert len(await client.dht.closest_peers(KEY)) == 1
                assert await client.dht.provide(KEY) == 1
                await client.dht.put_value(b"/example/a", b"value")
            assert client.dht.status().counters.get("requests failed", 0) == 0

    async def test_one_that_echoes_another_value_has_not_taken_it(self, autojump_clock: MockClock) -> None:
        async def serve(stream: Stream) -> None:
            async def alter(request: Message) -> bool:
                record = Record(b"/example/a", b"other") if request.record else None
                await stream.send_all(frame(encode(replace(request, record=record))))
                return True

            await each(stream, alter)

        async with odd_server(serve) as (_, client):
            with pytest.raises(RoutingError):
                await client.dht.put_value(b"/example/a", b"value")

    @pytest.mark.parametrize("answer", [b"\xff\xff\xff\x7f", b"\x02\x08\x05", b"\x01\xff", b""])
    async def test_one_that_breaks_the_protocol_has_failed(self, autojump_clock: MockClock, answer: bytes) -> None:
        async def serve(stream: Stream) -> None:
            await stream.receive_some()
            if answer:
                await stream.send_all(answer)
                await trio.sleep_forever()

        async with odd_server(serve) as (_, client):
            assert client.dht.status().peers == 0
            assert client.dht.status().counters["requests failed"] >= 1

    async def test_one_that_says_nothing_has_failed(self, autojump_clock: MockClock) -> None:
        async def serve(stream: Stream) -> None:
            await trio.sleep_forever()

        started = trio.current_time()
        async with odd_server(serve) as (_, client):
            assert trio.current_time() - started == pytest.approx(10, abs=1)
            assert client.dht.status().bootstrap.startswith("unreachable")

    async def test_a_value_of_another_key_or_that_is_invalid_is_none(self, autojump_clock: MockClock) -> None:
        records = [Record(b"/example/b", b"value"), Record(b"/pk/a", b"no key")]

        async def serve(stream: Stream) -> None:
            async def lie(request: Message) -> bool:
                record = records[0] if request.key == b"/example/a" else records[1]
                await stream.send_all(frame(encode(replace(request, record=record))))
                return True

            await each(stream, lie)

        async with odd_server(serve) as (_, client):
            assert await client.dht.get_value(b"/example/a") is None
            assert await client.dht.get_value(b"/pk/a") is None


class TestTheEnd:
    @pytest.mark.parametrize("lookups", [0, 3])
    async def test_a_node_stays_until_it_was_heard(self, lookups: int, autojump_clock: MockClock) -> None:
        """On a stream of its own, and on one that is kept: the server reads late, and only while the stream is there."""
        heard: list[MessageType] = []

        async def serve(stream: Stream) -> None:
            async def late(request: Message) -> bool:
                await trio.sleep(0.2)
                heard.append(request.type)
                if request.type is not MessageType.ADD_PROVIDER:
                    await stream.send_all(frame(encode(request)))
                return True

            await each(stream, late)

        memory = MemoryNetwork()
        async with open_host(node_config(memory, 1)) as host:
            with host.mounted(PROTOCOL, serve):
                config = replace(CLIENT, bootstrap=(host.addrs[0],))
                async with open_peer(memory, 2, config) as client:
                    await client.dht.bootstrapped()
                    for _ in range(lookups):
                        await client.dht.closest_peers(KEY)
                    assert await client.dht.provide(KEY) == 1
                    assert MessageType.ADD_PROVIDER not in heard
                assert MessageType.ADD_PROVIDER in heard

    async def test_but_not_for_ever(self, autojump_clock: MockClock) -> None:
        async def serve(stream: Stream) -> None:
            async def hang(request: Message) -> bool:
                if request.type is MessageType.ADD_PROVIDER:
                    await trio.sleep_forever()
                await stream.send_all(frame(encode(request)))
                return True

            await each(stream, hang)

        async with odd_server(serve) as (_, client):
            assert await client.dht.provide(KEY) == 1
            began = trio.current_time()
            await client.dht.heard()
            assert trio.current_time() - began == pytest.approx(1.0)


class TestStreams:
    async def test_what_is_told_on_a_stream_that_has_broken_goes_on_a_new_one(self, autojump_clock: MockClock) -> None:
        async with dht_network(2) as peers:
            for _ in range(2):
                await peers[1].dht.closest_peers(KEY)
            requests = peers[1].dht._requests
            for line in requests._idle[peers[0].id]:
                line.stream.reset()
            told = Request.of(
                Message(MessageType.ADD_PROVIDER, KEY, providers=(PeerInfo(peers[1].id, (ADDR,)),)),
            )
            await requests.tell(peers[0].id, (), told)
            await trio.sleep(1)
            assert peers[0].dht.status().providers == 1
            with pytest.raises(RequestFailed):
                await requests.tell(somebody(), (), told)
            assert peers[1].dht.status().counters["requests failed"] == 1

    async def test_they_are_kept_and_closed_in_time(self, autojump_clock: MockClock) -> None:
        async with dht_network(4) as peers:
            await trio.sleep(60)
            idle = peers[1].dht._requests._idle
            assert not idle
            await peers[1].dht.closest_peers(KEY)
            assert sum(map(len, idle.values())) == 3
            await trio.sleep(50)
            assert not idle

    async def test_so_many_are_kept_and_no_more(self, autojump_clock: MockClock) -> None:
        config = replace(TEST_CONFIG, limits=replace(TEST_CONFIG.limits, idle_streams=2))
        async with dht_network(6, config) as peers:
            await trio.sleep(1)
            await peers[1].dht.closest_peers(KEY)
            assert sum(map(len, peers[1].dht._requests._idle.values())) == 2

    async def test_so_many_requests_to_one_peer_run_at_once(self, autojump_clock: MockClock) -> None:
        running = most = 0

        async def serve(stream: Stream) -> None:
            async def slowly(request: Message) -> bool:
                nonlocal running, most
                running += 1
                most = max(most, running)
                await trio.sleep(1)
                running -= 1
                await stream.send_all(frame(encode(request)))
                return True

            await each(stream, slowly)

        async with odd_server(serve) as (_, client), trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(client.dht.closest_peers, provider_key(b"%d" % number))
        assert most == TEST_CONFIG.limits.streams_per_peer
        assert not client.dht._requests._busy
        assert not client.dht._requests._waiting

    async def test_an_answer_that_nobody_waits_for_leaves_the_stream_good(self, autojump_clock: MockClock) -> None:
        streams = 0

        async def serve(stream: Stream) -> None:
            nonlocal streams
            streams += 1

            async def slowly(request: Message) -> bool:
                await trio.sleep(1)
                await stream.send_all(frame(encode(request)))
                return True

            await each(stream, slowly)

        async with odd_server(serve) as (host, client):
            await trio.sleep(20)  # past what follows a first contact
            before = streams
            with trio.move_on_after(0.5):
                await client.dht.closest_peers(KEY)
            await trio.sleep(1)
            assert await client.dht.closest_peers(KEY) == [host.peer_id]
            assert streams == before
