"""A live stream: Alice reads numbers aloud, Bob writes down what he hears, and nobody keeps it.

python examples/live.py
"""

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from talos import open_host, presets, run
from talos.chain import ChainConfig, ChainKeys, open_chain
from talos.host.node import Node
from talos.identity.wallet import Wallet
from talos.messaging import Messaging, WalletKeys, open_messaging
from talos.messaging.live import IncomingStream


@asynccontextmanager
async def somebody(name: str, base: Path) -> AsyncIterator[tuple[Node, Messaging]]:
    """A node with an identity, a record of what it does, and messages."""
    wallet, home = Wallet.new(name, now_ms=time.time_ns() // 1_000_000), base / name
    home.mkdir(mode=0o700)
    async with (
        open_host(presets.testing(key=wallet.identity)) as node,
        open_chain(node, ChainConfig(), ChainKeys.of(wallet), directory=home / "chain") as chain,
        open_messaging(node, WalletKeys(wallet), directory=home, audit=chain) as messaging,
    ):
        yield node, messaging


async def write_down(streams: trio.MemoryReceiveChannel[IncomingStream]) -> None:
    stream = await streams.receive()
    total = 0
    async for reading in stream:
        total += reading["value"]
    print(f"bob heard {stream.media_type} to its end, in order: the sum is {total}")


async def main() -> None:
    with tempfile.TemporaryDirectory() as base:
        async with (
            somebody("alice", Path(base)) as (node, alice),
            somebody("bob", Path(base)) as (far, bob),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(write_down, bob.streams())
            await node.connect(far.peer_id, far.addrs)
            async with await alice.open_live(far.peer_id, codec="json", media_type="application/json") as stream:
                for value in range(100):
                    await stream.send({"value": value})
            print(f"alice sent {stream.chunks} chunks, and bob has signed that he got all of them")


if __name__ == "__main__":
    run(main)
