"""Limits and sizes of Noise."""

from __future__ import annotations

from dataclasses import dataclass

from talos.errors import ConfigError

__all__ = ["NoiseConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseConfig:
    """Limits of the Noise handshake."""

    max_handshake_message: int = 4096
    """Bytes of one handshake message, judged on its length; with an RSA key of 8192 bits one takes 2.3 KiB."""
    max_muxers: int = 16
    """Entries of a peer's muxer list."""
    max_muxer_bytes: int = 128
    """Bytes of one entry."""

    def __post_init__(self) -> None:
        # The second message has 96 bytes before its payload.
        if not 96 <= self.max_handshake_message <= 65_535:
            raise ConfigError("max_handshake_message must be from 96 to 65535")
        if self.max_muxers < 0 or self.max_muxer_bytes < 0:
            raise ConfigError("limits of the muxer list must not be negative")
