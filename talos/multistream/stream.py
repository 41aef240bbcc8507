"""Streams on which a protocol was agreed, or is being agreed with the first bytes that travel.

Once a stream has nothing of its own left to do, its instance attributes `send_all` and `receive_some` become
those of the stream below: what follows costs no further call.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from talos.abc import MuxedStream, Stream, StreamReset
from talos.errors import NegotiationError, RemoteProtocolError, StreamCode
from talos.multistream.machine import Agreed, Dialer, MultistreamConfig

if TYPE_CHECKING:
    from talos.abc import Connection, ProtocolId

__all__ = ["LazyStream", "NegotiatedStream", "PrefixedStream"]

FIRST_FLIGHT_BYTES = 64 * 1024
_DEFAULT = MultistreamConfig()


class PrefixedStream(trio.abc.Stream):
    """A stream whose first bytes to read had been taken from it already."""

    def __init__(self, stream: trio.abc.Stream, prefix: bytes) -> None:
        self._stream = stream
        self._prefix = memoryview(prefix)
        if prefix:
            vars(self).update(send_all=stream.send_all)
        else:
            vars(self).update(send_all=stream.send_all, receive_some=stream.receive_some)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream below."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream below."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """First what had been taken, then what the stream below has."""
        if not self._prefix:
            return await self._stream.receive_some(max_bytes)
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be >= 1")
        await trio.lowlevel.checkpoint()
        data = bytes(self._prefix[:max_bytes])
        self._prefix = self._prefix[len(data) :]
        if not self._prefix:
            vars(self).update(receive_some=self._stream.receive_some)
        return data

    async def aclose(self) -> None:
        """As the stream below; what had been taken and was not read is lost."""
        self._prefix = memoryview(b"")
        await self._stream.aclose()


class NegotiatedStream(Stream):
    """A muxed stream on which `protocol` is agreed; closing, resetting and errors are those of the muxed stream."""

    def __init__(self, muxed: MuxedStream, connection: Connection, protocol: ProtocolId, leftover: bytes = b"") -> None:
        self._muxed = muxed
        self._connection = connection
        self._protocol = protocol
        self._leftover = leftover
        self._go_direct(send=True, receive=not leftover)

    @property
    def protocol(self) -> ProtocolId:
        """The protocol that runs on it."""
        return self._protocol

    @property
    def connection(self) -> Connection:
        """The connection that carries it."""
        return self._connection

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._protocol} with {self._connection.remote_peer}>"

    def _go_direct(self, *, send: bool = False, receive: bool = False) -> None:
        if send:
            vars(self).update(send_all=self._muxed.send_all)
        if receive:
            vars(self).update(receive_some=self._muxed.receive_some)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the muxed stream."""
        await self._muxed.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the muxed stream."""
        await self._muxed.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As the muxed stream."""
        await self._muxed.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """First what came behind the negotiation, then what the muxed stream has."""
        leftover = self._leftover
        if not leftover:
            self._go_direct(receive=True)
            return await self._muxed.receive_some(max_bytes)
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be >= 1")
        await trio.lowlevel.checkpoint()
        if max_bytes is None or len(leftover) <= max_bytes:
            self._leftover = b""
            self._go_direct(receive=True)
            return leftover
        self._leftover = leftover[max_bytes:]
        return leftover[:max_bytes]

    def reset(self, code: int = StreamCode.NONE) -> None:
        """As the muxed stream."""
        self._leftover = b""
        self._muxed.reset(code)

    async def aclose(self) -> None:
        """As the muxed stream."""
        self._leftover = b""
        await self._muxed.aclose()


class LazyStream(NegotiatedStream):
    """A stream that this side opened with one protocol, taken for granted until the peer's answer is read.

    Header and proposal leave with the first bytes sent, or alone when the first act is to receive or to close.
    The first receive checks the answer before it gives a byte to the reader: without agreement it resets the
    stream and raises NegotiationError, also when the answer takes longer than `answer_seconds` of waiting for it.
    A receive that is cancelled while it has to send the proposal resets it too.
    """

    def __init__(
        self,
        muxed: MuxedStream,
        connection: Connection,
        protocol: ProtocolId,
        config: MultistreamConfig = _DEFAULT,
        *,
        answer_seconds: float = math.inf,
    ) -> None:
        self._muxed = muxed
        self._connection = connection
        self._protocol = protocol
        self._leftover = b""
        self._dialer: Dialer | None = Dialer((protocol,), config)
        self._proposal = self._dialer.data_to_send()
        self._proposal_sent = trio.Event()
        self._answer_seconds = answer_seconds

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the muxed stream; the first call brings the proposal along."""
        if not self._proposal:
            await self._proposal_sent.wait()
            await self._muxed.send_all(data)
        elif len(data) <= FIRST_FLIGHT_BYTES:
            await self._propose(data)
        else:
            with memoryview(data) as view:
                await self._propose(view[:FIRST_FLIGHT_BYTES])
                await self._muxed.send_all(view[FIRST_FLIGHT_BYTES:])

    async def _propose(self, data: bytes | bytearray | memoryview = b"") -> None:
        first_flight, self._proposal = self._proposal + data, b""
        try:
            await self._muxed.send_all(first_flight)
        except trio.Cancelled:
            self._muxed.reset()
            raise
        finally:
            self._proposal_sent.set()
            self._go_direct(send=True)

    async def send_eof(self) -> None:
        """As the muxed stream, behind the proposal."""
        if self._proposal:
            await self._propose()
        await self._proposal_sent.wait()
        await self._muxed.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As the muxed stream; the first call waits for the peer's answer, or raises NegotiationError."""
        if self._proposal:
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._propose()
        if self._dialer is not None:
            with trio.move_on_after(self._answer_seconds) as patience:
                while self._dialer is not None:
                    await self._receive_answer(self._dialer)
            if patience.cancelled_caught:
                raise self._failed("no answer in time") from trio.TooSlowError()
        return await super().receive_some(max_bytes)

    async def _receive_answer(self, dialer: Dialer) -> None:
        try:
            data = await self._muxed.receive_some()
        except StreamReset as error:
            if error.remote and error.code == StreamCode.NEGOTIATION_FAILED:
                raise self._failed("refused") from error
            raise
        if not data:
            raise self._failed("the stream ended without an answer")
        try:
            events = dialer.receive_data(data)
        except RemoteProtocolError as error:
            raise self._failed(str(error)) from error
        match events:
            case [Agreed(leftover=leftover)]:
                self._dialer = None
                self._leftover = leftover
            case [_]:
                raise self._failed("refused")

    def _failed(self, reason: str) -> NegotiationError:
        self.reset(StreamCode.NEGOTIATION_FAILED)
        return NegotiationError(f"no {self._protocol} with {self._connection.remote_peer}: {reason}")

    def reset(self, code: int = StreamCode.NONE) -> None:
        """As the muxed stream; a proposal not yet sent never will be."""
        self._dialer = None
        self._proposal = b""
        self._proposal_sent.set()
        super().reset(code)

    async def aclose(self) -> None:
        """As the muxed stream, behind the proposal."""
        try:
            if self._proposal:
                await self._propose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer had already gone, or the connection: nothing is left to say
        finally:
            self._dialer = None
            await super().aclose()
