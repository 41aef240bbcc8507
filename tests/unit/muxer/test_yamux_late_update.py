"""What was sent stays readable when its sender has forgotten the stream."""

from __future__ import annotations

from talos.muxer.event import DataReceived, Event, StreamEnded, StreamOpened
from talos.muxer.yamux.machine import YamuxMachine

SIZE = 200_000  # more than half of the first window: reading it gives window back


def test_reading_behind_the_peers_end_gives_window_back_and_earns_no_reset() -> None:
    reader, writer = YamuxMachine(dialer=True), YamuxMachine(dialer=False)
    stream_id = reader.open_stream()
    reader.close(stream_id)
    events = writer.receive_data(reader.data_to_send())
    assert events == [StreamOpened(stream_id), StreamEnded(stream_id)]
    writer.accept(stream_id)
    assert writer.send(stream_id, bytes(SIZE)) == SIZE
    writer.close(stream_id)
    writer.abandon(stream_id)

    sent = b""
    while data := writer.data_to_send():
        sent += data
    # The update for what was read so far crosses the writer's end: the writer knows the stream no more.
    cut = len(sent) - 12
    events = reader.receive_data(sent[:cut])
    reader.consumed(stream_id, size_of(events))
    update = reader.data_to_send()
    assert update
    assert writer.receive_data(update) == []
    answer = writer.data_to_send()  # of the ping that came along; nothing on the stream
    assert {answer[at + 4 : at + 8] for at in range(0, len(answer), 12)} <= {bytes(4)}
    rest = reader.receive_data(sent[cut:])
    assert size_of([*events, *rest]) == SIZE
    assert rest[-1] == StreamEnded(stream_id)


def size_of(events: list[Event]) -> int:
    return sum(len(event.data) for event in events if isinstance(event, DataReceived))
