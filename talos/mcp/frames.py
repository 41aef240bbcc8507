"""Cuts the bytes of an open session into frames (docs/protocols/mcp.md, frames)."""

from __future__ import annotations

from typing import TypeAlias

from talos.errors import MessageTooLarge, RemoteProtocolError
from talos.mcp.wire import MAX_DETAIL_BYTES, MAX_RECEIPT_BYTES, FrameKind
from talos.wire import varint

__all__ = ["FRAME_OVERHEAD", "Frame", "FrameDecoder"]

FRAME_OVERHEAD = 32
"""A frame may be so much longer than the longest line."""
MAX_LENGTH_BYTES = 5
FIRST_IGNORED_KIND = 0x80

Frame: TypeAlias = tuple[int, int, int, bytes]
"""Kind; of a LINE its seq, its ack and the line; of all others 0, 0 and the body."""

_LINE = FrameKind.LINE.value
_BODY_RANGES = {
    FrameKind.ACK: (1, varint.MAX_BYTES),
    FrameKind.PING: (8, 8),
    FrameKind.PONG: (8, 8),
    FrameKind.EOF: (1, varint.MAX_BYTES),
    FrameKind.RECEIPT: (1, MAX_RECEIPT_BYTES),
    FrameKind.CLOSE: (1, varint.MAX_BYTES + MAX_DETAIL_BYTES),
}


class FrameDecoder:
    """Bytes in, whole frames out. Lengths are judged before anything is kept; after it has raised, it is done with."""

    __slots__ = ("_buffer", "_max_line", "_need", "_skip")

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._buffer = bytearray()
        self._need = 0
        self._skip = 0  # bytes of an ignored frame that are still to come

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that `data` completes. RemoteProtocolError for what is no frame."""
        buffer = self._buffer
        frames: list[Frame] = []
        if not buffer:
            rest = self._frames(data, frames)
            buffer += data[rest:]
            return frames
        buffer += data
        if len(buffer) >= self._need:
            rest = self._frames(buffer, frames)
            del buffer[:rest]
        return frames

    def _frames(self, data: bytes | bytearray | memoryview, frames: list[Frame]) -> int:
        """Appends the whole frames in `data` to `frames`; where they end."""
        size = len(data)
        position = min(self._skip, size)
        self._skip -= position
        self._need = 0
        with memoryview(data) as view:
            while position < size:
                length = data[position]
                start = position + 1
                if length >= 0x80:
                    header = _length(view, position)
                    if header is None:
                        break
                    length, start = header
                if start == size:
                    break
                kind = data[start]
                self._judge(kind, length)
                end = start + length
                if end > size:
                    if kind < FIRST_IGNORED_KIND:
                        self._need = end - position
                        break
                    self._skip = end - size
                    return size
                if kind == _LINE:
                    frames.append(self._line(view, start + 1, end))
                elif kind < FIRST_IGNORED_KIND:
                    frames.append((kind, 0, 0, bytes(view[start + 1 : end])))
                position = end
        return position

    def _judge(self, kind: int, length: int) -> None:
        if length > self._max_line + FRAME_OVERHEAD:
            raise MessageTooLarge(f"mcp: a frame of {length} bytes, the longest line is {self._max_line}")
        if not length:
            raise RemoteProtocolError("mcp: a frame of length 0")
        if kind == _LINE or kind >= FIRST_IGNORED_KIND:
            return
        body_range = _BODY_RANGES.get(kind)  # type: ignore[call-overload]  # an int enum's key
        if body_range is None:
            raise RemoteProtocolError(f"mcp: frame kind {kind}")
        if not body_range[0] < length <= body_range[1] + 1:
            raise RemoteProtocolError(f"mcp: frame of kind {kind} with length {length}")

    def _line(self, view: memoryview, position: int, end: int) -> Frame:
        seq = varint.decode(view, position)
        if seq is None:
            raise RemoteProtocolError("mcp: a line without its numbers")
        ack = varint.decode(view, seq[1])
        if ack is None or ack[1] >= end:
            raise RemoteProtocolError("mcp: a line without its numbers or its bytes")
        if end - ack[1] > self._max_line:
            raise MessageTooLarge(f"mcp: a line of {end - ack[1]} bytes, the longest is {self._max_line}")
        line = bytes(view[ack[1] : end])
        if b"\n" in line:
            raise RemoteProtocolError("mcp: a line feed inside a line")
        return _LINE, seq[0], ack[0], line


def _length(view: memoryview, position: int) -> tuple[int, int] | None:
    header = varint.decode(view[: position + MAX_LENGTH_BYTES], position)
    if header is None and len(view) - position >= MAX_LENGTH_BYTES:
        raise RemoteProtocolError(f"mcp: a length of over {MAX_LENGTH_BYTES} bytes")
    return header
