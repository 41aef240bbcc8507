"""Yamux, by both roles: whatever comes, it is events or RemoteProtocolError, and what is held stays bounded."""

from __future__ import annotations

from talos.errors import RemoteProtocolError
from talos.muxer.event import DataReceived, GoAwayReceived, StreamAborted, StreamEnded, StreamOpened, WindowOpened
from talos.muxer.yamux import YamuxConfig, YamuxMachine

CONFIG = YamuxConfig(max_unaccepted=8, max_streams=16, max_lingering=4, max_control_bytes=4096)
DECLARED = (DataReceived, GoAwayReceived, StreamAborted, StreamEnded, StreamOpened, WindowOpened)


def target(data: bytes) -> None:
    """The first byte says who we are and how the rest is cut."""
    if not data:
        return
    how, rest = data[0], data[1:]
    machine = YamuxMachine(dialer=bool(how & 1), config=CONFIG)
    own = machine.open_stream()
    machine.send(own, b"hello")
    size = 1 + (how >> 1) % 64 if how & 128 else max(1, len(rest))
    now = 0.0
    held = 0
    try:
        for start in range(0, len(rest), size):
            now += 0.01
            for event in machine.receive_data(rest[start : start + size], now):
                assert type(event) in DECLARED, event
                held += use(machine, event, how, now)
            assert held <= len(data), "more bytes were reported than came in"
            if how & 64:
                machine.data_to_send()
    except RemoteProtocolError:
        assert machine.closing
    assert sum(len(piece) for piece in iter(machine.data_to_send, b"")) <= CONFIG.max_control_bytes + 64 + 32 * len(
        data
    )


def use(machine: YamuxMachine, event: object, how: int, now: float) -> int:
    """What an application might do; how many bytes it was given."""
    if isinstance(event, StreamOpened):
        if how & 2:
            machine.accept(event.stream_id)
    elif isinstance(event, DataReceived):
        if how & 4:
            live = machine._streams.get(event.stream_id)  # noqa: SLF001 - it may have ended in the same piece
            if live is not None:
                machine.consumed(event.stream_id, min(len(event.data), live.buffered), now)
        return len(event.data)
    elif isinstance(event, StreamEnded) and how & 8 and event.stream_id in machine._streams:  # noqa: SLF001 - the same
        machine.close(event.stream_id)
        machine.abandon(event.stream_id)
    return 0
