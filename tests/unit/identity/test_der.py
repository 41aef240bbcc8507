import pytest

from talos.errors import RemoteProtocolError
from talos.identity import der


@pytest.mark.parametrize("length", [0, 1, 127, 128, 255, 256, 65_535])
def test_lengths_round_trip(length: int) -> None:
    encoded = der.encode(der.OCTET_STRING, b"x" * length)
    reader = der.Reader(encoded)
    assert reader.take(der.OCTET_STRING) == b"x" * length
    reader.end()


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255, 256, 2**2048])
def test_integers_round_trip(value: int) -> None:
    assert der.Reader(der.encode_integer(value)).take_integer() == value


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\x04",
        b"\x05\x00",  # another tag
        b"\x04\x80",  # indefinite
        b"\x04\x81\x7f" + bytes(127),  # fits the short form
        b"\x04\x82\x00\xff" + bytes(255),  # leading zero
        b"\x04\x83\x01\x00\x00" + bytes(65_536),  # over the limit
        b"\x04\x81",
        b"\x04\x82\x01",
        b"\x04\x02\x00",  # cut
        b"\x04\xff",
    ],
)
def test_other_forms_are_refused(encoded: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        der.Reader(encoded).take(der.OCTET_STRING)


@pytest.mark.parametrize("contents", [b"", b"\x80", b"\x00\x01", b"\xff\xff"])
def test_integers_are_minimal_and_not_negative(contents: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        der.Reader(der.encode(der.INTEGER, contents)).take_integer()


def test_nothing_may_follow() -> None:
    reader = der.Reader(b"\x04\x00\x00")
    reader.take(der.OCTET_STRING)
    with pytest.raises(RemoteProtocolError):
        reader.end()
