"""Requests to other peers: streams that are kept for the next one, and their deadlines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from talos.abc import StreamReset
from talos.dht import wire
from talos.errors import RemoteProtocolError, RoutingError, StreamCode, TalosError
from talos.wire.length_prefix import LengthPrefixDecoder, frame

if TYPE_CHECKING:
    from multiaddr import Multiaddr

    from talos.abc import Stream
    from talos.dht.state import DhtState
    from talos.dht.wire import Message
    from talos.identity.peer_id import PeerId

__all__ = ["RequestFailed", "Requests"]

_ENDS = (TalosError, trio.BrokenResourceError, trio.ClosedResourceError)
READ_BYTES = 16 * 1024


class RequestFailed(RoutingError):
    """A peer was not reached, did not answer in time, or broke the protocol."""


class _Line:
    """A stream to one peer: one request at a time, each answered before the next."""

    __slots__ = ("_decoder", "idle_since", "peer", "stream", "used")

    def __init__(self, peer: PeerId, stream: Stream) -> None:
        self.peer = peer
        self.stream = stream
        self.used = False
        """Whether it has brought an answer: then a failure may only mean that the peer closed it meanwhile."""
        self.idle_since = 0.0
        self._decoder = LengthPrefixDecoder(wire.MAX_READ_BYTES)

    async def answer(self) -> bytes:
        """The next answer; RemoteProtocolError when the stream ends instead."""
        while (message := self._decoder.next_message()) is None:
            chunk = await self.stream.receive_some(READ_BYTES)
            if not chunk:
                raise RemoteProtocolError(f"peer {self.peer} ended the stream without an answer")
            self._decoder.feed(chunk)
        self.used = True
        return message


class Requests:
    """Sends requests for one DHT node, and tells its state who answered and who did not."""

    def __init__(self, state: DhtState, nursery: trio.Nursery) -> None:
        self.counters: Counter[str] = Counter()
        self._state = state
        self._host = state.host
        self._config = state.config
        self._nursery = nursery
        self._idle: dict[PeerId, list[_Line]] = {}
        self._idle_count = 0
        self._busy: Counter[PeerId] = Counter()
        self._waiting: dict[PeerId, trio.lowlevel.ParkingLot] = {}

    async def ask(self, peer: PeerId, addrs: tuple[Multiaddr, ...], request: Message) -> Message:
        """The answer of `peer`, which is dialled at `addrs` or where it is known to be; RequestFailed.

        Cancelled, it leaves the answer to be read in the background, so that the stream can be used again.
        """
        data = frame(wire.encode(request))
        await self._turn(peer)
        try:
            with trio.fail_after(self._config.request_seconds):
                answer, stream = await self._exchange(peer, addrs, data)
            message = wire.decode_answer(answer, request.type)
        except (*_ENDS, trio.TooSlowError) as error:
            self.counters["requests failed"] += 1
            self._state.unheard(peer)
            reason = "no answer in time" if isinstance(error, trio.TooSlowError) else str(error)
            raise RequestFailed(reason or type(error).__name__) from error
        finally:
            self._turn_over(peer)
        self.counters["requests answered"] += 1
        self._state.heard(peer, stream.connection)
        return message

    async def tell(self, peer: PeerId, addrs: tuple[Multiaddr, ...], message: Message) -> None:
        """Sends what is not answered (ADD_PROVIDER), on a stream of its own; RequestFailed.

        Some peers answer nevertheless: that is read and dropped, or it would be taken for the answer to something else.
        """
        try:
            with trio.fail_after(self._config.request_seconds):
                stream = await self._open(peer, addrs)
                try:
                    await stream.send_all(frame(wire.encode(message)))
                    await stream.send_eof()
                except BaseException:
                    stream.reset()
                    raise
        except (*_ENDS, trio.TooSlowError) as error:
            self.counters["requests failed"] += 1
            self._state.unheard(peer)
            raise RequestFailed(str(error) or type(error).__name__) from error
        self.counters["providers told"] += 1
        self._nursery.start_soon(self._drain, stream)

    def sweep(self, now: float) -> None:
        """Closes streams that were not used for a while."""
        oldest = now - self._config.keep_seconds
        for lines in list(self._idle.values()):
            for line in [line for line in lines if line.idle_since <= oldest]:
                self._take(line)
                self._nursery.start_soon(_close, line.stream)

    # ------------------------------------------------------------------------------- one exchange

    async def _exchange(self, peer: PeerId, addrs: tuple[Multiaddr, ...], data: bytes) -> tuple[bytes, Stream]:
        while True:
            line = self._reuse(peer) or _Line(peer, await self._open(peer, addrs))
            was_used = line.used
            try:
                return await self._exchange_on(line, data), line.stream
            except (*_ENDS, EOFError):
                if not was_used:
                    raise

    async def _exchange_on(self, line: _Line, data: bytes) -> bytes:
        sent = False
        try:
            await line.stream.send_all(data)
            sent = True
            answer = await line.answer()
        except trio.Cancelled:
            if sent:
                self._nursery.start_soon(self._await_late, line)
            else:
                line.stream.reset()
            raise
        except RemoteProtocolError:
            line.stream.reset(StreamCode.PROTOCOL_VIOLATION)
            raise
        except BaseException:
            line.stream.reset()
            raise
        self._keep(line)
        return answer

    async def _open(self, peer: PeerId, addrs: tuple[Multiaddr, ...]) -> Stream:
        host = self._host
        # Without an address the host would ask its peer routing, which is this DHT.
        if not addrs and not host.peerstore.addrs(peer) and not self.is_connected(peer):
            raise RequestFailed(f"no address of {peer} is known")
        connection = await host.connect(peer, addrs)
        return await host.open_stream(connection, self._config.protocol_id)

    def is_connected(self, peer: PeerId) -> bool:
        """Whether a connection to it stands."""
        return any(connection.remote_peer == peer for connection in self._host.connections)

    async def _await_late(self, line: _Line) -> None:
        """Nobody waits for this answer any more, but behind it the stream is good for the next request."""
        with trio.move_on_after(self._config.request_seconds):
            try:
                await line.answer()
            except (*_ENDS, EOFError):
                line.stream.reset()
            else:
                self._keep(line)
            return
        line.stream.reset()

    async def _drain(self, stream: Stream) -> None:
        with trio.move_on_after(self._config.request_seconds):
            try:
                while await stream.receive_some(READ_BYTES):
                    pass
            except (StreamReset, *_ENDS):
                pass  # a reset behind our close is how some say that they have it
            await _close(stream)
            return
        stream.reset()

    # ------------------------------------------------------------------------------- streams that are kept

    def _reuse(self, peer: PeerId) -> _Line | None:
        lines = self._idle.get(peer)
        if not lines:
            return None
        line = lines[-1]
        self._take(line)
        return line

    def _take(self, line: _Line) -> None:
        lines = self._idle[line.peer]
        lines.remove(line)
        if not lines:
            del self._idle[line.peer]
        self._idle_count -= 1

    def _keep(self, line: _Line) -> None:
        if self._idle_count >= self._config.limits.idle_streams:
            oldest = next(iter(self._idle.values()))[0]
            self._take(oldest)
            self._nursery.start_soon(_close, oldest.stream)
        line.idle_since = trio.current_time()
        # The peer moves to the end: the first is the one that was not asked for longest.
        lines = self._idle.pop(line.peer, [])
        lines.append(line)
        self._idle[line.peer] = lines
        self._idle_count += 1

    # ------------------------------------------------------------------------------- turns

    async def _turn(self, peer: PeerId) -> None:
        """Waits while as many requests to the peer are under way as may be."""
        while self._busy[peer] >= self._config.limits.streams_per_peer:
            await self._waiting.setdefault(peer, trio.lowlevel.ParkingLot()).park()
        self._busy[peer] += 1

    def _turn_over(self, peer: PeerId) -> None:
        self._busy[peer] -= 1
        if not self._busy[peer]:
            del self._busy[peer]
        if (lot := self._waiting.get(peer)) is not None:
            lot.unpark()
            if not lot:
                del self._waiting[peer]


async def _close(stream: Stream) -> None:
    """Good manners, which a peer that has gone does not spoil."""
    with trio.move_on_after(1):
        try:
            await stream.aclose()
        except _ENDS:
            pass
        return
    stream.reset()
