"""The agent of a home, for programs: what `talos up` runs, without its commands.

async with open_home("~/.bot", name="Bot") as agent:
    await agent.messaging.send(peer, "I am online.")
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from talos.agent import AgentConfig, open_agent
from talos.errors import WalletError
from talos.host import presets
from talos.identity import wallet
from talos.identity.contacts import AddressBook
from talos.identity.home import Home
from talos.identity.keyring import HomeKeys
from talos.identity.sealed import Passphrase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from multiaddr import Multiaddr

    from talos.agent import Agent
    from talos.host.config import NodeConfig

__all__ = ["open_home"]


@asynccontextmanager
async def open_home(
    path: str | Path,
    *,
    name: str = "",
    passphrase: str | None = None,
    node: NodeConfig | None = None,
    bootstrap: Sequence[Multiaddr] = (),
) -> AsyncIterator[Agent]:
    """Record, DHT, messages and files of the home at `path`, for the length of the block.

    Where there is no identity one called `name` is made, sealed by `passphrase` or else an unlock key beside it.
    `node` is as for `open_host`, its key being the home's; `bootstrap` are addresses of DHT peers, each ending in
    `/p2p/…`. What comes is for the program: `agent.messaging.received()`, `agent.files.watching()`. Commands of this
    home cannot run meanwhile, for nobody serves its control socket. HomeInUse while another process holds the home,
    WalletError, and what `open_agent` raises.
    """
    from talos.dht import DhtConfig
    from talos.messaging import MessagingConfig
    from talos.messaging.files import FileConfig

    home = Home(_expanded(path))
    home.prepare()
    with home.lock():
        keys = _keys(home, name, Passphrase.of(passphrase) if passphrase is not None else None)
        config = AgentConfig(
            node=replace(node or presets.default(), key=keys.identity),
            wallet=keys.wallet,
            home=home,
            keys=keys,
            dht=DhtConfig(bootstrap=tuple(bootstrap)),
            messages=MessagingConfig(),
            tells_messages=False,
            files=FileConfig(),
            people=AddressBook(home.contacts),
        )
        async with open_agent(config, _tell_nobody) as agent:
            yield agent


def _expanded(path: str | Path) -> Path:
    return Path(path).expanduser()


def _keys(home: Home, name: str, passphrase: Passphrase | None) -> HomeKeys:
    """Those of the home, new ones where there are none; what the calendar wants of them is done."""
    now_ms = time.time_ns() // 1_000_000

    def given() -> Passphrase:
        if passphrase is None:
            raise WalletError(f"the wallet in {home.path} is sealed by a passphrase", reason="locked")
        return passphrase

    if not home.wallet.exists():
        wallet.create(home, wallet.Wallet.new(name, now_ms=now_ms), passphrase)
    keys = HomeKeys(home, *wallet.unlock_to_keep(home, given))
    keys.turn(now_ms)
    return keys


def _tell_nobody(kind: str, **fields: object) -> None:
    """A program asks the services themselves."""
