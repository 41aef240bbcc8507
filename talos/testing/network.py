"""Many nodes in one process, joined by a memory network with seeded latency, loss and partitions.

    async with open_network(open_my_node, size=20, config=MemoryConfig(latency_seconds=0.02)) as network:
        network.partition({0, 1, 2})

Under an autojump clock such a network takes no real time.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from talos.addr import parse
from talos.transport.memory import Memory, MemoryConfig, MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from multiaddr import Multiaddr

__all__ = ["Network", "open_network"]

N = TypeVar("N")


class Network(Generic[N]):
    """The open nodes, by number, and the weather between them."""

    def __init__(self, memory: MemoryNetwork) -> None:
        self.nodes: list[N] = []
        self._memory = memory

    def partition(self, *islands: Iterable[int]) -> None:
        """Cuts each island of nodes off from all others; nodes in none of them form an island too."""
        self._memory.partition(*({str(number) for number in island} for island in islands))

    def heal(self) -> None:
        """Joins all nodes again."""
        self._memory.heal()


def addr_of(number: int) -> Multiaddr:
    """Where node `number` listens."""
    return parse(f"/memory/{number + 1}")


@asynccontextmanager
async def open_network(
    open_node: Callable[[Memory, Multiaddr, int], AbstractAsyncContextManager[N]],
    size: int,
    config: MemoryConfig | None = None,
) -> AsyncIterator[Network[N]]:
    """Opens `size` nodes, each by `open_node(transport, address to listen on, number)`, and closes them last first."""
    memory = MemoryNetwork(config)
    network: Network[N] = Network(memory)
    async with AsyncExitStack() as stack:
        for number in range(size):
            opened = open_node(Memory(memory, str(number)), addr_of(number), number)
            network.nodes.append(await stack.enter_async_context(opened))
        yield network
