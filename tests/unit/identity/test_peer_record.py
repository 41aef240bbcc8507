import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from talos.errors import BadSignature, LocalProtocolError, RemoteProtocolError
from talos.identity.envelope import Envelope
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.identity.peer_record import PeerRecord, RecordFormat, SignedPeerRecord, next_seq
from talos.wire import fields
from talos.wire.pb import peer_record_pb2

VECTOR: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "envelope.json").read_text())
KEY = PrivateKey.from_seed(bytes.fromhex(VECTOR["seed"]))
PEER = PeerId.from_key(KEY.public_key)
ADDRS = tuple(map(bytes.fromhex, VECTOR["addrs"]))
STANDARD, LEGACY = RecordFormat.STANDARD, RecordFormat.LEGACY


def sealed(payload: bytes, form: RecordFormat = STANDARD) -> bytes:
    return Envelope.seal(KEY, form.domain, form.payload_type, payload).raw


def test_own_vector() -> None:
    made = SignedPeerRecord.make(KEY, ADDRS, VECTOR["seq"])
    assert made.envelope.payload.hex() == VECTOR["payload"]
    assert made.envelope.payload_type == b"\x03\x01"
    assert hashlib.sha256(made.envelope.raw).hexdigest() == VECTOR["envelope_sha256"]
    assert SignedPeerRecord.consume(made.envelope.raw) == made


@pytest.mark.parametrize("form", RecordFormat)
def test_both_formats_are_accepted(form: RecordFormat) -> None:
    made = SignedPeerRecord.make(KEY, [b"\x01", b"\x02\x03"], 7, form)
    consumed = SignedPeerRecord.consume(made.envelope.raw)
    assert consumed.record == PeerRecord(PEER, 7, (b"\x01", b"\x02\x03"))
    message = peer_record_pb2.PeerRecord.FromString(consumed.envelope.payload)
    assert (message.peer_id, message.seq) == (PEER.to_bytes(), 7)
    assert [info.multiaddr for info in message.addresses] == [b"\x01", b"\x02\x03"]


def test_domain_of_one_format_with_the_type_of_the_other() -> None:
    payload = PeerRecord(PEER, 1, ADDRS).to_bytes()
    for domain, payload_type in ((STANDARD.domain, LEGACY.payload_type), (LEGACY.domain, STANDARD.payload_type)):
        with pytest.raises(BadSignature):
            SignedPeerRecord.consume(Envelope.seal(KEY, domain, payload_type, payload).raw)


def test_type_is_two_bytes_and_not_a_varint() -> None:
    payload = PeerRecord(PEER, 1, ADDRS).to_bytes()
    with pytest.raises(RemoteProtocolError):
        SignedPeerRecord.consume(Envelope.seal(KEY, STANDARD.domain, b"\x81\x06", payload).raw)


def test_envelope_of_another_domain() -> None:
    payload = PeerRecord(PEER, 1, ADDRS).to_bytes()
    with pytest.raises(BadSignature):
        SignedPeerRecord.consume(Envelope.seal(KEY, "libp2p-relay-rsvp", STANDARD.payload_type, payload).raw)


def test_signature_is_checked_before_the_payload_is_parsed() -> None:
    garbage = Envelope.seal(KEY, "another", STANDARD.payload_type, b"\xff\xff")
    with pytest.raises(BadSignature):
        SignedPeerRecord.consume(garbage.raw)


def test_sequence_number_must_grow() -> None:
    raw = SignedPeerRecord.make(KEY, ADDRS, 5).envelope.raw
    assert SignedPeerRecord.consume(raw, last_seq=4).record.seq == 5
    for last in (5, 6):
        with pytest.raises(RemoteProtocolError, match="not newer"):
            SignedPeerRecord.consume(raw, last_seq=last)


def test_record_about_another_peer() -> None:
    other = PeerId.from_key(PrivateKey.generate().public_key)
    with pytest.raises(RemoteProtocolError, match="is signed by"):
        SignedPeerRecord.consume(sealed(PeerRecord(other, 1, ADDRS).to_bytes()))


@pytest.mark.parametrize(
    "payload",
    [
        b"\x10\x01",  # no peer id
        b"\x0a\x01\x00",  # a bad one
        PeerRecord(PEER, 1, ()).to_bytes() + b"\x10\x02",  # sequence number twice
        PeerRecord(PEER, 1, ()).to_bytes() + fields.bytes_field(1, PEER.to_bytes()),
        fields.bytes_field(1, PEER.to_bytes()) + fields.bytes_field(2, b"\x01"),  # of another type
        fields.bytes_field(1, PEER.to_bytes()) + b"\x18\x01",
        fields.bytes_field(1, PEER.to_bytes()) + fields.bytes_field(3, b""),  # no address within
        fields.bytes_field(1, PEER.to_bytes()) + fields.bytes_field(3, b"\x0a\x00"),  # an empty one
        fields.bytes_field(1, PEER.to_bytes()) + fields.bytes_field(3, b"\x0a\x01a\x0a\x01b"),  # two in one
        PeerRecord(PEER, 1, ADDRS).to_bytes()[:-1],
    ],
)
def test_malformed_payload(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        SignedPeerRecord.consume(sealed(payload))


def test_unknown_fields_are_ignored_and_absent_numbers_are_zero() -> None:
    payload = fields.bytes_field(1, PEER.to_bytes()) + b"\x20\x01\x2d\0\0\0\0\x31\0\0\0\0\0\0\0\0"
    assert SignedPeerRecord.consume(sealed(payload)).record == PeerRecord(PEER, 0, ())


def test_next_seq_is_time_raised_to_grow() -> None:
    assert next_seq(100) == 100
    assert next_seq(100, 99) == 100
    assert next_seq(100, 100) == 101
    assert next_seq(100, 500) == 501


@pytest.mark.parametrize("seq", [-1, 1 << 63])
def test_sequence_number_out_of_range(seq: int) -> None:
    with pytest.raises(LocalProtocolError):
        SignedPeerRecord.make(KEY, ADDRS, seq)


def test_largest_sequence_number_of_others_is_only_a_number() -> None:
    payload = fields.bytes_field(1, PEER.to_bytes()) + b"\x10" + b"\xff" * 9 + b"\x01"
    assert SignedPeerRecord.consume(sealed(payload)).record.seq == 2**64 - 1
