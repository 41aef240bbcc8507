"""The yamux machine, driven with frames written by hand."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from talos.abc import Resource
from talos.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from talos.muxed.budget import BudgetLedger
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
from talos.muxer.yamux import YamuxConfig, YamuxMachine
from talos.muxer.yamux.machine import TURN_BYTES
from talos.testing.check_muxer import CountingBudget

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
KIB = 1024
FULL = 256 * KIB
PIECE = 65_519 - 12  # one noise message holds a frame

Frame = tuple[int, int, int, int, bytes]


def frame(kind: int, flags: int, stream_id: int, length: int = 0, payload: bytes = b"", version: int = 0) -> bytes:
    return struct.pack(">BBHII", version, kind, flags, stream_id, length or len(payload)) + payload


def data(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream_id, payload=payload)


def window(stream_id: int, delta: int = 0, flags: int = 0) -> bytes:
    return frame(WINDOW, flags, stream_id, delta)


def sent(machine: YamuxMachine) -> list[Frame]:
    """Every frame that the machine has to send."""
    return list(parse(b"".join(iter(machine.data_to_send, b""))))


def parse(raw: bytes) -> Iterator[Frame]:
    while raw:
        version, kind, flags, stream_id, length = struct.unpack_from(">BBHII", raw)
        assert version == 0
        size = length if kind == DATA else 0
        payload, raw = raw[12 : 12 + size], raw[12 + size :]
        assert len(payload) == size, "a frame is cut"
        yield kind, flags, stream_id, length, payload


def listener(config: YamuxConfig | None = None, budget: CountingBudget | None = None) -> YamuxMachine:
    return YamuxMachine(dialer=False, config=config, ledger=None if budget is None else BudgetLedger(budget))


def with_stream(config: YamuxConfig | None = None, budget: CountingBudget | None = None) -> YamuxMachine:
    """A listener whose peer opened stream 1, which was accepted."""
    machine = listener(config, budget)
    assert machine.receive_data(window(1, flags=SYN)) == [StreamOpened(1)]
    machine.accept(1)
    assert sent(machine) == [(WINDOW, ACK, 1, 0, b"")]
    return machine


def refuses(machine: YamuxMachine, raw: bytes, code: int = 1, now: float = 0.0) -> None:
    """The machine answers `raw` with go away and raises; and it is done with."""
    with pytest.raises(RemoteProtocolError):
        machine.receive_data(raw, now)
    assert sent(machine)[-1] == (GO_AWAY, 0, 0, code, b"")
    assert machine.closing
    assert machine.next_deadline() is None
    with pytest.raises(LocalProtocolError):
        machine.receive_data(b"")


# ------------------------------------------------------------------------------------ opening


def test_ids_rise_by_parity() -> None:
    dialer = YamuxMachine(dialer=True)
    assert [dialer.open_stream() for _ in range(3)] == [1, 3, 5]
    assert listener().open_stream() == 2
    assert [f[1:3] for f in sent(dialer)] == [(SYN, 1), (SYN, 3), (SYN, 5)]


def test_syn_rides_on_the_first_data() -> None:
    machine = YamuxMachine(dialer=True)
    machine.open_stream()
    machine.send(1, b"hello")
    machine.close(1)
    assert sent(machine) == [(DATA, SYN, 1, 5, b"hello"), (WINDOW, FIN, 1, 0, b"")]


def test_syn_data_and_fin_in_one_frame_are_read() -> None:
    machine = listener()
    assert machine.receive_data(data(1, b"all", SYN | FIN)) == [
        StreamOpened(1),
        DataReceived(1, b"all"),
        StreamEnded(1),
    ]
    assert machine.receive_data(window(3, flags=SYN | FIN)) == [StreamOpened(3), StreamEnded(3)]
    assert machine.receive_data(data(5, b"", SYN | FIN)) == [StreamOpened(5), StreamEnded(5)]


def test_ack_rides_on_data() -> None:
    machine = listener()
    machine.receive_data(window(1, flags=SYN))
    machine.accept(1)
    machine.send(1, b"x")
    machine.close(1)
    assert sent(machine) == [(DATA, ACK, 1, 1, b"x"), (WINDOW, FIN, 1, 0, b"")]


def test_acknowledgement_comes_with_accepting() -> None:
    machine = listener()
    machine.receive_data(window(1, flags=SYN))
    assert not machine.wants_to_send
    machine.accept(1)
    assert sent(machine) == [(WINDOW, ACK, 1, 0, b"")]
    machine.accept(1)
    assert not machine.wants_to_send


def test_a_stream_opened_twice_in_one_piece_is_one_stream() -> None:
    machine = YamuxMachine(dialer=False)
    events = machine.receive_data(window(1, flags=SYN) + window(1, flags=RST) + window(1, flags=SYN))
    assert events == [StreamOpened(1), StreamAborted(1, 0, remote=True), StreamOpened(1)]
    for _ in range(2):
        machine.accept(1)
    assert sent(machine) == [(WINDOW, ACK, 1, 0, b"")]


def test_windows_may_be_enlarged_at_once_by_either_side() -> None:
    machine = listener()
    machine.receive_data(window(1, 1000, SYN))
    assert machine.window(1) == FULL + 1000
    machine.open_stream()
    machine.receive_data(window(2, 500, ACK))
    assert machine.window(2) == FULL + 500


@pytest.mark.parametrize("acknowledge", [window(1, flags=ACK), data(1, b"x", ACK), window(1, flags=RST)])
def test_the_257th_unacknowledged_stream_waits(acknowledge: bytes) -> None:
    machine = YamuxMachine(dialer=True)
    for _ in range(256):
        assert machine.can_open
        machine.open_stream()
    assert not machine.can_open
    with pytest.raises(LocalProtocolError):
        machine.open_stream()
    machine.receive_data(acknowledge)
    machine.receive_data(window(1, flags=ACK))  # a second one frees no second place
    machine.open_stream()
    with pytest.raises(LocalProtocolError):
        machine.open_stream()


def test_the_257th_unaccepted_stream_is_refused_and_no_other() -> None:
    machine = listener()
    events = machine.receive_data(b"".join(window(number, flags=SYN) for number in range(1, 600, 2)))
    assert len(events) == 256
    resets = sent(machine)
    assert len(resets) == 300 - 256
    assert all(f[:2] == (WINDOW, RST) and f[3] == 0x1002 for f in resets)
    assert machine.resets_out == len(resets)
    machine.accept(1)
    assert machine.receive_data(window(601, flags=SYN)) == [StreamOpened(601)]
    assert machine.receive_data(data(601, b"flows")) == [DataReceived(601, b"flows")]


def test_data_of_a_refused_stream_is_discarded() -> None:
    machine = listener(YamuxConfig(max_unaccepted=1))
    machine.receive_data(window(1, flags=SYN))
    assert machine.receive_data(data(3, b"x" * 1000, SYN | FIN) + data(1, b"y")) == [DataReceived(1, b"y")]
    assert sent(machine) == [(WINDOW, RST, 3, 0x1002, b"")]


def test_streams_in_all_are_bounded() -> None:
    machine = listener(YamuxConfig(max_streams=2))
    machine.receive_data(window(1, flags=SYN))
    machine.open_stream()
    with pytest.raises(LimitExceeded):
        machine.open_stream()
    assert machine.receive_data(window(3, flags=SYN)) == []
    machine.reset(1)
    assert machine.receive_data(window(5, flags=SYN)) == [StreamOpened(5)]


def test_ids_run_out() -> None:
    machine = YamuxMachine(dialer=True)
    machine._next_id = (1 << 32) - 1
    assert machine.open_stream() == (1 << 32) - 1
    with pytest.raises(LimitExceeded):
        machine.open_stream()


# ------------------------------------------------------------------------------------ window


def test_exactly_the_window_is_taken_and_one_byte_more_is_a_fault() -> None:
    machine = with_stream()
    events = machine.receive_data(data(1, bytes(FULL)))
    assert events == [DataReceived(1, bytes(FULL))]
    refuses(machine, data(1, b"x"))


@pytest.mark.parametrize("length", [FULL + 1, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("flags", [0, SYN])
def test_a_length_beyond_the_window_is_judged_before_the_payload(length: int, flags: int) -> None:
    machine = with_stream()
    refuses(machine, frame(DATA, flags, 3 if flags else 1, length))


def test_window_is_given_back_for_what_the_application_took() -> None:
    machine = with_stream()
    machine.receive_data(data(1, bytes(FULL)))
    assert not machine.wants_to_send, "arrival alone gives nothing back"
    machine.consumed(1, FULL // 2 - 1)
    assert not machine.wants_to_send
    machine.consumed(1, 1)
    assert sent(machine)[-1] == (WINDOW, 0, 1, FULL // 2, b"")
    machine.receive_data(data(1, bytes(FULL // 2)))
    refuses(machine, data(1, b"x"))


def test_no_window_is_given_back_after_the_end() -> None:
    machine = with_stream()
    machine.receive_data(data(1, bytes(FULL), FIN))
    machine.consumed(1, FULL)
    assert not machine.wants_to_send


def test_only_what_is_there_can_be_taken() -> None:
    machine = with_stream()
    machine.receive_data(data(1, b"abc"))
    with pytest.raises(LocalProtocolError):
        machine.consumed(1, 4)


def test_sending_stops_at_the_peers_window() -> None:
    config = YamuxConfig(max_queued_stream_bytes=1024 * KIB)
    machine = with_stream(config)
    assert machine.room(1) == FULL
    assert machine.send(1, bytes(FULL + 5)) == FULL
    assert machine.window(1) == machine.send(1, b"x") == 0
    assert sum(f[3] for f in sent(machine)) == FULL
    assert machine.receive_data(window(1, 3)) == [WindowOpened(1)]
    assert machine.receive_data(window(1, 1)) == []
    assert machine.send(1, b"12345") == 4


def test_send_window_over_32_bits_is_a_fault() -> None:
    machine = with_stream()
    machine.receive_data(window(1, (1 << 32) - 1 - FULL))
    assert machine.window(1) == (1 << 32) - 1
    machine.send(1, b"queued")  # what is queued still counts: the peer has not seen it
    refuses(machine, window(1, 1))


def test_tiny_reads_never_grow_the_window() -> None:
    machine = with_stream()
    machine.receive_data(data(1, bytes(42)))
    machine.consumed(1, 42)
    now = 0.0
    for _ in range(5):
        machine.receive_data(data(1, bytes(100_000)), now)
        for _ in range(1000):
            now += 0.001
            machine.consumed(1, 100, now)
            for f in sent(machine):
                if f[0] == PING:
                    machine.receive_data(frame(PING, ACK, 0, f[3]), now + 0.0001)
                else:
                    assert f[3] < FULL
    assert machine.rtt_seconds
    assert machine._streams[1].window == FULL


def grow(machine: YamuxMachine, *, rtt: float, pace: float, rounds: int) -> int:
    """An application that takes half a window in `pace` seconds, over a path of `rtt`; the window at the end."""
    now = machine._now + 100.0
    machine.ping(now)
    for _ in range(rounds + 1):
        for f in sent(machine):
            if f[0] == PING:
                now += rtt
                machine.receive_data(frame(PING, ACK, 0, f[3]), now)
        size = machine._streams[1].window // 2
        machine.receive_data(data(1, bytes(size)), now)
        now += pace
        machine.consumed(1, size, now)
    return machine._streams[1].window


def test_window_grows_while_the_application_keeps_up() -> None:
    budget = CountingBudget()
    machine = with_stream(budget=budget)
    grow(machine, rtt=0.001, pace=1, rounds=1)  # an idle path is short
    assert grow(machine, rtt=0.1, pace=0.09, rounds=20) == 4 * 1024 * KIB
    assert budget.used[Resource.MEMORY] == 4 * 1024 * KIB - FULL


def test_window_does_not_grow_for_a_slow_application() -> None:
    assert grow(with_stream(), rtt=0.1, pace=0.4, rounds=20) == FULL


def test_window_grows_once_a_round_trip_at_most() -> None:
    machine = with_stream()
    grow(machine, rtt=0.1, pace=0.06, rounds=3)
    stream = machine._streams[1]
    before = stream.window
    stream.since = machine._now
    stream.grown = machine._now
    machine.receive_data(data(1, bytes(before // 2)))
    machine.consumed(1, before // 2, machine._now + 0.01)
    assert stream.window == before


def test_a_long_fat_path_gets_the_large_window() -> None:
    assert grow(with_stream(), rtt=1.0, pace=0.5, rounds=30) == 16 * 1024 * KIB


def test_queueing_alone_does_not_get_the_large_window() -> None:
    machine = with_stream()
    grow(machine, rtt=0.001, pace=1, rounds=1)  # an idle path is short
    assert grow(machine, rtt=1.0, pace=0.5, rounds=30) == 4 * 1024 * KIB


def test_growth_needs_time_to_pass_and_a_round_trip() -> None:
    machine = with_stream()
    for _ in range(10):
        machine.receive_data(data(1, bytes(FULL // 2)))
        machine.consumed(1, FULL // 2)
        machine.receive_data(frame(PING, ACK, 0, 1))
    assert machine._streams[1].window == FULL


def test_rate_without_elapsed_time_is_no_evidence() -> None:
    machine = with_stream()
    assert grow(machine, rtt=0.5, pace=0.4, rounds=10) >= 4 * 1024 * KIB
    stream = machine._streams[1]
    stream.window = 4 * 1024 * KIB
    stream.since, stream.grown, stream.taken = machine._now, machine._now - 10, stream.window // 2
    assert stream.wanted_growth(machine._now, machine._pulse, machine._config) == 0


def test_growth_that_the_budget_refuses_does_not_happen() -> None:
    budget = CountingBudget({Resource.MEMORY: 300 * KIB})
    machine = with_stream(budget=budget)
    assert grow(machine, rtt=0.1, pace=0.09, rounds=10) == 2 * FULL
    assert budget.used[Resource.MEMORY] <= 300 * KIB


# ------------------------------------------------------------------------------------ memory


def test_buffered_bytes_are_charged_in_steps() -> None:
    budget = CountingBudget()
    machine = with_stream(budget=budget)
    machine.receive_data(data(1, bytes(16 * KIB - 1)))
    assert budget.used[Resource.MEMORY] == 0
    machine.receive_data(data(1, b"x"))
    assert budget.used[Resource.MEMORY] == 16 * KIB
    machine.receive_data(data(1, bytes(84 * KIB)))
    assert budget.used[Resource.MEMORY] == 96 * KIB
    machine.consumed(1, 20 * KIB)
    assert budget.used[Resource.MEMORY] == 96 * KIB, "given back only when half of it is free"
    machine.consumed(1, 60 * KIB)
    assert budget.used[Resource.MEMORY] == 16 * KIB
    machine.reset(1)
    assert budget.is_zero()


def test_memory_that_is_refused_costs_the_stream() -> None:
    budget = CountingBudget({Resource.MEMORY: 32 * KIB})
    machine = with_stream(budget=budget)
    assert machine.receive_data(data(1, bytes(60 * KIB)) + window(3, flags=SYN)) == [
        StreamAborted(1, 0x1002, remote=False),
        StreamOpened(3),
    ]
    assert sent(machine) == [(WINDOW, RST, 1, 0x1002, b"")]
    assert budget.used[Resource.MEMORY] == 0
    assert budget.used[Resource.STREAM_IN] == 1


def test_streams_are_charged() -> None:
    budget = CountingBudget({Resource.STREAM_IN: 1, Resource.STREAM_OUT: 1})
    machine = with_stream(budget=budget)
    assert machine.receive_data(window(3, flags=SYN)) == []
    assert sent(machine) == [(WINDOW, RST, 3, 0x1002, b"")]
    machine.open_stream()
    with pytest.raises(LimitExceeded):
        machine.open_stream()
    machine.reset(2)
    machine.abandon(1)  # its place is free although the peer has not closed
    assert budget.is_zero()


# ------------------------------------------------------------------------------------ ending


def test_data_after_the_end_resets_that_stream_only() -> None:
    machine = with_stream()
    machine.receive_data(window(3, flags=SYN))
    machine.receive_data(data(1, b"x", FIN))
    assert machine.receive_data(data(1, b"more") + data(3, b"fine")) == [
        StreamAborted(1, 0x1004, remote=False),
        DataReceived(3, b"fine"),
    ]
    assert (WINDOW, RST, 1, 0x1004, b"") in sent(machine)


def test_a_second_end_means_nothing() -> None:
    machine = with_stream()
    machine.receive_data(window(1, flags=FIN))
    assert machine.receive_data(window(1, flags=FIN) + data(1, b"", FIN)) == []


@pytest.mark.parametrize(
    "raw", [data(9, b"payload"), data(9, b""), window(9, 5), data(8, b"x"), data(9, b"x", FIN), window(9, flags=ACK)]
)
def test_frames_for_an_unknown_id_are_discarded_and_answered(raw: bytes) -> None:
    machine = with_stream()
    assert machine.receive_data(raw + data(1, b"next")) == [DataReceived(1, b"next")]
    answers = sent(machine)
    assert [f[:2] + f[3:] for f in answers] == [(WINDOW, RST, 0, b"")]
    assert machine.dropped == 1


@pytest.mark.parametrize("raw", [window(9, flags=FIN), window(9, 7, RST), data(9, b"", FIN), data(9, b"", RST)])
def test_the_end_of_an_unknown_stream_is_ignored(raw: bytes) -> None:
    machine = with_stream()
    assert machine.receive_data(raw) == []
    assert not machine.wants_to_send


def test_a_late_update_for_an_ended_stream_is_ignored() -> None:
    machine = listener(YamuxConfig(max_lingering=1))
    for number in (1, 3):
        machine.receive_data(window(number, flags=SYN | FIN))
        machine.accept(number)
        machine.close(number)
        machine.abandon(number)
        sent(machine)
    machine.receive_data(window(3, 1000))
    assert not machine.wants_to_send
    machine.receive_data(window(1, 1000))  # longer ago than we remember
    assert sent(machine) == [(WINDOW, RST, 1, 0, b"")]


def test_an_id_may_be_used_again() -> None:
    machine = with_stream()
    machine.close(1)
    machine.abandon(1)
    sent(machine)
    machine.receive_data(window(1, flags=FIN))
    assert machine.receive_data(window(1, flags=SYN)) == [StreamOpened(1)]
    machine.reset(1)
    sent(machine)
    machine.receive_data(window(1, 5))
    assert sent(machine) == [(WINDOW, RST, 1, 0, b"")]


def test_a_burst_for_one_unknown_id_is_answered_once() -> None:
    machine = with_stream()
    machine.receive_data(data(9, b"x") * 1000)
    assert len(sent(machine)) == 1
    machine.receive_data(data(9, b"x"))
    assert len(sent(machine)) == 1


def test_a_discarded_payload_is_bounded() -> None:
    machine = with_stream()
    machine.receive_data(frame(DATA, 0, 9, 16 * 1024 * KIB))
    machine.receive_data(bytes(16 * 1024 * KIB))
    refuses(machine, frame(DATA, 0, 9, 16 * 1024 * KIB + 1))


def test_a_reset_carries_its_reason_in_the_length() -> None:
    machine = with_stream()
    assert machine.receive_data(window(1, 0x1003, RST)) == [StreamAborted(1, 0x1003, remote=True)]
    assert not machine.wants_to_send
    assert machine.resets_in == 1
    machine = with_stream()
    machine.send(1, b"dropped")
    machine.reset(1, 0x1007)
    assert sent(machine) == [(WINDOW, RST, 1, 0x1007, b"")]


def test_a_reset_may_come_as_data() -> None:
    machine = with_stream()
    assert machine.receive_data(data(1, b"ignored", RST)) == [StreamAborted(1, 0, remote=True)]


def test_a_reset_disturbs_no_other_stream() -> None:
    machine = with_stream()
    machine.receive_data(window(3, flags=SYN))
    machine.accept(3)
    machine.send(1, b"gone")
    machine.send(3, b"stays")
    machine.receive_data(window(1, flags=RST))
    assert sent(machine) == [(DATA, ACK, 3, 5, b"stays")]


def test_a_stream_of_which_the_peer_never_heard_is_reset_in_silence() -> None:
    machine = YamuxMachine(dialer=True)
    machine.reset(machine.open_stream())
    assert not machine.wants_to_send


def test_a_reset_in_the_middle_of_a_payload() -> None:
    machine = with_stream()
    raw = data(1, b"0123456789")
    assert machine.receive_data(raw[:15]) == [DataReceived(1, b"012")]
    machine.reset(1)
    assert machine.receive_data(raw[15:] + window(3, flags=SYN)) == [StreamOpened(3)]


def test_verbs_for_unknown_streams_are_our_fault() -> None:
    machine = listener()
    for verb in (machine.accept, machine.close, machine.abandon, machine.reset, machine.room, machine.window):
        with pytest.raises(LocalProtocolError):
            verb(1)


def test_nothing_is_sent_after_closing() -> None:
    machine = with_stream()
    machine.close(1)
    machine.close(1)
    with pytest.raises(LocalProtocolError):
        machine.send(1, b"x")
    assert sent(machine) == [(WINDOW, FIN, 1, 0, b"")]


def test_fin_goes_behind_all_data() -> None:
    machine = with_stream()
    machine.send(1, bytes(100 * KIB))
    machine.close(1)
    assert [(f[1], f[3]) for f in sent(machine)] == [(0, PIECE), (0, 100 * KIB - PIECE), (FIN, 0)]


# ------------------------------------------------------------------------------------ abandoning


def test_half_a_window_for_an_abandoned_stream_is_answered_once_our_end_is_out() -> None:
    machine = with_stream()
    machine.send(1, b"last words")
    machine.close(1)
    machine.abandon(1)
    machine.abandon(1)
    assert machine.receive_data(data(1, bytes(FULL // 4))) == []
    assert sent(machine) == [(DATA, 0, 1, 10, b"last words"), (WINDOW, FIN, 1, 0, b"")]
    assert machine.receive_data(data(1, bytes(FULL // 4))) == []
    assert not machine.wants_to_send
    assert machine.receive_data(data(1, b"!")) == []
    assert sent(machine) == [(WINDOW, RST, 1, 0, b"")]


def test_a_window_that_was_used_up_before_our_end_is_out_is_answered_with_it() -> None:
    machine = with_stream()
    machine.send(1, b"last words")
    machine.close(1)
    machine.abandon(1)
    assert machine.receive_data(data(1, bytes(FULL))) == []
    assert sent(machine) == [
        (DATA, 0, 1, 10, b"last words"),
        (WINDOW, FIN, 1, 0, b""),
        (WINDOW, RST, 1, 0, b""),
    ]


def test_a_late_answer_takes_nothing_from_a_peer_that_still_reads() -> None:
    """We proposed a protocol, said all we had to and left: the peer agrees only then."""
    dialer, peer = YamuxMachine(dialer=True), listener()
    number = dialer.open_stream()
    dialer.send(number, b"a proposal and all the rest")
    dialer.close(number)
    dialer.abandon(number)
    events = peer.receive_data(dialer.data_to_send())
    peer.accept(number)
    peer.send(number, b"agreed")
    assert dialer.receive_data(peer.data_to_send()) == []
    assert not dialer.wants_to_send
    peer.consumed(number, sum(len(event.data) for event in events if isinstance(event, DataReceived)))
    peer.close(number)
    peer.abandon(number)
    dialer.receive_data(peer.data_to_send())
    assert not dialer._streams
    assert not peer._streams


def test_window_updates_for_an_abandoned_stream_are_fine() -> None:
    machine = with_stream()
    machine.send(1, bytes(FULL))
    machine.close(1)
    machine.abandon(1)
    sent(machine)
    assert machine.receive_data(window(1, FULL // 2)) == []
    assert not machine.wants_to_send


@pytest.mark.parametrize("end", [window(1, flags=FIN), data(1, b"", FIN), data(1, b"rest", FIN)])
def test_an_abandoned_stream_is_forgotten_at_the_peers_end(end: bytes) -> None:
    machine = with_stream()
    machine.close(1)
    machine.abandon(1)
    sent(machine)
    assert machine.receive_data(end) == []
    with pytest.raises(LocalProtocolError):
        machine.room(1)
    assert not machine.wants_to_send


def test_an_empty_frame_for_an_abandoned_stream_means_nothing() -> None:
    machine = with_stream()
    machine.close(1)
    machine.abandon(1)
    sent(machine)
    machine.receive_data(data(1, b""))
    assert not machine.wants_to_send


def test_abandoning_gives_back_what_was_unread() -> None:
    machine = with_stream()
    machine.receive_data(data(1, bytes(FULL)))
    machine.abandon(1)
    assert sent(machine) == [(WINDOW, 0, 1, FULL, b"")]


def test_abandoning_in_the_middle_of_the_last_payload() -> None:
    machine = with_stream()
    raw = data(1, b"0123456789", FIN)
    machine.receive_data(raw[:15])
    machine.close(1)
    sent(machine)
    machine.abandon(1)
    assert machine.receive_data(raw[15:]) == []
    with pytest.raises(LocalProtocolError):
        machine.room(1)


def test_a_reset_of_an_abandoned_stream_is_quiet() -> None:
    machine = with_stream()
    machine.abandon(1)
    assert machine.receive_data(window(1, flags=RST)) == []


def test_an_unaccepted_stream_may_be_abandoned() -> None:
    machine = listener(YamuxConfig(max_unaccepted=1))
    machine.receive_data(window(1, flags=SYN))
    machine.abandon(1)
    assert machine.receive_data(window(3, flags=SYN)) == [StreamOpened(3)]


def test_lingering_streams_are_bounded() -> None:
    machine = listener(YamuxConfig(max_lingering=2))
    for number in (1, 3, 5):
        machine.receive_data(window(number, flags=SYN))
        machine.accept(number)
        machine.close(number)
        machine.abandon(number)
    assert (WINDOW, RST, 1, 0x1006, b"") in sent(machine)
    assert len(machine._streams) == 2


def test_data_that_a_ended_abandoned_stream_gets_is_discarded() -> None:
    machine = with_stream()
    machine.abandon(1)
    machine.receive_data(window(1, flags=FIN))
    assert machine.receive_data(data(1, b"late")) == []
    assert sent(machine) == [(WINDOW, RST, 1, 0x1004, b"")]


def test_abandoned_streams_tell_no_window() -> None:
    machine = with_stream()
    machine.send(1, bytes(FULL))
    machine.abandon(1)
    assert machine.receive_data(window(1, 10)) == []


# ------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(window(2, flags=SYN), id="our parity"),
        pytest.param(window(1, flags=SYN), id="live id"),
        pytest.param(data(0, b"x"), id="data on 0"),
        pytest.param(data(0, b""), id="nothing on 0"),
        pytest.param(window(0, 1), id="window on 0"),
        pytest.param(window(0, 1, SYN), id="syn on 0"),
        pytest.param(window(0, 1, RST), id="reset on 0"),
        pytest.param(frame(4, 0, 0), id="type"),
        pytest.param(frame(DATA, 0, 1, version=1), id="version"),
    ],
)
def test_faults_of_the_session(raw: bytes) -> None:
    refuses(with_stream(), raw)


def test_our_parity_is_refused_to_either_role() -> None:
    refuses(YamuxMachine(dialer=True), window(1, flags=SYN))
    assert YamuxMachine(dialer=True).receive_data(window(2, flags=SYN)) == [StreamOpened(2)]


def test_ids_need_not_rise() -> None:
    assert listener().receive_data(window(9, flags=SYN) + window(3, flags=SYN)) == [StreamOpened(9), StreamOpened(3)]


def test_unknown_flags_are_ignored() -> None:
    assert with_stream().receive_data(data(1, b"x", 0x8000)) == [DataReceived(1, b"x")]


def test_a_fault_sends_nothing_but_the_reason() -> None:
    machine = with_stream()
    machine.send(1, b"too late")
    with pytest.raises(RemoteProtocolError):
        machine.receive_data(window(0))
    assert sent(machine) == [(GO_AWAY, 0, 0, 1, b"")]


# ------------------------------------------------------------------------------------ go away, ping


def test_go_away_refuses_new_streams_both_ways_and_leaves_the_others() -> None:
    machine = with_stream()
    machine.go_away(0x1006)
    machine.go_away(0)
    assert sent(machine) == [(GO_AWAY, 0, 0, 0x1006, b"")]
    assert not machine.can_open
    assert machine.closing
    with pytest.raises(LocalProtocolError):
        machine.open_stream()
    assert machine.receive_data(window(3, flags=SYN) + data(1, b"goes on")) == [DataReceived(1, b"goes on")]
    assert sent(machine) == [(WINDOW, RST, 3, 0x1007, b"")]


def test_go_away_is_the_last_thing_said() -> None:
    """A go-libp2p that reads it closes the connection, whatever comes behind."""
    machine = with_stream()
    machine.send(1, bytes(FULL))
    machine.close(1)
    machine.go_away()
    assert [f[0] for f in parse(machine.data_to_send())] == [DATA] * 4
    assert machine.wants_to_send
    assert [f[:2] for f in sent(machine)] == [(DATA, 0), (WINDOW, FIN), (GO_AWAY, 0)]
    assert not machine.wants_to_send


def test_a_fault_behind_a_go_away_tells_its_reason() -> None:
    machine = with_stream()
    machine.go_away()
    sent(machine)
    refuses(machine, window(0))
    machine = with_stream()
    machine.go_away()
    refuses(machine, window(0))


def test_the_peers_go_away() -> None:
    machine = with_stream()
    assert machine.receive_data(frame(GO_AWAY, 0, 0, 2)) == [GoAwayReceived(2)]
    assert not machine.can_open
    assert machine.receive_data(window(3, flags=SYN)) == []
    assert machine.receive_data(data(1, b"x")) == [DataReceived(1, b"x")]


def test_pings_are_echoed_and_the_answers_bounded() -> None:
    machine = listener()
    machine.receive_data(b"".join(frame(PING, SYN, 0, value) for value in range(100)))
    assert sent(machine) == [(PING, ACK, 0, value, b"") for value in range(32)]
    assert machine.dropped == 68
    machine.receive_data(frame(PING, SYN, 0, 7))
    assert sent(machine) == [(PING, ACK, 0, 7, b"")]


def test_keep_alive_and_its_round_trip() -> None:
    machine = listener()
    assert machine.next_deadline() == 30
    assert machine.deadline_passed(29) == []
    assert not machine.wants_to_send
    assert machine.deadline_passed(30) == []
    [(kind, flags, stream_id, value, _)] = sent(machine)
    assert (kind, flags, stream_id) == (PING, SYN, 0)
    assert machine.next_deadline() == 40
    machine.ping(31)  # one is out already
    assert not machine.wants_to_send
    machine.receive_data(frame(PING, ACK, 0, value + 1), 30.1)  # nobody asked that
    assert machine.rtt_seconds == 0
    machine.receive_data(frame(PING, ACK, 0, value), 30.25)
    assert machine.rtt_seconds == 0.25
    assert machine.next_deadline() == 60
    machine.receive_data(frame(PING, ACK, 0, value), 35)  # nor that twice
    assert machine.rtt_seconds == 0.25


def test_a_silent_peer_is_noticed() -> None:
    machine = listener()
    machine.deadline_passed(30)
    assert machine.deadline_passed(39.9) == []
    assert machine.deadline_passed(40) == [PeerSilent()]


# ------------------------------------------------------------------------------------ floods


def test_frames_without_payload_are_bounded_by_rate() -> None:
    config = YamuxConfig(control_frames_per_second=10, control_frames_mean_seconds=2)
    for raw in (frame(PING, SYN, 0), window(1, 1), frame(GO_AWAY, 0, 0), data(1, b"")):
        machine = listener(config)
        machine.receive_data(window(1, flags=SYN))
        machine.receive_data(raw * 19)
        machine.receive_data(raw * 10, 1.0)
        refuses(machine, raw, 0x1002, 1.05)


def test_data_is_not_bounded_by_rate() -> None:
    machine = with_stream(YamuxConfig(control_frames_per_second=1, control_frames_mean_seconds=1))
    assert len(machine.receive_data(data(1, b"x") * 1000)) == 1000


def test_rapid_resets_are_bounded_by_rate() -> None:
    config = YamuxConfig(early_resets_per_second=1, early_resets_burst=10)
    machine = listener(config)
    for number in range(1, 21, 2):
        machine.receive_data(window(number, flags=SYN) + window(number, flags=RST))
    assert not machine._streams
    refuses(machine, window(21, flags=SYN) + window(21, flags=RST), 0x1002)


def test_resets_of_streams_in_use_are_not_rapid() -> None:
    machine = listener(YamuxConfig(early_resets_per_second=1, early_resets_burst=1))
    for number in range(1, 41, 2):
        machine.receive_data(window(number, flags=SYN))
        machine.accept(number)
        machine.send(number, b"x")
        machine.receive_data(window(number, flags=RST))
        ours = machine.open_stream()
        sent(machine)
        machine.receive_data(window(ours, flags=RST))


def test_answers_that_nobody_takes_are_bounded() -> None:
    machine = listener(YamuxConfig(max_control_bytes=1200))
    raw = b"".join(data(number, b"x") for number in range(1, 201, 2))
    machine.receive_data(raw)
    refuses(machine, data(999, b"x"), 0x1001)


# ------------------------------------------------------------------------------------ sending


def test_small_writes_leave_in_one_frame() -> None:
    machine = with_stream()
    for _ in range(100):
        assert machine.send(1, b"0123456789") == 10
    assert sent(machine) == [(DATA, 0, 1, 1000, b"0123456789" * 100)]


def test_streams_take_turns() -> None:
    machine = YamuxMachine(dialer=True)
    a, b = machine.open_stream(), machine.open_stream()
    machine.send(a, bytes(130 * KIB))
    machine.send(b, memoryview(bytes(70 * KIB)))
    assert [(f[2], f[3]) for f in sent(machine)] == [
        (a, PIECE),
        (b, PIECE),
        (a, PIECE),
        (b, 70 * KIB - PIECE),
        (a, 130 * KIB - 2 * PIECE),
    ]


def test_a_turn_is_bounded() -> None:
    machine = YamuxMachine(dialer=True)
    for _ in range(4):
        machine.send(machine.open_stream(), bytes(FULL))
    assert len(machine.data_to_send()) == TURN_BYTES == 4 * (PIECE + 12)
    assert len(machine.data_to_send(1000)) == 1000


def test_frames_without_payload_go_first() -> None:
    machine = with_stream()
    machine.send(1, bytes(200 * KIB))
    machine.data_to_send(1000)
    machine.receive_data(frame(PING, SYN, 0, 5))
    assert sent(machine)[0] == (PING, ACK, 0, 5, b"")


def test_the_queue_is_bounded_for_each_stream_and_in_all() -> None:
    machine = YamuxMachine(dialer=True)
    streams = [machine.open_stream() for _ in range(5)]
    for stream in streams:
        machine.receive_data(window(stream, FULL, ACK))
    assert [machine.send(stream, bytes(FULL + 1)) for stream in streams] == [FULL, FULL, FULL, FULL, 0]
    machine.reset(streams[0])
    assert machine.room(streams[4]) == FULL
    assert machine.room(streams[1]) == 0


def test_sending_nothing_sends_nothing() -> None:
    machine = with_stream()
    assert machine.send(1, b"") == 0
    assert not machine.wants_to_send


def test_counters() -> None:
    machine = with_stream()
    machine.receive_data(data(1, b"x") + frame(PING, SYN, 0))
    sent(machine)
    assert (machine.frames_in, machine.frames_out) == (3, 2)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_bytes_and_any_cut(kind: type[bytes]) -> None:
    raw = window(1, flags=SYN) + data(1, b"hello", FIN)
    for cut in range(len(raw)):
        machine = listener()
        events: list[Event] = machine.receive_data(kind(raw[:cut])) + machine.receive_data(kind(raw[cut:]))
        received = b"".join(event.data for event in events if isinstance(event, DataReceived))
        assert received == b"hello"
        assert events[0] == StreamOpened(1)
        assert events[-1] == StreamEnded(1)


def test_the_configuration_is_the_callers() -> None:
    assert replace(YamuxConfig(), max_streams=3).max_streams == 3


def test_a_stream_aborted_in_the_same_piece_takes_every_verb() -> None:
    """Who handles events in order has not come to the abort yet."""
    machine = with_stream()
    assert len(machine.receive_data(data(1, b"x") + window(1, 9, RST))) == 2
    machine.accept(1)
    machine.consumed(1, 1)
    assert machine.send(1, b"x") == machine.room(1) == machine.window(1) == 0
    machine.close(1)
    machine.abandon(1)
    machine.reset(1)
    assert not machine.wants_to_send
    machine.receive_data(b"")
    with pytest.raises(LocalProtocolError):
        machine.close(1)
