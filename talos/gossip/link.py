"""The two one-way streams that join us to one peer: we write only to ours, and read only from theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.errors import RemoteProtocolError, StreamCode
from talos.wire.length_prefix import LengthPrefixDecoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.abc import Stream
    from talos.identity.peer_id import PeerId

__all__ = ["Link"]

RECEIVE_BYTES = 256 * 1024
LARGE_RPC_BYTES = 16 * 1024
"""After one of that size others get their turn: it may have held a hundred signatures."""

GATHER_TURNS = 8
"""Of the scheduler, for which a writer waits while each brings more: together it costs one frame and one wake."""

_ENDS = (trio.BrokenResourceError, trio.ClosedResourceError)


class Link:
    """One peer. `joined` is set while our stream stands, and the peer is known to the router."""

    __slots__ = ("_stirred", "_waiting", "end_code", "joined", "peer", "reader", "scope", "stream")

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self.scope = trio.CancelScope()
        self.joined = trio.Event()
        self.reader: trio.CancelScope | None = None
        """Of the task that reads the peer's stream to us."""
        self.stream: Stream | None = None
        self.end_code = StreamCode.NONE
        """What our streams are reset with when the link ends."""
        self._waiting: trio.Event | None = None
        self._stirred = False

    def wake(self) -> None:
        """Something may wait to be written."""
        self._stirred = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.set()

    def supplant_reader(self, scope: trio.CancelScope | None) -> None:
        """A task begins to read, or none does any longer; the one that did is stopped."""
        if self.reader is not None:
            self.reader.cancel()
        self.reader = scope

    async def write(self, stream: Stream, data_to_send: Callable[[PeerId], bytes]) -> None:
        """Writes whatever waits, until our stream ends."""
        try:
            while True:
                await self._gather()
                if data := data_to_send(self.peer):
                    await stream.send_all(data)
                else:
                    self._waiting = trio.Event()
                    await self._waiting.wait()
        except _ENDS:
            return

    async def _gather(self) -> None:
        """Lets others have their turn for as long as they add to what is to be written."""
        for _ in range(GATHER_TURNS):
            self._stirred = False
            await trio.lowlevel.checkpoint()
            if not self._stirred:
                return

    async def watch(self, stream: Stream) -> None:
        """Returns when the peer ends our stream, on which it has nothing to say."""
        try:
            if await stream.receive_some(1):
                self.end_code = StreamCode.PROTOCOL_VIOLATION
        except (*_ENDS, RemoteProtocolError):
            return


async def read_rpcs(stream: Stream, max_bytes: int, receive: Callable[[bytes], None]) -> None:
    """Hands each RPC of the stream to `receive`, without its length; MessageTooLarge before a longer one is held."""
    decoder = LengthPrefixDecoder(max_bytes)
    while data := await stream.receive_some(RECEIVE_BYTES):
        decoder.feed(data)
        while (rpc := decoder.next_message()) is not None:
            receive(rpc)
            if len(rpc) >= LARGE_RPC_BYTES:
                await trio.lowlevel.checkpoint()
    decoder.end()
