"""Networks of DHT nodes over memory transport: `async with dht_network(12) as nodes:`."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from talos.agent import open_host
from talos.dht import Dht, DhtConfig, accept_anything, default_namespaces, open_dht
from talos.host.block import background
from talos.host.config import NodeConfig, Stack
from talos.security.plaintext import Plaintext
from talos.testing.network import addr_of
from talos.transport.memory import Memory, MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from multiaddr import Multiaddr

    from talos.host.node import Node
    from talos.identity.keys import PrivateKey
    from talos.identity.peer_id import PeerId

EPOCH = 1_700_000_000.0
TEST_CONFIG = DhtConfig(
    namespaces={**default_namespaces("/talos/kad/1.0.0"), "example": accept_anything()},
)


def virtual_clock() -> float:
    """Unix seconds that move with trio's clock."""
    return EPOCH + trio.current_time()


@dataclass
class Peer:
    """One node of a network with its DHT."""

    node: Node
    dht: Dht

    @property
    def id(self) -> PeerId:
        return self.node.peer_id

    @property
    def addr(self) -> Multiaddr:
        """Where it listens, ending in its peer id."""
        return self.node.addrs[0]


def node_config(
    memory: MemoryNetwork, number: int, *, listen: bool = True, key: PrivateKey | None = None
) -> NodeConfig:
    """A node of `memory`, without cryptography on its connections."""
    return NodeConfig(
        key=key,
        stack=Stack(transports=(Memory(memory, str(number)),), security=(partial(Plaintext, insecure=True),)),
        listen=(addr_of(number),) if listen else (),
        insecure=True,
    )


@asynccontextmanager
async def open_peer(
    memory: MemoryNetwork,
    number: int,
    config: DhtConfig = TEST_CONFIG,
    *,
    listen: bool = True,
    key: PrivateKey | None = None,
    store: Path | None = None,
) -> AsyncIterator[Peer]:
    """Node `number` of `memory`."""
    async with (
        open_host(node_config(memory, number, listen=listen, key=key)) as node,
        open_dht(node, config, store=store, clock=virtual_clock) as dht,
    ):
        yield Peer(node, dht)


ACQUAINTED = 10


class Crowd:
    """Nodes that come and go in any order: `open` and `close` them within the block of `crowd()`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.memory = MemoryNetwork()
        self._nursery = nursery
        self._leave: dict[PeerId, trio.Event] = {}
        self._gone: dict[PeerId, trio.Event] = {}

    async def open(self, number: int, config: DhtConfig = TEST_CONFIG, **options: Any) -> Peer:
        """Node `number`, which has had its first round."""
        peer: Peer = await self._nursery.start(partial(self._run, number, config, **options))
        await peer.dht.bootstrapped()
        return peer

    async def close(self, peer: Peer) -> None:
        """Lets it leave, with good-bye."""
        self._leave[peer.id].set()
        await self._gone.pop(peer.id).wait()

    async def _run(self, number: int, config: DhtConfig, *, task_status: trio.TaskStatus[Peer], **options: Any) -> None:
        async with open_peer(self.memory, number, config, **options) as peer:
            leave, gone = self._leave[peer.id], self._gone[peer.id] = trio.Event(), trio.Event()
            task_status.started(peer)
            await leave.wait()
        gone.set()


@asynccontextmanager
async def crowd() -> AsyncIterator[Crowd]:
    """A network without nodes."""
    async with background() as nursery:
        yield Crowd(nursery)


@asynccontextmanager
async def dht_network(
    size: int, config: DhtConfig = TEST_CONFIG, memory: MemoryNetwork | None = None
) -> AsyncIterator[list[Peer]]:
    """`size` servers, the first of which is the bootstrap of the others; all of them know all, or ten, of the others."""
    memory = memory or MemoryNetwork()
    async with AsyncExitStack() as stack:
        peers: list[Peer] = []
        for number in range(size):
            known = replace(config, bootstrap=(peers[0].addr,)) if peers else config
            peers += [await stack.enter_async_context(open_peer(memory, number, known))]
        for peer in peers:
            await peer.dht.bootstrapped()
        # Two that came at the same time learn of each other in a later round.
        while alone := [peer for peer in peers if peer.dht.status().peers < min(size - 1, ACQUAINTED)]:
            await trio.sleep(1)
            for peer in alone:
                await peer.dht.refresh()
        yield peers
