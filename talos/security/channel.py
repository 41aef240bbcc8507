"""The trio half of every security protocol: a handshake machine and a record layer, joined to a stream."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, NoReturn

import trio

from talos.abc import SecureChannel
from talos.errors import HandshakeError, LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from talos.security.layer import Authenticated, Bytes, HandshakeMachine

__all__ = ["HandshakeRefused", "RecordChannel", "open_channel"]

READ_BYTES = 256 * 1024
"""One read of the stream below: many records, so that a wake-up costs little per byte."""
HANDSHAKE_READ_BYTES = 16 * 1024
"""Less before the peer is authenticated."""
SEND_BATCH_BYTES = 4 * 65_519
"""Sealed at once: 4 full Noise records. A longer piece is cut: other tasks run in between, and memory stays bounded."""
FAREWELL_SECONDS = 2.0
"""Longest that closing waits for a peer that reads nothing, before the stream below is closed all the same."""


def _keep_the_heap() -> None:
    """Once freed, a block of 1 MiB makes glibc keep up to 2 MiB of free heap.

    Before that it gives the buffers of every batch back to the kernel and faults them in anew: 380 page faults a MB
    and 1.6 CPU seconds a GB where TLS sends, against 2 faults and 0.8 s.
    """
    bytearray(1024 * 1024)


_keep_the_heap()


async def open_channel(stream: trio.abc.Stream, machine: HandshakeMachine) -> RecordChannel:
    """Runs the handshake. When it raises, or is cancelled, `stream` is unusable and the caller closes it."""
    try:
        return RecordChannel(stream, await _shake_hands(stream, machine))
    except trio.BrokenResourceError as error:
        raise HandshakeError("connection was lost during the handshake") from error


async def _shake_hands(stream: trio.abc.Stream, machine: HandshakeMachine) -> Authenticated:
    while True:
        if outgoing := machine.data_to_send():
            await stream.send_all(outgoing)
        data = await stream.receive_some(HANDSHAKE_READ_BYTES)
        if not data:
            machine.end()
        try:
            events = machine.receive_data(data)
        except HandshakeError:
            await _send_alert(stream, machine.data_to_send())
            raise
        if events:
            if outgoing := machine.data_to_send():
                await stream.send_all(outgoing)
            return events[0]


async def _send_alert(stream: trio.abc.Stream, alert: bytes) -> None:
    """Tells the peer why, where the protocol can; the handshake has failed either way."""
    if alert:
        with trio.move_on_after(FAREWELL_SECONDS):
            try:
                await stream.send_all(alert)
            except trio.BrokenResourceError:
                pass


class HandshakeRefused(HandshakeError, trio.BrokenResourceError):
    """The handshake had ended for us, but the peer did not accept it.

    A failed handshake to whoever dialled, the broken stream that it is to what runs above the channel.
    """


class RecordChannel(SecureChannel):
    """An authenticated channel over `stream`, which it owns.

    One task may send while another receives; a second one of either kind raises trio.BusyResourceError. A cancelled
    `send_all` leaves sending unusable, a cancelled `receive_some` loses nothing. A clean end is b"", a cut one
    raises trio.BrokenResourceError. A forged record raises RemoteProtocolError once the intact bytes before it
    were read; nothing is sent any more then.
    """

    def __init__(self, stream: trio.abc.Stream, peer: Authenticated) -> None:
        self.remote_key = peer.remote_key
        self.remote_peer = peer.remote_peer
        self.early_muxer = peer.early_muxer
        self._stream = stream
        self._layer = peer.layer
        self._ready: bytes | bytearray = peer.plaintext
        self._position = 0
        """How much of `_ready` was handed out."""
        self._sending = self._receiving = self._closed = False
        self._send_cut = False
        self._at_end = peer.layer.ended
        self._failure: tuple[type[Exception], str] | None = None
        """What every further read raises."""
        self._note_failure()

    async def send_all(self, data: Bytes) -> None:
        """As `trio.abc.SendStream`."""
        self._enter_sending()
        try:
            if not len(data):
                await trio.lowlevel.checkpoint()
                return
            self._send_cut = True
            if len(data) <= SEND_BATCH_BYTES:
                await self._stream.send_all(self._seal(data))
            else:
                with memoryview(data) as view:
                    for start in range(0, len(view), SEND_BATCH_BYTES):
                        await self._stream.send_all(self._seal(view[start : start + SEND_BATCH_BYTES]))
            self._send_cut = False
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """As `trio.abc.SendStream`."""
        self._enter_sending()
        try:
            await self._stream.wait_send_all_might_not_block()
        finally:
            self._sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As `trio.abc.ReceiveStream`; without `max_bytes` it gives all that is at hand."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this channel")
        if self._closed:
            raise trio.ClosedResourceError("the channel was closed")
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        self._receiving = True
        try:
            if self._position < len(self._ready):
                await trio.lowlevel.checkpoint()
            elif not await self._fill():
                return b""
            return self._take(max_bytes)
        finally:
            self._receiving = False

    async def aclose(self) -> None:
        """Says good-bye where the protocol can, waiting at most 2 s, and closes the stream below."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        try:
            if not (self._sending or self._send_cut) and (farewell := self._layer.farewell()):
                with trio.move_on_after(FAREWELL_SECONDS):
                    await self._stream.send_all(farewell)
        except trio.BrokenResourceError:
            pass  # the peer has gone first
        finally:
            self._ready = b""
            await self._stream.aclose()

    def _enter_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this channel")
        if self._closed:
            raise trio.ClosedResourceError("the channel was closed")
        if self._send_cut:
            raise trio.BrokenResourceError("an earlier send on this channel was cut off")
        if self._failure is not None:
            raise trio.BrokenResourceError(self._failure[1])
        self._sending = True

    def _seal(self, data: Bytes) -> Bytes:
        try:
            return self._layer.seal(data)
        except LocalProtocolError as error:
            raise trio.BrokenResourceError(str(error)) from error

    def _take(self, max_bytes: int | None) -> bytes | bytearray:
        ready, start = self._ready, self._position
        end = len(ready) if max_bytes is None else min(len(ready), start + max_bytes)
        if end == len(ready):
            self._ready, self._position = b"", 0
            return ready[start:] if start else ready
        self._position = end
        return ready[start:end]

    async def _fill(self) -> bool:
        """Receives until there is plaintext; False at a clean end."""
        if self._at_end or self._failure is not None:
            await trio.lowlevel.checkpoint()
        if self._failure is not None:
            kind, reason = self._failure
            raise kind(reason)
        while not self._at_end:
            try:
                received = await self._stream.receive_some(READ_BYTES)
            except trio.BrokenResourceError as error:
                if self._layer.confirmed:
                    raise
                self._fail(trio.BrokenResourceError, "connection was lost", error)
            if self._open(received):
                return True
        return False

    def _open(self, data: bytes | bytearray) -> bool:
        """Opens what came; whether there is plaintext."""
        layer = self._layer
        if not data:
            if layer.cut_by_end() or not layer.confirmed:
                self._fail(trio.BrokenResourceError, "the peer's stream was cut off", None)
            self._at_end = True
            return False
        try:
            self._ready, self._position = layer.receive_data(data), 0
        except RemoteProtocolError as error:
            self._fail(RemoteProtocolError, str(error), error)
        self._note_failure()
        self._at_end = layer.ended
        return bool(self._ready)

    def _note_failure(self) -> None:
        """A forged record behind intact ones ends sending at once, and receiving when those were read."""
        if (reason := self._layer.failure) is not None:
            self._failure = (RemoteProtocolError, reason) if self._layer.confirmed else (HandshakeRefused, reason)

    def _fail(self, kind: type[Exception], reason: str, cause: Exception | None) -> NoReturn:
        if not self._layer.confirmed:
            kind, reason = HandshakeRefused, f"the peer did not accept the handshake: {reason}"
        self._failure = (kind, reason)
        raise kind(reason) from cause
