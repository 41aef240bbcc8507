"""The few DER structures that identities are made of, read strictly: one encoding for one value.

Only definite, minimal lengths and positive minimal integers exist here. Every fault is a RemoteProtocolError.
"""

from __future__ import annotations

from talos.errors import RemoteProtocolError

__all__ = ["BIT_STRING", "INTEGER", "OCTET_STRING", "SEQUENCE", "Reader", "encode", "encode_integer"]

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
SEQUENCE = 0x30


class Reader:
    """Takes elements off `data` in order; `end` makes sure that nothing follows."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, tag: int) -> bytes:
        """The contents of the next element, which must have `tag`."""
        data, start = self._data, self._position + 2
        if len(data) < start or data[self._position] != tag:
            raise RemoteProtocolError(f"no DER element of tag 0x{tag:02x} where one must be")
        length = data[start - 1]
        if length >= 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[start : start + size], "big")
            start += size
            if not 1 <= size <= 2 or length < 0x80 or length >> 8 * (size - 1) == 0:
                raise RemoteProtocolError("DER length is not in its shortest form or over 65,535")
        end = start + length
        if end > len(data):
            raise RemoteProtocolError("DER element is cut off")
        self._position = end
        return data[start:end]

    def take_integer(self) -> int:
        """The next INTEGER, which must not be negative."""
        contents = self.take(INTEGER)
        if not contents or contents[0] >= 0x80 or (len(contents) > 1 and contents[0] == 0 and contents[1] < 0x80):
            raise RemoteProtocolError("DER integer is negative or not in its shortest form")
        return int.from_bytes(contents, "big")

    def end(self) -> None:
        """RemoteProtocolError when bytes are left over."""
        if self._position != len(self._data):
            raise RemoteProtocolError("bytes behind the end of a DER structure")


def encode(tag: int, *parts: bytes) -> bytes:
    """One element whose contents are `parts` joined; up to 65,535 bytes."""
    contents = b"".join(parts)
    length = len(contents)
    if length < 0x80:
        return bytes((tag, length)) + contents
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + contents


def encode_integer(value: int) -> bytes:
    """A non-negative INTEGER."""
    return encode(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))
