"""The node as a whole: its block, its peers, its end."""

from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.abc import (
    Dropped,
    GateStep,
    Listener,
    PeerConnected,
    PeerDisconnected,
    ProtocolsChanged,
    Role,
    StreamReset,
    Transport,
)
from talos.addr import parse
from talos.errors import ConfigError, DialError, LimitExceeded, LocalProtocolError
from talos.host.block import background
from talos.host.config import NodeConfig, Stack
from talos.host.connection import HostConnection
from talos.host.limits import LimitsConfig, ManagerLimits
from talos.host.node import Node, open_node
from talos.host.routes import Routes
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.transport import Memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.abc import Connection, Stream

ECHO = "/talos/echo/1.0.0"


async def echo(stream: Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


@asynccontextmanager
async def server_and_client(config: Any, **changes: Any) -> AsyncIterator[tuple[Node, Node]]:
    """A server that echoes and has `changes`, and a client connected to it."""
    async with open_node(config(**changes)) as server, open_node(config()) as client:
        server.handle(ECHO)(echo)
        await client.connect(server.peer_id, server.addrs)
        await trio.testing.wait_all_tasks_blocked()
        yield server, client
    assert not any(server.limits.snapshot().values())
    assert server.limits.leaked == client.limits.leaked == 0


# -- the block


@pytest.mark.parametrize("error", [ValueError("mine"), ExceptionGroup("mine", [ValueError()]), KeyboardInterrupt()])
async def test_what_the_block_raises_comes_out_as_it_is(memory_config: Any, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        async with open_node(memory_config()):
            raise error
    if isinstance(error, ExceptionGroup):  # trio makes a new group of the same exceptions
        assert isinstance(raised.value, ExceptionGroup)
        assert raised.value.exceptions == error.exceptions
    else:
        assert raised.value is error


async def test_ctrl_c_in_any_task_comes_out_alone(memory_config: Any) -> None:
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it comes up in a task and out of the block
        async with server_and_client(memory_config) as (server, client):

            @server.handle("/interrupted")
            async def interrupted(stream: Stream) -> None:
                raise KeyboardInterrupt

            stream = await client.open_stream(server.peer_id, "/interrupted")
            await stream.send_all(b"x")
            await trio.sleep_forever()


async def test_ctrl_c_in_a_reader_is_not_lost_among_what_follows_from_it(memory_config: Any) -> None:
    def interrupt(event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it comes up in a task and out of the block
        async with server_and_client(memory_config) as (server, client):
            (connection,) = client.connections
            muxer: Any = connection._muxed
            async with await client.open_stream(server.peer_id, ECHO) as stream:
                while True:
                    await stream.send_all(b"x")
                    await stream.receive_some()
                    muxer._muxed._apply = interrupt


async def test_two_failures_at_once_stay_a_group(autojump_clock: Any) -> None:
    async def fail() -> None:
        raise KeyError

    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012 - both have to raise
        async with background() as nursery:
            nursery.start_soon(fail)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError
    assert raised.group_contains(KeyError)
    assert raised.group_contains(ValueError)


async def test_background_tasks_end_with_their_block(autojump_clock: Any) -> None:
    async with background() as nursery:
        nursery.start_soon(trio.sleep_forever)
    assert nursery.cancel_scope.cancel_called


async def test_cancelling_the_block_is_no_error(memory_config: Any, autojump_clock: Any) -> None:
    with trio.move_on_after(5) as scope:
        async with server_and_client(memory_config):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_leaving_tells_the_peers_at_once(memory_config: Any, autojump_clock: Any) -> None:
    async with open_node(memory_config()) as client:
        async with open_node(memory_config()) as server:
            server.handle(ECHO)(echo)
            stream = await client.open_stream(await client.connect(server.peer_id, server.addrs), ECHO)
            await stream.send_all(b"x")
            await stream.receive_some()
            start = trio.current_time()
        with pytest.raises(StreamReset):
            await stream.receive_some()
        await trio.testing.wait_all_tasks_blocked()
        assert client.connections == []
        assert trio.current_time() == start


class Stubborn(Memory):
    """Its streams take no byte any more once `stuck`."""

    stuck = False

    async def dial(self, addr: Any) -> Any:
        stream = await super().dial(addr)
        send_all = stream.send_all

        async def send_or_hang(data: Any) -> None:
            if self.stuck:
                await trio.sleep_forever()
            await send_all(data)

        stream.send_all = send_or_hang  # type: ignore[method-assign]
        return stream


async def test_a_peer_that_takes_nothing_delays_the_end_by_seconds_only(
    memory_config: Any, autojump_clock: Any
) -> None:
    transport = Stubborn()
    async with open_node(memory_config()) as server:
        server.handle(ECHO)(echo)
        async with open_node(NodeConfig(stack=Stack(transports=(transport,)))) as client:
            stream = await client.open_stream(await client.connect(server.peer_id, server.addrs), ECHO)
            await stream.send_all(b"x")
            await stream.receive_some()
            transport.stuck = True
            start = trio.current_time()
        assert trio.current_time() - start <= 5


async def test_a_node_has_its_own_key_or_a_new_one(memory_config: Any) -> None:
    key = PrivateKey.generate()
    async with open_node(memory_config(key=key)) as one, open_node(memory_config()) as other:
        assert one.peer_id == PeerId.from_key(key.public_key)
        assert one.key is key
        assert one.peer_id != other.peer_id
        assert repr(one) == f"<Node {one.peer_id}>"
        assert str(one.addrs[0]).endswith(f"/p2p/{one.peer_id}")


async def test_routes_made_before_are_mounted_and_changes_are_told(memory_config: Any) -> None:
    routes = Routes()
    routes.handle(ECHO)(echo)
    async with open_node(memory_config(routes=(routes,))) as node, node.events() as events:
        assert node.protocols == (ECHO,)
        with node.mounted("/a", echo):
            changed = await events.receive()
            assert isinstance(changed, ProtocolsChanged)
            assert changed.protocols == (ECHO, "/a")


def test_a_missing_extra_is_named_at_start() -> None:
    program = """
import sys
sys.modules["OpenSSL"] = None
import trio
from talos.errors import NotSupported
from talos.host.config import NodeConfig, Stack
from talos.host.node import open_node
from talos.security.tls import Tls

async def main():
    async with open_node(NodeConfig(stack=Stack(security=(Tls,)))):
        print("the node opened")

try:
    trio.run(main)
except NotSupported as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "talos[tls]" in done.stdout


# -- peers


async def test_open_stream_is_for_connections_of_this_node_and_names_a_protocol(memory_config: Any) -> None:
    async with server_and_client(memory_config) as (server, client):
        with pytest.raises(ConfigError):
            await client.open_stream(server.peer_id)
        with pytest.raises(LocalProtocolError):
            await client.open_stream(object(), ECHO)  # type: ignore[arg-type]


async def test_one_more_connection_of_a_peer_supplants_its_oldest_idle_one(
    memory_config: Any, autojump_clock: Any
) -> None:
    key = PrivateKey.generate()
    async with open_node(memory_config()) as server, AsyncExitStack() as visitors:
        server.handle(ECHO)(echo)
        nodes = []
        for _ in range(8):
            node = await visitors.enter_async_context(open_node(memory_config(key=key)))
            await node.connect(server.peer_id, server.addrs)
            nodes.append(node)
            await trio.testing.wait_all_tasks_blocked()
        assert len(server.connections) == 8
        busy = await nodes[0].open_stream(server.peer_id, ECHO)
        await busy.send_all(b"x")
        await busy.receive_some()
        ninth = await visitors.enter_async_context(open_node(memory_config(key=key)))
        await ninth.connect(server.peer_id, server.addrs)
        await trio.testing.wait_all_tasks_blocked()
        assert len(server.connections) == 8
        assert [len(node.connections) for node in nodes[:3]] == [1, 0, 1]
        await busy.send_all(b"y")
        assert await busy.receive_some() == b"y"


async def test_a_peer_that_comes_back_again_and_again_is_always_served(memory_config: Any, autojump_clock: Any) -> None:
    key = PrivateKey.generate()
    async with open_node(memory_config()) as server, AsyncExitStack() as visitors:
        server.handle(ECHO)(echo)
        for _ in range(40):  # and none of them leaves
            node = await visitors.enter_async_context(open_node(memory_config(key=key)))
            connection = await node.connect(server.peer_id, server.addrs)
            async with await node.open_stream(connection, ECHO) as stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
            assert len(server.connections) <= 12
        await trio.testing.wait_all_tasks_blocked()
        assert len(server.connections) == 8


async def test_a_peer_whose_connections_are_all_in_use_gets_no_more(memory_config: Any, autojump_clock: Any) -> None:
    key = PrivateKey.generate()
    limits = LimitsConfig(connections_per_peer=1)
    async with open_node(memory_config(limits=limits)) as server, open_node(memory_config(key=key)) as first:
        server.handle(ECHO)(echo)
        stream = await first.open_stream(await first.connect(server.peer_id, server.addrs), ECHO)
        await stream.send_all(b"x")
        await stream.receive_some()
        async with open_node(memory_config(key=key)) as second:
            try:
                await second.connect(server.peer_id, server.addrs)
            except DialError:
                pass  # it may learn of the refusal before its muxer runs, or behind that
            await trio.testing.wait_all_tasks_blocked()
            assert second.connections == []
        assert len(server.connections) == 1
        await stream.send_all(b"y")
        assert await stream.receive_some() == b"y"


async def test_too_many_connections_are_trimmed_idle_and_youngest_first(
    memory_config: Any, autojump_clock: Any
) -> None:
    limits = LimitsConfig(manager=ManagerLimits(low=3, high=4, grace_seconds=60))
    async with open_node(memory_config(limits=limits)) as server, AsyncExitStack() as visitors:
        server.handle(ECHO)(echo)
        nodes = []

        async def arrive() -> None:
            node = await visitors.enter_async_context(open_node(memory_config()))
            await node.connect(server.peer_id, server.addrs)
            nodes.append(node)
            await trio.sleep(1)

        for _ in range(4):
            await arrive()
        await trio.sleep(100)
        assert len(server.connections) == 4
        busy = await nodes[3].open_stream(server.peer_id, ECHO)
        await busy.send_all(b"x")
        await busy.receive_some()
        with server.keeping(nodes[2].peer_id):
            await arrive()  # the fifth: too young itself
            await trio.sleep(5)
            assert [len(node.connections) for node in nodes] == [0, 0, 1, 1, 1]
        await arrive()
        await arrive()
        await trio.sleep(5)
        assert [len(node.connections) for node in nodes[2:]] == [0, 1, 1, 1, 1]
        await busy.aclose()


async def test_connections_too_young_to_go_are_trimmed_when_they_are_old_enough(
    memory_config: Any, autojump_clock: Any
) -> None:
    limits = LimitsConfig(manager=ManagerLimits(low=1, high=1, grace_seconds=60))
    async with open_node(memory_config(limits=limits)) as server, AsyncExitStack() as visitors:
        for _ in range(3):
            node = await visitors.enter_async_context(open_node(memory_config()))
            await node.connect(server.peer_id, server.addrs)
        await trio.sleep(50)
        assert len(server.connections) == 3
        await trio.sleep(25)
        assert len(server.connections) == 1


class Refusing:
    def __init__(self, step: GateStep, error: Exception | None) -> None:
        self.step = step
        self.error = error

    def allow(self, step: GateStep, peer: Any, addr: Any) -> bool:
        if step is self.step and self.error is not None:
            raise self.error
        return step is not self.step


@pytest.mark.parametrize("step", [GateStep.ACCEPT, GateStep.SECURED_IN, GateStep.UPGRADED_IN])
@pytest.mark.parametrize("error", [None, ValueError("bug")], ids=["no", "raises"])
async def test_a_gate_that_says_no_or_raises_keeps_a_peer_out(
    memory_config: Any, autojump_clock: Any, step: GateStep, error: Exception | None
) -> None:
    seen: list[object] = []
    async with (
        open_node(memory_config(gates=(Refusing(step, error),))) as server,
        open_node(memory_config()) as client,
        open_node(memory_config()) as bystander,
    ):
        with server.observe(seen.append):
            try:
                await client.connect(server.peer_id, server.addrs)
            except DialError:
                pass  # it may learn of the refusal before its muxer runs, or behind that
            await trio.testing.wait_all_tasks_blocked()
            assert server.connections == []
            await server.connect(bystander.peer_id, bystander.addrs)
        assert [event.peer for event in seen if isinstance(event, PeerConnected)] == [bystander.peer_id]
        assert server.peerstore.addrs(client.peer_id) == ()


async def test_an_observer_that_raises_is_skipped(memory_config: Any, autojump_clock: Any) -> None:
    def broken(event: object) -> None:
        raise ValueError("bug")

    async with open_node(memory_config()) as server, open_node(memory_config()) as client:
        with server.observe(broken):
            await client.connect(server.peer_id, server.addrs)
            await trio.testing.wait_all_tasks_blocked()
            assert len(server.connections) == 1


async def test_peers_come_and_go_by_events(memory_config: Any, autojump_clock: Any) -> None:
    seen: list[object] = []
    async with open_node(memory_config()) as server:
        with server.observe(seen.append):
            for _ in range(2):
                async with open_node(memory_config()) as client:
                    await client.connect(server.peer_id, server.addrs)
                    await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
    kinds = [type(event) for event in seen if isinstance(event, PeerConnected | PeerDisconnected)]
    assert kinds == [PeerConnected, PeerDisconnected] * 2


async def test_a_slow_subscriber_hears_what_it_missed(memory_config: Any, autojump_clock: Any) -> None:
    async with open_node(memory_config(limits=LimitsConfig(event_queue=1))) as node, node.events() as events:
        for _ in range(3):
            node.emit(ProtocolsChanged(()))
        assert isinstance(await events.receive(), ProtocolsChanged)
        dropped = await events.receive()
        assert isinstance(dropped, Dropped)
        assert dropped.count == 2


class Relayed(Transport):
    """Wraps connections of another transport as if a relay carried them."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner

    def matches(self, addr: Any) -> bool:
        return "p2p-circuit" in str(addr)

    @asynccontextmanager
    async def dial(
        self, addr: Any, peer: PeerId | None, *, budget: Any = None, punch: Role | None = None
    ) -> AsyncIterator[Connection]:
        bare = parse(str(addr).split("/p2p/")[0])
        async with self.inner.dial(bare, peer, budget=budget) as connection:
            connection.limited = True  # type: ignore[misc]
            yield connection

    async def listen(self, addr: Any) -> Listener:
        raise NotImplementedError


async def test_relayed_connections_serve_only_who_asks_for_them(memory_config: Any, autojump_clock: Any) -> None:
    async with open_node(memory_config()) as server, open_node(memory_config()) as client:
        server.handle(ECHO)(echo)
        client.handle("/back")(echo)
        client.handle("/back/limited", limited=True)(echo)
        address = parse(f"{server.addrs[0]}/p2p-circuit")
        with client.using(Relayed(client._transports[0])):
            connection = await client.connect(server.peer_id, [address])
        assert connection.limited
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(DialError, match="relay"):
            await client.open_stream(connection, ECHO)
        async with await client.open_stream(server.peer_id, ECHO, limited_ok=True) as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        assert client.connections == [connection]
        stream = await server.open_stream(client.peer_id, "/back/limited", "/back")
        assert stream.protocol == "/back/limited"
        stream = await server.open_stream(client.peer_id, "/back", "/back/limited")
        assert stream.protocol == "/back/limited"
        direct = await client.connect(server.peer_id, server.addrs)
        assert not direct.limited
        assert (await client.open_stream(server.peer_id, ECHO)).connection is direct


async def test_the_system_limit_refuses_own_dials_too(memory_config: Any, autojump_clock: Any) -> None:
    limits = LimitsConfig(system=replace(LimitsConfig().system, connections_out=0))
    async with open_node(memory_config()) as server, open_node(memory_config(limits=limits)) as client:
        with pytest.raises(DialError) as failure:
            await client.connect(server.peer_id, server.addrs)
        assert isinstance(next(iter(failure.value.causes.values())), LimitExceeded)


def connections_in_memory() -> int:
    gc.collect()
    return sum(isinstance(thing, HostConnection) for thing in gc.get_objects())


async def test_two_hundred_visits_leave_nothing_behind(memory_config: Any, autojump_clock: Any) -> None:
    async with open_node(memory_config()) as server:
        server.handle(ECHO)(echo)

        async def visit() -> None:
            async with (
                open_node(memory_config()) as client,
                await client.open_stream(await client.connect(server.peer_id, server.addrs), ECHO) as stream,
            ):
                await stream.send_all(b"x")
                await stream.receive_some()

        for _ in range(10):
            await visit()
        await trio.testing.wait_all_tasks_blocked()
        tasks, held = trio.lowlevel.current_statistics().tasks_living, connections_in_memory()
        for _ in range(190):
            await visit()
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert not any(server.limits.snapshot().values())
        assert connections_in_memory() == held
