"""A stack by name, such as tcp/noise/yamux, as Talos's configuration: exactly that one, so that a cell proves it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from talos.addr import parse
from talos.errors import ConfigError
from talos.host.config import NodeConfig, Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from talos.abc import ByteTransport, Muxer
    from talos.host.config import SecurityFactory, TransportFactory
    from talos.testing.web_certificate import WebCertificate

__all__ = ["LISTEN", "node_config", "web_environment"]

T = TypeVar("T")

LISTEN: Mapping[str, str] = {
    "tcp": "/ip4/127.0.0.1/tcp/0",
    "ws": "/ip4/127.0.0.1/tcp/0/ws",
    "wss": "/ip4/127.0.0.1/tcp/0/wss",
    "memory": "/memory/1",
    "quic-v1": "/ip4/127.0.0.1/udp/0/quic-v1",
}
"""Where a listener listens that was not told. Unix sockets have no such place."""


def _tcp() -> ByteTransport:
    from talos.transport import Tcp

    return Tcp()


def _ws() -> ByteTransport:
    from talos.transport import WebSocket

    return WebSocket()


def _wss() -> ByteTransport:
    """With the certificates that the environment names; without any it dials, and checks nothing, as images must."""
    from talos.transport import WebSocket, WebSocketConfig

    chain, key, authority = (os.environ.get(name) for name in ("WEB_CHAIN", "WEB_KEY", "WEB_AUTHORITY"))
    return WebSocket(
        WebSocketConfig(
            certificate=Path(chain) if chain else None,
            private_key=Path(key) if key else None,
            authorities=Path(authority) if authority else None,
            verify=authority is not None,
        )
    )


def web_environment(made: WebCertificate) -> Mapping[str, str]:
    """How peers are told of the certificates of wss."""
    authority = str(made.authority)
    return {
        "WEB_CHAIN": str(made.chain),
        "WEB_KEY": str(made.key),
        "WEB_AUTHORITY": authority,
        "NODE_EXTRA_CA_CERTS": authority,  # Node's own
    }


def _unix() -> ByteTransport:
    from talos.transport import Unix

    return Unix()


def _memory() -> ByteTransport:
    from talos.transport import Memory

    return Memory()


def _quic() -> TransportFactory:
    from talos.transport.quic import Quic

    return Quic


def _noise() -> SecurityFactory:
    from talos.security.noise import Noise

    return Noise


def _tls() -> SecurityFactory:
    from talos.security.tls import Tls

    return Tls


def _plaintext() -> SecurityFactory:
    from talos.security.plaintext import Plaintext

    return Plaintext


def _yamux() -> Muxer:
    from talos.muxer.yamux import Yamux

    return Yamux()


def _mplex() -> Muxer:
    from talos.muxer.mplex import Mplex

    return Mplex()


_TRANSPORTS: Mapping[str, Callable[[], ByteTransport]] = {
    "tcp": _tcp,
    "ws": _ws,
    "wss": _wss,
    "unix": _unix,
    "memory": _memory,
}
_WHOLE: Mapping[str, Callable[[], TransportFactory]] = {"quic-v1": _quic}
"""Transports that bring their own security and streams: a whole stack each."""
_SECURITY: Mapping[str, Callable[[], SecurityFactory]] = {"noise": _noise, "tls": _tls, "plaintext": _plaintext}
_MUXERS: Mapping[str, Callable[[], Muxer]] = {"yamux": _yamux, "mplex": _mplex}


def node_config(stack: str, listen: Sequence[str] = ()) -> NodeConfig:
    """A node that speaks `stack` and nothing else; ConfigError when there is no such thing."""
    if stack in _WHOLE:
        return NodeConfig(listen=tuple(map(parse, listen)), stack=Stack(transports=(_WHOLE[stack](),)))
    if stack.count("/") != 2:
        raise ConfigError(f"a stack is TRANSPORT/SECURITY/MUXER or {' or '.join(_WHOLE)}, not {stack[:80]!r}")
    transport, security, muxer = stack.split("/")
    return NodeConfig(
        listen=tuple(map(parse, listen)),
        stack=Stack(
            transports=(_made(_TRANSPORTS, transport, "transport"),),
            security=(_made(_SECURITY, security, "security"),),
            muxers=(_made(_MUXERS, muxer, "muxer"),),
        ),
        insecure=security == "plaintext",
    )


def _made(table: Mapping[str, Callable[[], T]], name: str, kind: str) -> T:
    if name not in table:
        raise ConfigError(f"talos has no {kind} {name[:40]!r}; it has {', '.join(table)}")
    return table[name]()
