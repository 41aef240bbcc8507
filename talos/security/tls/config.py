"""Limits of TLS."""

from __future__ import annotations

from dataclasses import dataclass

from talos.errors import ConfigError

__all__ = ["TlsConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Limits of the TLS handshake."""

    max_handshake_bytes: int = 64 * 1024
    """What a peer may send before it is authenticated: a certificate has at most 8 KiB."""
    max_muxers: int = 16
    """Muxers that we offer in ALPN."""

    def __post_init__(self) -> None:
        if self.max_handshake_bytes < 16 * 1024:
            raise ConfigError("max_handshake_bytes must be at least 16384")
        if self.max_muxers < 1:
            raise ConfigError("max_muxers must be positive")
