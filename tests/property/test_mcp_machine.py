"""Two tunnel machines against each other: every line once, in order, whatever the cuts and whoever is slow."""

from __future__ import annotations

import itertools
import random
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from talos.errors import RemoteProtocolError
from talos.mcp.event import Closed, Event, LineArrived, OpenArrived, PeerEof
from talos.mcp.limits import McpLimits
from talos.mcp.machine import SessionMachine, State, cost
from talos.mcp.wire import Accept, CloseCode, Open, Status
from talos.testing.pump import Pump

LIMITS = McpLimits(max_line=65_536, window=65_536)
ACCEPT = Accept(
    status=Status.OK,
    session=b"s" * 16,
    resume_token=b"t" * 32,
    nonce=b"n" * 32,
    server="default",
    max_line=LIMITS.max_line,
    window=LIMITS.window,
)
LINES = st.lists(
    st.one_of(st.binary(min_size=1, max_size=60), st.integers(1, 65_536).map(lambda n: b"x" * n)), max_size=40
)


def pair() -> tuple[SessionMachine, SessionMachine]:
    message = Open(nonce=b"c" * 32, max_line=LIMITS.max_line, window=LIMITS.window)
    return SessionMachine.connect(message, LIMITS), SessionMachine.serve(LIMITS)


class Side:
    """An application on one machine: a source of lines, and a sink that takes some of them at a time."""

    def __init__(self, machine: SessionMachine, lines: list[bytes], rng: random.Random) -> None:
        self.machine = machine
        self.waiting = deque(line.replace(b"\n", b" ") for line in lines)
        self.got: list[bytes] = []
        self.rng = rng
        self.ended = self.closed = False

    def on(self, event: Event) -> None:
        match event:
            case OpenArrived():
                self.machine.accept(ACCEPT, 0.0)
            case LineArrived(seq, line):
                self.got.append(line)
                assert seq == len(self.got)
                if self.rng.random() < 0.5:
                    self.machine.consumed(seq, 0.0)
            case PeerEof(last):
                assert last == len(self.got)
                self.ended = True
            case Closed():
                self.closed = True
            case _:
                pass
        self.go_on()

    def go_on(self) -> None:
        machine = self.machine
        if machine.state is not State.OPEN:
            return
        while self.waiting and machine.can_submit(cost(self.waiting[0])):
            machine.submit(self.waiting.popleft())
        if not self.waiting:
            machine.source_ended()


@settings(max_examples=60, deadline=None)
@given(LINES, LINES, st.integers(0, 2**32))
def test_every_line_crosses_once_and_in_order(up: list[bytes], down: list[bytes], seed: int) -> None:
    rng = random.Random(seed)
    connect, serve = pair()
    left, right = Side(connect, up, rng), Side(serve, down, rng)
    up, down = list(left.waiting), list(right.waiting)
    pump = Pump(connect, serve, seed=seed, max_piece=70_000, on_left=left.on, on_right=right.on)
    now = 0.0
    for _ in range(200):
        pump.run()
        if connect.finished and serve.finished:
            break
        now += 0.06  # what was not consumed yet is consumed, and acknowledged in time
        for side in (left, right):
            side.machine.consumed(len(side.got), now)
            assert side.machine.deadline_passed(now + 0.05) == []
            side.go_on()
    assert (right.got, left.got) == (up, down)
    assert connect.finished
    assert serve.finished
    serve.close(CloseCode.DONE)
    pump.run()
    assert left.closed


class Delivery(RuleBasedStateMachine):
    """Any order of submitting, carrying bytes, consuming and waiting, against a model of queues."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        connect, serve = pair()
        serve.receive_data(connect.data_to_send())
        serve.accept(ACCEPT, 0.0)
        connect.receive_data(serve.data_to_send())
        self.machines = (connect, serve)
        self.submitted: tuple[list[bytes], list[bytes]] = ([], [])
        self.got: tuple[list[bytes], list[bytes]] = ([], [])  # what each side received
        self.consumed = [0, 0]
        self.air: tuple[bytearray, bytearray] = (bytearray(), bytearray())  # sent by each side
        self.ended = [False, False]

    sides = st.integers(0, 1)

    @rule(side=sides, size=st.one_of(st.integers(1, 100), st.integers(1, 65_536)))
    def submit(self, side: int, size: int) -> None:
        line = str(len(self.submitted[side])).encode().rjust(size, b"x")[:65_536]
        machine = self.machines[side]
        outstanding = self.submitted[side][self.consumed[1 - side] :]
        fits = not outstanding or sum(map(cost, outstanding)) + cost(line) <= LIMITS.window
        if machine.can_submit(cost(line)):
            assert fits, "more is on its way than the window promises"
            assert not self.ended[side]
            self.submitted[side].append(line)
            assert machine.submit(line) == len(self.submitted[side])

    @rule(side=sides)
    def send(self, side: int) -> None:
        self.air[side].extend(self.machines[side].data_to_send(self.now))

    @rule(side=sides, size=st.integers(1, 80_000))
    def arrive(self, side: int, size: int) -> None:
        piece = bytes(self.air[side][:size])
        del self.air[side][:size]
        other = 1 - side
        for event in self.machines[other].receive_data(piece, self.now):
            if isinstance(event, LineArrived):
                self.got[other].append(event.line)
            elif isinstance(event, PeerEof):
                assert self.ended[side]
                assert event.last == len(self.submitted[side])

    @rule(side=sides, count=st.integers(1, 100))
    def consume(self, side: int, count: int) -> None:
        self.consumed[side] = min(len(self.got[side]), self.consumed[side] + count)
        self.machines[side].consumed(self.consumed[side], self.now)

    @rule(side=sides)
    def end(self, side: int) -> None:
        self.machines[side].source_ended()
        self.ended[side] = True

    @precondition(lambda self: self.now < 5)
    @rule()
    def wait(self) -> None:
        self.now += 0.06
        for machine in self.machines:
            assert machine.deadline_passed(self.now) == []

    @invariant()
    def what_came_is_what_was_sent(self) -> None:
        for side in (0, 1):
            sent = self.submitted[1 - side]
            assert self.got[side] == sent[: len(self.got[side])]
            unconsumed = sum(map(cost, self.got[side][self.consumed[side] :]))
            assert unconsumed <= LIMITS.window + LIMITS.max_line

    def teardown(self) -> None:
        for _ in range(4000):
            self.now += 0.001
            for side in (0, 1):
                self.send(side)
                self.arrive(side, 80_000)
                self.consume(side, 1000)
                self.machines[side].deadline_passed(self.now + 0.1)
            if all(self.got[1 - side] == self.submitted[side] for side in (0, 1)) and not any(self.air):
                break
        for side in (0, 1):
            assert self.got[1 - side] == self.submitted[side]


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6), st.booleans())
def test_any_cutting_gives_the_same(data: bytes, cuts: list[int], connects: bool) -> None:
    def run(pieces: list[bytes]) -> tuple[list[Event], str | None]:
        connect, serve = pair()
        serve.receive_data(connect.data_to_send())
        serve.accept(ACCEPT, 0.0)
        connect.receive_data(serve.data_to_send())
        machine = connect if connects else serve
        events: list[Event] = []
        try:
            for piece in pieces:
                events += machine.receive_data(piece)
        except RemoteProtocolError as error:
            return [], str(error)
        return events, None

    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert run([data]) == run([data[start:end] for start, end in itertools.pairwise(edges)])
