"""A process that writes letters, or takes them in, until it is killed: `python -m tests.messaging.writer ROLE DIR ADDR COUNT`.

It keeps the count of what was written by its own history: letter number n is the n-th message of its store.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from talos.addr import parse, split_peer
from talos.agent import open_host
from talos.chain import ChainConfig, ChainKeys, open_chain
from talos.errors import LimitExceeded
from talos.host.config import NodeConfig
from talos.identity.wallet import EncryptionKey, Wallet
from talos.messaging import Messaging, MessagingConfig, StrangerLimits, WalletKeys, open_messaging

if TYPE_CHECKING:
    from talos.identity.peer_id import PeerId

CREATED_MS = int(time.time() // 86_400 - 1) * 86_400_000
ALICE, BOB = b"\x0a" * 32, b"\x0b" * 32
LIMITS = MessagingConfig(stranger=StrangerLimits(messages_burst=1_000_000))


def wallet(role: str) -> Wallet:
    """The same at every start."""
    root = ALICE if role == "alice" else BOB
    return Wallet(
        root=root,
        store_key=root,
        created_ms=CREATED_MS,
        encryption=(EncryptionKey(root, CREATED_MS),),
        name=role.title(),
    )


async def written(messaging: Messaging, peer: PeerId, text: str) -> None:
    """Also when so much waits that there is no room for a while."""
    while True:
        try:
            await messaging.send(peer, text)
        except LimitExceeded:
            await trio.sleep(0.1)
        else:
            return


async def write(messaging: Messaging, addr: str, count: int) -> None:
    """Goes on where the history ends; says `done` when all is delivered."""
    peer = split_peer(parse(addr))[1]
    assert peer is not None
    sent = [message for message in messaging.history() if not message.incoming]
    for number in range(len(sent), count):
        await written(messaging, peer, f"letter {number}")
    for message in [message for message in messaging.history() if not message.incoming]:
        outgoing = messaging.outgoing(message.id)
        assert outgoing is not None
        await outgoing.wait()
    print("done", flush=True)
    await trio.sleep_forever()


async def main(role: str, directory: Path, addr: str, count: int) -> None:
    mine = wallet(role)
    listen = (parse(addr.partition("/p2p/")[0]),) if role == "bob" else ()
    async with (
        open_host(NodeConfig(listen=listen, key=mine.identity)) as node,
        open_chain(None, ChainConfig(), ChainKeys.of(mine), directory=directory / "chain") as chain,
        open_messaging(node, WalletKeys(mine), LIMITS, directory=directory, audit=chain) as messaging,
    ):
        print("ready", flush=True)
        if role == "bob":
            await trio.sleep_forever()
        bare, peer = split_peer(parse(addr))
        assert peer is not None
        node.peerstore.add_addrs(peer, [bare])
        await write(messaging, addr, count)


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(mode=0o700, exist_ok=True)
    trio.run(main, sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
