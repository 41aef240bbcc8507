"""Askers and servers of AutoNAT that do what they should not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.abc import AddressRefuted, StreamReset
from talos.addr import split_peer
from talos.autonat import DIAL_BACK, DIAL_REQUEST, V1, AutonatServerConfig, open_autonat
from talos.autonat.client import Answer, DialBacks, probe, probe_v1
from talos.autonat.machine import Rates
from talos.autonat.wire import (
    DialBack,
    DialBackResponse,
    DialData,
    DialDataRequest,
    DialRequest,
    DialResponse,
    Message,
    ResponseStatus,
    V1Request,
    V1Response,
    V1Status,
    decode,
    decode_back_response,
    decode_v1,
    encode,
    encode_back,
    encode_v1,
)
from talos.errors import ConfigError, RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.wire.message_stream import MessageStream
from tests.unit.autonat.test_service import ASK, SERVE, elsewhere, served, tcp

if TYPE_CHECKING:
    from talos.abc import Connection, Stream
    from talos.host.node import Node

STRANGER = PeerId.from_key(PrivateKey.generate().public_key)


def line_of(stream: Stream) -> MessageStream[Message, Message]:
    return MessageStream(stream, decode=decode, encode=encode, max_size=8192)


async def asked(node: Node, to: Connection, *messages: Message) -> Message:
    """What a server answers to the last of these."""
    async with await node.open_stream(to, DIAL_REQUEST) as stream:
        line = line_of(stream)
        for message in messages:
            await line.send(message)
        return await line.receive()


async def test_a_server_answers_what_it_may(open_nodes: Any) -> None:
    few = AutonatServerConfig(allow_private=True, longest_wait_seconds=0.0, requests_per_peer=3, addrs=2)
    async with served(open_nodes, few) as (server, served_by, asker):
        connection = await asker.connect(served_by.peer_id, served_by.addrs)
        rejected = DialResponse(ResponseStatus.REQUEST_REJECTED)
        assert await asked(asker, connection, DialRequest((), 1)) == rejected
        assert await asked(asker, connection, DialRequest((b"a", b"b", b"c"), 1)) == rejected
        assert await asked(asker, connection, DialRequest((b"a",), 1)) == DialResponse(ResponseStatus.DIAL_REFUSED)
        assert await asked(asker, connection, DialRequest((b"a",), 1)) == rejected
        with pytest.raises(StreamReset):
            await asked(asker, connection, DialResponse(200))
        assert server.dialled == 0


async def test_data_that_was_asked_for_has_to_come(open_nodes: Any) -> None:
    async with served(open_nodes, SERVE) as (server, served_by, asker):
        connection = await asker.connect(served_by.peer_id, served_by.addrs)
        for wrong in (DialData(b""), DialResponse(200)):
            async with await asker.open_stream(connection, DIAL_REQUEST) as stream:
                line = line_of(stream)
                await line.send(DialRequest((elsewhere(asker).to_bytes(),), 1))
                assert isinstance(await line.receive(), DialDataRequest)
                await line.send(wrong)
                with pytest.raises(StreamReset):
                    await line.receive()
        assert server.dialled == 0


async def test_version_1_is_about_who_asks(open_nodes: Any) -> None:
    async with served(open_nodes, AutonatServerConfig(allow_private=True, v1_requests=10)) as (server, host, asker):
        connection = await asker.connect(host.peer_id, host.addrs)
        async with await asker.open_stream(connection, V1) as stream:
            line = MessageStream[V1Request | V1Response, V1Request | V1Response](
                stream, decode=decode_v1, encode=encode_v1, max_size=4096
            )
            await line.send(V1Request(STRANGER, (asker.addrs[0].to_bytes(),)))
            answer = await line.receive()
        assert isinstance(answer, V1Response)
        assert answer.status == V1Status.BAD_REQUEST
        own = split_peer(asker.addrs[0])[0]
        assert [await probe_v1(asker, connection, own) for _ in range(2)] == [Answer.REACHED, Answer.NOTHING]
        assert server.dialled == 1


@pytest.mark.parametrize(
    "answers",
    [[DialRequest((b"a",), 1)], [DialDataRequest(0, 29_999)], [DialDataRequest(0, 100_001)], [DialDataRequest(1, 40_000)],
     [DialResponse(200, 1, 200)]],
)  # fmt: skip
async def test_a_server_that_answers_what_was_not_asked(open_nodes: Any, answers: list[Message]) -> None:
    async def serve(stream: Stream) -> None:
        line = line_of(stream)
        await line.receive()
        for answer in answers:
            await line.send(answer)

    async with open_nodes(tcp(), tcp()) as (server, asker):
        with server.mounted(DIAL_REQUEST, serve):
            connection = await asker.connect(server.peer_id, server.addrs)
            with pytest.raises(RemoteProtocolError):
                await probe(asker, connection, split_peer(asker.addrs[0])[0], DialBacks())


async def test_a_nonce_that_nobody_expects_is_not_answered(open_nodes: Any) -> None:
    async with open_nodes(tcp(), tcp()) as (server, asker), open_autonat(asker, ASK):
        connection = await server.connect(asker.peer_id, asker.addrs)
        async with await server.open_stream(connection, DIAL_BACK) as stream:
            line = MessageStream[DialBackResponse, DialBack](
                stream, decode=decode_back_response, encode=encode_back, max_size=1024
            )
            await line.send(DialBack(7))
            with pytest.raises(StreamReset):
                await line.receive()


async def test_what_was_confirmed_may_be_refuted(open_nodes: Any) -> None:
    async with open_nodes(tcp(), tcp()) as (server, asker), open_autonat(asker, ASK) as autonat:
        connection = await asker.connect(server.peer_id, server.addrs)
        own = split_peer(asker.addrs[0])[0]
        autonat._known.watch([own])
        autonat._answered(own, connection, reached=True, servers=1)
        assert autonat.confirmed == (own,)
        async with asker.events() as events:
            autonat._answered(own, connection, reached=False, servers=1)
            with trio.fail_after(60):
                while not isinstance(await events.receive(), AddressRefuted):
                    pass
        assert not autonat._known.confirmed


def test_one_of_two_requests_ends() -> None:
    rates = Rates(total=9, per_peer=9, with_data=1, at_once=2)
    assert [rates.enter(STRANGER, 0.0) for _ in range(3)] == [True, True, False]
    rates.leave(STRANGER)
    assert rates.enter(STRANGER, 0.0)


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"requests": 0}, {"dial_seconds": 0.0}, {"longest_wait_seconds": -1.0}):
        with pytest.raises(ConfigError):
            AutonatServerConfig(**wrong)
