"""As much of a redis server as the harnesses use, in this process: lists, strings, and WRONGTYPE between them."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from interop.harness.resp import RespDecoder
from talos.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from interop.harness.resp import Reply

__all__ = ["RespServer", "open_resp_server"]

MAX_KEYS = 1024
MAX_ELEMENTS = 1024
RECEIVE_BYTES = 64 * 1024
WRONG_TYPE = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
FULL = b"-OOM too many keys or elements\r\n"


class RespServer:
    """The values, and an answer to each command. Shared by all its connections."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes | deque[bytes]] = {}
        self._pushed = trio.lowlevel.ParkingLot()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answers one connection until it ends or breaks the protocol."""
        decoder = RespDecoder()
        async with stream:
            try:
                while data := await stream.receive_some(RECEIVE_BYTES):
                    for command in decoder.feed(bytes(data)):
                        await stream.send_all(await self._answer(command))
            except RemoteProtocolError as error:
                await stream.send_all(f"-ERR Protocol error: {error}\r\n".encode())
            except trio.BrokenResourceError:
                return

    async def _answer(self, command: Reply) -> bytes:
        match command:
            case [bytes() as name, *words] if all(isinstance(word, bytes) for word in words):
                arguments = [word for word in words if isinstance(word, bytes)]
            case _:
                return b"-ERR a command is an array of bulk strings\r\n"
        match name.upper(), arguments:
            case b"RPUSH", [key, value]:
                return self._rpush(key, value)
            case b"LPOP", [key]:
                return self._lpop(key)
            case b"BLPOP", [key, b"0"]:
                return await self._blpop(key)
            case b"SET", [key, value]:
                return self._set(key, value)
            case b"GET", [key]:
                return self._get(key)
            case b"DEL", [key]:
                return b":%d\r\n" % (self._values.pop(key, None) is not None)
            case b"PING", []:
                return b"+PONG\r\n"
            case _:
                return b"-ERR unknown command or wrong number of arguments\r\n"

    def _rpush(self, key: bytes, value: bytes) -> bytes:
        held = self._values.get(key)
        if isinstance(held, bytes):
            return WRONG_TYPE
        if held is None:
            if len(self._values) >= MAX_KEYS:
                return FULL
            held = self._values[key] = deque()
        if len(held) >= MAX_ELEMENTS:
            return FULL
        held.append(value)
        self._pushed.unpark_all()
        return b":%d\r\n" % len(held)

    def _lpop(self, key: bytes) -> bytes:
        held = self._values.get(key)
        if isinstance(held, bytes):
            return WRONG_TYPE
        if held is None:
            return b"$-1\r\n"
        value = held.popleft()
        if not held:
            del self._values[key]  # as redis does: an empty list is no list
        return _bulk(value)

    async def _blpop(self, key: bytes) -> bytes:
        while key not in self._values:
            await self._pushed.park()
        answer = self._lpop(key)
        return answer if answer == WRONG_TYPE else b"*2\r\n" + _bulk(key) + answer

    def _set(self, key: bytes, value: bytes) -> bytes:
        if key not in self._values and len(self._values) >= MAX_KEYS:
            return FULL
        self._values[key] = value
        return b"+OK\r\n"

    def _get(self, key: bytes) -> bytes:
        held = self._values.get(key)
        if held is None:
            return b"$-1\r\n"
        return _bulk(held) if isinstance(held, bytes) else WRONG_TYPE


def _bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


@asynccontextmanager
async def open_resp_server() -> AsyncIterator[str]:
    """Serves on a free port of 127.0.0.1 for the length of the block; gives `host:port`."""
    server = RespServer()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, server.serve, listeners)
        yield f"127.0.0.1:{port}"
        nursery.cancel_scope.cancel()
