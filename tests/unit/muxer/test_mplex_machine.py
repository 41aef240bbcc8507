"""The mplex machine, driven with frames written by hand."""

from __future__ import annotations

import pytest

from talos.abc import Resource
from talos.errors import LimitExceeded, LocalProtocolError, MessageTooLarge, RemoteProtocolError
from talos.muxed.budget import BudgetLedger
from talos.muxer.event import DataReceived, Event, StreamAborted, StreamEnded, StreamOpened
from talos.muxer.mplex import MplexConfig, MplexMachine
from talos.testing.check_muxer import CountingBudget

NEW, MESSAGE_R, MESSAGE_I, CLOSE_R, CLOSE_I, RESET_R, RESET_I = range(7)
KIB = 1024
MIB = 1024 * KIB


def uvarint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes((value & 127 | 128,))
        value >>= 7
    return out + bytes((value,))


def frame(number: int, flag: int, payload: bytes = b"", length: int | None = None) -> bytes:
    return uvarint(number << 3 | flag) + uvarint(len(payload) if length is None else length) + payload


def sent(machine: MplexMachine) -> list[tuple[int, int, bytes]]:
    raw = b"".join(iter(machine.data_to_send, b""))
    found = []
    position = 0

    def read() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = raw[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(raw):
        header, length = read(), read()
        found.append((header >> 3, header & 7, raw[position : position + length]))
        position += length
    return found


def with_stream(config: MplexConfig | None = None, budget: CountingBudget | None = None) -> MplexMachine:
    """A machine whose peer opened its stream 7, which is our id 14."""
    machine = MplexMachine(config=config, ledger=None if budget is None else BudgetLedger(budget))
    assert machine.receive_data(frame(7, NEW, b"a name")) == [StreamOpened(14)]
    machine.accept(14)
    return machine


def refuses(machine: MplexMachine, raw: bytes, kind: type[RemoteProtocolError] = RemoteProtocolError) -> None:
    with pytest.raises(kind):
        machine.receive_data(raw)
    assert machine.closing
    with pytest.raises(LocalProtocolError):
        machine.receive_data(b"")


def test_both_sides_use_the_same_number() -> None:
    machine = MplexMachine()
    ours = machine.open_stream()
    [theirs] = [event.stream_id for event in machine.receive_data(frame(0, NEW)) if isinstance(event, StreamOpened)]
    assert ours != theirs
    machine.accept(theirs)
    machine.send(ours, b"from the initiator")
    machine.send(theirs, b"from the receiver")
    assert sent(machine) == [(0, NEW, b""), (0, MESSAGE_I, b"from the initiator"), (0, MESSAGE_R, b"from the receiver")]
    assert machine.receive_data(frame(0, MESSAGE_R, b"to ours") + frame(0, MESSAGE_I, b"to theirs")) == [
        DataReceived(ours, b"to ours"),
        DataReceived(theirs, b"to theirs"),
    ]
    assert machine.receive_data(frame(0, CLOSE_R) + frame(0, RESET_I)) == [
        StreamEnded(ours),
        StreamAborted(theirs, 0, remote=True),
    ]


def test_closing_and_resetting_say_our_role() -> None:
    machine = with_stream()
    ours = machine.open_stream()
    machine.close(14)
    machine.close(14)
    machine.send(ours, b"x")
    machine.close(ours)
    assert sent(machine) == [(0, NEW, b""), (0, MESSAGE_I, b"x"), (0, CLOSE_I, b""), (7, CLOSE_R, b"")]
    machine.reset(14)
    machine.reset(ours)
    assert sent(machine) == [(7, RESET_R, b""), (0, RESET_I, b"")]
    machine.reset(machine.open_stream())  # of which the peer never heard
    assert sent(machine) == []


def test_nothing_is_sent_after_closing() -> None:
    machine = with_stream()
    machine.close(14)
    with pytest.raises(LocalProtocolError):
        machine.send(14, b"x")


def test_frames_are_cut_at_64_kib_and_streams_take_turns() -> None:
    machine = MplexMachine()
    a, b = machine.open_stream(), machine.open_stream()
    machine.send(a, bytes(130 * KIB))
    machine.send(b, bytes(10))
    sizes = [(number, len(payload)) for number, flag, payload in sent(machine) if flag == MESSAGE_I]
    assert sizes == [(0, 64 * KIB), (1, 10), (0, 64 * KIB), (0, 2 * KIB)]


def test_the_queue_is_bounded() -> None:
    machine = MplexMachine(config=MplexConfig(max_queued_bytes=300, max_queued_stream_bytes=200))
    a, b = machine.open_stream(), machine.open_stream()
    assert machine.send(a, bytes(500)) == 200
    assert machine.room(b) == 100
    assert machine.send(b, bytes(500)) == 100
    assert machine.send(b, b"x") == 0
    machine.reset(a)
    assert machine.room(b) == 100
    assert machine.window(b) > 1 << 40


@pytest.mark.parametrize("size", [0, 1, 127, 128, 70_000, MIB])
@pytest.mark.parametrize("number", [1, 15, 16, 1 << 30, (1 << 60) - 1])
def test_any_cut_gives_the_same(size: int, number: int) -> None:
    raw = frame(number, NEW) + frame(number, MESSAGE_I, bytes(size)) + frame(number, CLOSE_I)
    for cut in [*range(min(len(raw), 25)), len(raw) - 5]:
        machine = MplexMachine()
        events: list[Event] = machine.receive_data(raw[:cut]) + machine.receive_data(memoryview(raw)[cut:])
        assert events[0] == StreamOpened(number << 1)
        assert events[-1] == StreamEnded(number << 1)
        assert sum(len(event.data) for event in events if isinstance(event, DataReceived)) == size


def test_a_frame_beyond_1_mib_is_refused_on_its_header() -> None:
    refuses(with_stream(), frame(7, MESSAGE_I, length=MIB + 1), MessageTooLarge)
    refuses(with_stream(), frame(99, MESSAGE_I, length=MIB + 1), MessageTooLarge)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x80" * 9 + b"\x01", id="header of 10 bytes"),
        pytest.param(frame(7, NEW), id="open already"),
        pytest.param(frame(7, 7), id="flag 7"),
        pytest.param(b"\x3a\x80\x00", id="length not minimal"),
    ],
)
def test_faults(raw: bytes) -> None:
    machine = with_stream()
    machine.send(14, b"not sent any more")
    refuses(machine, raw)
    assert not machine.wants_to_send


