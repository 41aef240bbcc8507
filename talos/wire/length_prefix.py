"""Messages behind a varint length: bytes in, whole messages out."""

from __future__ import annotations

from talos.errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError
from talos.wire import varint

__all__ = ["LengthPrefixDecoder", "frame"]

LONG_BYTES = 64 * 1024
"""Of a message that lacks more, the pieces are kept as they come and joined once."""
SMALL_PIECE_BYTES = 2 * 1024
"""Pieces below this are gathered: a peer that sends byte by byte must not cost an object for each."""


def frame(message: bytes, max_size: int | None = None) -> bytes:
    """`message` behind its length; LocalProtocolError when it is longer than `max_size` bytes."""
    if max_size is not None and len(message) > max_size:
        raise LocalProtocolError(f"message of {len(message)} bytes is over the limit of {max_size}")
    return varint.encode(len(message)) + message


class LengthPrefixDecoder:
    """Cuts a byte stream into length-prefixed messages of at most `max_size` bytes, which may change while it runs.

    A prefix is judged as soon as it is complete, so a hostile length never makes a buffer grow.
    After it has raised, a decoder is done with.
    """

    __slots__ = ("_buffer", "_missing", "_need", "_pieces", "_position", "max_size")

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self._buffer = bytearray()
        self._position = 0
        self._need = 0
        self._pieces: list[bytes | bytearray] = []
        """A long message, its prefix first, of which `_missing` bytes have yet to come."""
        self._missing = 0

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """The messages that `data` completes; the rest waits for the next call."""
        self.feed(data)
        messages: list[bytes] = []
        while (message := self.next_message()) is not None:
            messages.append(message)
        return messages

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Adds bytes for `next_message`, which alone looks at them."""
        if self._missing:
            size = len(data)
            if size > self._missing:
                data = memoryview(data)
                self._add_piece(data[: self._missing])
                data = data[self._missing :]
                self._missing = 0
            else:
                self._add_piece(data)
                self._missing -= size
                return
        if self._position:
            del self._buffer[: self._position]
            self._position = 0
        self._buffer += data

    def next_message(self) -> bytes | None:
        """The next whole message, or None when more bytes are needed.

        Nothing behind that message is looked at: what follows may be of another protocol.
        """
        if self._pieces:
            return None if self._missing else self._joined()
        buffer, position = self._buffer, self._position
        if len(buffer) - position < self._need:
            return None
        header = varint.decode(buffer, position)
        if header is None:
            return None
        length, start = header
        if length > self.max_size:
            raise MessageTooLarge(f"message of {length} bytes is over the limit of {self.max_size}")
        end = start + length
        if end > len(buffer):
            if end - len(buffer) < LONG_BYTES:
                self._need = end - position
                return None
            self._missing = end - len(buffer)
            self._pieces = [bytes(buffer[position:start]), bytes(buffer[start:])]
            self._buffer = bytearray()
            self._position = self._need = 0
            return None
        self._need = 0
        self._position = end
        return bytes(memoryview(buffer)[start:end])

    def end(self) -> None:
        """The stream ended; RemoteProtocolError when that cut a message."""
        if self._pieces or len(self._buffer) > self._position:
            raise RemoteProtocolError("stream ended inside a message")

    def take_leftover(self) -> bytes:
        """The bytes behind the last message given out, which leave the decoder."""
        leftover = b"".join((*self._pieces, memoryview(self._buffer)[self._position :]))
        self._pieces = []
        self._buffer = bytearray()
        self._position = self._need = self._missing = 0
        return leftover

    def _add_piece(self, data: bytes | bytearray | memoryview) -> None:
        last = self._pieces[-1]
        if len(data) >= SMALL_PIECE_BYTES:
            self._pieces.append(data if type(data) is bytes else bytes(data))
        elif type(last) is bytearray:
            last += data
        else:
            self._pieces.append(bytearray(data))

    def _joined(self) -> bytes:
        message = b"".join(self._pieces[1:])
        self._pieces = []
        return message
