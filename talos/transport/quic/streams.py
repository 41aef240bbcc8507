"""The streams of a QUIC connection: what the engine says of them, what the application does, what is held."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from talos.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError, StreamCode
from talos.muxed.ledger import MEMORY_STEP_BYTES, Unlimited
from talos.transport.quic.engine import guarded
from talos.transport.quic.event import (
    DataReceived,
    Event,
    SendingStopped,
    StreamAborted,
    StreamEnded,
    StreamOpened,
)

if TYPE_CHECKING:
    from talos.muxed.ledger import Ledger
    from talos.transport.quic.config import QuicConfig

__all__ = ["StreamFlood", "StreamTable"]

BURST_SECONDS = 2.0
"""Of new streams: so many seconds' worth may come at once."""
END_ROUND_TRIPS = 3
END_SECONDS = 0.05
"""An end alone waits so long, whichever is more, for all before it to be acknowledged (docs/decisions/0012)."""


class StreamFlood(RemoteProtocolError):
    """The peer opens streams faster than it may."""


@dataclass(slots=True)
class _Stream:
    """What is known of one stream that the engine still has."""

    inbound: bool
    unread: int = 0
    charged: int = 0
    counted: bool = True
    """Its place is charged to the ledger."""
    peer_ended: bool = False
    sending: bool = True
    gone: bool = False
    """The application has no interest any more."""


