"""Listening: shortages, sockets that go, and who is let in before a byte is read."""

from __future__ import annotations

import errno
import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel

from talos.abc import AddressesChanged, ByteTransport, GateStep, ServiceFault
from talos.addr import is_loopback, parse, split_peer
from talos.errors import ConfigError, ListenError
from talos.host import presets
from talos.host.config import NodeConfig, Stack
from talos.host.limits import IpLimits, LimitsConfig, Rate, ScopeLimits
from talos.host.listener import reachable_addrs
from talos.host.node import Node, open_node
from talos.transport import Memory, MemoryNetwork, Tcp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from multiaddr import Multiaddr

MEMORY = parse("/memory/0")


class Faults(Memory):
    """A memory transport whose listeners raise what stands in `errors` before they accept."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []
        self.listen_errors = 0
        self.accepts: list[float] = []
        self.listens: list[float] = []

    async def listen(self, addr: Multiaddr) -> Any:
        self.listens.append(trio.current_time())
        if self.listen_errors:
            self.listen_errors -= 1
            raise ListenError("still in use")
        return FaultyListener(self, await super().listen(addr))


class FaultyListener:
    def __init__(self, faults: Faults, inner: Any) -> None:
        self.faults = faults
        self.inner = inner
        self.addr = inner.addr

    async def accept(self) -> Any:
        self.faults.accepts.append(trio.current_time())
        if self.faults.errors:
            raise self.faults.errors.pop(0)
        return await self.inner.accept()

    async def aclose(self) -> None:
        await self.inner.aclose()


@asynccontextmanager
async def node_on(transport: ByteTransport, listen: str = "/memory/0", **changes: Any) -> AsyncIterator[Node]:
    config = NodeConfig(stack=Stack(transports=(transport,)), listen=(parse(listen),), **changes)
    async with open_node(config) as node:
        yield node


async def visit(server: Node) -> None:
    """A newcomer connects and leaves."""
    async with open_node(NodeConfig(stack=Stack(transports=(Memory(),)))) as visitor:
        await visitor.connect(server.peer_id, server.addrs)


def pauses(times: list[float]) -> list[float]:
    return [round(after - before, 3) for before, after in itertools.pairwise(times)]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_shortage_pauses_ever_longer_and_then_accepting_goes_on(autojump_clock: Any, number: int) -> None:
    transport = Faults()
    transport.errors = [OSError(number, "no more") for _ in range(6)]
    async with node_on(transport) as server:
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(10)
        assert pauses(transport.accepts) == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
        transport.errors = [OSError(number, "no more")]
        await visit(server)
        await trio.sleep(1)
        assert pauses(transport.accepts)[-1] == 0.1
        assert len(transport.listens) == 1


async def test_a_connection_that_is_aborted_in_the_queue_is_nobodys_fault(autojump_clock: Any) -> None:
    transport = Faults()
    transport.errors = [OSError(errno.ECONNABORTED, "gone")]
    async with node_on(transport) as server:
        await visit(server)
        assert pauses(transport.accepts)[0] == 0


async def test_a_socket_that_is_gone_is_opened_again(autojump_clock: Any) -> None:
    transport = Faults()
    seen: list[object] = []
    async with node_on(transport) as server:
        with server.observe(seen.append):
            first = server.addrs
            await trio.testing.wait_all_tasks_blocked()
            transport.errors = [OSError(errno.EBADF, "gone")]
            transport.listen_errors = 3
            await visit(server)
            await trio.sleep(0.5)
            assert server.addrs == ()
            await trio.sleep(100)
            assert pauses(transport.listens) == [1.0, 5.0, 30.0, 60.0]
            assert server.addrs not in ((), first)
            await visit(server)
    assert [str(event.exception) for event in seen if isinstance(event, ServiceFault)] == [
        "[Errno 9] gone",
        *["still in use"] * 3,
    ]
    assert [len(event.addrs) for event in seen if isinstance(event, AddressesChanged)] == [0, 1]


async def test_a_listen_list_that_yields_nothing_is_an_error(autojump_clock: Any) -> None:
    transport = Faults()
    transport.listen_errors = 1
    with pytest.raises(ListenError, match=r"none of the addresses.*still in use"):
        async with node_on(transport):
            raise AssertionError("the node opened")


async def test_one_of_several_addresses_will_do(autojump_clock: Any) -> None:
    transport = Faults()
    transport.listen_errors = 1
    config = NodeConfig(stack=Stack(transports=(transport,)), listen=(MEMORY, MEMORY))
    async with open_node(config) as node:
        assert len(node.addrs) == 1
        await visit(node)


async def test_an_address_that_no_transport_knows_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="no transport"):
        async with node_on(Memory(), "/ip4/127.0.0.1/tcp/0"):
            raise AssertionError("the node opened")


async def closed_unread(stream: trio.abc.Stream) -> bool:
    try:
        return await stream.receive_some(1) == b""
    except trio.BrokenResourceError:
        return True


def tight(**changes: Any) -> LimitsConfig:
    return LimitsConfig(ip=IpLimits(exempt_loopback=False, rate=Rate(per_second=100, burst=100)), **changes)


async def test_the_ninth_half_open_connection_of_an_address_is_closed_unread() -> None:
    async with node_on(Tcp(), "/ip4/127.0.0.1/tcp/0", limits=tight()) as server:
        port = int(str(server.addrs[0]).split("/")[4])
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(8)]
        while sum(server.limits.snapshot().values()) == 0:
            await trio.lowlevel.checkpoint()
        ninth = await trio.open_tcp_stream("127.0.0.1", port)
        assert await closed_unread(ninth)
        assert server.limits.snapshot()["system: connections in"] == 8
        for stream in (*streams, ninth):
            await trio.aclose_forcefully(stream)


async def test_new_connections_of_an_address_are_rated() -> None:
    limits = LimitsConfig(ip=IpLimits(exempt_loopback=False, rate=Rate(per_second=0.001, burst=2)))
    async with node_on(Tcp(), "/ip4/127.0.0.1/tcp/0", limits=limits) as server:
        for _ in range(2):
            async with open_node(presets.minimal()) as visitor:
                await visitor.connect(server.peer_id, server.addrs)
        port = int(str(server.addrs[0]).split("/")[4])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert await closed_unread(stream)


class Refusing:
    def __init__(self) -> None:
        self.steps: list[GateStep] = []

    def allow(self, step: GateStep, peer: Any, addr: Any) -> bool:
        self.steps.append(step)
        return step is not GateStep.ACCEPT


async def test_the_gate_is_asked_before_a_byte_is_read(autojump_clock: Any) -> None:
    gate = Refusing()
    transport = Memory()
    async with node_on(transport, gates=(gate,)) as server:
        stream = await transport.dial(split_peer(server.addrs[0])[0])
        with trio.fail_after(1):
            assert await closed_unread(stream)
        assert gate.steps == [GateStep.ACCEPT]
        assert not any(server.limits.snapshot().values())


async def test_limits_that_raise_refuse_and_the_listener_goes_on(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = Memory()
    async with node_on(transport) as server, server.events() as events:

        def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(server.limits, "inbound", broken)
            assert await closed_unread(await transport.dial(split_peer(server.addrs[0])[0]))
        fault = await events.receive()
        assert isinstance(fault, ServiceFault)
        assert fault.owner == "limits"
        await visit(server)


@pytest.mark.parametrize("sent", [b"", b"\x13/multistream/1.0.0\n\x07/noise\n"], ids=["silent", "half way"])
async def test_half_open_connections_end_after_ten_seconds(autojump_clock: Any, sent: bytes) -> None:
    transport = Memory()
    async with node_on(transport) as server:
        stream = await transport.dial(split_peer(server.addrs[0])[0])
        await stream.send_all(sent or b"\x13")
        start = trio.current_time()
        with pytest.raises((trio.BrokenResourceError, EOFError)):  # noqa: PT012 - it ends at some read
            while await stream.receive_some():
                pass
            raise EOFError
        assert trio.current_time() - start == pytest.approx(10)
        await trio.testing.wait_all_tasks_blocked()
        assert not any(server.limits.snapshot().values())
        assert server.limits.failed == {"handshake_timeout": 1}


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "negotiation_error"),
        (b"\x13/multistream/1.0.0\n\x07/noise\n" + 70_000 * b"\x00\x01x", "handshake_error"),
    ],
    ids=["another protocol", "no handshake"],
)
async def test_what_is_no_handshake_is_ended_counted_and_told_once(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture, sent: bytes, reason: str
) -> None:
    caplog.set_level("INFO", "talos")
    transport = Memory()
    async with node_on(transport) as server:
        stream = await transport.dial(split_peer(server.addrs[0])[0])
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                try:
                    await stream.send_all(sent)
                except trio.BrokenResourceError:
                    pass  # it was closed before all was taken

            assert await closed_unread_or_greeted(stream)
        await trio.testing.wait_all_tasks_blocked()
        assert server.limits.failed == {reason: 1}
        assert len(caplog.records) == 1
        assert "came to nothing" in caplog.text
        await visit(server)


async def test_a_full_house_of_half_open_connections_lets_the_oldest_go(autojump_clock: Any) -> None:
    limits = LimitsConfig(transient=ScopeLimits(connections_in=4, connections=4, streams=100, memory=1 << 20))
    transport = Memory()
    async with node_on(transport, limits=limits) as server:
        streams = [await transport.dial(split_peer(server.addrs[0])[0]) for _ in range(4)]
        await trio.testing.wait_all_tasks_blocked()
        await visit(server)
        assert await closed_unread_or_greeted(streams[0])
        assert server.limits.evicted["half-open"] >= 1
        for stream in streams:
            await stream.aclose()


async def closed_unread_or_greeted(stream: trio.abc.Stream) -> bool:
    """Whether it ends, whatever was said before."""
    with trio.move_on_after(1):
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        return True
    return False


async def test_a_transport_is_used_and_listened_on_for_a_block(autojump_clock: Any) -> None:
    network = MemoryNetwork()
    async with node_on(Memory()) as server, open_node(NodeConfig(stack=Stack(transports=(Tcp(),)))) as other:
        with server.using(Memory(network), listen=(parse("/memory/7"),)):
            await trio.testing.wait_all_tasks_blocked()
            assert f"/memory/7/p2p/{server.peer_id}" in map(str, server.addrs)
            with other.using(Memory(network)):
                await other.connect(server.peer_id, [parse("/memory/7")])
        await trio.testing.wait_all_tasks_blocked()
        assert len(server.addrs) == 1
        assert len(server.connections) == 1


async def test_what_is_announced_stands_in_for_what_is_listened_on(autojump_clock: Any) -> None:
    public = parse("/ip4/1.2.3.4/tcp/4001")
    async with node_on(Memory(), announce=(public,)) as node:
        assert [str(addr) for addr in node.addrs] == [f"{public}/p2p/{node.peer_id}"]


def test_a_wildcard_is_reachable_at_every_interface() -> None:
    addrs = reachable_addrs(parse("/ip4/0.0.0.0/tcp/80"))
    assert parse("/ip4/127.0.0.1/tcp/80") in addrs
    assert all(str(addr).endswith("/tcp/80") and "0.0.0.0" not in str(addr) for addr in addrs)
    assert any(is_loopback(addr) for addr in reachable_addrs(parse("/ip6/::/udp/1/quic-v1")))
    assert reachable_addrs(MEMORY) == [MEMORY]
