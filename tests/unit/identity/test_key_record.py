"""The signed record of an encryption key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from talos.errors import BadSignature, LocalProtocolError, MessageTooLarge, RemoteProtocolError
from talos.identity.envelope import Envelope
from talos.identity.key_record import DOMAIN, MAX_LIFETIME_MS, PAYLOAD_TYPE, KeyRecord
from talos.identity.keys import PrivateKey
from talos.wire import fields
from talos.wire.pb import wallet_pb2

KEY = PrivateKey.from_seed(b"\2" * 32)
NOW = 1_767_225_600_000
RECORD = KeyRecord(
    identity=KEY.public_key.data,
    x25519=bytes.fromhex("5dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef22"),
    seq=NOW,
    not_before_ms=NOW,
    not_after_ms=NOW + 37 * 86_400_000,
    name="Bob",
)


def signed(payload: bytes, *, domain: str = DOMAIN, kind: bytes = PAYLOAD_TYPE, key: PrivateKey = KEY) -> bytes:
    return Envelope.seal(key, domain, kind, payload).raw


def message(**changes: object) -> bytes:
    names = ("identity", "x25519", "seq", "not_before_ms", "not_after_ms", "name", "stamp_bits")
    values = {"version": 1, **{name: getattr(RECORD, name) for name in names}, **changes}
    return wallet_pb2.KeyRecord(**values).SerializeToString(deterministic=True)


def test_round_trip_and_size() -> None:
    sealed = RECORD.seal(KEY)
    assert KeyRecord.open(sealed, now_ms=NOW, identity=KEY.public_key.data) == RECORD
    assert len(sealed) < 240


def test_the_bytes_are_those_of_the_schema() -> None:
    for record in (RECORD, replace(RECORD, name="", stamp_bits=20)):
        expected = message(name=record.name, stamp_bits=record.stamp_bits)
        assert Envelope.open(record.seal(KEY), {PAYLOAD_TYPE: DOMAIN}).payload == expected


def test_unknown_fields_pass() -> None:
    assert KeyRecord.open(signed(message() + fields.bytes_field(15, b"new")), now_ms=NOW) == RECORD


def test_only_the_identity_signs() -> None:
    with pytest.raises(LocalProtocolError):
        RECORD.seal(PrivateKey.from_seed(b"\1" * 32))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (signed(message(), key=PrivateKey.from_seed(b"\1" * 32)), "not signed by the identity"),
        (signed(message(version=2)), "version 2"),
        (signed(message(version=0)), "version 0"),
        (signed(message(x25519=b"\1" * 31)), "32 bytes"),
        (signed(message(name="é" * 33)), "too long a name"),
        (signed(message(not_after_ms=NOW)), "lives longer than 40 days, or not at all"),
        (signed(message(not_after_ms=NOW + MAX_LIFETIME_MS + 1)), "lives longer"),
        (signed(message(not_before_ms=NOW - 10, not_after_ms=NOW - 5)), "expired"),
        (signed(message() + fields.uint64_field(4, 1)), "repeated"),
        (signed(message() + fields.bytes_field(8, b"x")), "another type"),
        (signed(message(name="") + fields.bytes_field(7, b"\xff")), "not text"),
        (signed(b"\x0a\xff"), "cut off"),
        (signed(message(), kind=b"/other"), "payload type"),
    ],
)
def test_what_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(RemoteProtocolError, match=match):
        KeyRecord.open(data, now_ms=NOW)


def test_another_identity_domain_or_size_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="another identity"):
        KeyRecord.open(RECORD.seal(KEY), now_ms=NOW, identity=b"\1" * 32)
    with pytest.raises(BadSignature):
        KeyRecord.open(signed(message(), domain="other"), now_ms=NOW)
    with pytest.raises(MessageTooLarge):
        KeyRecord.open(bytes(8193), now_ms=NOW)


def test_every_flipped_bit_is_found() -> None:
    sealed = RECORD.seal(KEY)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises((RemoteProtocolError, BadSignature)):
            KeyRecord.open(bytes(changed), now_ms=NOW)
