"""What can be set about live streams."""

from __future__ import annotations

from dataclasses import dataclass

from talos.errors import ConfigError

__all__ = ["MAX_CHUNK_BYTES", "LiveLimits"]

MIB = 1024 * 1024
MAX_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLimits:
    """Of streams that peers open to us, and of ours."""

    streams_per_peer: int = 64
    streams: int = 256
    offers: int = 64
    """Accepted, and not yet taken by the application."""
    ahead_chunks: int = 256
    ahead_bytes: int = 16 * MIB
    """Of one stream: out of order, or not yet taken by the application."""
    held_bytes: int = 64 * MIB
    """Of all streams together."""
    unanswered: int = 16
    """Chunks of one of ours, where none may be missing, that the peer has not answered."""
    offer_seconds: int = 120
    """An offer that is older has nobody behind it."""
    patience_seconds: float = 60.0
    """A chunk that must arrive and is not answered for so long ends the stream."""
    idle_seconds: float = 600.0
    """A stream without a chunk is over."""

    def __post_init__(self) -> None:
        counts = (self.streams_per_peer, self.streams, self.offers, self.ahead_chunks, self.unanswered)
        if min(counts) < 1 or min(self.ahead_bytes, self.held_bytes) < MAX_CHUNK_BYTES:
            raise ConfigError("limits of live streams are at least 1, and hold a chunk")
        if self.unanswered > self.ahead_chunks:
            raise ConfigError("no more chunks of live streams are unanswered than may be out of order")
