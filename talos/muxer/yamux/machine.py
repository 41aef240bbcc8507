"""Yamux without IO: bytes in, events and bytes out.

Rules of this file
- It decides everything and does nothing: no clock (`now` comes in), no waiting, no socket.
- Every queue has its bound in `YamuxConfig`; the peer's figures are compared before anything is stored.
- What the peer may not do raises RemoteProtocolError, with the go away frame already queued; then the machine
  is done with. What we may not do raises LocalProtocolError and changes nothing.

A stream, seen from one side
- opened by us (`open_stream`, SYN with the first frame) or by the peer (`StreamOpened`, then `accept`: ACK);
- our direction ends with `close` (FIN behind what is queued), the peer's with its FIN (`StreamEnded`);
- `abandon` says that nobody reads any more: what still comes is dropped. Once our FIN is out and half a window was
  dropped it is answered with RST, so that a writer on the other side does not wait for ever; not sooner, for RST also
  takes from the peer what it has not read yet, and a few bytes are due: the answer to a proposal, say;
- it is forgotten when both directions ended and it was abandoned, or at a reset of either side. A stream that we
  left and the peer did not end lingers as a bare record, so that the peer's window updates for what it still
  reads are not taken for those of an unknown stream.

Frames for an unknown id: payload is discarded, and it and window updates are answered with RST; FIN and RST are
ignored. For the streams that ended last updates are ignored too: they cross our end whenever the peer still reads
what it was sent, and a RST would take that from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.errors import ConnectionCode, LimitExceeded, LocalProtocolError, RemoteProtocolError, StreamCode
from talos.muxed.ledger import MEMORY_STEP_BYTES, Unlimited
from talos.muxer.event import (
    DataReceived,
    Event,
    GoAwayReceived,
    PeerSilent,
    StreamAborted,
    StreamEnded,
    StreamOpened,
    WindowOpened,
)
from talos.muxer.rate import Rate
from talos.muxer.yamux.config import YamuxConfig
from talos.muxer.yamux.frame import (
    HEADER,
    HEADER_BYTES,
    INITIAL_WINDOW_BYTES,
    MAX_STREAM_ID,
    MAX_WINDOW_BYTES,
)
from talos.muxer.yamux.stream import YamuxStream
from talos.muxer.yamux.table import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    TURN_BYTES,
    WINDOW,
    StreamTable,
)

if TYPE_CHECKING:
    from talos.muxed.ledger import Ledger
    from talos.muxer.send_queue import Piece

__all__ = ["TURN_BYTES", "YamuxMachine"]

GO_AWAY_PROTOCOL_ERROR = 1


class YamuxMachine(StreamTable):
    """One side of a yamux connection, for any event loop.

    Feed `receive_data` and act on its events, then write what `data_to_send` gives until it gives nothing; do
    the same after each verb. `now` is any monotonic clock in seconds. Without it the window never grows, no
    ping is due, and the rate limits count over the machine's whole life.
    """

    def __init__(
        self, *, dialer: bool, config: YamuxConfig | None = None, ledger: Ledger | None = None, now: float = 0.0
    ) -> None:
        config = config or YamuxConfig()
        super().__init__(config, ledger or Unlimited(), now)
        self._parity = 1 if dialer else 0
        self._next_id = 1 if dialer else 2
        self._left = self._gone = self._broken = False  # we said go away, the peer did, a fault was raised
        # what is being received
        self._header = bytearray()
        self._payload_left = 0
        self._payload_ends_stream = False
        # who goes too far
        self._frames = Rate(
            per_second=config.control_frames_per_second,
            burst=config.control_frames_per_second * config.control_frames_mean_seconds,
            now=now,
        )
        self._early_resets = Rate(per_second=config.early_resets_per_second, burst=config.early_resets_burst, now=now)

    # ------------------------------------------------------------------------------- questions

    @property
    def can_open(self) -> bool:
        """Whether `open_stream` may be called now: not more than the bound of our streams are unacknowledged."""
        return not self.closing and self._unacknowledged < self._config.max_unacknowledged

    @property
    def closing(self) -> bool:
        """No new streams any more: one side said go away, or broke the protocol."""
        return self._left or self._gone or self._broken

    def room(self, stream_id: int) -> int:
        """How many bytes `send` would take now."""
        stream = self._stream(stream_id)
        return 0 if stream is None else self._room(stream)

    def window(self, stream_id: int) -> int:
        """How much more the peer lets us send on this stream; when it is 0, `WindowOpened` will come."""
        stream = self._stream(stream_id)
        return 0 if stream is None else stream.send_window

    def next_deadline(self) -> float | None:
        """When `deadline_passed` wants to be called."""
        return None if self._broken else self._pulse.next_deadline()

    # ------------------------------------------------------------------------------- verbs

    def open_stream(self, now: float = 0.0) -> int:
        """A new stream's id. LimitExceeded past a limit, LocalProtocolError when `can_open` is false."""
        if not self.can_open:
            raise LocalProtocolError("no stream can be opened now: ask can_open")
        if self._next_id > MAX_STREAM_ID:
            raise LimitExceeded("all stream ids of this connection are used up", limit=MAX_STREAM_ID, kind="stream ids")
        self._count_stream(inbound=False)
        stream = YamuxStream(self._next_id, inbound=False, now=now)
        self._next_id += 2
        self._unacknowledged += 1
        self._streams[stream.id] = stream
        stream.flags = SYN
        self._ready[stream.id] = stream
        return stream.id

    def accept(self, stream_id: int) -> None:
        """The application took this stream of the peer: ACK goes out with the next frame."""
        stream = self._stream(stream_id)
        if stream is None or stream.accepted:  # opened, reset and opened in one piece: two events, one stream
            return
        stream.accepted = True
        self._unaccepted -= 1
        stream.flags |= ACK
        self._ready[stream_id] = stream

    def send(self, stream_id: int, data: Piece) -> int:
        """Queues as much of `data` as `room` says; how much that was. `data` is not copied and must not change."""
        stream = self._stream(stream_id)
        if stream is None:
            return 0
        if stream.closed:
            raise LocalProtocolError(f"stream {stream_id} is closed for sending")
        size = len(data)
        room = self._room(stream)
        if size > room:
            data = memoryview(data)[:room]
            size = room
        if size:
            stream.queue.add(data)
            stream.send_window -= size
            stream.sent = True
            self._queued += size
            self._ready[stream_id] = stream
        return size

    def close(self, stream_id: int) -> None:
        """Ends our direction, behind what is queued. Calling it again does nothing."""
        stream = self._stream(stream_id)
        if stream is not None and not stream.closed:
            stream.closed = True
            self._ready[stream_id] = stream

    def abandon(self, stream_id: int) -> None:
        """Nobody reads this stream any more; no further event names it. Its queue is still sent.

        Every stream ends with this or with `reset`: until then it keeps its place among the streams.
        """
        stream = self._stream(stream_id)
        if stream is None or stream.abandoned:
            return
        stream.abandoned = True
        self._accepted_or_gone(stream)
        if self._payload_stream is stream:  # the rest of a frame that is just coming in
            self._payload_stream = None
            stream.ended = self._payload_ends_stream
        self._ledger.release_stream(inbound=stream.inbound)
        # A peer that waits for window must get on far enough to meet the RST that half a window earns.
        self._consume(stream, stream.buffered, grow=False)
        self._hold(stream)
        self._settle(stream)
        if stream_id in self._streams:
            self._lingering[stream_id] = None
            if len(self._lingering) > self._config.max_lingering:
                self.reset(next(iter(self._lingering)), StreamCode.GARBAGE_COLLECTED)

    def reset(self, stream_id: int, code: int = StreamCode.NONE) -> None:
        """Ends the stream both ways at once and forgets it; what is queued is dropped."""
        stream = self._stream(stream_id)
        if stream is None:
            return
        if not stream.flags & SYN:  # else the peer has never heard of it
            self._put(WINDOW, RST, stream_id, code)
            self.resets_out += 1
        self._forget(stream)

    def consumed(self, stream_id: int, size: int, now: float = 0.0) -> None:
        """The application took `size` bytes; once that is half of the window, it is given back to the peer."""
        stream = self._stream(stream_id)
        if stream is None:
            return
        if size > stream.buffered:
            raise LocalProtocolError(f"stream {stream_id} has no {size} bytes to take")
        self._now = max(self._now, now)
        self._consume(stream, size, grow=True)
        if stream.held:
            self._hold(stream)

    def go_away(self, code: int = ConnectionCode.NONE) -> None:
        """No new streams in either direction from now on; open ones go on. The peer hears it behind what is queued."""
        if not self._left:
            self._left = True
            self._farewell = code

    def deadline_passed(self, now: float) -> list[Event]:
        """Sends the keep-alive when it is due; `PeerSilent` when an answer is overdue."""
        if self._pulse.overdue(now):
            return [PeerSilent()]
        if self._pulse.due(now):
            self.ping(now)
        return []

    # ------------------------------------------------------------------------------- receiving

    def receive_data(self, data: bytes | bytearray | memoryview, now: float = 0.0) -> list[Event]:
        """What `data` means, in order. After it has raised RemoteProtocolError, send what is queued and close."""
        if self._broken:
            raise LocalProtocolError("the connection failed before")
        self._now = max(self._now, now)
        self._aborted.clear()
        if type(data) is not bytes:
            data = memoryview(data)  # so that a slice is no copy; one of bytes is the only one
        events: list[Event] = []
        position, end = 0, len(data)
        while position < end:
            if self._payload_left:
                position = self._payload(data, position, end, events)
            elif self._header or end - position < HEADER_BYTES:
                start, position = position, min(end, position + HEADER_BYTES - len(self._header))
                self._header += data[start:position]
                if len(self._header) == HEADER_BYTES:
                    kind, flags, stream_id, length = HEADER.unpack(self._header)
                    self._header.clear()
                    self._frame(kind, flags, stream_id, length, events)
            else:
                kind, flags, stream_id, length = HEADER.unpack_from(data, position)
                position += HEADER_BYTES
                self._frame(kind, flags, stream_id, length, events)
        return events

    def _payload(self, data: bytes | memoryview, position: int, end: int, events: list[Event]) -> int:
        """Takes what is there of the current payload; the position behind it."""
        start, position = position, min(end, position + self._payload_left)
        self._payload_left -= position - start
        stream = self._payload_stream
        if stream is None:
            return position
        stream.buffered += position - start
        if stream.buffered >= stream.held + MEMORY_STEP_BYTES and not self._hold(stream):
            self._abort(stream, StreamCode.RESOURCE_LIMIT, events)
            return position
        events.append(DataReceived(stream.id, bytes(data[start:position])))
        if not self._payload_left:
            self._payload_stream = None
            if self._payload_ends_stream:
                self._end(stream, events)
        return position

    def _frame(self, kind: int, flags: int, stream_id: int, length: int, events: list[Event]) -> None:
        self.frames_in += 1
        # An empty data frame moves nothing either, and uses no window.
        if not (kind == DATA and length) and not self._frames.admits(self._now):
            raise self._fault("too many frames without payload", ConnectionCode.RATE_LIMITED)
        if kind == DATA:
            self._data_frame(flags, stream_id, length, events)
        elif kind == WINDOW:
            self._window_frame(flags, stream_id, length, events)
        elif kind == PING:
            self._ping_frame(flags, length)
        elif kind == GO_AWAY:
            self._gone = True
            events.append(GoAwayReceived(length))
        else:
            raise self._fault(f"version {kind >> 8}, frame type {kind & 255}")
        if len(self._control) > self._config.max_control_bytes:
            raise self._fault("the peer takes no frames and makes us queue ever more", ConnectionCode.RESOURCE_LIMIT)

    def _data_frame(self, flags: int, stream_id: int, length: int, events: list[Event]) -> None:
        stream = self._streams.get(stream_id) if not flags else self._flagged(flags, stream_id, length, events)
        if stream is None:
            self._discard(length)
            if not flags & SYN and (length or not flags & (FIN | RST)):
                self._answer_unknown(stream_id)
            return
        if flags & RST:
            self._discard(length)
            self._reset_by_peer(stream, StreamCode.NONE, events)
            return
        if stream.ended:
            self._discard(length)
            if length:
                self._abort(stream, StreamCode.PROTOCOL_VIOLATION, events)
            return
        if length > stream.credit:
            raise self._fault(f"{length} bytes on stream {stream_id}, whose window has {stream.credit}")
        stream.credit -= length
        if stream.abandoned:
            self._data_for_nobody(stream, length, ends=bool(flags & FIN))
            return
        self._payload_left = length
        self._payload_stream = stream if length else None
        self._payload_ends_stream = bool(flags & FIN)
        if not length and flags & FIN:
            self._end(stream, events)

    def _window_frame(self, flags: int, stream_id: int, length: int, events: list[Event]) -> None:
        stream = self._flagged(flags, stream_id, 0, events)
        if stream is None:
            if stream_id in self._finished:
                self.dropped += 1
            elif not flags & (SYN | FIN | RST):
                self._answer_unknown(stream_id)
            return
        if flags & RST:
            self._reset_by_peer(stream, length, events)
            return
        if stream.send_window + stream.queue.size + length > MAX_WINDOW_BYTES:
            raise self._fault(f"window of stream {stream_id} is over {MAX_WINDOW_BYTES}")
        if length and not stream.send_window and not stream.abandoned:
            events.append(WindowOpened(stream_id))
        stream.send_window += length
        if flags & FIN and not stream.ended:
            self._end(stream, events)

    def _ping_frame(self, flags: int, value: int) -> None:
        if flags & ACK:
            self._pulse.answered(value, self._now)
        elif self._pulse.answers < self._config.max_ping_answers:
            self._pulse.answers += 1
            self._put(PING, ACK, 0, value)
        else:
            self.dropped += 1

    def _flagged(self, flags: int, stream_id: int, length: int, events: list[Event]) -> YamuxStream | None:
        """The stream of a frame, opened or acknowledged where its flags say so; None when it is not known."""
        if not stream_id:
            raise self._fault("stream id 0 belongs to the session")
        if flags & SYN:
            return self._opened_by_peer(stream_id, length, events)
        stream = self._streams.get(stream_id)
        if stream is not None and flags & ACK:
            self._acknowledged(stream)
        return stream

    def _opened_by_peer(self, stream_id: int, length: int, events: list[Event]) -> YamuxStream | None:
        if stream_id & 1 == self._parity:
            raise self._fault(f"stream {stream_id} was opened with our parity")
        if stream_id in self._streams:
            raise self._fault(f"stream {stream_id} is open already")
        if length > INITIAL_WINDOW_BYTES:
            raise self._fault(f"{length} bytes on the new stream {stream_id}")
        code = self._refusal()
        if code:
            self._put(WINDOW, RST, stream_id, code)
            self.resets_out += 1
            return None
        stream = YamuxStream(stream_id, inbound=True, now=self._now)
        self._finished.pop(stream_id, None)
        self._unaccepted += 1
        self._streams[stream_id] = stream
        events.append(StreamOpened(stream_id))
        return stream

    def _refusal(self) -> int:
        """Why the peer may open no stream now; 0 when it may, and then the stream is counted."""
        if self._left or self._gone:
            return StreamCode.SHUTDOWN
        if self._unaccepted >= self._config.max_unaccepted:
            return StreamCode.RESOURCE_LIMIT
        try:
            self._count_stream(inbound=True)
        except LimitExceeded:
            return StreamCode.RESOURCE_LIMIT
        return 0

    def _reset_by_peer(self, stream: YamuxStream, code: int, events: list[Event]) -> None:
        self.resets_in += 1
        if stream.inbound and not stream.sent and not self._early_resets.admits(self._now):
            raise self._fault("too many streams are opened and reset", ConnectionCode.RATE_LIMITED)
        self._report_abort(stream, code, events, remote=True)
        self._forget(stream)

    def _abort(self, stream: YamuxStream, code: int, events: list[Event]) -> None:
        """We end a stream for what the peer did on it."""
        self._report_abort(stream, code, events, remote=False)
        self.reset(stream.id, code)

    def _report_abort(self, stream: YamuxStream, code: int, events: list[Event], *, remote: bool) -> None:
        if not stream.abandoned:
            self._aborted.add(stream.id)
            events.append(StreamAborted(stream.id, code, remote=remote))

    def _end(self, stream: YamuxStream, events: list[Event]) -> None:
        stream.ended = True
        if not stream.abandoned:
            events.append(StreamEnded(stream.id))
        self._settle(stream)

    def _data_for_nobody(self, stream: YamuxStream, length: int, *, ends: bool) -> None:
        self._discard(length)
        stream.ended |= ends
        self._settle(stream)

    def _discard(self, length: int) -> None:
        if length > self._config.max_window_long_fat_bytes:
            raise self._fault(f"{length} bytes that nobody may send")
        self._payload_left = length
        self._payload_stream = None

    def _answer_unknown(self, stream_id: int) -> None:
        """RST, but once for a burst of frames on the same id."""
        if not stream_id:
            raise self._fault("stream id 0 belongs to the session")
        if stream_id != self._answered_id:
            self._answered_id = stream_id
            self._put(WINDOW, RST, stream_id, StreamCode.NONE)
            self.dropped += 1

    def _fault(self, message: str, code: int = GO_AWAY_PROTOCOL_ERROR) -> RemoteProtocolError:
        """Notes the fault, tells the peer, and is raised by the caller."""
        self._broken = True
        self._ready.clear()
        self._left = True
        self._farewell = code
        return RemoteProtocolError(f"yamux: {message}")
