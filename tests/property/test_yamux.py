"""Yamux: however the bytes are cut, and whatever two applications do."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from talos.errors import RemoteProtocolError
from talos.muxer.event import DataReceived, Event, StreamAborted, StreamEnded, StreamOpened, WindowOpened
from talos.muxer.yamux import YamuxConfig, YamuxMachine
from talos.muxer.yamux.frame import HEADER
from talos.testing.pump import Pump, random_pieces

IDS = st.integers(0, 9)
FRAMES = st.one_of(
    st.builds(
        lambda flags, number, payload: HEADER.pack(0, flags, number, len(payload)) + payload,
        st.sampled_from([0, 0, 0, 1, 2, 4, 5, 8]),
        IDS,
        st.binary(max_size=40),
    ),
    st.builds(
        HEADER.pack,
        st.sampled_from([1, 1, 2, 3]),
        st.sampled_from([0, 1, 1, 2, 4, 8]),
        IDS,
        st.integers(0, 300),
    ),
    st.binary(min_size=1, max_size=14),
)


def outcome(pieces: list[bytes]) -> tuple[list[Event], str, bytes]:
    """Events with neighbouring data joined, the fault if there was one, and the answer."""
    machine = YamuxMachine(dialer=False)
    events: list[Event] = []
    fault = ""
    try:
        for piece in pieces:
            for event in machine.receive_data(piece):
                last = events[-1] if events else None
                if (
                    isinstance(event, DataReceived)
                    and isinstance(last, DataReceived)
                    and last.stream_id == event.stream_id
                ):
                    last.data += event.data
                else:
                    events.append(event)
    except RemoteProtocolError as error:
        fault = str(error)
    return events, fault, b"".join(iter(machine.data_to_send, b""))


@given(st.lists(FRAMES, max_size=30), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_any_cut_gives_the_same_events(frames: list[bytes], rng: random.Random) -> None:
    raw = b"".join(frames)
    events, fault, answer = outcome([raw])
    for pieces in (random_pieces(raw, rng, 20), [raw[i : i + 1] for i in range(len(raw))]):
        cut_events, cut_fault, cut_answer = outcome(pieces)
        assert cut_fault == fault
        assert cut_answer == answer
        # What came before a fault in the same piece is not reported.
        assert cut_events == events or (fault and cut_events[: len(events)] == events)


@given(st.integers(0, 1 << 32), st.lists(st.integers(0, 700_000), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_pumped_streams_arrive_whole(seed: int, sizes: list[int]) -> None:
    rng = random.Random(seed)
    dialer, listener = YamuxMachine(dialer=True), YamuxMachine(dialer=False)
    waiting = {}
    for size in sizes:
        waiting[dialer.open_stream()] = memoryview(rng.randbytes(size))
    wanted = {number: bytes(view) for number, view in waiting.items()}
    received: dict[int, bytes] = {}
    ended: set[int] = set()

    def push(stream_id: int) -> None:
        view = waiting[stream_id]
        waiting[stream_id] = view[dialer.send(stream_id, view) :]
        if not waiting[stream_id]:
            dialer.close(stream_id)

    def on_dialer(event: Event) -> None:
        assert isinstance(event, WindowOpened), event
        if waiting[event.stream_id]:  # else all is sent, and what the listener took was the window's last byte
            push(event.stream_id)

    def on_listener(event: Event) -> None:
        match event:
            case StreamOpened(number):
                listener.accept(number)
                received[number] = b""
            case DataReceived(number, data):
                received[number] += data
                listener.consumed(number, len(data))
            case StreamEnded(number):
                ended.add(number)
            case _:
                raise AssertionError(event)

    pump = Pump(dialer, listener, seed=seed, max_piece=100_000, on_left=on_dialer, on_right=on_listener)
    while len(ended) < len(sizes):
        for stream_id, view in waiting.items():
            if view:
                push(stream_id)
            else:
                dialer.close(stream_id)
        pump.run()
    assert received == wanted


CONFIG = YamuxConfig(max_unaccepted=3, max_unacknowledged=4, max_queued_bytes=300_000, max_queued_stream_bytes=100_000)


@dataclass
class End:
    """One side's view of a stream."""

    known: bool = False
    accepted: bool = False
    sent: bytes = b""
    received: bytes = b""
    unread: int = 0
    closed: bool = False
    ended: bool = False
    abandoned: bool = False
    reset: bool = False
    gone: bool = False

    @property
    def usable(self) -> bool:
        return self.accepted and not (self.reset or self.gone or self.abandoned)

    @property
    def to_accept(self) -> bool:
        return self.known and not (self.accepted or self.gone)


class Pair:
    """Both ends of a stream, the dialer's first."""

    def __init__(self, number: int, opener: int) -> None:
        self.number = number
        self.opener = opener
        self.ends = (End(), End())
        self.ends[opener].known = self.ends[opener].accepted = True


