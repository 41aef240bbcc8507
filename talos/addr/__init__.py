"""Questions about multiaddrs, and the only place that reads them from bytes or text (libp2p addressing).

The `multiaddr` library carries and prints addresses. It takes any bytes for an address, though, and fails late
and with errors of its own, so everything from outside comes in by `decode` or `parse`, which walk the components
by the table here. An address that came in by them prints without an error, and the questions below ask no more
than that of theirs.
"""

from __future__ import annotations

from talos.addr.binary import (
    MAX_ADDR_BYTES,
    MAX_COMPONENTS,
    Component,
    components,
    decode,
    decode_each,
    decode_known,
    decode_or_skip,
)
from talos.addr.ip import (
    IP,
    IpBlock,
    at_ip,
    ip_block,
    ip_group,
    ip_of,
    is_loopback,
    is_private,
    is_public,
    limit_blocks,
)
from talos.addr.questions import host_port, is_exactly, is_relayed, names_of, path_of, split_peer, with_peer
from talos.addr.text import parse
from talos.addr.websocket import WebSocketAddr, is_websocket, naming_server, request_path, websocket_of

__all__ = [
    "IP",
    "MAX_ADDR_BYTES",
    "MAX_COMPONENTS",
    "Component",
    "IpBlock",
    "WebSocketAddr",
    "at_ip",
    "components",
    "decode",
    "decode_each",
    "decode_known",
    "decode_or_skip",
    "host_port",
    "ip_block",
    "ip_group",
    "ip_of",
    "is_exactly",
    "is_loopback",
    "is_private",
    "is_public",
    "is_relayed",
    "is_websocket",
    "limit_blocks",
    "names_of",
    "naming_server",
    "parse",
    "path_of",
    "request_path",
    "split_peer",
    "websocket_of",
    "with_peer",
]
