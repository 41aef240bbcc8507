"""An IPNS record (ipfs/specs ipns-record, V2 only): the one kind of value that kubo lets its users put."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.wire import fields

__all__ = ["ipns_record"]

POINTER = "/ipfs/bafkqac3imvwgy3zao5xxe3de"
SIGNED = b"ipns-signature:"
SIGNATURE_V2, DATA = 8, 9
HOUR_NANOSECONDS = 3_600_000_000_000
LIFETIME = timedelta(days=1)


def ipns_record() -> tuple[bytes, bytes]:
    """Key and value, of a key pair made for it."""
    key = PrivateKey.generate()
    validity = (datetime.now(UTC) + LIFETIME).strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
    # Keys by length, then by bytes, as DAG-CBOR sorts them.
    data = b"\xa5" + b"".join(
        (
            _text("TTL") + _number(HOUR_NANOSECONDS),
            _text("Value") + _bytes(POINTER.encode()),
            _text("Sequence") + _number(1),
            _text("Validity") + _bytes(validity.encode()),
            _text("ValidityType") + _number(0),
        )
    )
    value = fields.bytes_field(SIGNATURE_V2, key.sign(SIGNED + data)) + fields.bytes_field(DATA, data)
    return b"/ipns/" + PeerId.from_key(key.public_key).raw, value


def _text(text: str) -> bytes:
    return _head(3, len(text)) + text.encode()


def _bytes(data: bytes) -> bytes:
    return _head(2, len(data)) + data


def _number(number: int) -> bytes:
    return _head(0, number)


def _head(major: int, number: int) -> bytes:
    """Major type and argument in their shortest form."""
    if number < 24:
        return bytes([major << 5 | number])
    size, short = next((size, short) for size, short in ((1, 24), (2, 25), (4, 26), (8, 27)) if number < 1 << 8 * size)
    return bytes([major << 5 | short]) + number.to_bytes(size, "big")
