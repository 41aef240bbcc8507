"""One end of a file transfer, as a process: `python -m bench.file_end DIRECTORY [FILE TO]`.

It says where it is on its first line; given a file and an address it sends, else it receives. The sender's second line
has the seconds from the call to the end, those from the offer to the end, and its CPU seconds meanwhile.
"""

from __future__ import annotations

import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from talos.addr import parse, split_peer
from talos.agent import open_host
from talos.chain import ChainConfig, ChainKeys, open_chain
from talos.host.config import NodeConfig
from talos.identity.wallet import Wallet
from talos.messaging.files.config import FileConfig
from talos.messaging.files.mime import TypeLimits
from talos.messaging.files.service import open_files
from talos.messaging.people import WalletKeys
from talos.messaging.service import open_messaging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.host.node import Node
    from talos.messaging.files.service import Files

GIB = 1 << 30
LIMITS = FileConfig(limits=TypeLimits(other=4 * GIB), stranger_bytes_per_day=1 << 50)


async def main(words: Sequence[str]) -> None:
    directory = Path(words[0])
    wallet = Wallet.new("bench", now_ms=time.time_ns() // 1_000_000 - 1000)
    keys = WalletKeys(wallet)
    async with AsyncExitStack() as stack:
        config = NodeConfig(key=wallet.identity, listen=(parse("/ip4/127.0.0.1/tcp/0"),))
        node = await stack.enter_async_context(open_host(config))
        chain = await stack.enter_async_context(
            open_chain(node, ChainConfig(), ChainKeys.of(wallet), directory=directory / "chain")
        )
        messaging = await stack.enter_async_context(open_messaging(node, keys, directory=directory, audit=chain))
        opening = open_files(
            messaging, node, keys, LIMITS, directory=directory, downloads=directory / "downloads", audit=chain
        )
        files = await stack.enter_async_context(opening)
        print(node.addrs[0], flush=True)
        if len(words) == 1:
            await trio.sleep_forever()
        await send(node, files, Path(words[1]), words[2])


async def send(node: Node, files: Files, path: Path, to: str) -> None:
    address, peer = split_peer(parse(to))
    assert peer is not None, "an address of a peer"
    await node.connect(peer, [address])
    started, cpu = time.perf_counter(), time.process_time()
    transfer = await files.send(peer, path)
    offered = time.perf_counter()
    await transfer.wait()
    done = time.perf_counter()
    print(done - started, done - offered, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
