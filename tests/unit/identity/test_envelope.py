import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from talos.errors import BadSignature, LocalProtocolError, MessageTooLarge, RemoteProtocolError
from talos.identity.envelope import MAX_ENVELOPE_BYTES, Envelope
from talos.identity.keys import PrivateKey
from talos.wire import fields
from talos.wire.pb import envelope_pb2

VECTOR: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "envelope.json").read_text())
KEYS: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "vectors" / "peer_ids.json").read_text())["keys"]
KEY = PrivateKey.from_seed(bytes.fromhex(VECTOR["seed"]))
DOMAIN: str = VECTOR["domain"]
TYPE = bytes.fromhex(VECTOR["payload_type"])
PAYLOAD = bytes.fromhex(VECTOR["payload"])


def parts(envelope: Envelope) -> dict[int, bytes]:
    return fields.singular_bytes(envelope.raw, (1, 2, 3, 5))


def joined(found: dict[int, bytes]) -> bytes:
    return b"".join(fields.bytes_field(number, value) for number, value in found.items())


def test_own_vector() -> None:
    envelope = Envelope.seal(KEY, DOMAIN, TYPE, PAYLOAD)
    assert envelope.signature.hex() == VECTOR["signature"]
    assert len(envelope.raw) == VECTOR["envelope_bytes"]
    assert hashlib.sha256(envelope.raw).hexdigest() == VECTOR["envelope_sha256"]
    assert Envelope.open(envelope.raw, {TYPE: DOMAIN}) == envelope


@pytest.mark.parametrize("vector", KEYS, ids=lambda vector: vector["type"])
def test_every_key_type_seals(vector: dict[str, Any]) -> None:
    key = PrivateKey.from_bytes(bytes.fromhex(vector["private"]))
    envelope = Envelope.seal(key, "domain", b"type", b"payload")
    assert Envelope.open(envelope.raw, {b"type": "domain"}) == envelope
    message = envelope_pb2.Envelope.FromString(envelope.raw)
    assert (message.payload_type, message.payload, message.signature) == (b"type", b"payload", envelope.signature)
    assert message.public_key.SerializeToString() == key.public_key.to_bytes()


def test_another_domain_does_not_hold() -> None:
    envelope = Envelope.seal(KEY, DOMAIN, TYPE, PAYLOAD)
    with pytest.raises(BadSignature):
        Envelope.open(envelope.raw, {TYPE: "libp2p-relay-rsvp"})


def test_domain_and_type_do_not_run_into_each_other() -> None:
    envelope = Envelope.seal(KEY, "ab", b"c", b"payload")
    found = parts(envelope) | {2: b"bc"}
    with pytest.raises(BadSignature):
        Envelope.open(joined(found), {b"bc": "a"})


def test_unexpected_payload_type() -> None:
    envelope = Envelope.seal(KEY, DOMAIN, b"\x03\x02", PAYLOAD)
    with pytest.raises(RemoteProtocolError, match="payload type"):
        Envelope.open(envelope.raw, {TYPE: DOMAIN})


def test_every_changed_byte_is_refused() -> None:
    raw = Envelope.seal(KEY, DOMAIN, TYPE, PAYLOAD).raw
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1 << position % 8
        with pytest.raises((RemoteProtocolError, BadSignature)):
            Envelope.open(bytes(changed), {TYPE: DOMAIN})


def test_every_truncation_is_refused() -> None:
    raw = Envelope.seal(KEY, DOMAIN, TYPE, PAYLOAD).raw
    for end in range(len(raw)):
        with pytest.raises((RemoteProtocolError, BadSignature)):
            Envelope.open(raw[:end], {TYPE: DOMAIN})


@pytest.mark.parametrize(
    ("number", "error"), [(1, RemoteProtocolError), (2, RemoteProtocolError), (3, BadSignature), (5, BadSignature)]
)
def test_missing_field(number: int, error: type[Exception]) -> None:
    found = parts(Envelope.seal(KEY, DOMAIN, TYPE, PAYLOAD))
    del found[number]
    with pytest.raises(error):
        Envelope.open(joined(found), {TYPE: DOMAIN})


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_repeated_field(number: int) -> None:
    envelope = Envelope.seal(KEY, DOMAIN, TYPE, PAYLOAD)
    again = envelope.raw + fields.bytes_field(number, parts(envelope)[number])
    with pytest.raises(RemoteProtocolError, match="repeated"):
        Envelope.open(again, {TYPE: DOMAIN})


def test_original_bytes_are_kept() -> None:
    envelope = Envelope.seal(KEY, DOMAIN, TYPE, PAYLOAD)
    strange = fields.bytes_field(9, b"unknown") + joined(dict(reversed(parts(envelope).items())))
    assert Envelope.open(strange, {TYPE: DOMAIN}).raw == strange


def test_key_in_another_encoding() -> None:
    envelope = Envelope.seal(KEY, DOMAIN, TYPE, PAYLOAD)
    found = parts(envelope)
    found[1] = found[1][2:] + found[1][:2]
    with pytest.raises(RemoteProtocolError):
        Envelope.open(joined(found), {TYPE: DOMAIN})


def test_size_limit() -> None:
    room = MAX_ENVELOPE_BYTES - len(Envelope.seal(KEY, DOMAIN, TYPE, bytes(1000)).raw) + 1000
    largest = Envelope.seal(KEY, DOMAIN, TYPE, bytes(room))
    assert len(largest.raw) == MAX_ENVELOPE_BYTES
    assert Envelope.open(largest.raw, {TYPE: DOMAIN}).payload == bytes(room)
    with pytest.raises(LocalProtocolError):
        Envelope.seal(KEY, DOMAIN, TYPE, bytes(room + 1))
    with pytest.raises(MessageTooLarge):
        Envelope.open(largest.raw + b"\0", {TYPE: DOMAIN})
