"""Both sides of the negotiation, driven by hand."""

from __future__ import annotations

import pytest

from talos.errors import ConfigError, LocalProtocolError, MessageTooLarge, RemoteProtocolError
from talos.multistream.machine import Agreed, Dialer, Listener, MultistreamConfig, Refused, message
from talos.wire import varint

HEADER = bytes.fromhex("13") + b"/multistream/1.0.0\n"
NOT_AVAILABLE = bytes.fromhex("036e610a")
PING = "/ipfs/ping/1.0.0"
NOISE = "/noise"


def test_the_messages_are_those_of_the_specification() -> None:
    assert message("/multistream/1.0.0") == HEADER
    assert message("na") == NOT_AVAILABLE
    assert Dialer([NOISE]).data_to_send() == HEADER + b"\x07/noise\n"


def test_agreement_at_the_first_proposal() -> None:
    dialer, listener = Dialer([PING]), Listener({PING})
    assert listener.receive_data(dialer.data_to_send()) == [Agreed(PING, b"")]
    answer = listener.data_to_send()
    assert answer == HEADER + message(PING)
    assert dialer.receive_data(answer) == [Agreed(PING, b"")]
    assert dialer.done
    assert listener.done
    assert dialer.data_to_send() == listener.data_to_send() == b""


def test_refusals_lead_to_the_next_proposal() -> None:
    dialer, listener = Dialer(["/a", "/b", PING]), Listener({PING})
    assert listener.receive_data(dialer.data_to_send()) == []
    assert dialer.receive_data(listener.data_to_send()) == []
    assert dialer.data_to_send() == message("/b")
    assert listener.receive_data(message("/b") + message(PING)) == [Agreed(PING, b"")]
    assert listener.data_to_send() == NOT_AVAILABLE + message(PING)
    assert dialer.receive_data(NOT_AVAILABLE + message(PING)) == [Agreed(PING, b"")]


def test_all_refused() -> None:
    dialer = Dialer(["/a", "/b"])
    assert dialer.receive_data(HEADER + NOT_AVAILABLE + NOT_AVAILABLE) == [Refused()]
    assert dialer.done


def test_the_listener_answers_the_header_alone_as_well() -> None:
    listener = Listener({PING})
    assert listener.receive_data(HEADER) == []
    assert listener.data_to_send() == HEADER
    assert listener.receive_data(message(PING)) == [Agreed(PING, b"")]
    assert listener.data_to_send() == message(PING)


def test_the_dialer_takes_a_header_that_came_first() -> None:
    dialer = Dialer([PING])
    assert dialer.receive_data(HEADER) == []
    assert dialer.data_to_send() == HEADER + message(PING)
    assert dialer.receive_data(message(PING)) == [Agreed(PING, b"")]


@pytest.mark.parametrize("cut", range(len(HEADER + message(PING)) + 4))
def test_every_split_and_nothing_behind_is_consumed(cut: int) -> None:
    flight = HEADER + message(PING) + b"\xff\xff\xff\xff"
    for machine in (Dialer([PING]), Listener({PING})):
        events = [*machine.receive_data(flight[:cut])]
        rest = flight[cut:]
        if not events:
            events, rest = [*machine.receive_data(rest)], b""
        assert isinstance(events[0], Agreed)
        assert events[0].protocol == PING
        assert events[0].leftover + rest == b"\xff\xff\xff\xff"


@pytest.mark.parametrize(
    "unknown", ["ls", "/libp2p/simultaneous-connect", "/multistream/1.0.0", "", "na", "/ipfs/ping/1.0.0 "]
)
def test_unknown_proposals_are_refused_and_the_negotiation_goes_on(unknown: str) -> None:
    listener = Listener({PING})
    assert listener.receive_data(HEADER + message(unknown)) == []
    assert listener.data_to_send() == HEADER + NOT_AVAILABLE
    assert listener.receive_data(message(PING)) == [Agreed(PING, b"")]


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(message(PING), id="proposal before the header"),
        pytest.param(message("/multistream/2.0.0"), id="another version"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n" * 8, id="another protocol"),
        pytest.param(b"\x00", id="length 0"),
        pytest.param(b"\x12/multistream/1.0.0", id="no newline"),
        pytest.param(HEADER + b"\x00", id="length 0 behind the header"),
        pytest.param(HEADER + b"\x02ab", id="proposal without newline"),
        pytest.param(varint.encode(1025), id="one byte over the limit"),
        pytest.param(varint.encode(1 << 30), id="2^30"),
        pytest.param(varint.encode(1 << 40), id="2^40"),
        pytest.param(b"\x80" * 9 + b"\x01", id="2^63"),
        pytest.param(b"\x93\x00", id="longer varint than needed"),
    ],
)
@pytest.mark.parametrize("machine", [lambda: Dialer([PING]), lambda: Listener({PING})], ids=["dialer", "listener"])
def test_what_breaks_the_protocol(machine: type[Dialer | Listener], hostile: bytes) -> None:
    side = machine()  # type: ignore[call-arg]
    with pytest.raises(RemoteProtocolError):
        side.receive_data(hostile)
    assert side.done
    with pytest.raises(LocalProtocolError):
        side.receive_data(b"")


def test_the_length_is_judged_before_the_bytes_come() -> None:
    with pytest.raises(MessageTooLarge):
        Listener({PING}).receive_data(HEADER + varint.encode(1025))
    listener = Listener({PING})
    assert listener.receive_data(HEADER + varint.encode(1024) + b"a" * 1023 + b"\n") == []
    assert listener.data_to_send() == HEADER + NOT_AVAILABLE


def test_protocol_ids_are_utf8() -> None:
    with pytest.raises(RemoteProtocolError, match="UTF-8"):
        Listener({PING}).receive_data(HEADER + b"\x03\xff\xfe\n")
    with pytest.raises(RemoteProtocolError):
        Dialer([PING]).receive_data(HEADER + b"\x03\xff\xfe\n")
    assert Listener({"/ü"}).receive_data(HEADER + message("/ü")) == [Agreed("/ü", b"")]


@pytest.mark.parametrize("answer", ["/other", "ls", "/ipfs/ping/1.0.0\n/x", "/multistream/1.0.0"])
def test_the_answer_is_the_proposal_or_a_refusal(answer: str) -> None:
    with pytest.raises(RemoteProtocolError, match="neither"):
        Dialer([PING]).receive_data(HEADER + message(answer))


def test_at_most_64_proposals_are_answered() -> None:
    listener = Listener({PING})
    assert listener.receive_data(HEADER + message("/x") * 64) == []
    assert listener.data_to_send() == HEADER + NOT_AVAILABLE * 64
    with pytest.raises(RemoteProtocolError, match="more than 64"):
        listener.receive_data(message(PING))
    lowered = Listener({PING}, MultistreamConfig(max_proposals=1))
    with pytest.raises(RemoteProtocolError, match="more than 1"):
        lowered.receive_data(HEADER + message("/x") + message(PING))


@pytest.mark.parametrize("protocols", [[], ["/x"] * 65, [""], ["/a\n/b"], ["/" + "a" * 1023]])
def test_what_cannot_be_proposed(protocols: list[str]) -> None:
    with pytest.raises(LocalProtocolError):
        Dialer(protocols)


def test_the_longest_proposal() -> None:
    longest = "/" + "a" * 1022
    assert Listener({longest}).receive_data(Dialer([longest]).data_to_send()) == [Agreed(longest, b"")]


@pytest.mark.parametrize("limits", [{"max_message_bytes": 5}, {"max_proposals": 0}])
def test_limits_that_leave_no_room(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        MultistreamConfig(**limits)
