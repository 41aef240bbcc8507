"""WebSocket: /ws, and /wss with web TLS. Security and a muxer run inside as over TCP (libp2p websockets)."""

from __future__ import annotations

from talos.transport.websocket.config import WebSocketConfig
from talos.transport.websocket.stream import WebSocketStream
from talos.transport.websocket.transport import WebSocket

__all__ = ["WebSocket", "WebSocketConfig", "WebSocketStream"]
