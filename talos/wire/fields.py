"""Protobuf read field by field, for structures that are signed: what a decoded message hides is seen here.

A decoded message no longer tells a field given once from one given twice, nor the bytes of an embedded
message from another encoding of it. Unknown fields are skipped. Every fault is a RemoteProtocolError.
And `text`, for strings of messages that the library decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.errors import RemoteProtocolError
from talos.wire import varint

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["bytes_field", "read", "singular_bytes", "spans", "text", "uint64_field"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}
MAX_FIELD_NUMBER = (1 << 29) - 1
MAX_UINT64 = (1 << 64) - 1


def read(data: bytes) -> Iterator[tuple[int, int | bytes | None]]:
    """Number and value of each field in order: an int for a varint, bytes for a byte string, None for a fixed size.

    Groups, which no protocol of ours has, are refused.
    """
    position, size = 0, len(data)
    while position < size:
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number <= MAX_FIELD_NUMBER:
            raise RemoteProtocolError("protobuf field number is out of range")
        if wire_type == VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire_type == BYTES:
            length, position = _varint(data, position)
        elif wire_type in _FIXED:
            length = _FIXED[wire_type]
        else:
            raise RemoteProtocolError(f"protobuf wire type {wire_type} is not read here")
        start, position = position, position + length
        if position > size:
            raise RemoteProtocolError("protobuf field is cut off")
        yield number, data[start:position] if wire_type == BYTES else None


def text(value: object) -> str:
    """A string of a decoded proto2 message: the protobuf library gives bytes where it is not UTF-8."""
    if not isinstance(value, str):
        raise RemoteProtocolError("protobuf string is not UTF-8")
    return value


def singular_bytes(data: bytes, numbers: Collection[int]) -> dict[int, bytes]:
    """The fields `numbers`, each a byte string given at most once; others are skipped."""
    found: dict[int, bytes] = {}
    for number, value in read(data):
        if number not in numbers:
            continue
        if number in found:
            raise RemoteProtocolError(f"field {number} of a signed structure is repeated")
        if not isinstance(value, bytes):
            raise RemoteProtocolError(f"field {number} is not a byte string")
        found[number] = value
    return found


def spans(data: bytes, most: int) -> list[tuple[int, int, int, int]]:
    """Where each field stands: its tag (number × 8 + wire type), its start, the start of its value, its end.

    For those who cut fields out or pass them on as they came. Faults are those of `read`; `most` fields are read,
    one more is a fault.
    """
    found: list[tuple[int, int, int, int]] = []
    position, size = 0, len(data)
    while position < size:
        if len(found) == most:
            raise RemoteProtocolError(f"protobuf message of more than {most} fields")
        start = position
        tag = data[position]
        if tag < 0x80 and tag & 7 == BYTES and tag > 7 and position + 1 < size and data[position + 1] < 0x80:
            begin = position + 2  # nearly every field: number and length of one byte each
            position = begin + data[position + 1]
        else:
            tag, begin = _varint(data, position)
            number, wire_type = tag >> 3, tag & 7
            if not 1 <= number <= MAX_FIELD_NUMBER:
                raise RemoteProtocolError("protobuf field number is out of range")
            if wire_type == VARINT:
                position = _varint(data, begin)[1]
            elif wire_type == BYTES:
                length, begin = _varint(data, begin)
                position = begin + length
            elif wire_type in _FIXED:
                position = begin + _FIXED[wire_type]
            else:
                raise RemoteProtocolError(f"protobuf wire type {wire_type} is not read here")
        if position > size:
            raise RemoteProtocolError("protobuf field is cut off")
        found.append((tag, start, begin, position))
    return found


def bytes_field(number: int, value: bytes) -> bytes:
    """A byte string or embedded message as field `number`."""
    return varint.encode(number << 3 | BYTES) + varint.encode(len(value)) + value


def uint64_field(number: int, value: int) -> bytes:
    """An unsigned integer of up to 63 bits as field `number`."""
    return varint.encode(number << 3 | VARINT) + varint.encode(value)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Protobuf's own varint: up to 10 bytes and 64 bits, in any length."""
    value = shift = 0
    for byte in data[position : position + 10]:
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > MAX_UINT64:
                break
            return value, position
        shift += 7
    raise RemoteProtocolError("protobuf varint is cut off or too long")
