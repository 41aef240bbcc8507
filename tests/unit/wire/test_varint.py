import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.errors import LocalProtocolError, RemoteProtocolError
from talos.wire import varint


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (127, "7f"),
        (128, "8001"),
        (255, "ff01"),
        (300, "ac02"),
        (16384, "808001"),
        (varint.MAX_VALUE, "ff" * 8 + "7f"),
    ],
)
def test_known_values(value: int, encoded: str) -> None:
    """The table of the multiformats text, and the largest value of nine bytes."""
    assert varint.encode(value).hex() == encoded
    assert varint.decode(bytes.fromhex(encoded)) == (value, len(encoded) // 2)


@given(st.integers(0, varint.MAX_VALUE), st.binary(max_size=4), st.binary(max_size=4))
def test_round_trip_anywhere_in_a_buffer(value: int, before: bytes, after: bytes) -> None:
    encoded = varint.encode(value)
    assert varint.decode(before + encoded + after, len(before)) == (value, len(before) + len(encoded))
    for cut in range(len(encoded)):
        assert varint.decode(encoded[:cut]) is None


@pytest.mark.parametrize("data", ["8000", "ff00", "808080808080808000", "ff" * 9, "ff" * 9 + "01", "80" * 12])
def test_not_minimal_or_too_long_is_refused(data: str) -> None:
    with pytest.raises(RemoteProtocolError):
        varint.decode(bytes.fromhex(data))


@pytest.mark.parametrize("value", [-1, varint.MAX_VALUE + 1])
def test_only_63_bits_are_written(value: int) -> None:
    with pytest.raises(LocalProtocolError):
        varint.encode(value)