def test_a_slow_reader_is_reset_and_the_others_go_on() -> None:
    machine = with_stream()
    machine.receive_data(frame(8, NEW))
    machine.accept(16)
    full = [DataReceived(14, bytes(MIB))]
    assert machine.receive_data(frame(7, MESSAGE_I, bytes(MIB))) == full
    assert machine.receive_data(frame(7, MESSAGE_I, b"x") + frame(8, MESSAGE_I, b"y")) == [
        StreamAborted(14, 0x1002, remote=False),
        DataReceived(16, b"y"),
    ]
    assert sent(machine) == [(7, RESET_R, b"")]


def test_what_was_taken_makes_room() -> None:
    machine = with_stream()
    for _ in range(5):
        machine.receive_data(frame(7, MESSAGE_I, bytes(MIB)))
        machine.consumed(14, MIB)
    with pytest.raises(LocalProtocolError):
        machine.consumed(14, 1)


def test_the_connection_as_a_whole_is_bounded() -> None:
    machine = MplexMachine(config=MplexConfig(max_buffered_stream_bytes=100, max_buffered_bytes=150))
    machine.receive_data(frame(1, NEW) + frame(2, NEW))
    machine.receive_data(frame(1, MESSAGE_I, bytes(100)) + frame(2, MESSAGE_I, bytes(50)))
    assert machine.receive_data(frame(2, MESSAGE_I, b"x")) == [StreamAborted(4, 0x1002, remote=False)]
    machine.receive_data(frame(3, NEW))
    assert machine.receive_data(frame(3, MESSAGE_I, bytes(50))) == [DataReceived(6, bytes(50))]


