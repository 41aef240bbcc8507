"""IPNS records, made field by field."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest

from talos.dht import ipns
from talos.errors import BadSignature, RecordRejected, RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.wire import fields

VECTORS = Path(__file__).parents[2] / "vectors"
KEY = PrivateKey.from_seed(bytes(32))
OTHER = PrivateKey.from_seed(b"\1" * 32)
NAME = b"/ipns/" + PeerId.from_key(KEY.public_key).raw
POINTER = b"/ipfs/bafkqac3imvwgy3zao5xxe3de"
VALIDITY = b"2030-01-02T03:04:05.000000006Z"
EXPIRES = 1_893_553_445
NOW = 1_800_000_000.0


def head(major: int, number: int) -> bytes:
    for size, short in ((0, 0), (1, 24), (2, 25), (4, 26), (8, 27)):
        if size == 0 and number < 24:
            return bytes([major << 5 | number])
        if size and number < 1 << (8 * size):
            return bytes([major << 5 | short]) + number.to_bytes(size, "big")
    raise AssertionError


def cbor(value: object) -> bytes:
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if value is None:
        return b"\xf6"
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    assert isinstance(value, dict)
    return head(5, len(value)) + b"".join(cbor(key) + cbor(content) for key, content in value.items())


def document(**changes: object) -> dict[str, object]:
    return {
        "TTL": 3_600_000_000_000,
        "Value": POINTER,
        "Sequence": 7,
        "Validity": VALIDITY,
        "ValidityType": 0,
        **changes,
    }


def record(
    data: bytes | None = None, *, key: PrivateKey = KEY, old: bool = False, more: bytes = b"", **changes: object
) -> bytes:
    """A record, with the fields of the older version too where `old`."""
    data = cbor(document(**changes)) if data is None else data
    parts = fields.bytes_field(8, key.sign(b"ipns-signature:" + data)) + fields.bytes_field(9, data)
    if old:
        parts += fields.bytes_field(1, POINTER) + fields.bytes_field(2, b"v1") + fields.bytes_field(4, VALIDITY)
        parts += fields.uint64_field(5, 7) + fields.uint64_field(6, 3_600_000_000_000)
    return parts + more


def test_a_record_says_what_was_signed() -> None:
    parsed = ipns.parse(record())
    assert (parsed.value, parsed.validity, parsed.sequence, parsed.ttl) == (POINTER, VALIDITY, 7, 3_600_000_000_000)
    assert parsed.expires_ns == EXPIRES * 1_000_000_000 + 6
    ipns.validate(NAME, record(), NOW)
    ipns.validate(NAME, record(old=True), NOW)


def test_more_may_be_signed_than_is_read() -> None:
    ipns.validate(NAME, record(_flag=True, _none=None, _less=-5, _text="é", _off=False), NOW)


def test_a_key_that_its_name_only_hashes_comes_along() -> None:
    keys = json.loads((VECTORS / "peer_ids.json").read_text())["keys"]
    rsa = PrivateKey.from_bytes(next(bytes.fromhex(key["private"]) for key in keys if key["type"] == "rsa"))
    name = b"/ipns/" + PeerId.from_key(rsa.public_key).raw
    ipns.validate(name, record(key=rsa, more=fields.bytes_field(7, rsa.public_key.to_bytes())), NOW)
    with pytest.raises(RecordRejected):
        ipns.validate(name, record(key=rsa), NOW)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (record(key=OTHER), BadSignature),
        (record(more=fields.bytes_field(7, OTHER.public_key.to_bytes())), RecordRejected),
        (record(Validity=b"2026-01-01T00:00:00Z"), RecordRejected),
        (record(old=True, Sequence=8), RemoteProtocolError),
        (record(old=True, Value=b"/ipfs/other"), RemoteProtocolError),
        (record(more=fields.bytes_field(1, b"/ipfs/other")), RemoteProtocolError),
        (record(ValidityType=1), RemoteProtocolError),
        (record(ValidityType=False), RemoteProtocolError),
        (record(Sequence=-1), RemoteProtocolError),
        (record(Sequence=b"7"), RemoteProtocolError),
        (record(Value="text"), RemoteProtocolError),
        (record(Validity=b"tomorrow"), RemoteProtocolError),
        (record(Validity=b"2030-02-31T00:00:00Z"), RemoteProtocolError),
        (record(Validity=b"2030-01-01T00:00:00." + b"9" * 50), RemoteProtocolError),
        (record(more=fields.bytes_field(9, b"again")), RemoteProtocolError),
        (record(more=fields.bytes_field(5, b"7")), RemoteProtocolError),
        (record(more=bytes(10_240)), RemoteProtocolError),
        (fields.bytes_field(8, b"signature alone"), RemoteProtocolError),
        (fields.bytes_field(9, cbor(document())), RemoteProtocolError),
        (b"", RemoteProtocolError),
    ],
)
def test_others_are_refused(value: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        ipns.validate(NAME, value, NOW)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",  # an array
        cbor(document()) + b"\0",
        cbor(document())[:-1],
        b"\xbf\xff",  # of indefinite length
        b"\xb8\x05" + cbor(document())[1:],  # a length that is not in its shortest form
        b"\xb9\x00\xff" + cbor(document())[1:],
        cbor({str(number): 0 for number in range(65)}),
        b"\xa2" + cbor("Value") + cbor(b"") + cbor("Value") + cbor(b""),
        b"\xa1" + cbor(b"Value") + cbor(b""),
        b"\xa1" + b"\x61\xff" + cbor(b""),
        cbor({"Value": b""})[:-1] + b"\x80",  # a list in it
        b"\xa1" + cbor("Value") + b"\xfb" + bytes(8),  # a float in it
    ],
)
def test_data_that_are_no_flat_map_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ipns.validate(NAME, record(data), NOW)


def test_the_key_has_to_be_a_name() -> None:
    with pytest.raises(RecordRejected):
        ipns.validate(b"/pk/x", record(), NOW)
    with pytest.raises(RemoteProtocolError):
        ipns.validate(b"/ipns/x", record(), NOW)
    hashed = b"/ipns/\x12\x20" + bytes(32)
    with pytest.raises(RecordRejected):
        ipns.validate(hashed, record(), NOW)


@pytest.mark.parametrize(
    ("text", "seconds", "nanoseconds"),
    [
        (b"1970-01-01T00:00:00Z", 0, 0),
        (b"2030-01-02T03:04:05.5Z", EXPIRES, 500_000_000),
        (b"2030-01-02T05:04:05+02:00", EXPIRES, 0),
        (b"2030-01-01T21:34:05-05:30", EXPIRES, 0),
    ],
)
def test_times_are_read_in_nanoseconds(text: bytes, seconds: int, nanoseconds: int) -> None:
    assert ipns.parse(record(Validity=text)).expires_ns == seconds * 1_000_000_000 + nanoseconds


def test_the_higher_sequence_number_wins_and_then_the_later_end() -> None:
    ranked = [
        record(Sequence=8, Validity=b"2029-01-01T00:00:00Z"),
        record(Validity=b"2031-01-01T00:00:00Z"),
        record(),
    ]
    for shuffled in permutations(ranked):
        assert shuffled[ipns.select(NAME, shuffled)] == ranked[0]
    assert ipns.select(NAME, ranked[1:]) == 0
    assert ipns.select(NAME, [ranked[2], ranked[2]]) == 0
