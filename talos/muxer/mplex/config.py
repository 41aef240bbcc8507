"""Limits of mplex: our choices. What the specification fixes stands in `frame.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from talos.errors import ConfigError

__all__ = ["MplexConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MplexConfig:
    """How much one connection may hold. There is no flow control: what is too much costs the stream."""

    max_buffered_stream_bytes: int = 1024 * 1024
    """Received on one stream and not taken by its application; beyond it the stream is reset (0x1002)."""

    max_buffered_bytes: int = 8 * 1024 * 1024
    """The same of all streams together; the stream that would go beyond it is reset."""

    max_unaccepted: int = 256
    """Streams of the peer that `accept` was not called for; further ones are reset."""

    max_streams: int = 512
    """Streams in all, both sides' together."""

    max_lingering: int = 512
    """Streams that this side left and the peer did not end, remembered by their id."""

    max_late_bytes: int = 128 * 1024
    """Data for such a stream that is only discarded; more is answered with a reset."""

    max_control_bytes: int = 1024 * 1024
    """Frames without payload waiting to be sent: a peer that makes us queue more takes nothing and is left."""

    control_frames_per_second: float = 50_000
    """Received frames without payload, as a mean; above it the connection is closed."""

    control_frames_mean_seconds: float = 10
    """What that mean is taken over: the burst is the product of both."""

    early_resets_per_second: float = 100
    """Streams that the peer opened and reset before anything was sent on them; above it the connection is closed."""

    early_resets_burst: int = 1_000
    """Such resets at once."""

    max_queued_bytes: int = 1024 * 1024
    """Data waiting to be sent, all streams together; writers wait for room."""

    max_queued_stream_bytes: int = 256 * 1024
    """The same of one stream, so that one writer never has all the room."""

    stall_seconds: float = 10
    """A channel that takes no byte for so long although data is queued is closed."""

    flush_seconds: float = 2
    """How long a closing connection tries to send what is queued."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                raise ConfigError(f"mplex: {field.name} is {value}, must be above 0 and finite")
        if self.max_buffered_stream_bytes > self.max_buffered_bytes:
            raise ConfigError("mplex: max_buffered_stream_bytes is over max_buffered_bytes")
        if self.max_queued_stream_bytes > self.max_queued_bytes:
            raise ConfigError("mplex: max_queued_stream_bytes is over max_queued_bytes")