class TwoSides(RuleBasedStateMachine):
    """Two machines and a model that knows only bytes: what each side sent, read and closed, stream by stream."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = (YamuxMachine(dialer=True, config=CONFIG), YamuxMachine(dialer=False, config=CONFIG))
        self.wires: tuple[deque[int], deque[int]] = (deque(), deque())  # towards that side
        self.streams: list[Pair] = []

    @initialize()
    def first_stream(self) -> None:
        self.open_stream(0)

    # what the wire does

    @rule(side=st.integers(0, 1))
    def send_bytes(self, side: int) -> None:
        self.wires[1 - side].extend(self.sides[side].data_to_send())

    @rule(side=st.integers(0, 1), size=st.one_of(st.integers(1, 20), st.integers(1, 100_000)))
    def receive_bytes(self, side: int, size: int) -> None:
        wire = self.wires[side]
        piece = bytes(wire.popleft() for _ in range(min(size, len(wire))))
        for event in self.sides[side].receive_data(piece):
            self.apply(side, event)

    def apply(self, side: int, event: Event) -> None:
        match event:
            case StreamOpened(number):
                self.find(number).ends[side].known = True
            case DataReceived(number, data):
                end = self.find(number).ends[side]
                assert not end.ended, "data behind the end"
                end.unread += len(data)
                end.received += data
                sent = self.find(number).ends[1 - side].sent
                assert sent.startswith(end.received), "other bytes than were sent"
            case StreamEnded(number):
                stream = self.find(number)
                assert stream.ends[1 - side].closed
                assert stream.ends[side].received == stream.ends[1 - side].sent, "the end came before all bytes"
                stream.ends[side].ended = True
            case StreamAborted(number, code, remote):
                stream = self.find(number)
                other = stream.ends[1 - side]
                assert remote
                assert (
                    (code == 7 and other.reset)
                    or (code == 0 and other.abandoned)
                    or (code == 0x1002 and not other.known)
                )
                stream.ends[side].gone = True
            case WindowOpened(number):
                assert self.sides[side].window(number)
            case _:
                raise AssertionError(event)

    def find(self, number: int) -> Pair:
        return next(pair for pair in self.streams if pair.number == number)

    # what applications do

    @rule(side=st.integers(0, 1))
    def open_stream(self, side: int) -> None:
        if self.sides[side].can_open and len(self.streams) < 12:
            self.streams.append(Pair(self.sides[side].open_stream(), side))

    def pick(self, data: st.DataObject) -> tuple[Pair, int] | None:
        usable = [(s, side) for s in self.streams for side in (0, 1) if s.ends[side].usable]
        return data.draw(st.sampled_from(usable)) if usable else None

    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        waiting = [(s, 1 - s.opener) for s in self.streams if s.ends[1 - s.opener].to_accept]
        if waiting:
            stream, side = data.draw(st.sampled_from(waiting))
            self.sides[side].accept(stream.number)
            stream.ends[side].accepted = True

    @rule(data=st.data(), size=st.one_of(st.integers(0, 100), st.integers(0, 300_000)))
    def send(self, data: st.DataObject, size: int) -> None:
        if found := self.pick(data):
            stream, side = found
            end = stream.ends[side]
            if not end.closed:
                payload = (len(end.sent) & 255).to_bytes(1, "big") * size
                taken = self.sides[side].send(stream.number, payload)
                end.sent += payload[:taken]

    @rule(data=st.data(), share=st.floats(0, 1))
    def read(self, data: st.DataObject, share: float) -> None:
        if found := self.pick(data):
            stream, side = found
            size = int(stream.ends[side].unread * share)
            self.sides[side].consumed(stream.number, size)
            stream.ends[side].unread -= size

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        if found := self.pick(data):
            stream, side = found
            self.sides[side].close(stream.number)
            stream.ends[side].closed = True

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if found := self.pick(data):
            stream, side = found
            self.sides[side].close(stream.number)
            self.sides[side].abandon(stream.number)
            stream.ends[side].closed = stream.ends[side].abandoned = True

    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        if found := self.pick(data):
            stream, side = found
            self.sides[side].reset(stream.number, 7)
            stream.ends[side].reset = True

    @precondition(lambda self: self.streams)
    @invariant()
    def bounds_hold(self) -> None:
        for machine in self.sides:
            assert machine._queued <= CONFIG.max_queued_bytes
            assert machine._queued == sum(s.queue.size for s in machine._streams.values())
            assert machine._unaccepted == sum(not s.accepted for s in machine._streams.values())
            assert machine._unacknowledged == sum(not s.acknowledged for s in machine._streams.values())
            assert set(machine._lingering) <= set(machine._streams)
            for stream in machine._streams.values():
                assert 0 <= stream.credit <= stream.window
                assert stream.abandoned or stream.buffered + stream.credit <= stream.window

    def teardown(self) -> None:
        """Everything arrives once the wire is let run and everybody reads."""
        for _ in range(100):
            for side in (0, 1):
                self.send_bytes(side)
                self.receive_bytes(1 - side, 1 << 30)
        for stream in self.streams:
            for side, end in enumerate(stream.ends):
                other = stream.ends[1 - side]
                if end.usable and not (other.reset or other.gone or other.abandoned or not other.known):
                    assert end.received == other.sent
                    assert end.ended == other.closed


TestTwoSides = TwoSides.TestCase
TestTwoSides.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
