"""Mplex: whatever comes, it is events or RemoteProtocolError, and what is held stays bounded."""

from __future__ import annotations

from talos.errors import RemoteProtocolError
from talos.muxer.event import DataReceived, StreamAborted, StreamEnded, StreamOpened
from talos.muxer.mplex import MplexConfig, MplexMachine

CONFIG = MplexConfig(max_unaccepted=8, max_streams=16, max_control_bytes=4096, max_buffered_stream_bytes=1000)
DECLARED = (DataReceived, StreamAborted, StreamEnded, StreamOpened)


def target(data: bytes) -> None:
    """The first byte says what the application does and how the rest is cut."""
    if not data:
        return
    how, rest = data[0], data[1:]
    machine = MplexMachine(config=CONFIG)
    machine.send(machine.open_stream(), b"hello")
    size = 1 + (how >> 1) % 64 if how & 128 else max(1, len(rest))
    try:
        for start in range(0, len(rest), size):
            for event in machine.receive_data(rest[start : start + size]):
                assert type(event) in DECLARED, event
                use(machine, event, how)
            streams = machine._streams.values()  # noqa: SLF001 - the bound that no event shows
            assert sum(stream.buffered for stream in streams) == machine._buffered  # noqa: SLF001 - the same
            assert all(stream.buffered <= CONFIG.max_buffered_stream_bytes for stream in streams)
            if how & 64:
                machine.data_to_send()
    except RemoteProtocolError:
        assert machine.closing
    assert sum(len(piece) for piece in iter(machine.data_to_send, b"")) <= CONFIG.max_control_bytes + 64 + 32 * len(
        data
    )


def use(machine: MplexMachine, event: object, how: int) -> None:
    """What an application might do."""
    if isinstance(event, StreamOpened):
        if how & 2:
            machine.accept(event.stream_id)
    elif isinstance(event, DataReceived):
        live = machine._streams.get(event.stream_id)  # noqa: SLF001 - it may have ended in the same piece
        if how & 4 and live is not None and not live.abandoned:
            machine.consumed(event.stream_id, min(len(event.data), live.buffered))
    elif isinstance(event, StreamEnded) and how & 8 and event.stream_id in machine._streams:  # noqa: SLF001 - the same
        machine.close(event.stream_id)
        machine.abandon(event.stream_id)
