"""A node with what others expect of it, and the names that the package gives."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest

import talos
from talos.abc import PeerIdentified
from talos.agent import open_host
from talos.identify import IDENTIFY, PUSH
from talos.perf import PERF
from talos.ping import PING, ping

if TYPE_CHECKING:
    from talos.abc import Stream


async def test_an_open_host_identifies_and_answers_pings(memory_config: Any, autojump_clock: Any) -> None:
    async with open_host(memory_config()) as server, open_host(memory_config()) as client:
        async with client.events() as events:
            connection = await client.connect(server.peer_id, server.addrs)
            identified = await events.receive()
            while not isinstance(identified, PeerIdentified):
                identified = await events.receive()
        assert identified.peer == server.peer_id
        assert set(server.protocols) == {IDENTIFY, PUSH, PING}
        assert client.peerstore.protocols(server.peer_id) == set(server.protocols)
        assert client.peerstore.agent_version(server.peer_id).startswith("talos/")
        assert await ping(client, connection) >= 0
        assert not connection.in_use
    for node in (server, client):
        assert not any(node.limits.snapshot().values())
        assert node.limits.leaked == 0


async def test_perf_is_served_only_where_it_is_asked_for(memory_config: Any) -> None:
    async with open_host(memory_config(), perf=True) as node:
        assert PERF in node.protocols
    async with open_host(memory_config()) as node:
        assert PERF not in node.protocols


async def test_what_the_block_raises_comes_out_as_it_is(memory_config: Any) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_host(memory_config()):
            raise KeyError("mine")


async def test_handlers_that_must_not_miss_anybody_are_routes(memory_config: Any) -> None:
    routes = talos.Routes()

    @routes.handle("/early/1")
    async def early(stream: Stream) -> None:
        await stream.send_all(b"x")

    async with open_host(memory_config(routes=(routes,))) as server, open_host(memory_config()) as client:
        await client.connect(server.peer_id, server.addrs)
        async with await client.open_stream(server.peer_id, "/early/1") as stream:
            assert await stream.receive_some() == b"x"


@pytest.mark.parametrize("name", talos.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(talos, name) is getattr(importlib.import_module("talos"), name)
    assert name in dir(talos)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = talos.nonsense
