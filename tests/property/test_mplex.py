"""Mplex: however the bytes are cut, and whatever two sides send."""

from __future__ import annotations

import random

import hypothesis.strategies as st
from hypothesis import given, settings

from talos.errors import RemoteProtocolError
from talos.muxer.event import DataReceived, Event, StreamEnded, StreamOpened
from talos.muxer.mplex import MplexMachine
from talos.muxer.mplex.frame import header
from talos.testing.pump import Pump, random_pieces

FRAMES = st.one_of(
    st.builds(
        lambda number, flag, payload: header(number, flag, len(payload)) + payload,
        st.integers(0, 3),
        st.sampled_from([0, 0, 1, 2, 2, 2, 3, 4, 5, 6]),
        st.binary(max_size=40),
    ),
    st.binary(min_size=1, max_size=20),
)


def outcome(pieces: list[bytes]) -> tuple[list[Event], str, bytes]:
    """Events with neighbouring data joined, the fault if there was one, and the answer."""
    machine = MplexMachine()
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


@given(st.integers(0, 1 << 32), st.lists(st.integers(0, 300_000), min_size=2, max_size=5))
@settings(max_examples=25, deadline=None)
def test_pumped_streams_arrive_whole(seed: int, sizes: list[int]) -> None:
    """Both sides open streams of the same numbers."""
    rng = random.Random(seed)
    sides = (MplexMachine(), MplexMachine())
    waiting = [{side.open_stream(): rng.randbytes(size) for size in sizes} for side in sides]
    received: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
    ended: list[int] = []

    def on_event(side: int, event: Event) -> None:
        match event:
            case StreamOpened(number):
                sides[side].accept(number)
                received[side][number] = b""
            case DataReceived(number, data):
                received[side][number] += data
                sides[side].consumed(number, len(data))
            case StreamEnded(number):
                ended.append(number)
            case _:
                raise AssertionError(event)

    pump = Pump(
        *sides,
        seed=seed,
        max_piece=100_000,
        on_left=lambda event: on_event(0, event),
        on_right=lambda event: on_event(1, event),
    )
    left = [{number: memoryview(data) for number, data in streams.items()} for streams in waiting]
    while len(ended) < 2 * len(sizes):
        for side, streams in zip(sides, left, strict=True):
            for number, view in streams.items():
                if view:
                    streams[number] = view[side.send(number, view) :]
                else:
                    side.close(number)
        pump.run()
    for mine, theirs in ((0, 1), (1, 0)):
        assert {number ^ 1: data for number, data in received[mine].items()} == waiting[theirs]
