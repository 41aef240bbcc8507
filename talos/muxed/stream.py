"""The trio half of one stream of any machine-driven muxer."""

from __future__ import annotations

import operator
from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio

from talos.abc import MuxedStream, StreamReset
from talos.errors import StreamCode
from talos.muxed.doorbell import Doorbell

if TYPE_CHECKING:
    from collections import OrderedDict

__all__ = ["MachineStream", "StreamMachine", "StreamOwner"]

YIELD_BYTES = 256 * 1024
"""How much a task reads or writes before other tasks get their turn, as long as it does so in large pieces."""

TINY_WRITE_BYTES = 512
"""A smaller write always gives way to others."""

LARGE_READ_BYTES = 16 * 1024
"""A smaller read always gives way to others."""

SMALL_CHUNK_BYTES = 2 * 1024
"""Received chunks below this are gathered: a peer that sends byte by byte must not cost an object for each."""

GATHERED_BYTES = 16 * 1024


class StreamMachine(Protocol):
    """The machine's verbs that a stream uses itself."""

    def room(self, stream_id: int) -> int: ...

    def window(self, stream_id: int) -> int: ...

    def send(self, stream_id: int, data: bytes | memoryview) -> int: ...

    def close(self, stream_id: int) -> None: ...


class StreamOwner(Protocol):
    """The connection of a stream, as the stream sees it."""

    waiting_for_room: OrderedDict[MachineStream, None]
    unyielded: int
    writer_idle: bool

    @property
    def machine(self) -> StreamMachine: ...

    def flush(self) -> None: ...

    def consumed(self, stream: MachineStream, size: int) -> None: ...

    def leave(self, stream: MachineStream) -> None: ...

    def reset(self, stream: MachineStream, code: int) -> None: ...


def unchanging(data: bytes | bytearray | memoryview) -> bytes | memoryview:
    """A copy of what may change under our hands; a view of bytes stays a view."""
    if type(data) is memoryview and type(data.obj) is bytes and data.c_contiguous:
        return data.cast("B")
    return bytes(data)