def test_memory_and_streams_are_charged() -> None:
    budget = CountingBudget({Resource.MEMORY: 64 * KIB, Resource.STREAM_IN: 2, Resource.STREAM_OUT: 1})
    machine = with_stream(budget=budget)
    machine.receive_data(frame(7, MESSAGE_I, bytes(40 * KIB)))
    assert budget.used[Resource.MEMORY] == 32 * KIB
    machine.consumed(14, 5 * KIB)
    assert budget.used[Resource.MEMORY] == 32 * KIB
    machine.consumed(14, 35 * KIB)
    assert budget.used[Resource.MEMORY] == 0
    assert machine.receive_data(frame(7, MESSAGE_I, bytes(100 * KIB))) == [StreamAborted(14, 0x1002, remote=False)]
    machine.receive_data(frame(8, NEW) + frame(9, NEW) + frame(10, NEW))
    assert [f[0] for f in sent(machine)] == [7, 10]
    machine.open_stream()
    with pytest.raises(LimitExceeded):
        machine.open_stream()
    for stream_id in list(machine._streams):
        machine.reset(stream_id)
    assert budget.is_zero()


def test_streams_are_bounded() -> None:
    machine = MplexMachine(config=MplexConfig(max_streams=3, max_unaccepted=2))
    assert len(machine.receive_data(b"".join(frame(number, NEW) for number in range(5)))) == 2
    assert [f[:2] for f in sent(machine)] == [(2, RESET_R), (3, RESET_R), (4, RESET_R)]
    machine.accept(0)
    machine.accept(0)  # a second time: nothing
    assert machine.receive_data(frame(2, NEW)) == [StreamOpened(4)]
    with pytest.raises(LimitExceeded):
        machine.open_stream()
    machine.abandon(2)  # not accepted, and never will be
    machine.close(2)
    sent(machine)
    machine.open_stream()


def test_numbers_run_out() -> None:
    machine = MplexMachine()
    machine._next_number = 1 << 60
    with pytest.raises(LimitExceeded):
        machine.open_stream()


def test_frames_for_unknown_streams() -> None:
    machine = with_stream()
    for flag in (CLOSE_R, CLOSE_I, RESET_R, RESET_I):
        assert machine.receive_data(frame(99, flag, b"ignored")) == []
    assert machine.receive_data(frame(99, MESSAGE_I)) == []
    assert not machine.wants_to_send
    machine.receive_data(frame(99, MESSAGE_I, b"x") * 50 + frame(99, MESSAGE_R, b"x"))
    assert sent(machine) == [(99, RESET_R, b""), (99, RESET_I, b"")]
    assert machine.dropped == 2


def test_data_after_the_end_resets_that_stream() -> None:
    machine = with_stream()
    assert machine.receive_data(frame(7, CLOSE_I) * 2) == [StreamEnded(14)]
    assert machine.receive_data(frame(7, MESSAGE_I, b"x")) == [StreamAborted(14, 0x1004, remote=False)]


def test_abandoning() -> None:
    budget = CountingBudget()
    machine = with_stream(budget=budget)
    raw = frame(7, MESSAGE_I, bytes(50 * KIB))
    machine.receive_data(raw[:-1])
    machine.abandon(14)
    machine.abandon(14)
    assert budget.used[Resource.MEMORY] == 0
    machine.send(14, b"still sent")
    assert machine.receive_data(raw[-1:] + frame(7, MESSAGE_I, b"dropped") + frame(7, CLOSE_I)) == []
    machine.close(14)
    assert sent(machine) == [(7, MESSAGE_R, b"still sent"), (7, CLOSE_R, b"")]
    assert budget.is_zero()
    machine = with_stream()
    machine.abandon(14)
    assert machine.receive_data(frame(7, RESET_I)) == []
    machine = with_stream()
    machine.receive_data(frame(7, CLOSE_I))
    machine.abandon(14)
    assert machine.receive_data(frame(7, MESSAGE_I, b"x")) == []


def test_no_stream_after_going_away() -> None:
    machine = with_stream()
    machine.go_away()
    assert not machine.can_open
    with pytest.raises(LocalProtocolError):
        machine.open_stream()
    assert machine.receive_data(frame(8, NEW)) == []
    assert sent(machine) == [(8, RESET_R, b"")]


def test_nothing_is_timed() -> None:
    machine = MplexMachine()
    assert machine.next_deadline() is None
    assert machine.deadline_passed(1e9) == []
    assert machine.rtt_seconds == 0


