"""One end of a file transfer, as a process: `python -m bench.file_end DIRECTORY [FILE TO]`.

It says where it is on its first line; given a file and an address it sends, else it receives. The sender's second line
has the seconds from the call to the end, those from the offer to the end, and its CPU seconds meanwhile; its third, of
the same file sent once more, the seconds that each of the texts beside it took to be acknowledged.
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

    from talos.identity.peer_id import PeerId
    from talos.messaging.files.service import Files
    from talos.messaging.service import Messaging

GIB = 1 << 30
PAUSE_SECONDS = 0.01
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
        address, peer = split_peer(parse(words[2]))
        assert peer is not None, "an address of a peer"
        await node.connect(peer, [address])
        await send(files, Path(words[1]), peer)
        await send_beside(messaging, files, Path(words[1]), peer)


async def send(files: Files, path: Path, peer: PeerId) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    transfer = await files.send(peer, path)
    offered = time.perf_counter()
    await transfer.wait()
    done = time.perf_counter()
    print(done - started, done - offered, time.process_time() - cpu, flush=True)


async def send_beside(messaging: Messaging, files: Files, path: Path, peer: PeerId) -> None:
    waits: list[float] = []

    async def texts() -> None:
        while True:
            started = time.perf_counter()
            await (await messaging.send(peer, "a text of some length beside a file of more")).wait()
            waits.append(time.perf_counter() - started)
            await trio.sleep(PAUSE_SECONDS)

    async with trio.open_nursery() as nursery:
        transfer = await files.send(peer, path)
        nursery.start_soon(texts)
        await transfer.wait()
        nursery.cancel_scope.cancel()
    print(*waits, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
