"""Limits and deadlines of yamux: our choices. What the specification fixes stands in `frame.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from talos.errors import ConfigError
from talos.muxer.yamux.frame import INITIAL_WINDOW_BYTES, MAX_WINDOW_BYTES

__all__ = ["YamuxConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class YamuxConfig:
    """How much one connection may hold, and how long it waits."""

    max_window_bytes: int = 4 * 1024 * 1024
    """Receive window to which a stream grows while its application keeps up. 262144 switches growth off."""

    max_window_long_fat_bytes: int = 16 * 1024 * 1024
    """The same where bandwidth × delay, both measured, fills half of the window. Also bounds a discarded payload."""

    max_unaccepted: int = 256
    """Streams of the peer that `accept` was not called for; further ones are reset (0x1002)."""

    max_unacknowledged: int = 256
    """Streams of ours that the peer did not acknowledge; the next `open_stream` waits."""

    max_streams: int = 512
    """Streams in all, both sides' together."""

    max_lingering: int = 512
    """Streams that this side closed and the peer did not; the oldest is reset (0x1006) for the next.

    Also how many ended streams are remembered by their id, so that late window updates are known for what they are.
    """

    max_ping_answers: int = 32
    """Answers waiting to be sent; further pings are dropped."""

    max_control_bytes: int = 1024 * 1024
    """Frames without payload waiting to be sent: a peer that makes us queue more takes nothing and is left."""

    control_frames_per_second: float = 50_000
    """Received frames without payload, as a mean; above it the connection is closed (0x1002)."""

    control_frames_mean_seconds: float = 10
    """What that mean is taken over: the burst is the product of both."""

    early_resets_per_second: float = 100
    """Streams that the peer opened and reset before anything was sent on them; above it the connection is closed."""

    early_resets_burst: int = 1_000
    """Such resets at once."""

    keep_alive_seconds: float = 30
    """Pause between pings; `math.inf` for none."""

    answer_seconds: float = 10
    """A ping's answer that is overdue by this much ends the connection."""

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
            if not value > 0:
                raise ConfigError(f"yamux: {field.name} is {value}, must be above 0")
            if math.isinf(value) and field.name != "keep_alive_seconds":
                raise ConfigError(f"yamux: {field.name} must be finite")
        if not INITIAL_WINDOW_BYTES <= self.max_window_bytes <= self.max_window_long_fat_bytes <= MAX_WINDOW_BYTES:
            raise ConfigError(
                f"yamux: windows must rise: {INITIAL_WINDOW_BYTES} <= max_window_bytes"
                f" <= max_window_long_fat_bytes <= {MAX_WINDOW_BYTES}"
            )
        if self.max_queued_stream_bytes > self.max_queued_bytes:
            raise ConfigError("yamux: max_queued_stream_bytes is over max_queued_bytes")
