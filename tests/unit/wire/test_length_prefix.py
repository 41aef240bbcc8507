import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError
from talos.wire import varint
from talos.wire.length_prefix import LengthPrefixDecoder, frame


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(1, 50), min_size=1))
def test_any_chunking_gives_the_same_messages(messages: list[bytes], chunks: list[int]) -> None:
    wire = b"".join(map(frame, messages))
    decoder = LengthPrefixDecoder(300)
    found, position, turn = [], 0, 0
    while position < len(wire):
        size = chunks[turn % len(chunks)]
        found += decoder.receive_data(wire[position : position + size])
        position, turn = position + size, turn + 1
    assert found == messages
    decoder.end()


@pytest.mark.parametrize("length", [101, 2**30, 2**40, varint.MAX_VALUE])
def test_an_over_long_prefix_is_refused_before_its_message_comes(length: int) -> None:
    with pytest.raises(MessageTooLarge):
        LengthPrefixDecoder(100).receive_data(varint.encode(length))


def test_the_limit_itself_is_allowed() -> None:
    assert LengthPrefixDecoder(100).receive_data(frame(b"x" * 100, 100)) == [b"x" * 100]
    with pytest.raises(LocalProtocolError):
        frame(b"x" * 101, 100)


def test_the_end_inside_a_message_is_an_error() -> None:
    decoder = LengthPrefixDecoder(100)
    decoder.receive_data(b"\x05abc")
    with pytest.raises(RemoteProtocolError):
        decoder.end()


def test_bytes_behind_a_message_are_left_alone() -> None:
    """What follows one message may be of another protocol: it is not judged as a prefix."""
    decoder = LengthPrefixDecoder(100)
    decoder.feed(frame(b"status") + b"\xff" * 20)
    assert decoder.next_message() == b"status"
    assert decoder.take_leftover() == b"\xff" * 20
    assert decoder.take_leftover() == b""


def test_one_byte_at_a_time() -> None:
    decoder = LengthPrefixDecoder(1000)
    wire = frame(b"a" * 700) + frame(b"")
    assert [message for i in range(len(wire)) for message in decoder.receive_data(wire[i : i + 1])] == [b"a" * 700, b""]


@pytest.mark.parametrize("size", [1, 700, 5000, 70_000, 500_000])
def test_a_long_message_comes_in_pieces_of_any_size(size: int) -> None:
    message = bytes(range(256)) * 1200
    wire = frame(b"before") + frame(message) + frame(b"behind")
    pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
    decoder = LengthPrefixDecoder(len(message))
    assert [found for piece in pieces for found in decoder.receive_data(piece)] == [b"before", message, b"behind"]
    decoder.end()


def test_a_long_message_that_comes_byte_by_byte_is_gathered() -> None:
    decoder = LengthPrefixDecoder(100_000)
    decoder.feed(frame(bytes(100_000))[:10_000])
    assert decoder.next_message() is None
    for _ in range(50_000):
        decoder.feed(b"\0")
    assert len(decoder._pieces) == 3


def test_the_end_inside_a_long_message_is_an_error_and_its_bytes_can_be_had() -> None:
    wire = frame(bytes(100_000))[:50]
    decoder = LengthPrefixDecoder(100_000)
    assert decoder.receive_data(wire) == []
    decoder.feed(b"more")
    with pytest.raises(RemoteProtocolError):
        decoder.end()
    assert decoder.take_leftover() == wire + b"more"
    assert decoder.receive_data(frame(b"next")) == [b"next"]
