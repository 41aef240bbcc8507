"""Headers, Retry and version negotiation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.errors import RemoteProtocolError
from talos.transport.quic import packet
from talos.transport.quic.packet import Header, RetryTokens, read_header, read_retry, retry_packet, version_negotiation

# RFC 9001 A.2: the start of a client's Initial packet, unprotected; A.4: a Retry packet that answers it.
INITIAL = bytes.fromhex("c300000001088394c8f03e5157080000449e00000002") + bytes(1178)
RETRY = bytes.fromhex("ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba")
ORIGINAL = bytes.fromhex("8394c8f03e515708")


def test_header_of_the_published_initial() -> None:
    header = read_header(INITIAL)
    assert header == Header(1, packet.INITIAL, ORIGINAL, b"", b"", 18 + 1182)


def test_published_retry() -> None:
    header = read_header(RETRY)
    assert header is not None
    assert (header.kind, header.source) == (packet.RETRY, bytes.fromhex("f067a5502a4262b5"))
    assert read_retry(RETRY, header, ORIGINAL) == b"token"
    assert read_retry(RETRY, header, ORIGINAL[:-1] + b"x") is None
    assert read_retry(RETRY[:-1] + b"x", header, ORIGINAL) is None


def test_our_retry_is_read_back() -> None:
    asked = Header(1, packet.INITIAL, b"original", b"dialers.", b"", 1200)
    answer = retry_packet(asked, b"another.", b"the token")
    header = read_header(answer)
    assert header is not None
    assert (header.destination, header.source) == (b"dialers.", b"another.")
    assert read_retry(answer, header, b"original") == b"the token"


def test_a_retry_without_a_token_is_none() -> None:
    asked = Header(1, packet.INITIAL, b"original", b"dialers.", b"", 1200)
    answer = retry_packet(asked, b"another.", b"")
    header = read_header(answer)
    assert header is not None
    assert read_retry(answer, header, b"original") is None


def test_version_negotiation_names_ours_and_swaps_the_ids() -> None:
    asked = read_header(bytes.fromhex("c0babababa0201020103") + bytes(1190))
    assert asked is not None
    assert asked.version == 0xBABABABA
    answer = version_negotiation(asked, 0x2A)
    assert (asked.destination, asked.source) == (b"\x01\x02", b"\x03")
    assert answer == b"\xaa" + bytes(4) + b"\x01\x03" + b"\x02\x01\x02" + bytes((0, 0, 0, 1))


def test_short_header_is_none() -> None:
    assert read_header(b"\x40" + bytes(20)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\xc0",
        bytes.fromhex("c0000000010883"),
        bytes.fromhex("c000000001") + b"\x15" + bytes(21) + b"\x00\x00\x01\x00",  # an id of 21 bytes
        bytes.fromhex("c000000001000000") + b"\x44\x9e",  # longer than what is there
        bytes.fromhex("c0000000010000") + b"\x7f\xff" + bytes(10),  # a token longer than what is there
    ],
)
def test_impossible_headers(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_header(data)


def test_packets_that_share_a_datagram() -> None:
    short = b"\x40" + bytes(30)
    packets = packet.packets_of(INITIAL + short)
    assert [data for data, _ in packets] == [INITIAL, short]
    assert packets[1][1] is None
    for junk in (b"\xc0\x00", bytes(100)):
        assert packet.packets_of(INITIAL + junk) == [(INITIAL + junk, packets[0][1])]


@given(st.binary(min_size=1, max_size=80))
def test_any_bytes_give_packets_that_cover_a_prefix(data: bytes) -> None:
    assert data.startswith(b"".join(part for part, _ in packet.packets_of(data)))


class TestTokens:
    tokens = RetryTokens(b"secret", seconds=10)

    def test_a_token_proves_the_original_id(self) -> None:
        token = self.tokens.make("10.0.0.1|5", b"original", b"source", now=50.0)
        proven = self.tokens.check(token, "10.0.0.1|5", b"source", now=59.9)
        assert proven is not None
        assert proven.original == b"original"

    @pytest.mark.parametrize(
        ("place", "source", "now"),
        [("10.0.0.2|5", b"source", 50.0), ("10.0.0.1|5", b"other", 50.0), ("10.0.0.1|5", b"source", 60.1)],
    )
    def test_nobody_else_nowhere_else_and_not_later(self, place: str, source: bytes, now: float) -> None:
        token = self.tokens.make("10.0.0.1|5", b"original", b"source", now=50.0)
        assert self.tokens.check(token, place, source, now) is None

    @given(st.binary(max_size=64))
    def test_no_other_bytes_are_a_token(self, token: bytes) -> None:
        assert self.tokens.check(token, "10.0.0.1|5", b"source", 0.0) is None
