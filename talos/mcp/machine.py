"""One tunnel session without IO, in either role: bytes in, events and bytes out.

Rules of this file
- It decides everything and does nothing: no clock (`now` comes in), no waiting, no socket.
- What the peer may not do raises RemoteProtocolError; once the session is open, CLOSE 3 is queued with it. What we
  may not do raises LocalProtocolError and changes nothing.
- Sequence, acknowledgement and window are one mechanism: a line counts against the window from `submit` until the
  peer acknowledges it, and it is acknowledged when `consumed` says so. Nothing else holds a sender back.

States
- OPENING: connect has sent Open and waits for Accept; serve waits for Open, reports it, waits for `accept`.
- OPEN: by Accept with status OK. Lines and control frames pass.
- CLOSED: by any other status, `close`, the peer's CLOSE, a protocol error, the end of the stream, or silence. What
  was submitted before `close` still goes out, and CLOSE behind it; what comes in is ignored.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING

from talos.errors import LocalProtocolError, RemoteProtocolError
from talos.mcp.event import Closed, LineArrived, OpenArrived, Opened, PeerEof, Refused, WindowOpened
from talos.mcp.frames import FrameDecoder
from talos.mcp.outbox import Outbox
from talos.mcp.pulse import Pulse
from talos.mcp.wire import MAX_DETAIL_BYTES, MAX_OPENING_BYTES, Accept, CloseCode, FrameKind, Open, Status, frame
from talos.wire import length_prefix, varint

if TYPE_CHECKING:
    from talos.mcp.event import Event
    from talos.mcp.limits import McpLimits

__all__ = ["LINE_OVERHEAD", "SessionMachine", "State", "cost"]

_LINE, _CLOSE = FrameKind.LINE.value, FrameKind.CLOSE.value

LINE_OVERHEAD = 64
"""Counted with every line, so that many short ones fill a window too."""
ACK_LINES = 64
ACK_SECONDS = 0.05


class State(enum.Enum):
    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"


def cost(line: bytes) -> int:
    """What `line` takes of a window."""
    return len(line) + LINE_OVERHEAD


class SessionMachine:
    """One side of a session; made by `connect` or `serve`.

    Write what `data_to_send` gives, until it gives nothing, after each verb and each `receive_data`.
    """

    def __init__(self, limits: McpLimits, *, connects: bool, now: float) -> None:
        self.state = State.OPENING
        self.open_message: Open | None = None
        """Of connect; at serve from `OpenArrived` on."""
        self.sent = 0
        """Seq of the last line submitted."""
        self.received = 0
        """Seq of the last line that came."""
        self.peer_max_line = 0
        """No longer line may be submitted."""
        self._connects = connects
        self._limits = limits
        self._deadline: float | None = now + limits.opening_seconds
        self._pulse = Pulse(asks=connects, max_pings=limits.pings_per_10s, now=now)
        self._opening = length_prefix.LengthPrefixDecoder(MAX_OPENING_BYTES)
        self._frames = FrameDecoder(limits.max_line)
        # our direction
        self._peer_window = 0
        self._costs: deque[int] = deque()  # of lines from `_acked` + 1 on
        self._outstanding = 0
        self._acked = 0
        self._blocked = False
        self._source_ended = False
        # the peer's direction
        self._held: deque[int] = deque()  # costs of lines from `_consumed` + 1 on
        self._held_cost = 0
        self._consumed = 0
        self._reported = 0  # the ack that the peer has been told
        self._unreported_cost = 0
        self._ack_at: float | None = None
        self._peer_last: int | None = None
        self._outbox = Outbox()

    @classmethod
    def connect(cls, message: Open, limits: McpLimits, *, now: float = 0.0) -> SessionMachine:
        """The side that opened the stream. LocalProtocolError when `message` announces other limits than `limits`."""
        if (message.max_line, message.window) != (limits.max_line, limits.window):
            raise LocalProtocolError("mcp: the Open announces other limits than those in force")
        machine = cls(limits, connects=True, now=now)
        machine.open_message = message
        machine._outbox.control += length_prefix.frame(message.encode(), MAX_OPENING_BYTES)
        return machine

    @classmethod
    def serve(cls, limits: McpLimits, *, now: float = 0.0) -> SessionMachine:
        """The side that accepted the stream."""
        return cls(limits, connects=False, now=now)

    # ------------------------------------------------------------------------------- questions

    @property
    def finished(self) -> bool:
        """Both sources ended and every line is consumed and acknowledged."""
        return (
            self._source_ended
            and not self._costs
            and self._peer_last is not None
            and self._reported == self._consumed == self._peer_last
        )

    @property
    def unsent_bytes(self) -> int:
        """Of submitted lines, frames' headers not counted."""
        return self._outbox.size

    def can_submit(self, line_cost: int) -> bool:
        """Whether a line of this `cost` fits now. If not, `WindowOpened` follows as soon as that may have changed."""
        if self.state is not State.OPEN or self._source_ended:
            return False
        if not self._costs or self._outstanding + line_cost <= self._peer_window:
            return True
        self._blocked = True
        return False

    def next_deadline(self) -> float | None:
        """When `deadline_passed` wants to be called."""
        if self.state is State.CLOSED:
            return None
        if self.state is State.OPENING:
            return self._deadline
        silence = self._pulse.next_deadline()
        return silence if self._ack_at is None else min(silence, self._ack_at)

    # ------------------------------------------------------------------------------- verbs

    def accept(self, message: Accept, now: float) -> None:
        """Serve's answer to the Open. With status OK the session is open, else it is over.

        `message` announces the limits that this machine was made with, or is given them where it names none.
        """
        opened = self.open_message
        if self._connects or opened is None or self.state is not State.OPENING:
            raise LocalProtocolError("mcp: there is no Open to answer")
        if message.status is Status.OK:
            if (message.max_line, message.window) != (self._limits.max_line, self._limits.window):
                raise LocalProtocolError("mcp: the Accept announces other limits than those in force")
            opened.check()
            self._start(opened.max_line, opened.window, now)
        else:
            self.state = State.CLOSED
        self._outbox.control += length_prefix.frame(message.encode(), MAX_OPENING_BYTES)

    def submit(self, line: bytes) -> int:
        """Sends a line; its seq. LocalProtocolError when `can_submit` or `peer_max_line` forbids it."""
        size = len(line)
        if not 0 < size <= self.peer_max_line:
            raise LocalProtocolError(f"mcp: a line of {size} bytes, the peer takes 1 to {self.peer_max_line}")
        line_cost = size + LINE_OVERHEAD
        if not self.can_submit(line_cost):
            raise LocalProtocolError("mcp: no line may be sent now: ask can_submit")
        self._costs.append(line_cost)
        self._outstanding += line_cost
        self._outbox.add(line)
        self.sent += 1
        return self.sent

    def consumed(self, seq: int, now: float) -> None:
        """All lines up to `seq` are written to the sink, or denied. Does nothing once the session is over."""
        if not self._consumed <= seq <= self.received:
            raise LocalProtocolError(f"mcp: line {seq} is not between {self._consumed} and {self.received}")
        held = self._held
        while self._consumed < seq:
            self._consumed += 1
            self._unreported_cost += held.popleft()
        if self.state is not State.OPEN or self._consumed == self._reported:
            return
        due = self._unreported_cost * 4 >= self._limits.window or self._consumed - self._reported >= ACK_LINES
        if due or self._consumed == self._peer_last:  # the last one: nothing will take it along
            self._queue_ack()
        elif self._ack_at is None:
            self._ack_at = now + ACK_SECONDS

    def source_ended(self) -> None:
        """Our source has no more lines: EOF goes behind those that were submitted. Again: does nothing."""
        if self.state is State.OPEN and not self._source_ended:
            self._source_ended = True
            self._outbox.farewell = frame(FrameKind.EOF, varint.encode(self.sent))

    def close(self, code: CloseCode, text: str = "") -> None:
        """Ends the session, behind what was submitted. `text` is cut to 256 bytes. Once it is over: does nothing."""
        if self.state is State.OPEN:
            self._close(code, text)

    def stream_lost(self) -> list[Event]:
        """The stream ended or broke."""
        if self.state is State.CLOSED:
            return []
        code = CloseCode.DONE if self.finished else None
        self._stop()
        return [Closed(code, "" if code is CloseCode.DONE else "connection lost", remote=False)]

    def deadline_passed(self, now: float) -> list[Event]:
        """Acknowledges and pings when that is due; `Closed` when the peer took too long."""
        if self.state is State.OPENING and self._deadline is not None and now >= self._deadline:
            self._stop()
            return [Closed(None, "the opening took too long", remote=False)]
        if self.state is not State.OPEN:
            return []
        if self._ack_at is not None and now >= self._ack_at:
            self._queue_ack()
        if self._pulse.is_silent(now):
            self._stop()
            return [Closed(None, "the peer is silent", remote=False)]
        if self._pulse.asks_now(now):
            self._outbox.control += frame(FrameKind.PING, bytes(8))
        return []

    # ------------------------------------------------------------------------------- bytes in

    def receive_data(self, data: bytes, now: float = 0.0) -> list[Event]:
        """What `data` brought. After RemoteProtocolError write what is there to send, then end the stream."""
        if self.state is State.CLOSED or not data:
            return []
        if self.state is State.OPENING:
            try:
                return self._receive_opening(data, now)
            except RemoteProtocolError:
                self._stop()
                raise
        self._pulse.alive(now)
        events: list[Event] = []
        try:
            for kind, seq, ack, body in self._frames.receive_data(data):
                if kind == _LINE:
                    if ack != self._acked:
                        self._acknowledged_by_peer(ack, events)
                    self._line(seq, body, events)
                else:
                    self._control_frame(kind, body, now, events)
                    if kind == _CLOSE:
                        break
        except RemoteProtocolError as error:
            self._outbox.drop_lines()
            self._close(CloseCode.PROTOCOL, str(error))
            raise
        return events

    def _receive_opening(self, data: bytes, now: float) -> list[Event]:
        if not self._connects and self.open_message is not None:
            raise RemoteProtocolError("mcp: the peer spoke before it was accepted")
        self._opening.feed(data)
        message = self._opening.next_message()
        if message is None:
            return []
        if not self._connects:
            self.open_message = Open.decode(message)
            if self._opening.take_leftover():
                raise RemoteProtocolError("mcp: the peer spoke before it was accepted")
            return [OpenArrived(self.open_message)]
        accept = Accept.decode(message)
        accept.check()
        if accept.status is not Status.OK:
            self._stop()
            return [Refused(accept)]
        assert self.open_message is not None
        if self.open_message.server not in {"", accept.server}:
            raise RemoteProtocolError("mcp: the peer opened another server than the one asked for")
        self._start(accept.max_line, accept.window, now)
        return [Opened(accept), *self.receive_data(self._opening.take_leftover(), now)]

    def _start(self, peer_max_line: int, peer_window: int, now: float) -> None:
        self.peer_max_line, self._peer_window = peer_max_line, peer_window
        self.state = State.OPEN
        self._pulse.alive(now)

    def _line(self, seq: int, line: bytes, events: list[Event]) -> None:
        if seq != self.received + 1:
            raise RemoteProtocolError(f"mcp: line {seq} behind line {self.received}")
        if self._peer_last is not None:
            raise RemoteProtocolError("mcp: a line behind the end of its source")
        line_cost = len(line) + LINE_OVERHEAD
        if self._held_cost and self._held_cost + line_cost > self._limits.window:
            raise RemoteProtocolError(f"mcp: line {seq} is beyond the window of {self._limits.window}")
        self.received = seq
        self._held.append(line_cost)
        self._held_cost += line_cost
        events.append(LineArrived(seq, line))

    def _acknowledged_by_peer(self, ack: int, events: list[Event]) -> None:
        if not self._acked <= ack <= self._outbox.last_sent:
            raise RemoteProtocolError(f"mcp: ack {ack} is not between {self._acked} and {self._outbox.last_sent}")
        for _ in range(ack - self._acked):
            self._outstanding -= self._costs.popleft()
        self._acked = ack
        if self._blocked:
            self._blocked = False
            events.append(WindowOpened())

    def _control_frame(self, kind: int, body: bytes, now: float, events: list[Event]) -> None:
        match kind:
            case FrameKind.ACK:
                ack = _number(body)
                if ack != self._acked:
                    self._acknowledged_by_peer(ack, events)
            case FrameKind.PING:
                if not self._pulse.pinged(now):
                    raise RemoteProtocolError("mcp: too many pings")
                self._outbox.control += frame(FrameKind.PONG, body)
            case FrameKind.EOF:
                self._peer_eof(_number(body), events)
            case FrameKind.CLOSE:
                code, text = _farewell(body)
                self._stop()
                events.append(Closed(code, text, remote=True))
            case FrameKind.RECEIPT:
                raise RemoteProtocolError("mcp: a receipt, which is not in force")

    def _peer_eof(self, last: int, events: list[Event]) -> None:
        if last != self.received:
            raise RemoteProtocolError(f"mcp: the source ended behind line {last}, of which {self.received} came")
        if self._peer_last is None:
            self._peer_last = last
            if self._reported != self._consumed == last:
                self._queue_ack()
            events.append(PeerEof(last))

    def _close(self, code: CloseCode, text: str) -> None:
        self.state = State.CLOSED
        self._outbox.farewell += frame(FrameKind.CLOSE, varint.encode(code) + _cut(text))

    def _stop(self) -> None:
        """Over, with nothing left to say."""
        self.state = State.CLOSED
        self._outbox.clear()

    # ------------------------------------------------------------------------------- bytes out

    def data_to_send(self, now: float | None = None) -> bytes:
        """The next bytes, about 256 KiB at most; nothing when there is nothing. Bytes of a line count as life."""
        data, has_line, acknowledged = self._outbox.take(self._consumed)
        if acknowledged:
            self._acknowledged()
        if has_line and now is not None and self.state is State.OPEN:
            self._pulse.alive(now)
        return data

    def _queue_ack(self) -> None:
        self._outbox.control += frame(FrameKind.ACK, varint.encode(self._consumed))
        self._acknowledged()

    def _acknowledged(self) -> None:
        """The peer will know of everything that is consumed."""
        if self._reported != self._consumed:
            self._reported = self._consumed
            self._held_cost -= self._unreported_cost
            self._unreported_cost = 0
        self._ack_at = None


def _number(body: bytes) -> int:
    number = varint.decode(body)
    if number is None or number[1] != len(body):
        raise RemoteProtocolError("mcp: a frame that is not one number")
    return number[0]


def _farewell(body: bytes) -> tuple[CloseCode | int, str]:
    number = varint.decode(body)
    if number is None or len(body) - number[1] > MAX_DETAIL_BYTES:
        raise RemoteProtocolError("mcp: malformed CLOSE")
    try:
        text = body[number[1] :].decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("mcp: a CLOSE whose text is not UTF-8") from error
    code = number[0]
    return (CloseCode(code) if code <= CloseCode.WITHDRAWN else code), text


def _cut(text: str) -> bytes:
    """At most 256 bytes of UTF-8, whole characters."""
    return text.encode(errors="replace")[:MAX_DETAIL_BYTES].decode(errors="ignore").encode()