class StreamTable:
    """The half of `QuicMachine` that knows streams; the engine is `_core`, events gather in `_events`."""

    _core: Any

    def __init__(self, config: QuicConfig, ledger: Ledger | None, *, dialer: bool, now: float) -> None:
        self._config = config
        self._dialer = dialer
        self._ledger: Ledger = ledger or Unlimited()
        self._streams: dict[int, _Stream] = {}
        self._events: list[Event] = []
        self._held_by: int | None = None
        self._held_until = 0.0
        self._tokens = config.streams_per_second * BURST_SECONDS
        self._tokens_at = now
        self._late_ends: dict[int, float] = {}
        """Streams whose end waits until all that was sent is acknowledged, and until when."""
        self._outbound = 0
        self._highest = -3 if dialer else -4
        """Of the peer's stream ids; each opens those below it as well."""
        self._skipped: set[int] = set()
        """Of those that were opened so and have not shown; no more than the peer may have open."""
        self.confirmed = False
        self.ended = False
        self.queued = 0
        self.resets_in = self.resets_out = 0

    @property
    def can_open(self) -> bool:
        """Whether the peer takes another stream of ours."""
        return self.confirmed and not self.ended and bool(self._room_for_streams())

    def _room_for_streams(self) -> int:
        limits: tuple[int, ...] = self._core.stream_limits
        return limits[0] - self._outbound

    @property
    def held(self) -> bool:
        """Whether a stream that nobody reads holds up the connection."""
        return self._held_by is not None

    def window(self, _stream_id: int) -> int:
        """How many bytes the peer takes is the engine's affair: never nothing."""
        return self._config.stream_send_bytes

    def room(self, stream_id: int) -> int:
        """How many bytes `send` would take."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.sending or self.ended:
            return 0
        mine: int = self._config.stream_send_bytes - self._core.get_send_buffer_size(stream_id)
        return max(0, min(mine, self._config.connection_send_bytes - self.queued))

    # ------------------------------------------------------------------------------- what the engine says

    def _stream_data(self, stream_id: int, data: bytes, now: float, *, ended: bool) -> None:
        stream = self._streams.get(stream_id) or self._meet(stream_id, now)
        if stream is None or stream.gone:
            return
        if data:
            stream.unread += len(data)
            if not self._charge(stream_id, stream):
                return
            self._events.append(DataReceived(stream_id, data))
            if stream.unread >= self._config.stream_unread_bytes and not ended:
                self._held_by = stream_id
                self._held_until = now + self._config.stall_seconds
        if ended:
            stream.peer_ended = True
            self._events.append(StreamEnded(stream_id))

    def _meet(self, stream_id: int, now: float) -> _Stream | None:
        """A stream that is not known: the peer's new one, or None."""
        if self._is_own(stream_id) or not self._is_new(stream_id):
            return None
        self._tokens += (now - self._tokens_at) * self._config.streams_per_second
        self._tokens = min(self._tokens, self._config.streams_per_second * BURST_SECONDS) - 1
        self._tokens_at = now
        if self._tokens < 0:
            raise StreamFlood("the peer opens streams too fast")
        stream = self._streams[stream_id] = _Stream(inbound=True)
        try:
            self._ledger.reserve_stream(inbound=True)
        except LimitExceeded:
            stream.counted = False
            self.reset(stream_id, StreamCode.RESOURCE_LIMIT)
            return None
        self._events.append(StreamOpened(stream_id))
        return stream

    def _is_new(self, stream_id: int) -> bool:
        """Whether it was not there before: the engine may still tell of a stream after it has finished it."""
        if stream_id > self._highest:
            self._skipped.update(range(self._highest + 4, stream_id, 4))
            self._highest = stream_id
            return True
        known = stream_id not in self._skipped
        self._skipped.discard(stream_id)
        return not known

    def _is_own(self, stream_id: int) -> bool:
        return bool(stream_id & 1) != self._dialer

    def _stream_reset(self, event: tuple[Any, ...], now: float) -> None:
        _, stream_id, code, _ = event
        self.resets_in += 1
        stream = self._streams.get(stream_id) or self._meet(stream_id, now)
        if stream is None:
            return
        stream.peer_ended = True
        if not stream.gone:
            self._abort(stream_id, stream, code)
            self._events.append(StreamAborted(stream_id, code, remote=True))

    def _stop_sending(self, event: tuple[Any, ...], now: float) -> None:
        _, stream_id, code = event
        stream = self._streams.get(stream_id) or self._meet(stream_id, now)
        self._late_ends.pop(stream_id, None)
        if stream is not None and stream.sending:
            stream.sending = False  # the engine answers with RESET_STREAM
            if not stream.gone:
                self._events.append(SendingStopped(stream_id, code))

    def _stream_finished(self, event: tuple[Any, ...], _now: float) -> None:
        stream = self._streams.get(event[1])
        if stream is not None:
            stream.peer_ended, stream.sending = True, False
            if stream.gone:
                self._forget(event[1], stream)

    # ------------------------------------------------------------------------------- what the application does

    def open_stream(self, _now: float = 0.0) -> int:
        """A new stream's id. LimitExceeded past our own cap or the ledger's; LocalProtocolError when not `can_open`."""
        if not self.can_open:
            raise LocalProtocolError("the peer takes no further stream now")
        own = sum(not stream.inbound and not stream.gone for stream in self._streams.values())
        if own >= self._config.max_outbound_streams:
            limit = self._config.max_outbound_streams
            raise LimitExceeded(
                f"limit of {limit} streams out reached", limit=limit, scope="connection", kind="streams"
            )
        self._ledger.reserve_stream(inbound=False)
        stream_id: int = guarded(self._core.open_stream, False)  # noqa: FBT003 - the engine takes positions only
        self._outbound += 1
        self._streams[stream_id] = _Stream(inbound=False)
        return stream_id

    def accept(self, stream_id: int) -> None:
        """The application took the stream; nothing has to be said."""

    def send(self, stream_id: int, data: bytes | memoryview) -> int:
        """Queues what there is room for; how many bytes."""
        size = min(len(data), self.room(stream_id))
        if size:
            guarded(self._core.send_stream, stream_id, data if size == len(data) else data[:size])
            self.queued += size
        return size

    def close(self, stream_id: int) -> None:
        """Ends our direction behind what was sent."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.sending and not self.ended:
            stream.sending = False
            if self._core.bytes_in_flight and not self._core.get_send_buffer_size(stream_id):
                self._late_ends[stream_id] = math.inf
            else:
                self._send_end(stream_id)

    def _send_end(self, stream_id: int) -> None:
        guarded(self._core.send_stream, stream_id, b"", True)  # noqa: FBT003 - the engine takes positions only

    def _send_late_ends(self, now: float) -> bool:
        """Sends the ends whose time has come; False when there are none."""
        if not self._late_ends:
            return False
        late, self._late_ends = self._late_ends, {}
        patience = max(END_ROUND_TRIPS * (self._core.smoothed_rtt or 0.0), END_SECONDS)
        for stream_id, until in late.items():
            if self._core.bytes_in_flight and now < until:
                self._late_ends[stream_id] = min(until, now + patience)
            else:
                self._send_end(stream_id)
        return len(self._late_ends) < len(late)

    def abandon(self, stream_id: int) -> None:
        """The application is done with it: what the peer still sends is not wanted."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if not stream.peer_ended and not self.ended:
            guarded(self._core.stop_sending, stream_id, StreamCode.NONE)
        self._leave(stream_id, stream)

    def reset(self, stream_id: int, code: int = StreamCode.NONE) -> None:
        """Ends both directions now."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.gone:
            self.resets_out += 1
            self._abort(stream_id, stream, code)

    def _abort(self, stream_id: int, stream: _Stream, code: int) -> None:
        """Tells the engine as far as it has not ended by itself."""
        self._late_ends.pop(stream_id, None)
        if not self.ended:
            if self._core.can_send_stream(stream_id):
                guarded(self._core.reset_stream, stream_id, code)
            if not stream.peer_ended:
                guarded(self._core.stop_sending, stream_id, code)
        stream.sending = False
        self._leave(stream_id, stream)

    def _leave(self, stream_id: int, stream: _Stream) -> None:
        """Gives back what is charged; the entry stays until the engine has finished the stream."""
        stream.gone = True
        self._consume(stream_id, stream, stream.unread)
        if stream.counted:
            stream.counted = False
            self._ledger.release_stream(inbound=stream.inbound)
        if self.ended or (stream.peer_ended and not self._core.can_send_stream(stream_id)):
            self._forget(stream_id, stream)

    def _forget(self, stream_id: int, stream: _Stream) -> None:
        del self._streams[stream_id]
        if stream.counted:
            self._ledger.release_stream(inbound=stream.inbound)

    def _consume(self, stream_id: int, stream: _Stream, size: int) -> None:
        stream.unread -= size
        steps = stream.unread // MEMORY_STEP_BYTES * MEMORY_STEP_BYTES
        if steps < stream.charged:
            self._ledger.release_memory(stream.charged - steps)
            stream.charged = steps
        if self._held_by == stream_id and stream.unread * 2 <= self._config.stream_unread_bytes:
            self._held_by = None

    def _charge(self, stream_id: int, stream: _Stream) -> bool:
        steps = stream.unread // MEMORY_STEP_BYTES * MEMORY_STEP_BYTES
        if steps > stream.charged:
            try:
                self._ledger.reserve_memory(steps - stream.charged)
            except LimitExceeded:
                self._give_up(stream_id, stream)
                return False
            stream.charged = steps
        return True

    def _give_up(self, stream_id: int, stream: _Stream) -> None:
        """Resets a stream that costs more than it may."""
        self.resets_out += 1
        self._abort(stream_id, stream, StreamCode.RESOURCE_LIMIT)
        self._events.append(StreamAborted(stream_id, StreamCode.RESOURCE_LIMIT, remote=False))

    def release_all(self) -> None:
        """Forgets every stream; the ledger gets back what is charged."""
        self.ended = True
        for stream_id, stream in list(self._streams.items()):
            self._leave(stream_id, stream)
        self._streams.clear()
        self._late_ends.clear()
