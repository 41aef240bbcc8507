"""Mplex without IO: bytes in, events and bytes out.

Rules of this file are those of the yamux machine. What differs:
- both sides may use the same number at once, so a stream's id here is `number << 1 | opened by us`;
- nobody acknowledges a stream and nobody grants window: a stream whose application does not keep up is reset;
- there is no go away and no ping, and a reset carries no reason.

A stream ends in each direction by a close frame, both ways by a reset. It is forgotten once we closed and
abandoned it. Data for an unknown id is discarded and answered with a reset, close and reset are ignored; but for the
streams that we left last some data is discarded without an answer, for a reset would take from the peer what it has
not read yet.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from talos.errors import LimitExceeded, LocalProtocolError, MessageTooLarge, RemoteProtocolError, StreamCode
from talos.muxed.ledger import MEMORY_STEP_BYTES, Unlimited
from talos.muxer.event import DataReceived, Event, StreamAborted, StreamEnded, StreamOpened
from talos.muxer.mplex.config import MplexConfig
from talos.muxer.mplex.frame import (
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    MAX_SENT_FRAME_BYTES,
    MAX_STREAM_ID,
    Flag,
    header,
)
from talos.muxer.mplex.stream import MplexStream
from talos.muxer.rate import Rate
from talos.wire import varint

if TYPE_CHECKING:
    from talos.muxed.ledger import Ledger
    from talos.muxer.send_queue import Piece

__all__ = ["MplexMachine"]

TURN_BYTES = 256 * 1024
NO_WINDOW = 1 << 62
"""What `window` says where nobody grants one."""

NEW_STREAM = int(Flag.NEW_STREAM)
# The receiver's flag; the initiator's is one more.
MESSAGE, CLOSE, RESET = int(Flag.MESSAGE_RECEIVER), int(Flag.CLOSE_RECEIVER), int(Flag.RESET_RECEIVER)


class MplexMachine:
    """One side of an mplex connection, for any event loop. Verbs and events are those of `YamuxMachine`."""

    def __init__(self, *, config: MplexConfig | None = None, ledger: Ledger | None = None, now: float = 0.0) -> None:
        self._config = config = config or MplexConfig()
        self._ledger: Ledger = ledger or Unlimited()
        self._now = now
        self._next_number = 0
        self._streams: dict[int, MplexStream] = {}
        self._late: OrderedDict[int, int] = OrderedDict()  # forgotten before the peer's end: what may still come
        self._aborted: set[int] = set()  # in the piece that came last
        self._unaccepted = 0
        self._buffered = 0
        self._left = self._broken = False
        # what waits to be sent
        self._control = bytearray()
        self._ready: OrderedDict[int, MplexStream] = OrderedDict()
        self._queued = 0
        self._answered_id: int | None = None
        # what is being received
        self._header = b""
        self._payload_left = 0
        self._payload_stream: MplexStream | None = None
        # who goes too far
        self._frames = Rate(
            per_second=config.control_frames_per_second,
            burst=config.control_frames_per_second * config.control_frames_mean_seconds,
            now=now,
        )
        self._early_resets = Rate(per_second=config.early_resets_per_second, burst=config.early_resets_burst, now=now)
        # counters
        self.frames_in = 0
        self.frames_out = 0
        self.resets_in = 0
        self.resets_out = 0
        self.dropped = 0

    # ------------------------------------------------------------------------------- questions

    @property
    def can_open(self) -> bool:
        """Whether `open_stream` may be called now."""
        return not self.closing

    @property
    def closing(self) -> bool:
        """No new streams any more: this side went away, or the peer broke the protocol."""
        return self._left or self._broken

    @property
    def wants_to_send(self) -> bool:
        """Whether `data_to_send` would give something."""
        return bool(self._control or self._ready)

    @property
    def rtt_seconds(self) -> float:
        """Unknown, so 0: mplex has no ping."""
        return 0.0

    def room(self, stream_id: int) -> int:
        """How many bytes `send` would take now."""
        stream = self._stream(stream_id)
        return 0 if stream is None else self._room(stream)

    def window(self, stream_id: int) -> int:
        """Without bound, for mplex has no windows."""
        return 0 if self._stream(stream_id) is None else NO_WINDOW

    def next_deadline(self) -> float | None:
        """None: nothing in mplex is timed."""
        return None

    def deadline_passed(self, now: float) -> list[Event]:  # noqa: ARG002 - the shape of all timed machines
        """Nothing to do."""
        return []

    # ------------------------------------------------------------------------------- verbs

    def open_stream(self, now: float = 0.0) -> int:  # noqa: ARG002 - the same
        """A new stream's id. LimitExceeded past a limit, LocalProtocolError when `can_open` is false."""
        if not self.can_open:
            raise LocalProtocolError("no stream can be opened now: ask can_open")
        if self._next_number > MAX_STREAM_ID:
            raise LimitExceeded("all stream ids of this connection are used up", limit=MAX_STREAM_ID, kind="stream ids")
        self._count_stream(inbound=False)
        stream = self._streams[self._next_number << 1 | 1] = MplexStream(self._next_number << 1 | 1)
        self._next_number += 1
        self._ready[stream.id] = stream
        return stream.id

    def accept(self, stream_id: int) -> None:
        """The application took this stream of the peer, who is not told."""
        stream = self._stream(stream_id)
        if stream is None or stream.accepted:  # opened, reset and opened in one piece: two events, one stream
            return
        self._accepted_or_gone(stream)

    def send(self, stream_id: int, data: Piece) -> int:
        """Queues as much of `data` as `room` says; how much that was. `data` is not copied and must not change."""
        stream = self._stream(stream_id)
        if stream is None:
            return 0
        if stream.closed:
            raise LocalProtocolError(f"stream {stream_id} is closed for sending")
        size = min(len(data), self._room(stream))
        if size:
            stream.queue.add(data if size == len(data) else memoryview(data)[:size])
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
        self._drop_buffer(stream)
        self._settle(stream)

    def reset(self, stream_id: int, code: int = StreamCode.NONE) -> None:  # noqa: ARG002 - mplex cannot carry it
        """Ends the stream both ways at once and forgets it; what is queued is dropped, and so is `code`."""
        stream = self._stream(stream_id)
        if stream is None:
            return
        if stream.announced:
            self._put_reset(stream_id)
            self.resets_out += 1
        self._forget(stream)

    def consumed(self, stream_id: int, size: int, now: float = 0.0) -> None:  # noqa: ARG002 - the same
        """The application took `size` bytes."""
        stream = self._stream(stream_id)
        if stream is None:
            return
        if size > stream.buffered:
            raise LocalProtocolError(f"stream {stream_id} has no {size} bytes to take")
        stream.buffered -= size
        self._buffered -= size
        if stream.held:
            self._hold(stream)

    def go_away(self, code: int = 0) -> None:  # noqa: ARG002 - the same
        """No new streams in either direction from now on; the peer is not told, for mplex has no words for it."""
        self._left = True

    # ------------------------------------------------------------------------------- sending

    def data_to_send(self, limit: int = TURN_BYTES) -> bytes:
        """The next bytes for the peer, about `limit` of them; b"" when there are none."""
        parts: list[Piece | bytearray] = []
        size = len(self._control)
        if size:
            parts.append(self._control)
            self._control = bytearray()
            self._answered_id = None
        ready = self._ready
        while ready and size < limit:
            stream = ready.popitem(last=False)[1]
            size += self._put_stream(stream, parts)
            if stream.queue.size:
                ready[stream.id] = stream
        return b"".join(parts)

    def _put_stream(self, stream: MplexStream, parts: list[Piece | bytearray]) -> int:
        """What one stream has to say in its turn: that it is new, one frame of data, that it is closed."""
        role = 0 if stream.inbound else 1
        if not stream.announced:
            stream.announced = True
            parts.append(header(stream.number, NEW_STREAM, 0))
            self.frames_out += 1
        slot = len(parts)
        parts.append(b"")
        size = stream.queue.take(MAX_SENT_FRAME_BYTES, parts)
        if size:
            self._queued -= size
            parts[slot] = header(stream.number, MESSAGE + role, size)
            self.frames_out += 1
        if stream.closed and not stream.queue.size:
            parts.append(header(stream.number, CLOSE + role, 0))
            self.frames_out += 1
            stream.close_sent = True
            self._settle(stream)
        return size + MAX_HEADER_BYTES

    def _put_reset(self, stream_id: int) -> None:
        role = stream_id & 1
        self._control += header(stream_id >> 1, RESET + role, 0)
        self.frames_out += 1

    # ------------------------------------------------------------------------------- receiving

    def receive_data(self, data: bytes | bytearray | memoryview, now: float = 0.0) -> list[Event]:
        """What `data` means, in order. After it has raised RemoteProtocolError, close."""
        if self._broken:
            raise LocalProtocolError("the connection failed before")
        self._now = max(self._now, now)
        self._aborted.clear()
        if type(data) is not bytes:
            data = memoryview(data)  # so that a slice is no copy; one of bytes is the only one
        events: list[Event] = []
        try:
            position, end = 0, len(data)
            while position < end:
                if self._payload_left:
                    position = self._payload(data, position, end, events)
                else:
                    position = self._read_header(data, position, events)
        except RemoteProtocolError:
            self._broken = True
            self._ready.clear()
            raise
        return events

    def _read_header(self, data: bytes | memoryview, position: int, events: list[Event]) -> int:
        """Reads a header, which may lie across two pieces; the position behind what was read of it."""
        known = len(self._header)
        start = self._header + bytes(data[position : position + MAX_HEADER_BYTES])
        first = varint.decode(start)
        second = None if first is None else varint.decode(start, first[1])
        if first is None or second is None:  # so it is shorter than any whole header
            self._header = start
            return len(data)
        self._header = b""
        self._frame(first[0] >> 3, first[0] & 7, second[0], events)
        return position + second[1] - known

    def _payload(self, data: bytes | memoryview, position: int, end: int, events: list[Event]) -> int:
        """Takes what is there of the current payload; the position behind it."""
        start, position = position, min(end, position + self._payload_left)
        self._payload_left -= position - start
        stream = self._payload_stream
        if stream is None:
            return position
        size = position - start
        config = self._config
        stream.buffered += size
        self._buffered += size
        if (
            stream.buffered > config.max_buffered_stream_bytes
            or self._buffered > config.max_buffered_bytes
            or (stream.buffered >= stream.held + MEMORY_STEP_BYTES and not self._hold(stream))
        ):
            self._abort(stream, StreamCode.RESOURCE_LIMIT, events)
            return position
        events.append(DataReceived(stream.id, bytes(data[start:position])))
        return position

    def _frame(self, number: int, flag: int, length: int, events: list[Event]) -> None:
        self.frames_in += 1
        if length > MAX_FRAME_BYTES:
            raise MessageTooLarge(f"mplex: frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
        is_data = flag in {Flag.MESSAGE_RECEIVER, Flag.MESSAGE_INITIATOR}
        if not (is_data and length) and not self._frames.admits(self._now):
            raise RemoteProtocolError("mplex: too many frames without payload")
        # What closes, resets or names a stream may carry data, which means nothing.
        self._payload_left = length
        self._payload_stream = None
        if flag == NEW_STREAM:
            self._opened_by_peer(number << 1, events)
        elif flag > Flag.RESET_INITIATOR:
            raise RemoteProtocolError(f"mplex: flag {flag}")
        else:
            # Odd flags come from the receiver of the stream: then it is we who opened it.
            self._stream_frame(number << 1 | flag & 1, flag, length, events)
        if len(self._control) > self._config.max_control_bytes:
            raise RemoteProtocolError("mplex: the peer takes no frames and makes us queue ever more")

    def _stream_frame(self, stream_id: int, flag: int, length: int, events: list[Event]) -> None:
        stream = self._streams.get(stream_id)
        if flag in {Flag.MESSAGE_RECEIVER, Flag.MESSAGE_INITIATOR}:
            if not length:
                return
            if stream is None:
                self._data_for_nobody(stream_id, length)
            elif stream.ended:
                self._abort(stream, StreamCode.PROTOCOL_VIOLATION, events)
            elif not stream.abandoned:
                self._payload_stream = stream
        elif stream is None:
            self._late.pop(stream_id, None)
        elif flag in {Flag.RESET_RECEIVER, Flag.RESET_INITIATOR}:
            self._reset_by_peer(stream, events)
        elif not stream.ended:
            stream.ended = True
            if not stream.abandoned:
                events.append(StreamEnded(stream_id))

    def _opened_by_peer(self, stream_id: int, events: list[Event]) -> None:
        if stream_id in self._streams:
            raise RemoteProtocolError(f"mplex: stream {stream_id >> 1} is open already")
        if self._left or self._unaccepted >= self._config.max_unaccepted or not self._admits():
            self._put_reset(stream_id)
            self.resets_out += 1
            return
        self._unaccepted += 1
        self._late.pop(stream_id, None)
        self._streams[stream_id] = MplexStream(stream_id)
        events.append(StreamOpened(stream_id))

    def _admits(self) -> bool:
        try:
            self._count_stream(inbound=True)
        except LimitExceeded:
            return False
        return True

    def _reset_by_peer(self, stream: MplexStream, events: list[Event]) -> None:
        self.resets_in += 1
        if stream.inbound and not stream.sent and not self._early_resets.admits(self._now):
            raise RemoteProtocolError("mplex: too many streams are opened and reset")
        self._report_abort(stream, StreamCode.NONE, events, remote=True)
        self._forget(stream)

    def _abort(self, stream: MplexStream, code: int, events: list[Event]) -> None:
        """We end a stream for what the peer did on it."""
        self._report_abort(stream, code, events, remote=False)
        self.reset(stream.id, code)

    def _report_abort(self, stream: MplexStream, code: int, events: list[Event], *, remote: bool) -> None:
        if not stream.abandoned:
            self._aborted.add(stream.id)
            events.append(StreamAborted(stream.id, code, remote=remote))

    def _data_for_nobody(self, stream_id: int, length: int) -> None:
        """Nothing for what may still come on a stream that we left, else a reset; once for a burst on the same id."""
        left = self._late.pop(stream_id, 0) - length
        if left >= 0:
            self._late[stream_id] = left
        elif stream_id != self._answered_id:
            self._answered_id = stream_id
            self._put_reset(stream_id)
            self.dropped += 1

    # ------------------------------------------------------------------------------- book-keeping

    def _stream(self, stream_id: int) -> MplexStream | None:
        """The stream; None when it was aborted in the piece that came last, whose events may not all be handled yet."""
        stream = self._streams.get(stream_id)
        if stream is None and stream_id not in self._aborted:
            raise LocalProtocolError(f"there is no stream {stream_id}")
        return stream

    def _room(self, stream: MplexStream) -> int:
        config = self._config
        return max(0, min(config.max_queued_stream_bytes - stream.queue.size, config.max_queued_bytes - self._queued))

    def _count_stream(self, *, inbound: bool) -> None:
        limit = self._config.max_streams
        if len(self._streams) >= limit:
            raise LimitExceeded(f"the connection has {limit} streams", limit=limit, kind="streams")
        self._ledger.reserve_stream(inbound=inbound)

    def _accepted_or_gone(self, stream: MplexStream) -> None:
        if not stream.accepted:
            stream.accepted = True
            self._unaccepted -= 1

    def _hold(self, stream: MplexStream) -> bool:
        """Charges the ledger for what the stream holds; False when it refuses more."""
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

    def _drop_buffer(self, stream: MplexStream) -> None:
        self._buffered -= stream.buffered
        stream.buffered = 0
        if self._payload_stream is stream:  # the rest of a frame that is just coming in
            self._payload_stream = None
        if stream.held:
            self._ledger.release_memory(stream.held)
            stream.held = 0

    def _settle(self, stream: MplexStream) -> None:
        if not (stream.close_sent and stream.abandoned):
            return
        self._forget(stream)
        if not stream.ended:
            self._late[stream.id] = self._config.max_late_bytes
            if len(self._late) > self._config.max_lingering:
                self._late.popitem(last=False)

    def _forget(self, stream: MplexStream) -> None:
        del self._streams[stream.id]
        self._ready.pop(stream.id, None)
        self._queued -= stream.queue.clear()
        self._drop_buffer(stream)
        self._accepted_or_gone(stream)
        self._ledger.release_stream(inbound=stream.inbound)
