"""RESP 2, the protocol of redis: a decoder for both directions and a client with the six commands that
the harnesses need. https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from talos.errors import MessageTooLarge, RemoteProtocolError, TalosError

if TYPE_CHECKING:
    import trio

__all__ = ["Reply", "RespClient", "RespDecoder", "ServerError", "encode_command"]

MAX_MESSAGE_BYTES = 64 * 1024
MAX_ITEMS = 64
MAX_DEPTH = 2
_LENGTH = re.compile(rb"-1|[0-9]{1,10}")
_INTEGER = re.compile(rb"[+-]?[0-9]{1,19}")


class ServerError(TalosError):
    """The server answered with an error, such as WRONGTYPE."""


Reply: TypeAlias = "bytes | int | ServerError | list[Reply] | None"


class _Incomplete(Exception):
    """Not an error: the rest of the message has not come yet."""


class RespDecoder:
    """Bytes in, whole values out. RemoteProtocolError on anything else, after which it is unusable."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Reply]:
        """The values that became whole; the buffer holds at most one unfinished message."""
        self._buffer += data
        replies: list[Reply] = []
        position = 0
        try:
            while position < len(self._buffer):
                reply, position = self._value(position, 0)
                replies.append(reply)
        except _Incomplete:
            if len(self._buffer) - position > MAX_MESSAGE_BYTES:
                raise MessageTooLarge(f"RESP message over {MAX_MESSAGE_BYTES} bytes") from None
        del self._buffer[:position]
        return replies

    def _value(self, start: int, depth: int) -> tuple[Reply, int]:
        line, position = self._line(start)
        kind, rest = line[:1], line[1:]
        match kind:
            case b"+":
                return rest, position
            case b"-":
                return ServerError(rest.decode("utf-8", "replace")), position
            case b":":
                if not _INTEGER.fullmatch(rest):
                    raise RemoteProtocolError(f"RESP integer is {rest[:20]!r}")
                return int(rest), position
            case b"$":
                return self._bulk(_length(rest, MAX_MESSAGE_BYTES), position)
            case b"*":
                return self._array(_length(rest, MAX_ITEMS), position, depth)
            case _:
                raise RemoteProtocolError(f"RESP value begins with {kind!r}")

    def _line(self, start: int) -> tuple[bytes, int]:
        end = self._buffer.find(b"\r\n", start, start + MAX_MESSAGE_BYTES)
        if end < 0:
            raise _Incomplete
        return bytes(self._buffer[start:end]), end + 2

    def _bulk(self, length: int | None, start: int) -> tuple[bytes | None, int]:
        if length is None:
            return None, start
        end = start + length
        if len(self._buffer) < end + 2:
            raise _Incomplete
        if self._buffer[end : end + 2] != b"\r\n":
            raise RemoteProtocolError("RESP bulk string does not end where it said")
        return bytes(self._buffer[start:end]), end + 2

    def _array(self, length: int | None, position: int, depth: int) -> tuple[list[Reply] | None, int]:
        if length is None:
            return None, position
        if depth == MAX_DEPTH:
            raise RemoteProtocolError(f"RESP arrays nested over {MAX_DEPTH} deep")
        items: list[Reply] = []
        for _ in range(length):
            item, position = self._value(position, depth + 1)
            items.append(item)
        return items, position


def _length(text: bytes, limit: int) -> int | None:
    if not _LENGTH.fullmatch(text):
        raise RemoteProtocolError(f"RESP length is {text[:20]!r}")
    length = int(text)
    if length > limit:
        raise MessageTooLarge(f"RESP length {length} is over {limit}")
    return None if length < 0 else length


def encode_command(*words: bytes) -> bytes:
    """A command as an array of bulk strings."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class RespClient:
    """One connection, one command at a time; a cancelled command leaves it unusable."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._decoder = RespDecoder()
        self._replies: list[Reply] = []

    async def rpush(self, key: str, value: str) -> None:
        await self._command("RPUSH", key, value)

    async def lpop(self, key: str) -> str | None:
        return _text(await self._command("LPOP", key))

    async def blpop(self, key: str) -> str:
        """Waits for an element; the caller sets the deadline."""
        match await self._command("BLPOP", key, "0"):
            case [bytes(), bytes() as value]:
                return value.decode()
            case other:
                raise RemoteProtocolError(f"BLPOP answered {other!r}")

    async def set(self, key: str, value: str) -> None:
        await self._command("SET", key, value)

    async def get(self, key: str) -> str | None:
        return _text(await self._command("GET", key))

    async def delete(self, key: str) -> None:
        await self._command("DEL", key)

    async def _command(self, *words: str) -> Reply:
        await self._stream.send_all(encode_command(*(word.encode() for word in words)))
        while not self._replies:
            data = await self._stream.receive_some()
            if not data:
                raise RemoteProtocolError("the redis server closed the connection")
            self._replies = self._decoder.feed(bytes(data))
        reply = self._replies.pop(0)
        if isinstance(reply, ServerError):
            raise reply
        return reply


def _text(reply: Reply) -> str | None:
    match reply:
        case None:
            return None
        case bytes():
            return reply.decode()
        case _:
            raise RemoteProtocolError(f"a string was asked, the answer is {reply!r}")
