"""Unsigned LEB128 as multiformats writes it: minimal form, at most 9 bytes, so 63 bits."""

from __future__ import annotations

from talos.errors import LocalProtocolError, RemoteProtocolError

__all__ = ["MAX_BYTES", "MAX_VALUE", "decode", "encode"]

MAX_BYTES = 9
MAX_VALUE = (1 << 63) - 1

_ONE_BYTE = tuple(bytes((n,)) for n in range(128))


def encode(value: int) -> bytes:
    """The shortest form of `value`, which must be within 0 and 2^63 - 1."""
    if 0 <= value < 128:
        return _ONE_BYTE[value]
    if not 0 <= value <= MAX_VALUE:
        raise LocalProtocolError(f"{value} does not fit a varint of {MAX_BYTES} bytes")
    out = bytearray()
    while value >= 128:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """The value at `offset` and the offset behind it, or None when more bytes are needed.

    Raises RemoteProtocolError as soon as the bytes at hand cannot become a valid varint.
    """
    size = len(data)
    if offset >= size:
        return None
    byte = data[offset]
    if byte < 128:
        return byte, offset + 1
    value = byte & 0x7F
    shift = 7
    for position in range(offset + 1, min(size, offset + MAX_BYTES)):
        byte = data[position]
        if byte < 128:
            if byte == 0:
                raise RemoteProtocolError("varint is not in its shortest form")
            return value | byte << shift, position + 1
        value |= (byte & 0x7F) << shift
        shift += 7
    if size - offset >= MAX_BYTES:
        raise RemoteProtocolError(f"varint is longer than {MAX_BYTES} bytes")
    return None
