"""The tunnel's wire format, in both roles: it is events or RemoteProtocolError, and what is held stays bounded."""

from __future__ import annotations

from talos.errors import RemoteProtocolError
from talos.mcp.event import Closed, LineArrived, OpenArrived, Opened, PeerEof, Refused, WindowOpened
from talos.mcp.limits import McpLimits
from talos.mcp.machine import SessionMachine, State
from talos.mcp.wire import Accept, Open, Status

LIMITS = McpLimits(max_line=65_536, window=65_536)
OPEN = Open(nonce=b"c" * 32, max_line=LIMITS.max_line, window=LIMITS.window)
ACCEPT = Accept(
    status=Status.OK,
    session=b"s" * 16,
    resume_token=b"t" * 32,
    nonce=b"n" * 32,
    server="default",
    max_line=LIMITS.max_line,
    window=LIMITS.window,
)
DECLARED = (Closed, LineArrived, OpenArrived, Opened, PeerEof, Refused, WindowOpened)


def target(data: bytes) -> None:
    """The first byte says who we are, whether the session is open, and how the rest is cut."""
    if not data:
        return
    how, rest = data[0], data[1:]
    machine = start(how)
    size = 1 + (how >> 3) % 16 if how & 128 else max(1, len(rest))
    now, held = 0.0, 0
    try:
        for start_at in range(0, len(rest), size):
            now += 0.01
            for event in machine.receive_data(rest[start_at : start_at + size], now):
                assert type(event) in DECLARED, event
                held += use(machine, event, now)
            machine.deadline_passed(now)
            machine.data_to_send(now)
    except RemoteProtocolError:
        assert machine.state is State.CLOSED
        assert machine.receive_data(b"more", now) == []
    assert held <= len(data), "more bytes were reported than came in"
    assert len(machine.data_to_send(now)) <= 10 * len(data) + 512


def start(how: int) -> SessionMachine:
    connect, serve = SessionMachine.connect(OPEN, LIMITS), SessionMachine.serve(LIMITS)
    if how & 2:
        serve.receive_data(connect.data_to_send())
        serve.accept(ACCEPT, 0.0)
        connect.receive_data(serve.data_to_send())
        for machine in (connect, serve):
            machine.submit(b"{}")
            machine.submit(b"[]")
            machine.data_to_send()
    return connect if how & 1 else serve


def use(machine: SessionMachine, event: object, now: float) -> int:
    """What a driver might do; how many bytes of lines it was given."""
    if isinstance(event, OpenArrived):
        try:
            machine.accept(ACCEPT, now)
        except RemoteProtocolError:  # the shapes of the Open; a driver resets the stream here
            machine.stream_lost()
    elif isinstance(event, LineArrived):
        if event.seq % 3:
            machine.consumed(event.seq, now)
        return len(event.line)
    return 0
