"""A tunnel session, step by step, and everything that its peer may not do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from talos.errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError
from talos.mcp.event import Closed, LineArrived, OpenArrived, Opened, PeerEof, Refused, WindowOpened
from talos.mcp.frames import FrameDecoder
from talos.mcp.limits import McpLimits
from talos.mcp.machine import SessionMachine, State, cost
from talos.mcp.outbox import SEND_BYTES
from talos.mcp.wire import Accept, CloseCode, FrameKind, Open, Status, frame, line_header
from talos.wire import length_prefix, varint

LIMITS = McpLimits(max_line=65_536, window=65_536)
OPEN = Open(nonce=b"c" * 32, max_line=LIMITS.max_line, window=LIMITS.window)
OK = Accept(
    status=Status.OK,
    session=b"s" * 16,
    resume_token=b"t" * 32,
    nonce=b"n" * 32,
    server="default",
    max_line=LIMITS.max_line,
    window=LIMITS.window,
)
CLOSE_3 = frame(FrameKind.CLOSE, b"\x03")[1:]


def opened(limits: McpLimits = LIMITS) -> tuple[SessionMachine, SessionMachine]:
    connect = SessionMachine.connect(replace(OPEN, max_line=limits.max_line, window=limits.window), limits)
    serve = SessionMachine.serve(limits)
    assert serve.receive_data(connect.data_to_send()) == [OpenArrived(connect.open_message)]  # type: ignore[arg-type]
    answer = replace(OK, max_line=limits.max_line, window=limits.window)
    serve.accept(answer, 0.0)
    assert connect.receive_data(serve.data_to_send()) == [Opened(answer)]
    assert connect.state is serve.state is State.OPEN
    return connect, serve


def line_frame(seq: int, line: bytes, ack: int = 0) -> bytes:
    return line_header(seq, ack, len(line)) + line


def ack_frame(ack: int) -> bytes:
    return frame(FrameKind.ACK, varint.encode(ack))


# ----------------------------------------------------------------------------------- opening


def test_a_refused_peer_gets_a_reason_and_nothing_else() -> None:
    connect, serve = SessionMachine.connect(OPEN, LIMITS), SessionMachine.serve(LIMITS)
    serve.receive_data(connect.data_to_send())
    serve.accept(Accept(status=Status.BUSY, detail="full"), 0.0)
    assert serve.state is State.CLOSED
    assert connect.receive_data(serve.data_to_send()) == [Refused(Accept(status=Status.BUSY, detail="full"))]
    assert connect.state is State.CLOSED
    assert connect.data_to_send() == serve.data_to_send() == b""


def test_the_opening_has_ten_seconds() -> None:
    for machine in (SessionMachine.connect(OPEN, LIMITS, now=5.0), SessionMachine.serve(LIMITS, now=5.0)):
        assert machine.next_deadline() == 15.0
        assert machine.deadline_passed(14.9) == []
        assert machine.deadline_passed(15.0) == [Closed(None, "the opening took too long", remote=False)]
        assert machine.next_deadline() is None
        assert machine.deadline_passed(16.0) == []


@pytest.mark.parametrize("data", [b"\x81\x20", b"\x01\xff", length_prefix.frame(OPEN.encode()) + b"\x00"])
def test_a_bad_opening_is_refused_at_serve(data: bytes) -> None:
    serve = SessionMachine.serve(LIMITS)
    with pytest.raises(RemoteProtocolError):
        serve.receive_data(data)
    assert serve.state is State.CLOSED
    assert serve.data_to_send() == b""
    assert serve.receive_data(b"more") == []


def test_nothing_may_come_before_the_answer() -> None:
    serve = SessionMachine.serve(LIMITS)
    serve.receive_data(length_prefix.frame(OPEN.encode()))
    with pytest.raises(RemoteProtocolError, match="before it was accepted"):
        serve.receive_data(b"\x00")


def test_the_fields_are_checked_when_the_answer_is_ok() -> None:
    serve = SessionMachine.serve(LIMITS)
    serve.receive_data(length_prefix.frame(replace(OPEN, window=1).encode()))
    with pytest.raises(RemoteProtocolError, match="window"):
        serve.accept(OK, 0.0)


@pytest.mark.parametrize("bad", [replace(OK, nonce=b""), replace(OK, server="other")])
def test_a_bad_answer_is_refused_at_connect(bad: Accept) -> None:
    connect = SessionMachine.connect(replace(OPEN, server="files"), LIMITS)
    connect.data_to_send()
    with pytest.raises(RemoteProtocolError):
        connect.receive_data(length_prefix.frame(bad.encode()))
    assert connect.state is State.CLOSED


def test_an_answer_may_come_in_pieces_and_with_lines_behind_it() -> None:
    connect = SessionMachine.connect(OPEN, LIMITS)
    data = length_prefix.frame(OK.encode()) + line_frame(1, b"{}")
    events = [event for at in range(len(data)) for event in connect.receive_data(data[at : at + 1])]
    assert events == [Opened(OK), LineArrived(1, b"{}")]


def test_what_we_announce_is_what_is_in_force() -> None:
    with pytest.raises(LocalProtocolError, match="Open"):
        SessionMachine.connect(replace(OPEN, window=70_000), LIMITS)
    serve = SessionMachine.serve(LIMITS)
    with pytest.raises(LocalProtocolError, match="no Open"):
        serve.accept(OK, 0.0)
    serve.receive_data(length_prefix.frame(OPEN.encode()))
    with pytest.raises(LocalProtocolError, match="Accept"):
        serve.accept(replace(OK, max_line=70_000), 0.0)
    serve.accept(OK, 0.0)
    with pytest.raises(LocalProtocolError, match="no Open"):
        serve.accept(OK, 0.0)
    connect = SessionMachine.connect(OPEN, LIMITS)
    with pytest.raises(LocalProtocolError, match="no Open"):
        connect.accept(OK, 0.0)


# ----------------------------------------------------------------------------------- lines and window


def test_lines_cross_in_order_and_are_acknowledged() -> None:
    connect, serve = opened()
    assert [connect.submit(line) for line in (b"one", b"two")] == [1, 2]
    assert connect.unsent_bytes == 6
    assert serve.receive_data(connect.data_to_send(1.0), 1.0) == [LineArrived(1, b"one"), LineArrived(2, b"two")]
    assert (connect.unsent_bytes, connect.sent, serve.received) == (0, 2, 2)
    serve.consumed(2, 1.0)
    assert serve.data_to_send() == b""
    assert serve.next_deadline() == 1.05
    serve.consumed(2, 1.01)  # nothing new
    assert serve.deadline_passed(1.05) == []
    assert serve.data_to_send() == ack_frame(2)
    assert serve.next_deadline() == 31.0


def test_a_line_takes_the_acknowledgement_along() -> None:
    connect, serve = opened()
    connect.submit(b"one")
    serve.receive_data(connect.data_to_send())
    serve.consumed(1, 0.0)
    serve.submit(b"two")
    assert serve.data_to_send() == line_frame(1, b"two", ack=1)
    assert serve.deadline_passed(1.0) == []
    assert serve.data_to_send() == b""


def test_64_lines_or_a_quarter_window_are_acknowledged_at_once() -> None:
    connect, serve = opened()
    for _ in range(64):
        connect.submit(b"x")
    serve.receive_data(connect.data_to_send())
    for seq in range(1, 65):
        assert serve.data_to_send() == b""
        serve.consumed(seq, 0.0)
    assert serve.data_to_send() == ack_frame(64)
    connect.submit(b"x" * (16_384 - 65))
    connect.submit(b"x")
    serve.receive_data(connect.data_to_send())
    serve.consumed(65, 0.0)
    assert serve.data_to_send() == b""
    serve.consumed(66, 0.0)
    assert serve.data_to_send() == ack_frame(66)


def test_the_window_stops_the_sender_until_something_is_consumed() -> None:
    connect, serve = opened()
    half = b"x" * (32_768 - 64)
    for _ in range(2):
        assert connect.can_submit(cost(half))
        connect.submit(half)
    assert not connect.can_submit(cost(b"y"))
    with pytest.raises(LocalProtocolError, match="can_submit"):
        connect.submit(b"y")
    serve.receive_data(connect.data_to_send())
    serve.consumed(1, 0.0)
    assert connect.receive_data(serve.data_to_send()) == [WindowOpened()]
    assert connect.can_submit(cost(half))
    serve.consumed(2, 0.0)
    assert connect.receive_data(serve.data_to_send()) == []  # nobody waited


def test_one_line_may_be_larger_than_the_window() -> None:
    limits = replace(LIMITS, max_line=1_000_000)
    connect, serve = opened(limits)
    line = b"x" * 1_000_000
    connect.submit(line)
    assert not connect.can_submit(1)
    events = []
    sizes = []
    while data := connect.data_to_send(1.0):
        sizes.append(len(data))
        events += serve.receive_data(data)
    assert events == [LineArrived(1, line)]
    assert len(sizes) == 4
    assert max(sizes) <= SEND_BYTES + 32


def test_only_lines_that_the_peer_takes_are_sent() -> None:
    connect, _ = opened()
    for bad in (b"", b"x" * 65_537):
        with pytest.raises(LocalProtocolError, match="bytes"):
            connect.submit(bad)
    assert connect.peer_max_line == 65_536
    assert connect.submit(b"x" * 65_536) == 1


def test_only_what_came_can_be_consumed() -> None:
    connect, serve = opened()
    connect.submit(b"x")
    serve.receive_data(connect.data_to_send())
    with pytest.raises(LocalProtocolError):
        serve.consumed(2, 0.0)
    serve.consumed(1, 0.0)
    with pytest.raises(LocalProtocolError):
        serve.consumed(0, 0.0)


def test_control_frames_pass_between_lines_but_not_inside_one() -> None:
    limits = replace(LIMITS, max_line=1_000_000)
    connect, serve = opened(limits)
    connect.submit(b"x" * 400_000)
    first = connect.data_to_send()
    connect.receive_data(frame(FrameKind.PING, b"12345678"))
    rest = connect.data_to_send()
    assert rest.endswith(frame(FrameKind.PONG, b"12345678"))
    assert [type(event) for event in serve.receive_data(first + rest)] == [LineArrived]


# ----------------------------------------------------------------------------------- what the peer may not do


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (line_frame(2, b"x"), "line 2 behind line 0"),
        (line_frame(1, b"x") * 2, "line 1 behind line 1"),
        (line_frame(1, b"x", ack=1), "ack 1"),
        (ack_frame(1), "ack 1"),
        (line_frame(1, b"a\nb"), "line feed"),
        (line_frame(1, b""), "numbers or its bytes"),
        (b"\x01\x01", "without its numbers"),
        (b"\x02\x01\x01", "without its numbers or"),
        (b"\x03\x01\x81\x00", "shortest form"),
        (b"\x82\x00\x02\x00", "shortest form"),
        (b"\xa1\x80\x04\x01", "frame of 65569 bytes"),
        (line_frame(1, b"x" * 65_537), "line of 65537 bytes"),
        (b"\xff\xff\xff\xff\xff", "over 5 bytes"),
        (line_frame(1, b"x" * 65_000) + line_frame(2, b"x" * 500), "beyond the window"),
        (b"\x00\x01", "length 0"),
        (b"\x00\x80", "length 0"),
        (b"\x01\x00", "frame kind 0"),
        (b"\x01\x08", "frame kind 8"),
        (b"\x01\x7f", "frame kind 127"),
        (b"\x01\x02", "kind 2 with length 1"),
        (b"\x03\x02\x00\x00", "not one number"),
        (b"\x02\x02\x80", "not one number"),
        (frame(FrameKind.PING, b"1234567"), "kind 3"),
        (frame(FrameKind.PONG, b"123456789"), "kind 4"),
        (frame(FrameKind.PING, bytes(8)) * 11, "pings"),
        (frame(FrameKind.EOF, b"\x01"), "behind line 1"),
        (frame(FrameKind.EOF, b"\x00") + line_frame(1, b"x"), "behind the end"),
        (line_frame(1, b"x") + frame(FrameKind.EOF, b"\x00"), "behind line 0"),
        (frame(FrameKind.RECEIPT, b"\x0a\x00"), "not in force"),
        (frame(FrameKind.CLOSE, b"\x80"), "malformed CLOSE"),
        (frame(FrameKind.CLOSE, b"\x00" + b"x" * 257), "malformed CLOSE"),
        (frame(FrameKind.CLOSE, b"\x00\xff"), "UTF-8"),
        (b"\x8b\x02\x07", "kind 7 with length 267"),
    ],
)
def test_a_breach_ends_the_session_with_close_3(data: bytes, words: str) -> None:
    for machine in opened():
        with pytest.raises(RemoteProtocolError, match=words):
            machine.receive_data(data)
        assert machine.state is State.CLOSED
        sent = machine.data_to_send()
        assert CLOSE_3 in sent
        assert words.encode() in sent
        assert machine.receive_data(b"\x00") == []


def test_an_acknowledgement_never_falls() -> None:
    connect, _ = opened()
    connect.submit(b"x")
    connect.submit(b"y")
    connect.data_to_send()
    connect.receive_data(ack_frame(2) + ack_frame(2))
    with pytest.raises(RemoteProtocolError, match="ack 1"):
        connect.receive_data(ack_frame(1))


def test_a_line_on_its_way_cannot_be_acknowledged() -> None:
    connect, _ = opened(replace(LIMITS, max_line=1_000_000))
    connect.submit(b"x" * 400_000)
    connect.data_to_send()
    with pytest.raises(RemoteProtocolError, match="ack 1"):
        connect.receive_data(ack_frame(1))
    rest = connect.data_to_send()  # the line is ended, so that CLOSE is read as a frame
    assert len(rest) > 400_000 - SEND_BYTES
    assert CLOSE_3 in rest


def test_a_breach_drops_the_lines_that_wait() -> None:
    connect, _ = opened()
    connect.submit(b"secret")
    with pytest.raises(RemoteProtocolError):
        connect.receive_data(b"\x01\x00")
    assert b"secret" not in connect.data_to_send()
    assert connect.unsent_bytes == 0


def test_the_length_is_judged_before_the_bytes_come() -> None:
    connect, _ = opened()
    with pytest.raises(MessageTooLarge):
        connect.receive_data(varint.encode(LIMITS.max_line + 33) + b"\x01")


# ----------------------------------------------------------------------------------- what it may


def test_frames_of_kinds_from_80_on_are_ignored() -> None:
    connect, _ = opened()
    big = varint.encode(65_000) + b"\x80" + b"x" * 64_999
    data = b"\x01\xff" + big + line_frame(1, b"a") + big + line_frame(2, b"b")
    expected = [LineArrived(1, b"a"), LineArrived(2, b"b")]
    assert connect.receive_data(data) == expected
    connect, _ = opened()
    assert [event for at in range(0, len(data), 7) for event in connect.receive_data(data[at : at + 7])] == expected


def test_an_ignored_frame_is_not_kept() -> None:
    decoder = FrameDecoder(65_536)
    assert decoder.receive_data(varint.encode(65_000) + b"\x90") == []
    for _ in range(64):
        assert decoder.receive_data(b"x" * 1000) == []
        assert not decoder._buffer
    assert decoder.receive_data(b"x" * 999 + ack_frame(0)) == [(FrameKind.ACK, 0, 0, b"\x00")]


def test_pings_are_answered_and_pongs_taken() -> None:
    connect, serve = opened()
    serve.receive_data(frame(FrameKind.PING, b"abcdefgh"), 0.0)
    assert connect.receive_data(serve.data_to_send()) == []
    assert connect.data_to_send() == b""


def test_pings_are_counted_over_ten_seconds() -> None:
    _, serve = opened()
    for step in range(100):
        serve.receive_data(frame(FrameKind.PING, bytes(8)), step * 1.0)
    with pytest.raises(RemoteProtocolError, match="pings"):
        serve.receive_data(frame(FrameKind.PING, bytes(8)), 99.5)


# ----------------------------------------------------------------------------------- life


def test_connect_asks_after_ten_silent_seconds_and_gives_up_after_twenty() -> None:
    connect, serve = opened()
    assert connect.next_deadline() == 10.0
    assert connect.deadline_passed(9.0) == []
    assert connect.data_to_send() == b""
    assert connect.deadline_passed(10.0) == []
    assert connect.next_deadline() == 20.0
    ping = connect.data_to_send(10.0)
    assert ping == frame(FrameKind.PING, bytes(8))
    serve.receive_data(ping, 10.0)
    connect.receive_data(serve.data_to_send(), 12.0)
    assert connect.next_deadline() == 22.0
    connect.deadline_passed(22.0)
    connect.data_to_send(22.0)
    assert connect.deadline_passed(32.0) == [Closed(None, "the peer is silent", remote=False)]
    assert connect.state is State.CLOSED


def test_serve_gives_up_after_thirty_seconds_and_never_asks() -> None:
    _, serve = opened()
    serve.receive_data(ack_frame(0), 5.0)
    assert serve.next_deadline() == 35.0
    assert serve.deadline_passed(34.0) == []
    assert serve.data_to_send() == b""
    assert serve.deadline_passed(35.0) == [Closed(None, "the peer is silent", remote=False)]


def test_a_long_line_on_a_slow_link_is_life() -> None:
    connect, serve = opened(replace(LIMITS, max_line=16_000_000))
    for machine in (connect, serve):
        machine.submit(b"x" * 16_000_000)
        for step in range(1, 30):
            machine.data_to_send(step * 9.0)
            assert machine.deadline_passed(step * 9.0) == []
        assert machine.next_deadline() is not None


def test_after_a_sleep_the_peer_has_three_seconds() -> None:
    connect, _ = opened()
    assert connect.deadline_passed(3600.0) == []
    assert connect.data_to_send(3600.0) == frame(FrameKind.PING, bytes(8))
    assert connect.next_deadline() == 3603.0
    assert [type(event) for event in connect.deadline_passed(3603.0)] == [Closed]


def test_a_sleep_while_an_answer_is_awaited_asks_again() -> None:
    connect, _ = opened()
    connect.deadline_passed(10.0)
    assert connect.deadline_passed(100.0) == []
    assert connect.next_deadline() == 103.0


# ----------------------------------------------------------------------------------- the end


def test_both_sources_end_and_the_session_is_finished() -> None:
    connect, serve = opened()
    connect.submit(b"up")
    connect.source_ended()
    connect.source_ended()
    assert not connect.can_submit(1)
    assert serve.receive_data(connect.data_to_send()) == [LineArrived(1, b"up"), PeerEof(1)]
    serve.submit(b"down")
    serve.source_ended()
    serve.consumed(1, 0.0)
    assert connect.receive_data(serve.data_to_send()) == [LineArrived(1, b"down"), PeerEof(1)]
    early = connect.finished
    assert not early
    connect.consumed(1, 0.0)
    assert connect.finished
    serve.receive_data(connect.data_to_send())
    assert serve.finished
    assert serve.stream_lost() == [Closed(CloseCode.DONE, "", remote=False)]
    assert serve.stream_lost() == []


def test_an_end_behind_consumed_lines_is_acknowledged_at_once() -> None:
    connect, serve = opened()
    connect.submit(b"up")
    serve.receive_data(connect.data_to_send())
    serve.consumed(1, 0.0)
    connect.source_ended()
    assert serve.receive_data(connect.data_to_send()) == [PeerEof(1)]
    assert serve.data_to_send() == ack_frame(1)


def test_an_end_may_be_said_again() -> None:
    connect, _ = opened()
    eof = frame(FrameKind.EOF, b"\x00")
    assert connect.receive_data(eof + eof) == [PeerEof(0)]


def test_a_lost_stream_is_a_lost_session() -> None:
    connect, serve = opened()
    connect.submit(b"x")
    assert connect.stream_lost() == [Closed(None, "connection lost", remote=False)]
    assert connect.data_to_send() == b""
    assert not connect.can_submit(1)
    assert serve.stream_lost() == [Closed(None, "connection lost", remote=False)]


def test_close_goes_behind_what_was_submitted() -> None:
    connect, serve = opened()
    serve.submit(b"last words")
    serve.source_ended()
    serve.close(CloseCode.SERVER, "signal 9")
    serve.close(CloseCode.DONE)
    assert serve.state is State.CLOSED
    assert connect.receive_data(serve.data_to_send()) == [
        LineArrived(1, b"last words"),
        PeerEof(1),
        Closed(CloseCode.SERVER, "signal 9", remote=True),
    ]
    assert connect.state is State.CLOSED
    assert connect.data_to_send() == b""
    connect.consumed(1, 0.0)
    assert connect.data_to_send() == b""
    connect.source_ended()
    assert connect.data_to_send() == b""
    assert connect.next_deadline() is None


def test_what_comes_behind_close_is_ignored() -> None:
    connect, _ = opened()
    data = frame(FrameKind.CLOSE, b"\x00") + line_frame(9, b"x") + b"\x01\x80"
    assert connect.receive_data(data) == [Closed(CloseCode.DONE, "", remote=True)]


def test_the_text_of_close_is_cut_between_characters() -> None:
    connect, serve = opened()
    serve.close(CloseCode.LIMIT, "é" * 200 + "\ud800")
    assert connect.receive_data(serve.data_to_send()) == [Closed(CloseCode.LIMIT, "é" * 128, remote=True)]


def test_a_code_of_a_later_release_is_handed_on() -> None:
    connect, _ = opened()
    assert connect.receive_data(frame(FrameKind.CLOSE, b"\x63why")) == [Closed(99, "why", remote=True)]
