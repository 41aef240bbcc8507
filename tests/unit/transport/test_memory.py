"""The memory network: latency, loss, partitions, limits; all under an autojump clock."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import talos.transport
from talos.addr import parse
from talos.errors import ConfigError, DialError, ListenError
from talos.testing.network import open_network
from talos.transport.memory import Memory, MemoryConfig, MemoryListener, MemoryNetwork, MemoryStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from multiaddr import Multiaddr

ANY = parse("/memory/0")


async def pair(network: MemoryNetwork, here: str = "", there: str = "") -> tuple[MemoryStream, MemoryStream]:
    listener = await Memory(network, there).listen(ANY)
    dialled = await Memory(network, here).dial(listener.addr)
    accepted, remote = await listener.accept()
    assert remote == dialled.local_addr
    await listener.aclose()
    return dialled, accepted


async def test_latency_is_one_way(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = await pair(MemoryNetwork(MemoryConfig(latency_seconds=0.1)))
    assert trio.current_time() == pytest.approx(0.2)
    await ours.send_all(b"one")
    await ours.send_all(b"two")
    assert trio.current_time() == pytest.approx(0.2)
    assert await theirs.receive_some() == b"one"
    assert await theirs.receive_some() == b"two"
    assert trio.current_time() == pytest.approx(0.3)
    await ours.aclose()
    assert await theirs.receive_some() == b""
    assert trio.current_time() == pytest.approx(0.4)


async def arrivals(config: MemoryConfig) -> list[float]:
    ours, theirs = await pair(MemoryNetwork(config))
    started = trio.current_time()
    for number in range(50):
        await ours.send_all(bytes([number]))
    times = []
    for number in range(50):
        assert await theirs.receive_some() == bytes([number])
        times.append(round(trio.current_time() - started, 9))
    return times


async def test_weather_comes_from_the_seed_and_keeps_the_order(autojump_clock: trio.testing.MockClock) -> None:
    config = MemoryConfig(latency_seconds=0.01, jitter_seconds=0.05, loss=0.3, seed=7)
    once = await arrivals(config)
    assert once == await arrivals(config)
    assert once != await arrivals(MemoryConfig(latency_seconds=0.01, jitter_seconds=0.05, loss=0.3, seed=8))
    assert once == sorted(once)
    assert max(once) > 0.2  # something was lost, and sent again


async def test_a_buffer_that_is_full_waits(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = await pair(MemoryNetwork(MemoryConfig(buffer_bytes=10)))
    with trio.move_on_after(1) as scope:
        await ours.send_all(b"0123456789ab")
    assert scope.cancelled_caught
    assert await theirs.receive_some(4) == b"0123"
    await ours.wait_send_all_might_not_block()
    assert await theirs.receive_some() == b"456789"


async def test_a_full_backlog_refuses() -> None:
    network = MemoryNetwork(MemoryConfig(backlog=2))
    listener = await Memory(network).listen(ANY)
    waiting = [await Memory(network).dial(listener.addr) for _ in range(2)]
    with pytest.raises(DialError, match="backlog"):
        await Memory(network).dial(listener.addr)
    await listener.aclose()
    for stream in waiting:
        assert await stream.receive_some() == b""


async def test_partitions(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork()
    ours, theirs = await pair(network, "a", "b")
    listener = await Memory(network, "b").listen(ANY)
    network.partition({"a"}, {"b", "c"})
    await ours.send_all(b"on its way")
    with trio.move_on_after(60) as receiving:
        await theirs.receive_some()
    with trio.move_on_after(60) as dialling:
        await Memory(network, "a").dial(listener.addr)
    assert receiving.cancelled_caught
    assert dialling.cancelled_caught
    (await Memory(network, "c").dial(listener.addr)).close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.receive_some)
        nursery.start_soon(Memory(network, "a").dial, listener.addr)
        await wait_all_tasks_blocked()
        network.heal()


async def test_a_dial_across_a_partition_finds_the_listener_gone(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork()
    listener = await Memory(network, "b").listen(ANY)
    network.partition({"a"})

    async def dial() -> None:
        with pytest.raises(DialError, match="refused"):
            await Memory(network, "a").dial(listener.addr)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        await wait_all_tasks_blocked()
        await listener.aclose()
        network.heal()


async def test_closing_wakes_a_reader_whose_bytes_are_on_their_way(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = await pair(MemoryNetwork(MemoryConfig(latency_seconds=5)))
    started = trio.current_time()
    await ours.send_all(b"late")

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await theirs.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(1)
        await theirs.aclose()
    assert trio.current_time() == started + 1


async def test_numbers() -> None:
    network = MemoryNetwork()
    first, second = [await Memory(network).listen(ANY) for _ in range(2)]
    assert first.addr != second.addr
    chosen = await Memory(network).listen(parse("/memory/7"))
    with pytest.raises(ListenError, match="/memory/7: address already in use"):
        await Memory(network).listen(parse("/memory/7"))
    await chosen.aclose()
    await (await Memory(network).listen(parse("/memory/7"))).aclose()
    network.remove(first, 7)  # not its own number: nothing happens
    with pytest.raises(DialError):
        await Memory().dial(first.addr)  # on another network


async def test_a_listener_that_is_forgotten_gives_its_number_back() -> None:
    network = MemoryNetwork()
    listener = MemoryListener(network, 7, "")
    del listener
    await (await Memory(network).listen(parse("/memory/7"))).aclose()


@pytest.mark.parametrize(
    "config",
    [{"latency_seconds": -1}, {"jitter_seconds": float("nan")}, {"loss": 1}, {"buffer_bytes": 0}, {"backlog": 0}],
)
def test_weather_that_makes_no_sense(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MemoryConfig(**config)


def test_the_package_loads_transports_on_use() -> None:
    for name in talos.transport.__all__:
        assert getattr(talos.transport, name).__name__ == name
    with pytest.raises(AttributeError, match="Carrier"):
        _ = talos.transport.CarrierPigeon


async def test_many_nodes(autojump_clock: trio.testing.MockClock) -> None:
    closed: list[int] = []

    @asynccontextmanager
    async def open_node(
        transport: Memory, addr: Multiaddr, number: int
    ) -> AsyncIterator[tuple[Memory, MemoryListener]]:
        listener = await transport.listen(addr)
        yield transport, listener
        await listener.aclose()
        closed.append(number)

    async with open_network(open_node, 5, MemoryConfig(latency_seconds=0.02)) as network:
        (first, _), (_, target) = network.nodes[0], network.nodes[4]
        network.partition({0, 1})
        with trio.move_on_after(10) as scope:
            await first.dial(target.addr)
        assert scope.cancelled_caught
        network.heal()
        await first.dial(target.addr)
        assert trio.current_time() == pytest.approx(10.04)
    assert closed == [4, 3, 2, 1, 0]
