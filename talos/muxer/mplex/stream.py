"""What the mplex machine knows of one stream."""

from __future__ import annotations

from talos.muxed.ledger import MEMORY_STEP_BYTES
from talos.muxer.send_queue import SendQueue

__all__ = ["MplexStream"]


class MplexStream:
    """Plain state; the machine decides."""

    __slots__ = (
        "abandoned",  # nobody reads any more
        "accepted",  # the application took it; ours are from the start
        "announced",  # the peer has heard of it
        "buffered",  # received and not yet taken by the application
        "close_sent",
        "closed",  # we send nothing more
        "ended",  # the peer sends nothing more
        "held",  # bytes charged to the ledger
        "id",
        "inbound",
        "number",  # the id on the wire, which both sides may use at once
        "queue",
        "sent",  # data of ours was queued
    )

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.number = stream_id >> 1
        self.inbound = not stream_id & 1
        self.accepted = not self.inbound
        self.announced = self.inbound
        self.closed = self.close_sent = self.ended = self.abandoned = self.sent = False
        self.queue = SendQueue()
        self.buffered = self.held = 0

    def memory(self) -> int:
        """Bytes held for the peer."""
        return 0 if self.abandoned else self.buffered - self.buffered % MEMORY_STEP_BYTES
