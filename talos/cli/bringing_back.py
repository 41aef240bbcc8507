"""Fetches this home's chain from a peer who keeps a copy, with a node that does nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from talos.cli.exits import Failure
from talos.errors import AuditError

if TYPE_CHECKING:
    from pathlib import Path

    from talos.cli.names import Name
    from talos.cli.session import Session
    from talos.identity.wallet import Wallet

__all__ = ["brought_back"]


def brought_back(session: Session, wallet: Wallet, who: Name, scratch: Path) -> Path:
    """The copy's directory, below `scratch`. The caller holds the home's lock.

    Failure when nothing says which chain it is; the errors of dialling and of `Chain.bring_back`.
    """
    from talos.chain.recover import chain_id_in

    try:
        chain_id = chain_id_in(session.home.chain)
    except AuditError as error:
        raise Failure("failed", str(error), hint="an export or a copy in a directory says it: --from DIR") from None
    return session.run(_fetch, session, wallet, who, scratch, chain_id)


async def _fetch(session: Session, wallet: Wallet, who: Name, scratch: Path, chain_id: bytes) -> Path:
    from talos.agent import open_host
    from talos.chain import ChainConfig, ChainKeys, open_chain
    from talos.cli import config
    from talos.cli.owner import dht_config
    from talos.dht import open_dht
    from talos.host import presets

    settings = config.load(session.home)
    peer = who.peer_id()
    asking = dht_config(settings, asks_only=True, contacts=session.contacts())
    ours = ChainConfig() if session.timeout is None else replace(ChainConfig(), sync_seconds=session.timeout)
    async with (
        open_host(presets.minimal(wallet.identity)) as node,
        open_dht(node, asking, store=session.home.path / "dht.db") as dht,
        open_chain(node, ours, ChainKeys.of(wallet), directory=scratch) as chain,
    ):
        await dht.bootstrapped()
        await node.connect(peer, who.addrs())
        return await chain.bring_back(peer, chain_id)
