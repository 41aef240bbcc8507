"""From a relayed connection to a direct one, on one machine."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from multiaddr import Multiaddr

from talos.addr import is_relayed, parse
from talos.dcutr import DcutrConfig, HolePunched, open_dcutr
from talos.host.config import NodeConfig
from talos.identify import open_identify
from talos.ping import open_ping, ping
from talos.relay import RelayReserved, open_circuit, open_relay
from tests.waiting import next_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from talos.host.node import Node

LOCAL = DcutrConfig(allow_private=True, grace_seconds=0.0)


def tcp() -> NodeConfig:
    return NodeConfig(listen=(parse("/ip4/127.0.0.1/tcp/0"),))


@asynccontextmanager
async def relayed_pair(open_nodes: Any, config: DcutrConfig) -> AsyncIterator[tuple[Node, Node, Multiaddr]]:
    """A caller, who is called, and where."""
    async with AsyncExitStack() as stack:
        relay, callee, caller = await stack.enter_async_context(open_nodes(tcp(), tcp(), tcp()))
        for node in (relay, callee, caller):
            await stack.enter_async_context(open_ping(node))
            await stack.enter_async_context(open_identify(node))
        await stack.enter_async_context(open_relay(relay))
        events = await stack.enter_async_context(callee.events())
        way = relay.addrs[0].encapsulate(Multiaddr("/p2p-circuit"))
        await stack.enter_async_context(open_circuit(callee, listen=(way,)))
        await stack.enter_async_context(open_circuit(caller))
        for node in (callee, caller):
            await stack.enter_async_context(open_dcutr(node, config))
        await next_of(events, RelayReserved)
        yield caller, callee, way


async def until_direct(node: Node, other: Node) -> None:
    await until(node, lambda: any(one.remote_peer == other.peer_id and not one.limited for one in node.connections))


async def test_a_peer_that_can_be_dialled_is_dialled(open_nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talos.identify.machine._reaches", lambda *_: True)  # over a relay only public ones count
    async with relayed_pair(open_nodes, LOCAL) as (caller, callee, way):
        async with callee.events() as events:
            assert (await caller.connect(callee.peer_id, [way])).limited
            event = await next_of(events, HolePunched)
            assert event == HolePunched(caller.peer_id, succeeded=True, attempts=0)
        await until_direct(caller, callee)
        assert await ping(caller, callee.peer_id) > 0
        # Nobody needs the relayed one any more.
        await until(caller, lambda: not any(is_relayed(one.remote_addr) for one in caller.connections))


async def test_a_hole_is_punched_where_no_address_is_known(open_nodes: Any) -> None:
    async with relayed_pair(open_nodes, LOCAL) as (caller, callee, way):
        async with callee.events() as events:
            assert (await caller.connect(callee.peer_id, [way])).limited
            event = await next_of(events, HolePunched)
            assert event == HolePunched(caller.peer_id, succeeded=True, attempts=1)
        await until_direct(caller, callee)


async def test_without_any_address_the_relay_carries_on(open_nodes: Any) -> None:
    async with relayed_pair(open_nodes, DcutrConfig()) as (caller, callee, way):
        async with callee.events() as events:
            await caller.connect(callee.peer_id, [way])
            event = await next_of(events, HolePunched)
        assert not event.succeeded
        assert event.attempts == 3
        assert await ping(caller, callee.peer_id) > 0
        assert all(one.limited for one in caller.connections if one.remote_peer == callee.peer_id)
