"""Ping: how long 32 bytes take to a peer and back.

python examples/ping.py                 two nodes in this process
python examples/ping.py ADDR/p2p/PEER   somebody else
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

from talos.addr import parse, split_peer
from talos.host import presets
from talos.host.node import open_node
from talos.ping import open_ping, pinging
from talos.program import run

COUNT = 5


async def main() -> None:
    async with AsyncExitStack() as stack:
        if len(sys.argv) > 1:
            target = parse(sys.argv[1])
        else:
            other = await stack.enter_async_context(open_node(presets.testing()))
            await stack.enter_async_context(open_ping(other))
            target = other.addrs[0]
        node = await stack.enter_async_context(open_node(presets.minimal()))
        connection = await node.connect(split_peer(target)[1], [target])
        async with pinging(node, connection) as pings:
            for number in range(1, COUNT + 1):
                print(f"{number}: {await pings.ping() * 1000:.2f} ms from {connection.remote_peer}")


if __name__ == "__main__":
    run(main)
