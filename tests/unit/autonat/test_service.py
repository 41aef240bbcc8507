"""Asking others whether they can dial us, and answering those who ask."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from talos.abc import AddressConfirmed, Reachability, ReachabilityChanged
from talos.addr import host_port, parse, split_peer
from talos.autonat import (
    Answer,
    Autonat,
    AutonatConfig,
    AutonatServer,
    AutonatServerConfig,
    open_autonat,
    open_autonat_server,
    probe_v1,
)
from talos.autonat.client import DialBacks, probe
from talos.autonat.wire import DIAL_BACK
from talos.host.config import NodeConfig
from talos.identify import open_identify
from tests.waiting import next_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from multiaddr import Multiaddr

    from talos.host.node import Node

SERVE = AutonatServerConfig(allow_private=True, longest_wait_seconds=0.0)
ASK = AutonatConfig(allow_private=True, settle_seconds=0.0)


def tcp() -> NodeConfig:
    return NodeConfig(listen=(parse("/ip4/127.0.0.1/tcp/0"),))


@asynccontextmanager
async def served(
    open_nodes: Any, config: AutonatServerConfig = SERVE
) -> AsyncIterator[tuple[AutonatServer, Node, Node]]:
    """A server, and who will ask it."""
    async with AsyncExitStack() as stack:
        server, dialer, asker = await stack.enter_async_context(open_nodes(tcp(), NodeConfig(), tcp()))
        for node in (server, dialer, asker):
            await stack.enter_async_context(open_identify(node))
        yield await stack.enter_async_context(open_autonat_server(server, dialer, config)), server, asker


def elsewhere(node: Node) -> Multiaddr:
    """Our port at an address of this machine where nobody listens."""
    return parse(f"/ip4/127.0.0.2/tcp/{host_port(node.addrs[0])[1]}")


async def test_what_can_be_dialled_is_confirmed(open_nodes: Any) -> None:
    async with served(open_nodes) as (server, served_by, asker), asker.events() as events:
        async with open_autonat(asker, ASK) as autonat:
            await asker.connect(served_by.peer_id, served_by.addrs)
            event = await next_of(events, AddressConfirmed)
            await next_of(events, ReachabilityChanged)
            assert event.addr == split_peer(asker.addrs[0])[0]
            assert autonat.reachability is Reachability.PUBLIC
            assert autonat.confirmed == (event.addr,)
        assert server.dialled == 1


async def test_what_nobody_can_dial_is_refuted_and_the_relays_hear_of_it(open_nodes: Any) -> None:
    async with served(open_nodes) as (_, server, asker), asker.events() as events:
        only = AutonatConfig(allow_private=True, settle_seconds=0.0, addrs=1)
        async with _asking_about(asker, only, elsewhere(asker)) as autonat:
            await asker.connect(server.peer_id, server.addrs)
            assert (await next_of(events, ReachabilityChanged)).reachability is Reachability.PRIVATE
            assert autonat.confirmed == ()


@asynccontextmanager
async def _asking_about(node: Node, config: AutonatConfig, addr: Multiaddr) -> AsyncIterator[Autonat]:
    async with open_autonat(node, config, lambda: (addr,)) as autonat:
        autonat._wanted = lambda: [addr]  # type: ignore[method-assign]
        yield autonat


async def test_an_address_elsewhere_costs_data(open_nodes: Any) -> None:
    async with served(open_nodes) as (server, served_by, asker):
        backs = DialBacks()
        with asker.mounted(DIAL_BACK, backs.take):
            connection = await asker.connect(served_by.peer_id, served_by.addrs)
            before = connection.stats.bytes_out
            assert await probe(asker, connection, elsewhere(asker), backs) is Answer.NOT_REACHED
            assert connection.stats.bytes_out - before >= 30_000
            assert server.dialled == 1


async def test_private_addresses_are_not_dialled_for_others(open_nodes: Any) -> None:
    async with served(open_nodes, AutonatServerConfig()) as (server, served_by, asker):
        backs = DialBacks()
        connection = await asker.connect(served_by.peer_id, served_by.addrs)
        own = split_peer(asker.addrs[0])[0]
        assert await probe(asker, connection, own, backs) is Answer.NOTHING
        assert await probe_v1(asker, connection, own) is Answer.NOTHING
        assert server.dialled == 0


async def test_version_1(open_nodes: Any) -> None:
    async with served(open_nodes) as (server, served_by, asker):
        connection = await asker.connect(served_by.peer_id, served_by.addrs)
        assert await probe_v1(asker, connection, split_peer(asker.addrs[0])[0]) is Answer.REACHED
        assert await probe_v1(asker, connection, elsewhere(asker)) is Answer.NOTHING
        assert server.dialled == 1
