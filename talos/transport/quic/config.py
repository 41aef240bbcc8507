"""Limits of QUIC. Figures of RFC 9000 stand in `packet` and `parameters`; these are our choices."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from talos.errors import ConfigError

__all__ = ["QuicConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuicConfig:
    """Limits and deadlines of the QUIC transport; deadlines are totals, in seconds."""

    # -- streams
    max_inbound_streams: int = 256
    """Streams that the peer may have open at once; unidirectional ones are refused altogether."""
    max_outbound_streams: int = 256
    """Ours; `open_stream` raises LimitExceeded above. The peer's own limit makes it wait."""
    stream_window: int = 2 * 1024 * 1024
    """What the peer may send on a stream before anything of it was taken from the engine."""
    connection_window: int = 6 * 1024 * 1024
    """The same for all streams of a connection together."""
    stream_unread_bytes: int = 1024 * 1024
    """Unread bytes of one stream at which the connection takes nothing more from the engine (decision 0012)."""
    stall_seconds: float = 10.0
    """How long such a stream may hold up the others before it is reset."""
    stream_send_bytes: int = 256 * 1024
    """Not yet sent bytes of one stream at which writers wait."""
    connection_send_bytes: int = 1024 * 1024
    """The same for all streams of a connection."""
    streams_per_second: float = 1000.0
    """Inbound streams that a peer may open on a mean, in bursts of twice as many; more ends the connection."""

    # -- the handshake
    connect_seconds: float = 5.0
    """Until the peer's first answer."""
    handshake_seconds: float = 10.0
    """A whole handshake of ours."""
    accept_seconds: float = 5.0
    """A whole handshake of a newcomer: it costs us memory before anything is proven."""
    max_handshake_bytes: int = 64 * 1024
    """TLS messages of a peer that is not yet authenticated; a certificate has at most 8 KiB."""

    # -- listening
    backlog: int = 128
    """Connections that wait for `accept`; further ones are dropped unanswered."""
    retry_above: int = 32
    """Handshakes under way above which a newcomer has to prove its address first (Retry)."""
    max_half_open: int = 256
    """Handshakes under way, proven addresses included; further ones are dropped unanswered."""
    half_open_per_ip: int = 32
    """The same for one IP address (for a /64 of IPv6)."""
    token_seconds: float = 10.0
    """How long a Retry token is good."""
    pending_datagrams: int = 8
    """Datagrams kept of a connection that is not opened yet."""
    linger_seconds: float = 3.0
    """How long a closed connection answers late packets with its farewell, while its socket lives."""

    # -- the path
    idle_seconds: float = 30.0
    """Silence after which the connection is dead."""
    keep_alive_seconds: float = 15.0
    """Silence after which a ping is sent; infinity turns it off."""
    offload: bool = True
    """Hand the kernel many datagrams at once, and take them so, where it can (UDP_SEGMENT, UDP_GRO)."""
    socket_buffer_bytes: int = 4 * 1024 * 1024
    """Asked of the kernel for either direction of a socket, which may give less."""
    flush_seconds: float = 1.0
    """At the end: for sending the farewell."""
    punch_seconds: float = 10.0
    """Hole punching as the listener: for the other side's packets to come through."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not value > 0 and entry.name not in {"offload", "retry_above"}:
                raise ConfigError(f"{entry.name} must be positive, not {value}")
            if value == math.inf and entry.name != "keep_alive_seconds":
                raise ConfigError(f"{entry.name} must be finite")
        if self.retry_above < 0:
            raise ConfigError("retry_above must not be negative")
        if self.max_handshake_bytes < 16 * 1024:
            raise ConfigError("max_handshake_bytes must be at least 16384")
        if self.stream_window < 64 * 1024 or self.connection_window < self.stream_window:
            raise ConfigError("windows must be at least 64 KiB, and the connection's no smaller than a stream's")
        if self.max_inbound_streams > 1 << 60:
            raise ConfigError("max_inbound_streams is more than QUIC can say")
