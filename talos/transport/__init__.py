"""Transports that carry raw bytes, each loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from talos.transport.memory import Memory, MemoryConfig, MemoryNetwork
    from talos.transport.pnet import NetworkKey, Private
    from talos.transport.resolve import Resolver, ResolverConfig
    from talos.transport.tcp import Tcp, TcpConfig
    from talos.transport.unix import Unix, UnixConfig
    from talos.transport.websocket import WebSocket, WebSocketConfig

__all__ = [
    "Memory",
    "MemoryConfig",
    "MemoryNetwork",
    "NetworkKey",
    "Private",
    "Resolver",
    "ResolverConfig",
    "Tcp",
    "TcpConfig",
    "Unix",
    "UnixConfig",
    "WebSocket",
    "WebSocketConfig",
]

_MODULES = {
    "Memory": "memory",
    "MemoryConfig": "memory",
    "MemoryNetwork": "memory",
    "NetworkKey": "pnet",
    "Private": "pnet",
    "Resolver": "resolve",
    "ResolverConfig": "resolve",
    "Tcp": "tcp",
    "TcpConfig": "tcp",
    "Unix": "unix",
    "UnixConfig": "unix",
    "WebSocket": "websocket",
    "WebSocketConfig": "websocket",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
