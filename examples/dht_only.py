"""A DHT without a registry: nodes that know one address find each other, a value and a provider.

python examples/dht_only.py                 five nodes in this process
python examples/dht_only.py ADDR/p2p/PEER   one more node of a network that there is
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from talos.addr import parse
from talos.agent import open_host
from talos.dht import DhtConfig, open_dht, provider_key
from talos.host import presets
from talos.program import run

if TYPE_CHECKING:
    from multiaddr import Multiaddr

    from talos.dht import Dht
    from talos.host.node import Node

FILE = provider_key("talos.tar.gz")


async def join(stack: AsyncExitStack, *bootstrap: Multiaddr) -> tuple[Node, Dht]:
    """A node that knows these addresses alone."""
    node = await stack.enter_async_context(open_host(presets.testing()))
    dht = await stack.enter_async_context(open_dht(node, DhtConfig(bootstrap=bootstrap)))
    await dht.bootstrapped()
    return node, dht


async def main() -> None:
    async with AsyncExitStack() as stack:
        if len(sys.argv) > 1:
            node, dht = await join(stack, parse(sys.argv[1]))
            print(f"{node.peer_id} has {dht.status().peers} peers in its table")
            return

        first, _ = await join(stack)
        known = first.addrs[0]
        alice, alices_dht = await join(stack, known)
        await join(stack, known)
        await join(stack, known)
        bob, bobs_dht = await join(stack, known)

        await alices_dht.publish_keys(bytes(32), name="Alice")
        told = await alices_dht.provide(FILE)
        print(f"Alice is {alice.peer_id}; she provides a file and has told {told} peers")

        print(f"Bob finds her at {(await bobs_dht.find_peer(alice.peer_id))[0]}")
        record = await bobs_dht.keys_of(alice.peer_id)
        print(f"Bob has her key record, in which she calls herself {record.name if record else None!r}")
        for provider in await bobs_dht.find_providers(FILE):
            connection = await bob.connect(provider.peer)
            print(f"Bob is connected to a provider of the file, {connection.remote_peer}")


if __name__ == "__main__":
    run(main)
