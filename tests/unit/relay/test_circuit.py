"""Circuits from end to end: relay, who reserves, who calls."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from multiaddr import Multiaddr

from talos.errors import DialError, NegotiationError
from talos.identify import open_identify
from talos.ping import open_ping, ping
from talos.relay import Circuit, RelayLimits, RelayReserved, RelayServer, open_circuit, open_relay
from tests.waiting import next_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from talos.abc import Stream
    from talos.host.config import NodeConfig
    from talos.host.node import Node

    MakeConfig = Callable[..., NodeConfig]

ECHO = "/echo/1.0.0"


class World:
    """A relay R, B who reserved there, and A who knows neither of them yet."""

    relay: Node
    server: RelayServer
    callee: Node
    circuit: Circuit
    caller: Node

    @property
    def addr(self) -> Multiaddr:
        """Where B is reached."""
        return next(addr for addr in self.callee.addrs if "p2p-circuit" in str(addr))


def through(relay: Node) -> Multiaddr:
    return relay.addrs[0].encapsulate(Multiaddr("/p2p-circuit"))


@asynccontextmanager
async def world(open_nodes: Any, make: MakeConfig, limits: RelayLimits | None = None) -> AsyncIterator[World]:
    made = World()
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(open_nodes(make(), make(), make()))
        made.relay, made.callee, made.caller = nodes
        for node in nodes:
            await stack.enter_async_context(open_ping(node))
            await stack.enter_async_context(open_identify(node))
        made.server = await stack.enter_async_context(open_relay(made.relay, limits))
        events = await stack.enter_async_context(made.callee.events())
        made.circuit = await stack.enter_async_context(open_circuit(made.callee, listen=(through(made.relay),)))
        await stack.enter_async_context(open_circuit(made.caller))
        await next_of(events, RelayReserved)
        yield made


async def echo(stream: Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def test_two_peers_talk_through_a_relay(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with world(open_nodes, memory_config) as w:
        connection = await w.caller.connect(w.callee.peer_id, [w.addr])
        assert connection.limited
        assert connection.remote_peer == w.callee.peer_id
        assert await ping(w.caller, w.callee.peer_id) > 0
        assert w.server.reservations == 1
        assert w.server.circuits == 1
        (theirs,) = [one for one in w.callee.connections if one.remote_peer == w.caller.peer_id]
        assert theirs.limited
        assert str(theirs.remote_addr).endswith(f"/p2p/{w.relay.peer_id}/p2p-circuit/p2p/{w.caller.peer_id}")


async def test_services_opt_in_to_relayed_connections(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with world(open_nodes, memory_config) as w:
        await w.caller.connect(w.callee.peer_id, [w.addr])
        w.callee.handle(ECHO)(echo)
        with pytest.raises(DialError, match="by a relay only"):
            await w.caller.open_stream(w.callee.peer_id, ECHO)
        async with await w.caller.open_stream(w.callee.peer_id, ECHO, limited_ok=True) as stream:
            await stream.send_all(b"hello")
            with pytest.raises(NegotiationError, match="refused"):
                await stream.receive_some()


async def test_limits_end_a_circuit(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with world(open_nodes, memory_config, RelayLimits(circuit_bytes=20_000)) as w:
        w.callee.handle(ECHO, limited=True)(echo)
        await w.caller.connect(w.callee.peer_id, [w.addr])
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            async with await w.caller.open_stream(w.callee.peer_id, ECHO, limited_ok=True) as stream:
                await stream.send_all(bytes(30_000))
                while await stream.receive_some():
                    pass
