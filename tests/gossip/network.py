"""Networks of gossiping nodes in one process, over the memory transport; made for a virtual clock."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from talos.gossip.service import Gossip, open_gossip
from talos.host.block import background
from talos.host.config import NodeConfig, Stack
from talos.host.node import Node, open_node
from talos.testing.network import Network, open_network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    import trio
    from multiaddr import Multiaddr

    from talos.abc import TopicMessage, Validator
    from talos.identity.peer_id import PeerId
    from talos.transport.memory import Memory, MemoryConfig

TOPIC = "fleet"
SETTLING_SECONDS = 5
"""Some heartbeats: by then meshes are made."""


@dataclass
class Member:
    """A node that gossips, and all that it has heard."""

    node: Node
    gossip: Gossip
    heard: list[TopicMessage] = field(default_factory=list)

    @property
    def peer_id(self) -> PeerId:
        return self.node.peer_id

    @property
    def data(self) -> list[bytes]:
        return [message.data for message in self.heard]

    async def hear(
        self, topic: str = TOPIC, validator: Validator | None = None, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Reads the topic for ever."""
        async with self.gossip.subscribe(topic, validator) as messages:
            task_status.started()
            async for message in messages:
                self.heard.append(message)

    async def dial(self, *others: Member) -> None:
        for other in others:
            await self.node.connect(other.peer_id, other.node.addrs)


@asynccontextmanager
async def open_member(transport: Memory, addr: Multiaddr, number: int, **options: Any) -> AsyncIterator[Member]:
    """One node; its choices are those of its number."""
    config = NodeConfig(stack=Stack(transports=(transport,)), listen=(addr,))
    async with open_node(config) as node, open_gossip(node, random=Random(number), **options) as gossip:
        yield Member(node, gossip)


@asynccontextmanager
async def open_members(
    size: int,
    options: Callable[[int], dict[str, Any]] = lambda number: {},
    memory: MemoryConfig | None = None,
) -> AsyncIterator[Network[Member]]:
    """So many nodes that do not know each other yet; `options` are those of `open_gossip`, by number."""

    def opened(transport: Memory, addr: Multiaddr, number: int) -> Any:
        return open_member(transport, addr, number, **options(number))

    async with open_network(opened, size, memory) as network:
        yield network


async def join_at_random(members: list[Member], degree: int, seed: int = 1) -> None:
    """Each dials the one before it and others: the graph is connected, nearly random."""
    random = Random(seed)
    for number, member in enumerate(members[1:], 1):
        others = random.sample(members[:number], min(degree, number))
        await member.dial(members[number - 1], *others)


@asynccontextmanager
async def hearing(members: Iterable[Member], topic: str = TOPIC) -> AsyncIterator[trio.Nursery]:
    """All of them read the topic within the block."""
    async with background() as nursery:
        for member in members:
            await nursery.start(member.hear, topic)
        yield nursery
