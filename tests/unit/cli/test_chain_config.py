"""`[chain]` on its way from the file to the agent's chain."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from talos.agent import AgentConfig, _open_chain
from talos.chain import ChainConfig
from talos.chain.config import DAY_SECONDS, Retention
from talos.chain.genesis import Mode
from talos.cli import config
from talos.cli.exits import Failure
from talos.cli.owner import chain_config
from talos.errors import ConfigError
from talos.host import presets
from talos.host.node import open_node
from talos.identity.home import Home
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.identity.wallet import Wallet

if TYPE_CHECKING:
    from pathlib import Path

PEER = PeerId.from_key(PrivateKey.from_seed(b"\x07" * 32).public_key)


def settings(**chain: object) -> config.Config:
    return config.Config(chain=config.ChainConfig(**chain))  # type: ignore[arg-type]


def test_defaults_are_the_chains_own() -> None:
    assert chain_config(settings()) == ChainConfig()


def test_all_of_it_arrives() -> None:
    found = chain_config(settings(bits=12, mode="shared", replicas=(str(PEER),), retention=90))
    assert (found.bits, found.mode, found.replicas) == (12, Mode.SHARED, (PEER,))
    assert found.retention == Retention(age_seconds=90 * DAY_SECONDS)


def test_a_replica_that_nobody_is() -> None:
    with pytest.raises(Failure, match=r"chain\.replicas") as caught:
        chain_config(settings(replicas=("bob",)))
    assert caught.value.code == "config_invalid"


async def test_a_chain_keeps_its_mode(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    wallet = Wallet.new("Alice", now_ms=1)
    preset = presets.minimal(wallet.identity)
    async with open_node(preset) as node:
        for mode in (Mode.SHARED, Mode.SHARED):
            agent = AgentConfig(node=preset, wallet=wallet, home=home, chain=ChainConfig(mode=mode))
            async with AsyncExitStack() as stack:
                assert (await _open_chain(stack, agent, node)).mode is mode
        agent = AgentConfig(node=preset, wallet=wallet, home=home, chain=ChainConfig())
        async with AsyncExitStack() as stack:
            with pytest.raises(ConfigError, match=r'is "feed", but the chain in .* is "shared" for good'):
                await _open_chain(stack, agent, node)
