"""What an agent does for its clients, one file to each family: `async def name(agent, args, emit)`.

An operation reads its `Arguments`, tells what happens by `emit`, and returns the fields of its result or raises
a TalosError or Failure. It runs in the agent or in a node that lives for it alone, and cannot tell which.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from talos.control.operations import Function

__all__ = ["OPERATIONS", "load"]

OPERATIONS: dict[str, tuple[str, str]] = {
    "chain-sync": ("talos.control.ops.chain", "sync"),
    "dht-find-peer": ("talos.control.ops.dht", "find_peer"),
    "dht-find-providers": ("talos.control.ops.dht", "find_providers"),
    "dht-get": ("talos.control.ops.dht", "get"),
    "dht-provide": ("talos.control.ops.dht", "provide"),
    "dht-put": ("talos.control.ops.dht", "put"),
    "files-answer": ("talos.control.ops.files", "answer_offers"),
    "gossip-pub": ("talos.control.ops.gossip", "pub"),
    "gossip-sub": ("talos.control.ops.gossip", "sub"),
    "letters-admit": ("talos.control.ops.messages", "admit"),
    "letters-decline": ("talos.control.ops.messages", "decline"),
    "mcp-serve": ("talos.control.ops.mcp_serve", "mcp_serve"),
    "outbox-cancel": ("talos.control.ops.messages", "cancel"),
    "outbox-retry": ("talos.control.ops.messages", "retry"),
    "peers": ("talos.control.ops.peers", "peers"),
    "ping": ("talos.control.ops.ping", "ping"),
    "ready": ("talos.control.ops.ready", "ready"),
    "register": ("talos.control.ops.dht", "register"),
    "send-file": ("talos.control.ops.files", "send_file"),
    "send": ("talos.control.ops.messages", "send"),
    "wallet-reread": ("talos.control.ops.wallet", "reread"),
}
"""Module and function by the name that clients ask for; a module is loaded with its first operation."""


def load(name: str) -> Function | None:
    """The operation of that name, if there is one."""
    home = OPERATIONS.get(name)
    return None if home is None else cast("Function", getattr(import_module(home[0]), home[1]))
