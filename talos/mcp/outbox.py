"""What one side of a tunnel has yet to send, and in which order."""

from __future__ import annotations

from collections import deque

from talos.mcp.wire import line_header

__all__ = ["SEND_BYTES", "Outbox"]

SEND_BYTES = 256 * 1024
"""About so much is given out at once, so that the progress of a long line shows."""


class Outbox:
    """The rest of a line on its way, then control frames, then lines, then the farewell."""

    __slots__ = ("_lines", "_next_seq", "_partial", "_size", "control", "farewell")

    def __init__(self) -> None:
        self.control = bytearray()
        self.farewell = b""
        """EOF and CLOSE: behind all lines."""
        self._lines: deque[bytes] = deque()
        self._next_seq = 1
        self._partial: memoryview | None = None
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes of lines, headers not counted."""
        return self._size

    @property
    def last_sent(self) -> int:
        """Seq of the last line that was given out whole."""
        return self._next_seq - (1 if self._partial is None else 2)

    def add(self, line: bytes) -> None:
        """Queues a line; the machine bounds them by the peer's window."""
        self._lines.append(line)
        self._size += len(line)

    def drop_lines(self) -> None:
        """Forgets what no byte has gone of, but for the control frames."""
        self._lines.clear()
        self.farewell = b""
        self._size = 0 if self._partial is None else len(self._partial)

    def clear(self) -> None:
        """Forgets everything."""
        self._partial = None
        self.drop_lines()
        self.control.clear()

    def take(self, ack: int) -> tuple[bytes, bool, bool]:
        """The next bytes, whether they have some of a line, and whether they carry `ack`."""
        out: list[bytes | memoryview] = []
        size = 0
        acknowledged = False
        if self._partial is not None:
            size = self._begin(self._partial, out)
        if self._partial is None:
            lines = size
            if self.control:
                out.append(bytes(self.control))
                self.control.clear()
            while self._lines and lines < SEND_BYTES:
                lines += self._next_line(ack, out)
                acknowledged = True
            size = lines
            if not self._lines and self._partial is None:
                out.append(self.farewell)
                self.farewell = b""
        return b"".join(out), size > 0, acknowledged

    def _next_line(self, ack: int, out: list[bytes | memoryview]) -> int:
        line = self._lines.popleft()
        out.append(line_header(self._next_seq, ack, len(line)))
        self._next_seq += 1
        if len(line) > SEND_BYTES:
            return self._begin(memoryview(line), out)
        out.append(line)
        self._size -= len(line)
        return len(line)

    def _begin(self, line: memoryview, out: list[bytes | memoryview]) -> int:
        piece = line[:SEND_BYTES]
        out.append(piece)
        self._partial = line[SEND_BYTES:] if len(line) > SEND_BYTES else None
        self._size -= len(piece)
        return len(piece)
