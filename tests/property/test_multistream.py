"""Any chunking of a negotiation gives the same end, and no bytes give anything but an event or RemoteProtocolError."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from talos.errors import RemoteProtocolError
from talos.multistream.machine import Agreed, Dialer, Event, Listener, Refused, message

ids = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1, max_size=40).map(
    "/".__add__
)
HEADER = message("/multistream/1.0.0")


@given(st.lists(ids, min_size=1, max_size=8, unique=True), st.sets(ids, max_size=8), st.data())
def test_two_machines_agree_whatever_the_chunks(proposed: list[str], known: set[str], data: st.DataObject) -> None:
    known |= set(data.draw(st.lists(st.sampled_from(proposed), max_size=3)))
    dialer, listener = Dialer(proposed), Listener(known)
    ends: list[Event] = []
    to_listener, to_dialer = dialer.data_to_send(), b""
    while to_listener or to_dialer:
        if to_listener and (not to_dialer or data.draw(st.booleans())):
            size = data.draw(st.integers(1, len(to_listener)))
            ends += listener.receive_data(to_listener[:size])
            to_listener = to_listener[size:]
            to_dialer += listener.data_to_send()
        else:
            size = data.draw(st.integers(1, len(to_dialer)))
            ends += dialer.receive_data(to_dialer[:size])
            to_dialer = to_dialer[size:]
            to_listener += dialer.data_to_send()
    expected = next((each for each in proposed if each in known), None)
    assert ends == ([Refused()] if expected is None else [Agreed(expected, b"")] * 2)


@given(st.binary(max_size=200), st.data())
def test_chunks_do_not_change_what_the_listener_finds(behind: bytes, data: st.DataObject) -> None:
    flight = HEADER + message("ls") + message("/a") + behind
    listener = Listener({"/a"})
    events: list[Agreed] = []
    while flight and not events:
        size = data.draw(st.integers(1, len(flight)))
        events, flight = listener.receive_data(flight[:size]), flight[size:]
    assert events[0].protocol == "/a"
    assert events[0].leftover + flight == behind


@given(st.lists(st.binary(max_size=300), max_size=6), st.booleans())
def test_nothing_else_escapes(chunks: list[bytes], after_header: bool) -> None:
    for machine in (Dialer(["/a", "/b"]), Listener({"/a"})):
        try:
            events: list[Event] = [*machine.receive_data(HEADER if after_header else b"")]
            for chunk in chunks:
                if not events:
                    events = [*machine.receive_data(chunk)]
        except RemoteProtocolError:
            assert machine.done
