"""A WebSocket as a trio stream."""

from __future__ import annotations

import operator
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from talos.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from multiaddr import Multiaddr

    from talos.transport.sockets import SocketStream
    from talos.transport.websocket.config import WebSocketConfig
    from talos.transport.websocket.session import Session

    Tls: TypeAlias = Callable[[SocketStream], trio.SSLStream[SocketStream]]
    """Puts TLS on a connected socket."""

__all__ = ["WebSocketStream"]

READ_BYTES = 256 * 1024


class WebSocketStream(trio.abc.Stream):
    """A byte stream in binary messages; it has no end of one direction alone.

    The upgrade runs with the first use of either direction: whoever accepts pays nothing before that. A receive
    that is cancelled loses nothing; a send that is cancelled has sent some of it, or does with the next one, and over
    web TLS leaves the stream unusable.
    """

    def __init__(
        self, socket: SocketStream, session: Session, config: WebSocketConfig, suffix: Multiaddr, tls: Tls | None = None
    ) -> None:
        self._socket = socket
        self._session = session
        self._config = config
        self._suffix = suffix
        self._carrier = socket if tls is None else tls(socket)
        self._opening = trio.Lock()
        self._writing = trio.Lock()
        self._buffer = self._unsent = memoryview(b"")
        self._open = self._sending = self._receiving = self._ended = self._closed = False
        self._broken = ""

    @property
    def local_addr(self) -> Multiaddr:
        """This end of the connection; OSError when it is closed."""
        return self._socket.local_addr.encapsulate(self._suffix)

    async def open(self) -> None:
        """Runs the upgrade now; BrokenResourceError, with the cause, when it fails."""
        async with self._opening:
            self._check()
            if self._open:
                return
            with trio.move_on_after(self._config.handshake_seconds) as scope:
                await self._upgrade()
            if scope.cancelled_caught:
                self._broken = f"no upgrade within {self._config.handshake_seconds:g} s"
                raise trio.BrokenResourceError(self._broken)
            self._open = True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As `trio.abc.SendStream`."""
        self._enter_sending()
        try:
            await self._ready()
            if not len(data):
                await trio.lowlevel.checkpoint()
                return
            try:
                frames = self._session.send(data)
            except LocalProtocolError as error:
                await trio.lowlevel.checkpoint()
                raise trio.BrokenResourceError("the other end closed the WebSocket") from error
            await self._write(frames)
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """As `trio.abc.SendStream`."""
        self._enter_sending()
        try:
            await self._ready()
            with self._faults():
                async with self._writing:
                    await self._carrier.wait_send_all_might_not_block()
        finally:
            self._sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As `trio.abc.ReceiveStream`; without `max_bytes` what one read from the connection brought."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._receiving = True
        try:
            await self._ready()
            if self._buffer or self._ended:
                await trio.lowlevel.checkpoint()
            while not self._buffer and not self._ended:
                await self._read()
            taken = self._buffer[:max_bytes]
            self._buffer = self._buffer[len(taken) :]
            return bytes(taken)
        finally:
            self._receiving = False

    def close(self) -> None:
        """Closes the connection at once, without a close frame or a checkpoint."""
        self._closed = True
        self._socket.close()

    async def aclose(self) -> None:
        """Closes the connection; a close frame goes before, where there is room for it."""
        if not self._closed:
            self._closed = True
            try:
                await self._say_goodbye()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the other end is gone, which is as well
            finally:
                self._socket.close()
        await trio.lowlevel.checkpoint()

    async def _say_goodbye(self) -> None:
        if not self._open or self._broken or self._unsent or self._writing.locked():
            return
        frame = self._session.close()
        if self._carrier is self._socket:
            self._socket.send_nowait(frame)  # also where this is cancelled already
            return
        with trio.move_on_after(self._config.close_seconds):
            await self._carrier.send_all(frame)

    def _enter_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._check()
        self._sending = True

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._broken:
            raise trio.BrokenResourceError(self._broken)

    async def _ready(self) -> None:
        self._check()
        if not self._open:
            await self.open()

    async def _upgrade(self) -> None:
        if isinstance(self._carrier, trio.SSLStream):
            with self._faults():
                await self._carrier.do_handshake()
        while True:
            await self._answer()
            if self._session.opened:
                return
            await self._read()
            if self._ended and not self._session.opened:
                self._broken = "the connection ended inside the upgrade"
                raise trio.BrokenResourceError(self._broken)

    async def _read(self) -> None:
        with self._faults():
            data = await self._carrier.receive_some(READ_BYTES)
        if not data:
            self._ended = True
            return
        try:
            self._buffer = memoryview(self._session.receive_data(data, trio.current_time()))
        except RemoteProtocolError as error:
            self._broken = str(error)
            await self._explain()
            raise trio.BrokenResourceError(self._broken) from error
        self._ended = self._session.closed
        if self._open:
            try:
                await self._answer()
            except trio.BrokenResourceError:
                pass  # what had come before the other end went can still be read

    async def _answer(self) -> None:
        """Sends what the protocol wants said, a few bytes, once there is room: no cancellation cuts them."""
        if not self._session.wants_to_send:
            return
        with self._faults():
            async with self._writing:
                await self._carrier.wait_send_all_might_not_block()
                with trio.move_on_after(self._config.close_seconds, shield=True) as scope:
                    await self._put(self._session.data_to_send())
                if scope.cancelled_caught:
                    raise trio.BrokenResourceError("the other end took no answer")

    async def _explain(self) -> None:
        """Tells the other end what was wrong, where it still listens."""
        with trio.move_on_after(self._config.close_seconds):
            try:
                await self._answer()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def _write(self, frames: bytes) -> None:
        try:
            self._writing.acquire_nowait()
        except trio.WouldBlock:
            await self._writing.acquire()
        try:
            with self._faults():
                await self._put(frames)
        finally:
            self._writing.release()

    async def _put(self, frames: bytes) -> None:
        """Sends behind what an earlier, cancelled send left: over a socket no frame is ever cut."""
        if isinstance(self._carrier, trio.SSLStream):
            whole = False
            try:
                await self._carrier.send_all(frames)
                whole = True
            finally:
                if not whole and not self._closed:
                    self._broken = "an earlier send on this stream was cut off"
            return
        self._unsent = memoryview(bytes(self._unsent) + frames if self._unsent else frames)
        while self._unsent:
            self._unsent = self._unsent[await self._socket.send_some(self._unsent) :]

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Closed by us is closed, whatever the layer below makes of it."""
        try:
            yield
        except trio.BrokenResourceError as error:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed") from error
            if isinstance(error.__cause__, ssl.SSLError):
                raise trio.BrokenResourceError(f"tls: {error.__cause__}") from error
            raise
