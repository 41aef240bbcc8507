"""Transport parameters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.errors import RemoteProtocolError
from talos.transport.quic.parameters import Parameters, decode, encode


def test_defaults_are_left_out_and_come_back() -> None:
    assert encode(Parameters()) == b""
    assert decode(b"", from_dialer=True) == Parameters()


def test_everything_comes_back() -> None:
    said = Parameters(
        original_destination=b"12345678",
        initial_source=b"",
        retry_source=b"x" * 20,
        reset_token=b"r" * 16,
        idle_milliseconds=30_000,
        max_udp_payload=1200,
        max_data=(1 << 62) - 1,
        stream_data_bidi_local=63,
        stream_data_bidi_remote=64,
        stream_data_uni=16384,
        max_streams_bidi=1 << 60,
        max_streams_uni=1 << 30,
        ack_delay_exponent=20,
        max_ack_delay_milliseconds=16383,
        active_connection_ids=8,
        disable_migration=True,
    )
    assert decode(encode(said), from_dialer=False) == said


def test_unknown_ones_are_ignored() -> None:
    assert decode(bytes.fromhex("1b 00 7f ff 02 ab cd 20 02 44 b0"), from_dialer=True) == Parameters()


@pytest.mark.parametrize(
    "data",
    [
        "03 02 44 af",  # 1199 bytes of payload
        "08 08 d0 00 00 00 00 00 00 01",  # 2^60 + 1 streams
        "0a 01 15",  # an exponent of 21
        "0b 04 80 00 40 00",  # 2^14 ms
        "0e 01 01",  # one connection id
        "04 01 01 04 01 01",  # twice
        "04 02 01 00",  # an integer with a tail
        "04 00",  # an integer without a byte
        "0c 01 00",  # a flag with a value
        "0f 15 " + "00" * 21,  # an id of 21 bytes
        "04",
        "04 05 00",
        "44",
    ],
)
def test_what_is_not_allowed(data: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(bytes.fromhex(data), from_dialer=True)


@pytest.mark.parametrize("data", ["00 00", "02 10 " + "00" * 16, "0d 00", "10 00"])
def test_what_only_listeners_may_say(data: str) -> None:
    decode(bytes.fromhex(data), from_dialer=False)
    with pytest.raises(RemoteProtocolError):
        decode(bytes.fromhex(data), from_dialer=True)


def test_a_reset_token_has_16_bytes() -> None:
    with pytest.raises(RemoteProtocolError):
        decode(bytes.fromhex("02 0f") + bytes(15), from_dialer=False)


@given(st.binary(max_size=64), st.booleans())
def test_any_bytes_are_parameters_or_a_protocol_error(data: bytes, from_dialer: bool) -> None:
    try:
        decode(data, from_dialer=from_dialer)
    except RemoteProtocolError:
        pass
