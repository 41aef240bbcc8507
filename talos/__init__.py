"""Talos: a libp2p networking stack on trio.

Public names are loaded on first use (PEP 562), so that importing one submodule loads no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from multiaddr import Multiaddr

    from talos.abc import Connection, Event, Handler, Host, ProtocolId, Role, Stream, StreamReset
    from talos.addr import parse
    from talos.agent import Agent, open_host
    from talos.errors import DialError, NegotiationError, TalosError
    from talos.homes import open_home
    from talos.host import presets
    from talos.host.config import NodeConfig, Stack, TimeoutsConfig
    from talos.host.limits import LimitsConfig
    from talos.host.node import Node, open_node
    from talos.host.routes import Routes
    from talos.identity.keys import PrivateKey, PublicKey
    from talos.identity.peer_id import PeerId
    from talos.program import run
    from talos.wire.message_stream import MessageStream

__all__ = [
    "Agent",
    "Connection",
    "DialError",
    "Event",
    "Handler",
    "Host",
    "LimitsConfig",
    "MessageStream",
    "Multiaddr",
    "NegotiationError",
    "Node",
    "NodeConfig",
    "PeerId",
    "PrivateKey",
    "ProtocolId",
    "PublicKey",
    "Role",
    "Routes",
    "Stack",
    "Stream",
    "StreamReset",
    "TalosError",
    "TimeoutsConfig",
    "open_home",
    "open_host",
    "open_node",
    "parse",
    "presets",
    "run",
]

__version__ = "0.1.0.dev0"

_HOMES = {
    "Agent": "talos.agent",
    "Connection": "talos.abc",
    "DialError": "talos.errors",
    "Event": "talos.abc",
    "Handler": "talos.abc",
    "Host": "talos.abc",
    "LimitsConfig": "talos.host.limits",
    "MessageStream": "talos.wire.message_stream",
    "Multiaddr": "multiaddr",
    "NegotiationError": "talos.errors",
    "Node": "talos.host.node",
    "NodeConfig": "talos.host.config",
    "PeerId": "talos.identity.peer_id",
    "PrivateKey": "talos.identity.keys",
    "ProtocolId": "talos.abc",
    "PublicKey": "talos.identity.keys",
    "Role": "talos.abc",
    "Routes": "talos.host.routes",
    "Stack": "talos.host.config",
    "Stream": "talos.abc",
    "StreamReset": "talos.abc",
    "TalosError": "talos.errors",
    "TimeoutsConfig": "talos.host.config",
    "open_home": "talos.homes",
    "open_host": "talos.agent",
    "open_node": "talos.host.node",
    "parse": "talos.addr",
    "run": "talos.program",
    "presets": "talos.host.presets",
}


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