class MachineStream(MuxedStream):
    """One stream. One task may send while another receives; two that do the same get trio.BusyResourceError.

    `send_all` returns when the data is queued, and waits when the peer's window or the connection's queue is full.
    Cancelling it while it waits resets the stream, for nobody knows how much went out.
    """

    def __init__(self, connection: StreamOwner, stream_id: int) -> None:
        self.stream_id = stream_id
        self._connection = connection
        self._machine = connection.machine
        self._chunks: deque[bytes | bytearray] = deque()
        self._offset = 0  # of the first chunk, already given out
        self._unyielded = 0
        self._ended = False
        self._eof_sent = False
        self._closed = False
        self._error: tuple[int, bool] | None = None
        self._sending = False
        self._receiving = False
        self._arrival = Doorbell()
        self._room = Doorbell()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.stream_id}>"

    # ------------------------------------------------------------------------------- receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As trio's; without `max_bytes` whatever came in one piece, at most 256 KiB. b"" after the peer's end."""
        if max_bytes is not None:
            max_bytes = operator.index(max_bytes)
            if max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._receiving = True
        try:
            if not self._something_to_receive():
                self._unyielded = 0
                while not self._something_to_receive():
                    await self._arrival.wait()
            elif self._unyielded < YIELD_BYTES and self._next_size(max_bytes) >= LARGE_READ_BYTES:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                self._unyielded = 0
                await trio.lowlevel.checkpoint()
            if self._error is not None:
                await trio.lowlevel.checkpoint_if_cancelled()  # a connection that ends cancels before it resets
            return self._take(max_bytes)
        finally:
            self._receiving = False

    def _something_to_receive(self) -> bool:
        return bool(self._chunks) or self._ended or self._closed or self._error is not None

    def _next_size(self, limit: int | None) -> int:
        """How many bytes `_take` will give."""
        size = len(self._chunks[0]) - self._offset if self._chunks else 0
        return size if limit is None else min(size, limit)

    def _take(self, limit: int | None) -> bytes:
        self._raise_if_dead()
        if not self._chunks:
            return b""
        chunk = self._chunks[0]
        start = self._offset
        if limit is None or start + limit >= len(chunk):
            self._chunks.popleft()
            self._offset = 0
            piece = bytes(chunk[start:] if start else chunk)
        else:
            self._offset = start + limit
            piece = bytes(chunk[start : start + limit])
        self._unyielded += len(piece)
        self._connection.consumed(self, len(piece))
        return piece

    def _raise_if_dead(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this side closed the stream")
        if self._error is not None:
            code, remote = self._error
            raise StreamReset(code, remote=remote)

    # ------------------------------------------------------------------------------- sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As trio's. `bytes` are not copied before their frame is made; other kinds may change when it returns."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._raise_if_not_sending()
            piece = data if type(data) is bytes else unchanging(data)
            size = len(piece)
            connection = self._connection
            yields = size < TINY_WRITE_BYTES or connection.writer_idle
            sent = self._machine.send(self.stream_id, piece)
            connection.unyielded += sent
            connection.flush()
            if sent < size:
                await self._send_rest(memoryview(piece)[sent:])
            elif yields or connection.unyielded >= YIELD_BYTES:
                connection.unyielded = 0
                await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._sending = False

    async def _send_rest(self, piece: memoryview) -> None:
        finished = False
        try:
            while piece:
                await self._wait_for_room()
                self._raise_if_not_sending()
                sent = self._machine.send(self.stream_id, piece)
                self._connection.flush()
                piece = piece[sent:]
            finished = True
        finally:
            if not finished:
                self.reset()

    async def _wait_for_room(self) -> None:
        """One wait, for window or for a place in the connection's queue; either may be gone again."""
        waiting = self._connection.waiting_for_room
        if self._machine.window(self.stream_id):
            waiting[self] = None
        try:
            await self._room.wait()
            if self._error is not None:
                await trio.lowlevel.checkpoint_if_cancelled()
        finally:
            waiting.pop(self, None)

    def _raise_if_not_sending(self) -> None:
        self._raise_if_dead()
        if self._eof_sent:
            raise trio.ClosedResourceError("this side ended its direction of the stream")

    async def wait_send_all_might_not_block(self) -> None:
        """Until the peer's window and our queue have room for a byte."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._raise_if_not_sending()
            while not self._machine.room(self.stream_id):
                await self._wait_for_room()
                self._raise_if_not_sending()
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """Ends our direction behind what was sent; reading goes on. Calling it again does nothing."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._raise_if_dead()
        if not self._eof_sent:
            self._eof_sent = True
            self._machine.close(self.stream_id)
            self._connection.flush()
        await trio.lowlevel.cancel_shielded_checkpoint()

    # ------------------------------------------------------------------------------- ending

    async def aclose(self) -> None:
        """Ends both directions; what was sent still goes out, without waiting for it.

        A `send_all` that is waiting in another task is cut, so the stream is reset then. Also closes when cancelled.
        """
        if not self._closed:
            if self._sending:
                self.reset()
            self._closed = True
            if self._error is None:
                self._machine.close(self.stream_id)
                self._connection.leave(self)
            self._wake()
        await trio.lowlevel.checkpoint()

    def reset(self, code: int = StreamCode.NONE) -> None:
        """Ends both directions now; what was not read or sent is lost. Idempotent; nothing after `aclose`."""
        if not self._closed and self._error is None:
            self._connection.reset(self, code)
            self.abort(code, remote=False)

    # ------------------------------------------------------------------------------- the connection's side

    def deliver(self, data: bytes) -> None:
        """Bytes came in."""
        chunks = self._chunks
        if chunks and len(data) < SMALL_CHUNK_BYTES:
            last = chunks[-1]
            if type(last) is bytearray and len(last) < GATHERED_BYTES:
                last += data
                return
            if len(last) < SMALL_CHUNK_BYTES:
                chunks[-1] = bytearray(last) + data
                return
        chunks.append(data)
        self._arrival.ring()

    def end(self) -> None:
        """The peer's direction ended."""
        self._ended = True
        self._arrival.ring()

    def window_opened(self) -> None:
        """There may be room to send."""
        self._room.ring()

    def abort(self, code: int, *, remote: bool) -> None:
        """The stream is gone."""
        if self._error is None:
            self._error = (code, remote)
            self._chunks.clear()
            self._wake()

    def _wake(self) -> None:
        self._arrival.ring()
        self._room.ring()
