"""What can be seen of an agent at once: `GET /v1/<name>`, a table of names to functions."""

from __future__ import annotations

import datetime as dt
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias

from talos import __version__
from talos.control.kinds import API

if TYPE_CHECKING:
    from talos.agent import Agent

__all__ = ["SNAPSHOTS", "find"]

Row: TypeAlias = Mapping[str, object]
Snapshot: TypeAlias = "Callable[[Agent, Mapping[str, str]], Row | Awaitable[Row]]"

SNAPSHOTS: dict[str, tuple[str, str]] = {
    "version": ("talos.control.snapshots", "version"),
    "status": ("talos.control.snapshots", "status"),
    "id": ("talos.control.snapshots", "identity"),
    "peers": ("talos.control.ops.peers", "snapshot"),
    "chain/status": ("talos.control.ops.chain", "status"),
    "chain/blocks": ("talos.control.ops.chain", "blocks"),
    "dht/table": ("talos.control.ops.dht", "table"),
    "gossip/mesh": ("talos.control.ops.gossip", "mesh"),
    "transfers": ("talos.control.ops.files", "transfers"),
}
"""Module and function by the route below /v1; a part in braces matches one segment and comes in the query."""


def find(route: str) -> tuple[Snapshot, dict[str, str]] | None:
    """The function of a route, with what its variable segments are."""
    segments = route.split("/")
    for pattern, (module, name) in SNAPSHOTS.items():
        found = _match(pattern.split("/"), segments)
        if found is not None:
            return getattr(import_module(module), name), found
    return None


async def take(snapshot: Snapshot, agent: Agent, query: Mapping[str, str]) -> Row:
    taken = snapshot(agent, query)
    return await taken if inspect.isawaitable(taken) else taken


def version(agent: Agent, query: Mapping[str, str]) -> Row:  # noqa: ARG001 - every snapshot is given a query
    return {"api": API, "version": __version__, "pid": os.getpid(), "ephemeral": agent.config.ephemeral}


def identity(agent: Agent, query: Mapping[str, str]) -> Row:  # noqa: ARG001
    return {
        "name": agent.name,
        "peer_id": str(agent.peer_id),
        "key_hex": agent.node.key.public_key.data.hex(),
        "addrs": [str(addr) for addr in agent.node.addrs],
    }


def status(agent: Agent, query: Mapping[str, str]) -> Row:  # noqa: ARG001
    """The fields of the kind `status`."""
    return {
        "running": True,
        "pid": os.getpid(),
        "started": _time(agent.started),
        "version": __version__,
        "uptime_ms": int((time.time() - agent.started) * 1000),
        "ephemeral": agent.config.ephemeral,
        "identity": {"name": agent.name, "peer_id": str(agent.peer_id)},
        "addrs": [str(addr) for addr in agent.node.addrs],
        "reachability": agent.reachability,
        "peers": len({connection.remote_peer for connection in agent.node.connections}),
        **agent.status(),
        "weakened": list(agent.weakened),
        "faults": agent.faults,
    }


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _match(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    if len(pattern) != len(segments):
        return None
    found: dict[str, str] = {}
    for part, segment in zip(pattern, segments, strict=True):
        if part.startswith("{"):
            found[part.strip("{}")] = segment
        elif part != segment:
            return None
    return found
