"""Addresses of WebSocket endpoints: /ws, /wss, /tls/ws and /tls/sni/<name>/ws behind a host, with or without a path."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import quote, unquote_to_bytes

from multiaddr import Multiaddr

from talos.addr.binary import Component, components, encode
from talos.addr.questions import DNS_NAMES, IP_NAMES
from talos.errors import ConfigError

PORT, SECURE_PORT = 80, 443
_SECURITY = {("ws",): False, ("wss",): True, ("tls", "ws"): True, ("tls", "sni", "ws"): True}
# What a path in a request line must not need quoting for; the percent sign was decoded before.
_PATH_SAFE = "/-._~!$&'()*+,;=:@"


@dataclass(frozen=True, slots=True)
class WebSocketAddr:
    """What a WebSocket address says."""

    below: Multiaddr
    """Host and TCP port."""
    suffix: Multiaddr
    """What stands behind them."""
    secure: bool
    server_name: str
    """Whom the certificate has to name, and what the Host header says: a name or an IP address."""
    port: int
    path: str
    """Of the request, quoted; `/` when the address has none."""


def websocket_of(addr: Multiaddr) -> WebSocketAddr:
    """What `addr` says; ConfigError when it is no WebSocket address."""
    found = _websocket_of(addr.to_bytes())
    if found is None:
        raise ConfigError(f"address {addr} is not a WebSocket's")
    return found


def is_websocket(addr: Multiaddr) -> bool:
    """Whether `addr` is a WebSocket's, without a peer behind it."""
    return _websocket_of(addr.to_bytes()) is not None


def naming_server(addr: Multiaddr) -> Multiaddr:
    """`addr` with the name that it begins with also as /sni, where a certificate is checked against it.

    So the name outlives its resolution.
    """
    found = _websocket_of(addr.to_bytes())
    parts = components(addr)
    if found is None or not found.secure or parts[0].name not in DNS_NAMES or any(p.name == "sni" for p in parts):
        return addr
    path = [part for part in parts if part.name == "http-path"]
    security = [Component("tls", b""), Component("sni", parts[0].value), Component("ws", b"")]
    return Multiaddr(found.below.to_bytes() + encode([*security, *path]))


@lru_cache(maxsize=1024)
def _websocket_of(data: bytes) -> WebSocketAddr | None:
    parts = list(components(Multiaddr(data)))
    host_parts = 2 if len(parts) > 1 and (parts[0].name, parts[1].name) == ("ip6zone", "ip6") else 1
    if len(parts) <= host_parts or parts[host_parts - 1].name not in IP_NAMES + DNS_NAMES:
        return None
    with_port = parts[host_parts].name == "tcp"
    rest = parts[host_parts + with_port :]
    path = rest.pop() if rest and rest[-1].name == "http-path" else None
    secure = _SECURITY.get(tuple(part.name for part in rest))
    if secure is None:
        return None
    port = int.from_bytes(parts[host_parts].value, "big") if with_port else SECURE_PORT if secure else PORT
    tcp = Component("tcp", port.to_bytes(2, "big"))
    named = next((part for part in rest if part.name == "sni"), parts[host_parts - 1])
    return WebSocketAddr(
        below=Multiaddr(encode([*parts[:host_parts], tcp])),
        suffix=Multiaddr(encode(rest if path is None else [*rest, path])),
        secure=secure,
        server_name=str(ip_address(named.value)) if named.name in IP_NAMES else named.value.decode(),
        port=port,
        path="/" if path is None else _quoted(path.value),
    )


def request_path(target: str) -> str:
    """The path of a request's target in the form of `WebSocketAddr.path`."""
    return _quoted(unquote_to_bytes(target.partition("?")[0]))


def _quoted(path: bytes) -> str:
    return "/" + quote(path.lstrip(b"/"), safe=_PATH_SAFE)
