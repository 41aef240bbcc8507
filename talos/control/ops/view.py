"""Peers and connections as plain values, the same in every answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from talos import addr as addresses

if TYPE_CHECKING:
    from talos.agent import Agent
    from talos.host.connection import HostConnection
    from talos.identity.peer_id import PeerId

__all__ = ["connected_peer", "known_peer", "path_of", "rfc3339"]

_TRANSPORTS = ("quic-v1", "ws", "wss", "tcp", "unix", "memory")


def connected_peer(agent: Agent, connection: HostConnection) -> dict[str, object]:
    """The fields of the kind `peer`, of a peer that we are connected to."""
    security, muxer = (*(_last_name(layer) for layer in connection.layers), None, None)[:2]
    age = trio.current_time() - connection.opened_at
    rtt = connection.stats.rtt_seconds
    return {
        "peer_id": str(connection.remote_peer),
        "alias": agent.config.people.name_of(str(connection.remote_peer)) if agent.config.people else None,
        "claimed_name": None,
        "agent": agent.node.peerstore.agent_version(connection.remote_peer) or None,
        "connected": True,
        "path": path_of(connection),
        "addr": str(connection.remote_addr),
        "transport": _transport_of(connection),
        "security": security,
        "muxer": muxer,
        "rtt_ms": round(rtt * 1000, 3) if rtt > 0 else None,
        "since": rfc3339(time.time() - age),
    }


def known_peer(agent: Agent, peer: PeerId, addr: str | None, path: str | None = None) -> dict[str, object]:
    """The same of one that we only know of."""
    absent = dict.fromkeys(("transport", "security", "muxer", "rtt_ms", "since"))
    return {
        "peer_id": str(peer),
        "alias": agent.config.people.name_of(str(peer)) if agent.config.people else None,
        "claimed_name": None,
        "agent": agent.node.peerstore.agent_version(peer) or None,
        "connected": False,
        "path": path,
        "addr": addr,
        **absent,
    }


def path_of(connection: HostConnection) -> str:
    """`relayed`; `lan` where the other side is of a private network or this machine; else `direct`."""
    if connection.limited or addresses.is_relayed(connection.remote_addr):
        return "relayed"
    return "direct" if addresses.is_public(connection.remote_addr) else "lan"


def rfc3339(seconds: float) -> str:
    """Unix seconds as UTC with milliseconds."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{milliseconds:03d}Z"


def _transport_of(connection: HostConnection) -> str | None:
    names = addresses.names_of(connection.remote_addr)
    return next((name for name in _TRANSPORTS if name in names), None)


def _last_name(protocol: str) -> str:
    """`noise` of `/noise`, `yamux` of `/yamux/1.0.0`."""
    return protocol.strip("/").partition("/")[0]
