"""What a node promises, over each stack of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.abc import HandlerFailed, PeerConnected, PeerDisconnected, Role, StreamReset
from talos.errors import NegotiationError, RemoteProtocolError, StreamCode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.abc import Event, Stream
    from talos.host.node import Node

ECHO = "/talos/echo/1.0.0"


async def echo(stream: Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def received(stream: Stream) -> bytes:
    return b"".join([bytes(chunk) async for chunk in stream])


@pytest.fixture
async def pair(stack_config: Any, open_nodes: Any) -> AsyncIterator[tuple[Node, Node]]:
    """A node that answers echo, and another one."""
    async with open_nodes(stack_config(), stack_config()) as (server, client):
        server.handle(ECHO)(echo)
        yield server, client


async def test_what_is_sent_comes_back_and_both_sides_know_each_other(pair: tuple[Node, Node]) -> None:
    server, client = pair
    connection = await client.connect(server.peer_id, server.addrs)
    async with await client.open_stream(connection, ECHO) as stream:
        await stream.send_all(b"hello")
        await stream.send_eof()
        assert await received(stream) == b"hello"
        assert stream.protocol == ECHO
        assert stream.connection is connection
    (inbound,) = server.connections
    assert (inbound.remote_peer, inbound.role) == (client.peer_id, Role.LISTENER)
    assert (connection.remote_peer, connection.role) == (server.peer_id, Role.DIALER)
    assert connection.remote_key == server.key.public_key
    assert not connection.limited


async def test_a_peer_without_connection_is_dialled_at_what_the_peerstore_knows(pair: tuple[Node, Node]) -> None:
    server, client = pair
    client.peerstore.add_addrs(server.peer_id, server.addrs)
    async with await client.open_stream(server.peer_id, ECHO) as stream:
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
    assert [connection.remote_peer for connection in client.connections] == [server.peer_id]


async def test_half_a_megabyte_each_way_at_once(pair: tuple[Node, Node]) -> None:
    server, client = pair
    data = bytes(range(256)) * 2048
    await client.connect(server.peer_id, server.addrs)
    async with await client.open_stream(server.peer_id, ECHO) as stream, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        assert await received(stream) == data


async def test_the_listener_opens_streams_too(pair: tuple[Node, Node]) -> None:
    server, client = pair
    client.handle("/back/1.0.0")(echo)
    await client.connect(server.peer_id, server.addrs)
    async with server.events() as events:
        while not server.connections:
            await events.receive()
    async with await server.open_stream(client.peer_id, "/back/1.0.0") as stream:
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"


async def test_the_first_protocol_in_common_is_agreed(pair: tuple[Node, Node]) -> None:
    server, client = pair
    connection = await client.connect(server.peer_id, server.addrs)
    async with await client.open_stream(connection, "/unknown/1", ECHO) as stream:
        assert stream.protocol == ECHO
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"


async def test_an_unknown_protocol_hurts_only_its_stream(pair: tuple[Node, Node]) -> None:
    server, client = pair
    connection = await client.connect(server.peer_id, server.addrs)
    async with await client.open_stream(connection, "/unknown/1") as lazy:
        with pytest.raises(NegotiationError):
            await lazy.receive_some()
    with pytest.raises(NegotiationError):
        await client.open_stream(connection, "/unknown/1", "/unknown/2")
    async with await client.open_stream(connection, ECHO) as stream:
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
    assert client.connections == [connection]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("bug"), StreamCode.NONE),
        (RemoteProtocolError("nonsense"), StreamCode.PROTOCOL_VIOLATION),
        (ExceptionGroup("two", [MemoryError(), RecursionError()]), StreamCode.NONE),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_handler_that_raises_ends_its_stream_alone(
    pair: tuple[Node, Node], row: Any, error: Exception, code: StreamCode
) -> None:
    server, client = pair

    @server.handle("/failing/1")
    async def fail(stream: Stream) -> None:
        raise error

    connection = await client.connect(server.peer_id, server.addrs)
    async with server.events() as events:
        async with await client.open_stream(connection, "/failing/1") as stream:
            with pytest.raises(StreamReset) as reset:
                await received(stream)
            assert reset.value.remote
            if row.name.endswith("yamux"):  # mplex carries no codes
                assert reset.value.code == code
        failures: list[HandlerFailed] = []
        while not failures:
            failures = [event for event in [await events.receive()] if isinstance(event, HandlerFailed)]
        assert (failures[0].peer, failures[0].protocol) == (client.peer_id, "/failing/1")
        assert failures[0].exception is error
    async with await client.open_stream(connection, ECHO) as stream:
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"


async def test_many_streams_at_once(pair: tuple[Node, Node]) -> None:
    server, client = pair
    connection = await client.connect(server.peer_id, server.addrs)
    done = []

    async def visit(number: int) -> None:
        async with await client.open_stream(connection, ECHO) as stream:
            await stream.send_all(b"%d" % number)
            await stream.send_eof()
            done.append(int(await received(stream)) == number)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(visit, number)
    assert done == [True] * 40


async def test_a_closed_connection_ends_at_the_peer_and_gives_everything_back(
    pair: tuple[Node, Node],
) -> None:
    server, client = pair
    async with server.events() as events:
        connection = await client.connect(server.peer_id, server.addrs)
        stream = await client.open_stream(connection, ECHO)
        await stream.send_all(b"x")
        await stream.receive_some()
        assert any(server.limits.snapshot().values())
        await connection.aclose()
        with pytest.raises((StreamReset, trio.ClosedResourceError)):
            await received(stream)
        seen: list[Event] = []
        while not any(isinstance(event, PeerDisconnected) for event in seen):
            seen.append(await events.receive())
    connected = next(event for event in seen if isinstance(event, PeerConnected))
    disconnected = next(event for event in seen if isinstance(event, PeerDisconnected))
    assert connected.connection is disconnected.connection
    assert disconnected.last
    assert client.connections == []
    assert server.connections == []
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not any(server.limits.snapshot().values())
    assert not any(client.limits.snapshot().values())


async def test_callers_at_once_share_one_dial(pair: tuple[Node, Node]) -> None:
    server, client = pair
    connections = []

    async def dial() -> None:
        connections.append(await client.connect(server.peer_id, server.addrs))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(dial)
    assert len(set(connections)) == 1
    assert len(client.connections) == 1
    assert await client.connect(server.peer_id) is connections[0]


async def test_the_same_peer_comes_and_goes(pair: tuple[Node, Node]) -> None:
    server, client = pair
    for number in range(20):
        connection = await client.connect(server.peer_id, server.addrs)
        async with await client.open_stream(connection, ECHO) as stream:
            await stream.send_all(b"%d" % number)
            assert await stream.receive_some() == b"%d" % number
        await connection.aclose()
