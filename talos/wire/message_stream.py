"""Length-prefixed messages on any trio stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from talos.wire.length_prefix import LengthPrefixDecoder, frame

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

__all__ = ["MessageStream"]

In = TypeVar("In")
Out = TypeVar("Out")


class MessageStream(Generic[In, Out]):
    """Reads `In` and writes `Out`, each at most `max_size` bytes when encoded.

    `receive` raises EOFError at a clean end of the stream, RemoteProtocolError when the end cuts a
    message and MessageTooLarge on an over-long prefix. A cancelled `send` leaves the stream
    unusable; a cancelled `receive` loses nothing. One task may send while another receives.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        decode: Callable[[bytes], In],
        encode: Callable[[Out], bytes],
        max_size: int,
    ) -> None:
        self.stream = stream
        self._decode = decode
        self._encode = encode
        self._max_size = max_size
        self._decoder = LengthPrefixDecoder(max_size)

    async def send(self, message: Out) -> None:
        """Writes one message; LocalProtocolError when it is over the limit."""
        await self.stream.send_all(frame(self._encode(message), self._max_size))

    async def receive(self) -> In:
        """The next message."""
        while (message := self._decoder.next_message()) is None:
            chunk = await self.stream.receive_some()
            if not chunk:
                self._decoder.end()
                raise EOFError("stream ended")
            self._decoder.feed(chunk)
        return self._decode(message)

    def take_leftover(self) -> bytes:
        """Bytes received behind the last message that `receive` gave out, for whoever takes over the stream."""
        return self._decoder.take_leftover()

    def __aiter__(self) -> MessageStream[In, Out]:
        return self

    async def __anext__(self) -> In:
        try:
            return await self.receive()
        except EOFError:
            raise StopAsyncIteration from None
