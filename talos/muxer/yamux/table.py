"""The streams of one side of a yamux connection: what they hold, and what waits to be sent.

Here is what follows from any of the machine's decisions: places, credit, memory and queues. The rules stand in
`machine.py`, and so does all that the peer's frames cause. As free of IO as the machine.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from talos.errors import LimitExceeded, LocalProtocolError, StreamCode
from talos.muxer.yamux.frame import HEADER, HEADER_BYTES, MAX_FRAME_BYTES, Flag, Kind
from talos.muxer.yamux.pulse import Pulse

if TYPE_CHECKING:
    from talos.muxed.ledger import Ledger
    from talos.muxer.send_queue import Piece
    from talos.muxer.yamux.config import YamuxConfig
    from talos.muxer.yamux.stream import YamuxStream

__all__ = ["TURN_BYTES", "StreamTable"]

TURN_BYTES = 4 * (HEADER_BYTES + MAX_FRAME_BYTES)
"""`data_to_send` gives this much at once, so that a writer yields and urgent frames need not wait long."""

# Plain integers: an enum member costs several times as much in each comparison.
DATA, WINDOW, PING, GO_AWAY = (int(kind) for kind in Kind)
SYN, ACK, FIN, RST = (int(flag) for flag in (Flag.SYN, Flag.ACK, Flag.FIN, Flag.RST))


class StreamTable:
    """Streams by their id, and the frames that are to go out."""

    def __init__(self, config: YamuxConfig, ledger: Ledger, now: float) -> None:
        self._config = config
        self._ledger = ledger
        self._now = now
        self._pulse = Pulse(config, now)
        self._streams: dict[int, YamuxStream] = {}
        self._lingering: OrderedDict[int, None] = OrderedDict()
        self._finished: OrderedDict[int, None] = OrderedDict()  # forgotten because both directions ended
        self._aborted: set[int] = set()  # in the piece that came last
        self._unaccepted = 0
        self._unacknowledged = 0
        self._payload_stream: YamuxStream | None = None  # whose data is just coming in
        # what waits to be sent
        self._control = bytearray()
        self._ready: OrderedDict[int, YamuxStream] = OrderedDict()
        self._queued = 0
        self._answered_id = 0
        self._farewell: int | None = None  # go away, behind all data: go-libp2p closes as soon as it reads one
        # counters
        self.frames_in = 0
        self.frames_out = 0
        self.resets_in = 0
        self.resets_out = 0
        self.dropped = 0

    @property
    def wants_to_send(self) -> bool:
        """Whether `data_to_send` would give something."""
        return bool(self._control or self._ready or self._farewell is not None)

    @property
    def rtt_seconds(self) -> float:
        """The newest round trip of a ping; 0 before the first answer."""
        return self._pulse.rtt

    def ping(self, now: float = 0.0) -> None:
        """Asks for an answer, unless one is awaited already. It sets `rtt_seconds`."""
        value = self._pulse.ask(now)
        if value is not None:
            self._put(PING, SYN, 0, value)

    # ------------------------------------------------------------------------------- sending

    def data_to_send(self, limit: int = TURN_BYTES) -> bytes:
        """The next bytes for the peer, b"" when there are none.

        Frames without payload come first, all of them; then a data frame of each stream in turn, up to `limit`;
        go away comes when nothing else waits.
        """
        parts: list[Piece | bytearray] = []
        size = len(self._control)
        if size:
            parts.append(self._control)
            self._control = bytearray()
            self._answered_id = 0
            self._pulse.answers = 0
        ready = self._ready
        while ready and (payload := limit - size - HEADER_BYTES) > 0:
            stream = ready.popitem(last=False)[1]
            size += self._put_stream(stream, parts, min(payload, MAX_FRAME_BYTES))
            if stream.queue.size:
                ready[stream.id] = stream
        if self._farewell is not None and not ready:
            parts.append(HEADER.pack(GO_AWAY, 0, 0, self._farewell))
            self.frames_out += 1
            self._farewell = None
        return b"".join(parts)

    def _put_stream(self, stream: YamuxStream, parts: list[Piece | bytearray], limit: int) -> int:
        """One frame of a stream: its next data with the flags that wait, or the flags alone."""
        slot = len(parts)
        parts.append(b"")
        size = stream.queue.take(limit, parts)
        self._queued -= size
        flags, stream.flags = stream.flags, 0
        ends = stream.closed and not stream.queue.size
        if ends and not size:
            flags |= FIN
        parts[slot] = HEADER.pack(DATA if size else WINDOW, flags, stream.id, size)
        self.frames_out += 1
        if ends and size:
            # A frame of its own: go-libp2p and js-libp2p tell the reader of the end that they see in a header before
            # they have read the payload behind it, which is then lost to a reader that waits.
            parts.append(HEADER.pack(WINDOW, FIN, stream.id, 0))
            self.frames_out += 1
        if ends:
            stream.fin_sent = True
            self._settle(stream)
        return HEADER_BYTES + size

    def _put(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        self._control += HEADER.pack(kind, flags, stream_id, length)
        self.frames_out += 1

    # ------------------------------------------------------------------------------- book-keeping

    def _stream(self, stream_id: int) -> YamuxStream | None:
        """The stream; None when it was aborted in the piece that came last, whose events may not all be handled yet."""
        stream = self._streams.get(stream_id)
        if stream is None and stream_id not in self._aborted:
            raise LocalProtocolError(f"there is no stream {stream_id}")
        return stream

    def _room(self, stream: YamuxStream) -> int:
        config = self._config
        return min(
            stream.send_window,
            max(0, config.max_queued_stream_bytes - stream.queue.size),
            max(0, config.max_queued_bytes - self._queued),
        )

    def _count_stream(self, *, inbound: bool) -> None:
        limit = self._config.max_streams
        if len(self._streams) - len(self._lingering) >= limit:
            raise LimitExceeded(f"the connection has {limit} streams", limit=limit, kind="streams")
        self._ledger.reserve_stream(inbound=inbound)

    def _acknowledged(self, stream: YamuxStream) -> None:
        if not stream.acknowledged:
            stream.acknowledged = True
            self._unacknowledged -= 1

    def _accepted_or_gone(self, stream: YamuxStream) -> None:
        if not stream.accepted:
            stream.accepted = True
            self._unaccepted -= 1

    def _consume(self, stream: YamuxStream, size: int, *, grow: bool) -> None:
        """Counts what was taken; half a window of it is given back, and the window may grow with it."""
        stream.buffered -= size
        stream.taken += size
        if stream.ended or stream.taken * 2 < stream.window:
            return
        growth = self._grow(stream) if grow else 0
        self._put(WINDOW, 0, stream.id, stream.taken + growth)
        stream.credit += stream.taken + growth
        stream.taken = 0
        stream.since = self._now

    def _grow(self, stream: YamuxStream) -> int:
        """By how much this stream's window grows now. Growth that the ledger refuses does not happen."""
        if not self._pulse.rtt:
            self.ping(self._now)
            return 0
        growth = stream.wanted_growth(self._now, self._pulse, self._config)
        if growth:
            stream.window += growth
            if not self._hold(stream):
                stream.window -= growth
                return 0
            stream.grown = self._now
            self.ping(self._now)  # a larger window makes another round trip
        return growth

    def _hold(self, stream: YamuxStream) -> bool:
        """Charges the ledger for what the stream holds or may be sent; False when it refuses more."""
        need = stream.memory()
        if need > stream.held:
            try:
                self._ledger.reserve_memory(need - stream.held)
            except LimitExceeded:
                return False
            stream.held = need
        elif need * 2 <= stream.held:  # not at every step down, for it is likely to go up again
            self._ledger.release_memory(stream.held - need)
            stream.held = need
        return True

    def _settle(self, stream: YamuxStream) -> None:
        """Forgets a stream when nothing more can happen on it and nobody names it any more.

        Resets one to whose end the peer goes on writing, before that comes to wait for window.
        """
        if not (stream.fin_sent and stream.abandoned):
            return
        if not stream.ended:
            if stream.credit * 2 < stream.window:
                self._put(WINDOW, RST, stream.id, StreamCode.NONE)
                self.resets_out += 1
                self._forget(stream)
        else:
            self._forget(stream)
            self._finished[stream.id] = None
            if len(self._finished) > self._config.max_lingering:
                self._finished.popitem(last=False)

    def _forget(self, stream: YamuxStream) -> None:
        del self._streams[stream.id]
        self._lingering.pop(stream.id, None)
        self._ready.pop(stream.id, None)
        self._queued -= stream.queue.clear()
        self._acknowledged(stream)
        self._accepted_or_gone(stream)
        if self._payload_stream is stream:
            self._payload_stream = None
        if stream.held:
            self._ledger.release_memory(stream.held)
        if not stream.abandoned:
            self._ledger.release_stream(inbound=stream.inbound)