def test_frames_without_payload_are_bounded_by_rate() -> None:
    config = MplexConfig(control_frames_per_second=1, control_frames_mean_seconds=10)
    machine = MplexMachine(config=config)
    machine.receive_data(frame(1, MESSAGE_I) * 10 + frame(1, MESSAGE_I, b"x") * 50)
    refuses(machine, frame(1, MESSAGE_I))


def test_rapid_resets_are_bounded_by_rate() -> None:
    machine = MplexMachine(config=MplexConfig(early_resets_burst=5))
    machine.receive_data(b"".join(frame(number, NEW) + frame(number, RESET_I) for number in range(5)))
    refuses(machine, frame(9, NEW) + frame(9, RESET_I))


def test_answers_that_nobody_takes_are_bounded() -> None:
    machine = MplexMachine(config=MplexConfig(max_control_bytes=100))
    refuses(machine, b"".join(frame(number, MESSAGE_I, b"x") for number in range(60)))


def left_stream(config: MplexConfig | None = None) -> MplexMachine:
    """A machine that has closed and abandoned stream 7, which its peer has not."""
    machine = with_stream(config)
    machine.close(14)
    machine.abandon(14)
    assert sent(machine) == [(7, CLOSE_R, b"")]
    return machine


def test_some_data_for_a_stream_that_we_left_is_not_answered() -> None:
    """A reset would take from the peer what it has not read yet."""
    machine = left_stream(MplexConfig(max_late_bytes=10))
    machine.receive_data(frame(7, MESSAGE_I, b"12345") + frame(7, MESSAGE_I, b"67890"))
    assert sent(machine) == []
    machine.receive_data(frame(7, MESSAGE_I, b"!"))
    assert sent(machine) == [(7, RESET_R, b"")]


@pytest.mark.parametrize("end", [CLOSE_I, RESET_I])
def test_what_comes_behind_the_peers_end_is_answered(end: int) -> None:
    machine = left_stream()
    machine.receive_data(frame(7, end) + frame(7, MESSAGE_I, b"!"))
    assert sent(machine) == [(7, RESET_R, b"")]


def test_the_number_of_a_stream_that_we_left_may_come_again() -> None:
    machine = left_stream()
    assert machine.receive_data(frame(7, NEW) + frame(7, MESSAGE_I, b"!")) == [StreamOpened(14), DataReceived(14, b"!")]
    assert not machine._late


def test_streams_that_we_left_are_bounded() -> None:
    machine = MplexMachine(config=MplexConfig(max_lingering=2))
    for number in (1, 2, 3):
        machine.receive_data(frame(number, NEW))
        machine.accept(number << 1)
        machine.close(number << 1)
        machine.abandon(number << 1)
    sent(machine)
    assert len(machine._late) == 2
    machine.receive_data(frame(1, MESSAGE_I, b"!"))
    assert sent(machine) == [(1, RESET_R, b"")]


def test_verbs_for_unknown_streams_are_our_fault() -> None:
    machine = MplexMachine()
    for verb in (machine.accept, machine.close, machine.abandon, machine.reset, machine.room, machine.window):
        with pytest.raises(LocalProtocolError):
            verb(2)


def test_a_stream_of_ours_that_is_abandoned_and_reset_by_the_peer() -> None:
    machine = MplexMachine()
    ours = machine.open_stream()
    sent(machine)
    assert machine.receive_data(frame(0, RESET_R)) == [StreamAborted(ours, 0, remote=True)]
    assert machine.resets_in == 1


def test_a_stream_aborted_in_the_same_piece_takes_every_verb() -> None:
    """Who handles events in order has not come to the abort yet."""
    machine = with_stream()
    assert len(machine.receive_data(frame(7, MESSAGE_I, b"x") + frame(7, RESET_I))) == 2
    machine.accept(14)
    machine.consumed(14, 1)
    assert machine.send(14, b"x") == machine.room(14) == machine.window(14) == 0
    machine.close(14)
    machine.abandon(14)
    machine.reset(14)
    assert not machine.wants_to_send
    machine.receive_data(b"")
    with pytest.raises(LocalProtocolError):
        machine.close(14)
