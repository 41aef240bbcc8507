"""The agent of a home, opened by a program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from talos import open_home, presets
from talos.errors import ConfigError, HomeInUse, WalletError
from talos.identity import sealed

if TYPE_CHECKING:
    from pathlib import Path


async def test_an_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    async with open_home(tmp_path / "bot", name="Bot", node=presets.testing()) as agent:
        assert agent.name == "Bot"
        assert agent.node.peer_id == agent.peer_id
        assert None not in (agent.messaging, agent.files, agent.dht, agent.chain)
        with pytest.raises(HomeInUse):
            async with open_home(tmp_path / "bot", node=presets.testing()):
                pass
        made = agent.peer_id
    async with open_home(tmp_path / "bot", name="another name", node=presets.testing()) as agent:
        assert (agent.name, agent.peer_id) == ("Bot", made)


async def test_a_sealed_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "_MEMORY_KIB", 19 * 1024)
    monkeypatch.setattr(sealed, "_PASSES", 2)
    async with open_home(tmp_path / "bot", name="Bot", passphrase="sesame", node=presets.testing()) as agent:
        assert not agent.home.unlock_key.exists()
    for wrong, message in ((None, "sealed by a passphrase"), ("simsim", "wrong passphrase")):
        with pytest.raises(WalletError, match=message):
            async with open_home(tmp_path / "bot", passphrase=wrong, node=presets.testing()):
                pass


async def test_an_identity_has_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a name has"):
        async with open_home(tmp_path / "bot", node=presets.testing()):
            pass
