"""Ping between nodes, and with peers that do it wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.abc import PeerDisconnected, Stream, StreamReset
from talos.errors import ConfigError, RemoteProtocolError, StreamCode
from talos.ping import PING, PingConfig, WrongEcho, open_ping, ping, pinging

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.host.config import NodeConfig

    MakeConfig = Callable[..., NodeConfig]


async def test_a_ping_measures_seconds(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_ping(a):
        connection = await b.connect(a.peer_id, a.addrs)
        assert 0 < await ping(b, a.peer_id) < 5
        assert 0 < await ping(b, connection) < 5


async def test_many_pings_on_one_stream(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_ping(a):
        await b.connect(a.peer_id, a.addrs)
        times: list[float] = []
        async with pinging(b, a.peer_id) as pings:
            async for seconds in pings:
                times.append(seconds)
                if len(times) == 50:
                    break
        assert len(times) == 50
        assert b.limits.snapshot()["protocol /ipfs/ping/1.0.0: streams out"] == 0


async def test_bytes_may_come_in_pieces(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_ping(a):
        connection = await b.connect(a.peer_id, a.addrs)
        async with await b.open_stream(connection, PING) as stream:
            echo = b""
            for byte in range(64):
                await stream.send_all(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()
            await stream.send_eof()
            async for chunk in stream:
                echo += chunk
        assert echo == bytes(range(64))


async def test_the_third_stream_of_a_peer_is_refused(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_ping(a):
        connection = await b.connect(a.peer_id, a.addrs)
        async with pinging(b, connection) as one, pinging(b, connection) as two:
            await one.ping()
            await two.ping()
            with pytest.raises(StreamReset) as caught:
                await ping(b, connection)
            assert caught.value.code == StreamCode.RESOURCE_LIMIT
        await trio.testing.wait_all_tasks_blocked()
        assert await ping(b, connection) > 0


async def test_how_many_streams_of_a_peer_is_configured(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_ping(a, PingConfig(streams_per_peer=1)):
        connection = await b.connect(a.peer_id, a.addrs)
        async with pinging(b, connection) as one:
            await one.ping()
            with pytest.raises(StreamReset) as caught:
                await ping(b, connection)
            assert caught.value.code == StreamCode.RESOURCE_LIMIT
            assert not a._bus.faults


async def test_a_ping_that_is_cut_is_a_fault_of_the_peer(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_ping(a):
        connection = await b.connect(a.peer_id, a.addrs)
        async with await b.open_stream(connection, PING) as stream:
            await stream.send_all(bytes(31))
            await stream.send_eof()
            with pytest.raises(StreamReset) as caught:
                await stream.receive_some()
            assert caught.value.code == StreamCode.PROTOCOL_VIOLATION


async def test_a_silent_peer_loses_its_stream(
    memory_config: MakeConfig, open_nodes: Any, autojump_clock: trio.abc.Clock
) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_ping(a):
        connection = await b.connect(a.peer_id, a.addrs)
        async with await b.open_stream(connection, PING) as stream:
            await stream.send_all(bytes(31))
            started = trio.current_time()
            with pytest.raises(StreamReset):
                await stream.receive_some()
            assert 29 < trio.current_time() - started < 31


async def test_a_wrong_echo_ends_the_connection(memory_config: MakeConfig, open_nodes: Any) -> None:
    async def lie(stream: Stream) -> None:
        await stream.receive_some(32)
        await stream.send_all(bytes(32))

    async with open_nodes(memory_config(), memory_config()) as (a, b), b.events() as events:
        with a.mounted(PING, lie):
            await b.connect(a.peer_id, a.addrs)
            with pytest.raises(WrongEcho, match=str(a.peer_id)):
                await ping(b, a.peer_id)
            async for event in events:
                if isinstance(event, PeerDisconnected):
                    break


async def test_no_echo_is_a_remote_fault(memory_config: MakeConfig, open_nodes: Any) -> None:
    async def leave(stream: Stream) -> None:
        await stream.receive_some(32)

    async with open_nodes(memory_config(), memory_config()) as (a, b):
        with a.mounted(PING, leave):
            await b.connect(a.peer_id, a.addrs)
            with pytest.raises(RemoteProtocolError, match="ended"):
                await ping(b, a.peer_id)


async def test_a_late_echo_is_too_slow(
    memory_config: MakeConfig, open_nodes: Any, autojump_clock: trio.abc.Clock
) -> None:
    async def hang(stream: Stream) -> None:
        await trio.sleep_forever()

    async with open_nodes(memory_config(), memory_config()) as (a, b):
        with a.mounted(PING, hang):
            await b.connect(a.peer_id, a.addrs)
            started = trio.current_time()
            with pytest.raises(trio.TooSlowError):
                await ping(b, a.peer_id, PingConfig(reply_seconds=3))
            assert 2.9 < trio.current_time() - started < 4


@pytest.mark.parametrize("changes", [{"reply_seconds": 0}, {"idle_seconds": float("nan")}, {"streams_per_peer": 0}])
def test_contradictory_configurations_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PingConfig(**changes)
