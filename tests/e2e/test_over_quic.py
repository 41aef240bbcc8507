"""The application protocols again, over QUIC: tests of theirs, with other nodes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from talos.abc import Role
from talos.addr import parse
from talos.host import presets
from talos.host.config import NodeConfig, Stack
from talos.host.node import open_node
from talos.transport.quic import Quic
from tests.carriers import USUAL
from tests.chain import test_sync
from tests.mcp import harness, test_tunnel
from tests.messaging import test_files, test_letters
from tests.messaging.file_harness import Sender
from tests.messaging.harness import Person

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack
    from pathlib import Path

    from talos.host.node import Node

TESTING = presets.testing
"""As it is before a test puts `over_quic` in its place."""
LISTEN = "/ip4/127.0.0.1/udp/0/quic-v1"


def over_quic() -> NodeConfig:
    return TESTING(stack=Stack(transports=(Quic,)), listen=LISTEN)


@pytest.mark.parametrize(
    "test",
    [test_letters.test_a_letter_arrives, test_letters.test_many_at_once_keep_their_order_both_ways],
    ids=lambda test: test.__name__,
)
async def test_messages(test: Callable[[Person, Person], Awaitable[None]], tmp_path: Path) -> None:
    await test(Person("Alice", tmp_path / "a", over_quic()), Person("Bob", tmp_path / "b", over_quic()))


@pytest.mark.parametrize(
    "test",
    [test_files.test_a_file_arrives, test_files.test_either_side_gives_up],
    ids=lambda test: test.__name__,
)
async def test_file_transfers(test: Callable[[Sender, Sender, Path], Awaitable[None]], tmp_path: Path) -> None:
    await test(Sender("Alice", tmp_path / "a", over_quic()), Sender("Bob", tmp_path / "b", over_quic()), tmp_path)


async def test_chain_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def node_of(stack: AsyncExitStack, keys: object, *others: Node, carrier: str) -> Node:
        node = await stack.enter_async_context(open_node(replace(over_quic(), key=keys.identity)))  # type: ignore[attr-defined]
        assert carrier == USUAL
        for other in others:
            await node.connect(other.peer_id, other.addrs)
        return node

    monkeypatch.setattr(test_sync, "node_of", node_of)
    await test_sync.test_a_copy_catches_up_and_follows(tmp_path, USUAL)


@pytest.mark.parametrize(
    "test",
    [
        test_tunnel.test_lines_of_many_kinds_keep_their_order,
        test_tunnel.test_a_server_that_dies_in_a_call_is_told_of,
    ],
    ids=lambda test: test.__name__,
)
async def test_mcp_tunnel(test: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.presets, "testing", over_quic)  # type: ignore[attr-defined]
    await test()


async def test_one_call_of_each_era(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.presets, "testing", over_quic)  # type: ignore[attr-defined]
    await test_tunnel.test_one_call_of_each_era(USUAL)


def test_listening_on_quic_brings_the_transport_along() -> None:
    config = presets.listening(presets.minimal(), [parse(LISTEN), parse("/ip4/127.0.0.1/tcp/0")])
    assert Quic in config.stack.transports
    assert len(config.stack.transports) == 2
    assert len(presets.listening(presets.minimal(), [parse("/ip4/127.0.0.1/tcp/0")]).stack.transports) == 1


async def test_two_nodes_punch_at_once() -> None:
    """As DCUtR lets them: one dials, the other opens the way and answers; both have the one connection."""
    async with open_node(over_quic()) as a, open_node(over_quic()) as b:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(b.connect, a.peer_id, a.addrs, punch=Role.LISTENER))
                nursery.start_soon(partial(a.connect, b.peer_id, b.addrs, punch=Role.DIALER))
        assert [connection.role for connection in a.connections] == [Role.DIALER]
        assert [connection.role for connection in b.connections] == [Role.LISTENER]
