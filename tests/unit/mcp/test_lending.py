"""Several policies on one node: each comes and goes by itself."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from talos.agent import open_host
from talos.errors import ConfigError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.mcp.lending import Lending, merged, open_lending
from talos.mcp.policy import Policy, quick_policy
from talos.mcp.serve import McpServeConfig
from talos.mcp.wire import PROTOCOL_ID

if TYPE_CHECKING:
    from collections.abc import Callable

PEER = PeerId.from_key(PrivateKey.generate().public_key)


def policy(name: str) -> Policy:
    return quick_policy([sys.executable, "-c", "pass"], [PEER], name=name)


def config(rules: Policy) -> McpServeConfig:
    return McpServeConfig(policy=rules, audit="off", reaper=False)


def lent(lending: Lending) -> object:
    status = lending.status()
    return status and status["servers"]


async def test_policies_come_and_go(memory_config: Callable[..., Any]) -> None:
    said: list[str] = []
    async with open_host(memory_config()) as node, open_lending(node, config, None, leave_seconds=1) as lending:
        assert PROTOCOL_ID not in node.protocols
        lending.kill()
        assert (lent(lending), lending.prometheus()) == (None, "")
        async with lending.lend(policy("a"), said.append) as first:
            assert (lent(lending), PROTOCOL_ID in node.protocols) == (["a"], True)
            async with lending.lend(policy("b"), said.append):
                assert lent(lending) == ["a", "b"]
                with pytest.raises(ConfigError, match="'a' is lent already"):
                    async with lending.lend(policy("a"), said.append):
                        pytest.fail("two servers of one name")
                with pytest.raises(ConfigError, match="'b' is lent already"):
                    await lending.change(first, policy("b"))
                assert first.policy.servers.keys() == {"a"}
                await lending.change(first, policy("c"))
                assert lent(lending) == ["b", "c"]
                assert "talos_mcp_sessions" in lending.prometheus()
                lending.kill()
            assert lent(lending) == ["c"]
        assert (lent(lending), PROTOCOL_ID in node.protocols) == (None, False)
    assert said.count("policy reloaded") == 5  # three changes, each told to all who lend then


async def test_what_cannot_be_lent_leaves_nothing(memory_config: Callable[..., Any]) -> None:
    async with open_host(memory_config()) as node, open_lending(node, config, None, leave_seconds=1) as lending:
        missing = quick_policy("no-such-program", [PEER])
        with pytest.raises(ConfigError, match="not found"):
            async with lending.lend(missing, print):
                pytest.fail("lent a program that is not there")
        assert lent(lending) is None
        async with lending.lend(policy("a"), print):
            assert lent(lending) == ["a"]


def test_what_is_merged_is_all_of_it() -> None:
    both = merged([policy("a"), policy("b")])
    assert both.servers.keys() == {"a", "b"}
    assert [grant.server for grant in both.grants] == ["a", "b"]
    assert both.policy_hash not in (policy("a").policy_hash, policy("b").policy_hash)
