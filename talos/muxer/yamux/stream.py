"""What the yamux machine knows of one stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.muxed.ledger import MEMORY_STEP_BYTES
from talos.muxer.send_queue import SendQueue
from talos.muxer.yamux.frame import INITIAL_WINDOW_BYTES

if TYPE_CHECKING:
    from talos.muxer.yamux.config import YamuxConfig
    from talos.muxer.yamux.pulse import Pulse

__all__ = ["YamuxStream"]


class YamuxStream:
    """Plain state; the machine decides."""

    __slots__ = (
        "abandoned",  # nobody reads any more
        "accepted",  # the application took it; ours are from the start
        "acknowledged",  # the peer took it; theirs are from the start
        "buffered",  # received and not yet taken by the application
        "closed",  # we send nothing more; FIN is queued or sent
        "credit",  # what the peer may still send
        "ended",  # the peer sends nothing more
        "fin_sent",
        "flags",  # to go out with the next frame
        "grown",  # when the window last grew
        "held",  # bytes charged to the ledger
        "id",
        "inbound",
        "queue",
        "send_window",  # what we may still queue
        "sent",  # data of ours was queued
        "since",  # when the window was last given back
        "taken",  # taken by the application and not yet given back
        "window",  # credit + buffered + taken: the most that the peer may have under way
    )

    def __init__(self, stream_id: int, *, inbound: bool, now: float) -> None:
        self.id = stream_id
        self.inbound = inbound
        self.accepted = not inbound
        self.acknowledged = inbound
        self.closed = self.fin_sent = self.ended = self.abandoned = self.sent = False
        self.flags = 0
        self.queue = SendQueue()
        self.send_window = self.credit = self.window = INITIAL_WINDOW_BYTES
        self.buffered = self.taken = self.held = 0
        self.since = self.grown = now

    def memory(self) -> int:
        """Bytes held for the peer: what is buffered, or the window beyond the first, whichever is more."""
        if self.abandoned:
            return 0
        held = max(self.buffered, self.window - INITIAL_WINDOW_BYTES)
        return held - held % MEMORY_STEP_BYTES

    def wanted_growth(self, now: float, pulse: Pulse, config: YamuxConfig) -> int:
        """By how much the window should grow, half of it having been taken since the last time.

        At most once a round trip, and only when that took no more than two: then the peer, who may have no more
        than a window under way, waits for us. Beyond the usual maximum the measured rate times the shortest
        round trip must fill half of the window, so that a mere queue under load is not taken for a long path.
        """
        elapsed = now - self.since
        if elapsed > 2 * pulse.rtt or now - self.grown < pulse.rtt:
            return 0
        limit = config.max_window_bytes
        if self.window >= limit:
            if elapsed <= 0 or self.taken / elapsed * pulse.shortest_rtt * 2 < self.window:
                return 0
            limit = config.max_window_long_fat_bytes
        return max(0, min(self.window, limit - self.window))
