"""One side of a transfer as a process that may be killed: `python -m tests.messaging.file_side DIRECTORY NAME [FILE]`.

It writes its address on the first line, reads the other side's from its input, sends FILE when it never did, and writes
`complete` when the transfer is.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from talos.addr import parse, split_peer
from talos.errors import DialError
from talos.host.config import NodeConfig
from talos.identity.wallet import Wallet
from talos.messaging.files.config import FileConfig
from talos.messaging.files.mime import TypeLimits
from talos.messaging.files.transfer import TransferState
from tests.messaging.file_harness import MIB, Sender
from tests.messaging.harness import START_MS, ReceiptLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.messaging.files.service import Files

CONFIG = FileConfig(limits=TypeLimits(other=4096 * MIB), sync_bytes=4 * MIB, sync_seconds=0.1)


async def main(words: Sequence[str]) -> None:
    directory, name = Path(words[0]), words[1]
    person = Sender(name, directory, NodeConfig(listen=(parse("/ip4/127.0.0.1/tcp/0"),)))
    # The same identity at each start, without a wallet file between them.
    person.wallet = Wallet.new(name, now_ms=START_MS - 1000, root=sha256(name.encode()).digest())
    person.wallet = keep_keys(directory, person.wallet)
    person.log = ReceiptLog(person.wallet)
    async with person.files_open(CONFIG) as files:
        print(person.node.addrs[0], flush=True)
        line = await trio.to_thread.run_sync(sys.stdin.readline)
        address, peer = split_peer(parse(line.strip()))
        assert peer is not None
        person.node.peerstore.add_addrs(peer, [address])
        if len(words) > 2 and not files.transfers():
            await files.send(peer, Path(words[2]))
        try:
            await person.node.connect(peer, [address])
        except DialError:
            print("alone", file=sys.stderr)
        await complete(files)
        print("complete", flush=True)
        await trio.sleep_forever()


def keep_keys(directory: Path, wallet: Wallet) -> Wallet:
    """The wallet with the secrets of the first start, kept beside the store."""
    path = directory / "secrets"
    if not path.exists():
        path.write_bytes(wallet.store_key + wallet.encryption[0].secret)
        os.sync()
    kept = path.read_bytes()
    encryption = (replace(wallet.encryption[0], secret=kept[32:]),)
    return replace(wallet, store_key=kept[:32], encryption=encryption)


async def complete(files: Files) -> None:
    with files.watching() as changes:
        while not any(one.state is TransferState.COMPLETE for one in files.transfers()):
            await changes.receive()


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
