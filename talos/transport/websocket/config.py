"""Settings of the WebSocket transport, and the TLS contexts that they make."""

from __future__ import annotations

import math
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from talos.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["WebSocketConfig", "client_context", "server_context"]

ALPN = ["http/1.1"]
"""The opening handshake is HTTP/1.1; a peer that could speak HTTP/2 must not be led into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketConfig:
    """Limits of the protocol, and the certificates of /wss."""

    head_bytes: int = 8 * 1024
    """Of a request or a response, with all its headers."""
    headers: int = 64
    """Of a request or a response."""
    frame_bytes: int = 1024 * 1024
    """Payload of one frame that is taken. A message may have any number of frames: they are a stream."""
    early_frame_bytes: int = 256 * 1024
    """The same of the first frames, some of which come before anybody is authenticated. rust-libp2p sends up to 192 KiB
    in one."""
    early_bytes: int = 64 * 1024
    """What comes in until a frame is no longer among the first."""
    sent_frame_bytes: int = 64 * 1024
    """Payload of one frame that is sent; more becomes several."""
    idle_frames_per_second: float = 10.0
    """Frames without a byte for us: pings, pongs and empty ones. Past it, and the burst, the connection ends."""
    idle_frames_burst: int = 100
    handshake_seconds: float = 15.0
    """TLS and the upgrade request, in all, at either end."""
    close_seconds: float = 1.0
    """What a close frame may take on its way out."""
    certificate: Path | None = None
    """PEM file of the chain that /wss listeners show."""
    private_key: Path | None = None
    """PEM file of its key; None: it is in the same file."""
    authorities: Path | None = None
    """PEM file of the authorities that vouch for /wss servers, instead of the system's."""
    verify: bool = True
    """Whether the certificates of /wss servers are checked. Peers are authenticated inside, in any case."""

    def __post_init__(self) -> None:
        sizes = (self.head_bytes, self.headers, self.frame_bytes, self.early_frame_bytes, self.sent_frame_bytes)
        if min(*sizes, self.idle_frames_burst) < 1 or self.early_bytes < 0:
            raise ConfigError("limits of a WebSocket must be positive")
        seconds = (self.idle_frames_per_second, self.handshake_seconds, self.close_seconds)
        if not all(math.isfinite(each) and each > 0 for each in seconds):
            raise ConfigError("rates and times of a WebSocket must be positive")
        if self.private_key is not None and self.certificate is None:
            raise ConfigError("a private key for /wss needs its certificate")


def server_context(config: WebSocketConfig) -> ssl.SSLContext:
    """For listeners; ConfigError without a certificate that can be used."""
    if config.certificate is None:
        raise ConfigError("listening on /wss needs a certificate")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(ALPN)
    try:
        context.load_cert_chain(config.certificate, config.private_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the certificate {config.certificate} cannot be used: {error}") from error
    return context


def client_context(config: WebSocketConfig) -> ssl.SSLContext:
    """For dialling; ConfigError for authorities that cannot be read."""
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=config.authorities)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the authorities {config.authorities} cannot be used: {error}") from error
    context.set_alpn_protocols(ALPN)
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
