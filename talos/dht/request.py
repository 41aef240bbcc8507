"""Requests to other peers: streams that are kept for the next one, and their deadlines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from talos.dht import wire
from talos.dht.wire import MessageType
from talos.errors import RemoteProtocolError, RoutingError, StreamCode, TalosError
from talos.wire.length_prefix import LengthPrefixDecoder

if TYPE_CHECKING:
    from multiaddr import Multiaddr

    from talos.abc import Stream
    from talos.dht.state import DhtState
    from talos.dht.wire import Message, Request
    from talos.identity.peer_id import PeerId

__all__ = ["RequestFailed", "Requests"]

_ENDS = (TalosError, trio.BrokenResourceError, trio.ClosedResourceError)
READ_BYTES = 16 * 1024
HEARD_SECONDS = 1.0
"""What peers get at the end to read what they were told."""


class RequestFailed(RoutingError):
    """A peer was not reached, did not answer in time, or broke the protocol."""


class _Line:
    """A stream to one peer: one request at a time, each answered before the next."""

    __slots__ = ("_decoder", "answers", "idle_since", "peer", "stream", "told")

    def __init__(self, peer: PeerId, stream: Stream) -> None:
        self.peer = peer
        self.stream = stream
        self.answers = 0
        """Once it has brought one, a failure may only mean that the peer closed it meanwhile."""
        self.idle_since = 0.0
        self.told = False
        """Something was told behind the last answer: whether it was read is not known."""
        self._decoder = LengthPrefixDecoder(wire.MAX_READ_BYTES)

    async def answer(self, expected: MessageType) -> Message:
        """The answer to a request of that type; RemoteProtocolError for another, or when the stream ends instead.

        What we told before may have been echoed, as some do: that answers nothing, and is dropped.
        """
        while True:
            data = self._decoder.next_message()
            if data is None:
                chunk = await self.stream.receive_some(READ_BYTES)
                if not chunk:
                    raise RemoteProtocolError(f"peer {self.peer} ended the stream without an answer")
                self._decoder.feed(chunk)
                continue
            message = wire.decode(data)
            if message.type is expected:
                self.answers += 1
                self.told = False
                return message
            if message.type is not MessageType.ADD_PROVIDER:
                raise RemoteProtocolError(f"answer of type {message.type.name} to a request {expected.name}")


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
        self._draining: set[Stream] = set()
        self._drained = trio.Event()
        self._busy: Counter[PeerId] = Counter()
        self._waiting: dict[PeerId, trio.lowlevel.ParkingLot] = {}

    async def ask(self, peer: PeerId, addrs: tuple[Multiaddr, ...], request: Request) -> Message:
        """The answer of `peer`, which is dialled at `addrs` or where it is known to be; RequestFailed.

        Cancelled, it leaves the answer to be read in the background, so that the stream can be used again.
        """
        await self._turn(peer)
        try:
            with trio.fail_after(self._config.request_seconds):
                message, stream = await self._exchange(peer, addrs, request)
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

    async def tell(self, peer: PeerId, addrs: tuple[Multiaddr, ...], request: Request) -> None:
        """Sends what is not answered (ADD_PROVIDER); RequestFailed.

        It goes on a stream that has shown to carry one request after the other, else on one of its own, whose end tells
        the peer that nothing follows.
        """
        try:
            with trio.fail_after(self._config.request_seconds):
                if not await self._tell_on_kept(peer, request):
                    await self._tell_on_new(peer, addrs, request)
        except (*_ENDS, trio.TooSlowError) as error:
            self.counters["requests failed"] += 1
            self._state.unheard(peer)
            raise RequestFailed(str(error) or type(error).__name__) from error
        self.counters["providers told"] += 1

    async def heard(self) -> None:
        """Waits until who was told something has read it, for HEARD_SECONDS at most.

        A node that closed its connections at once would take it back. Streams that were told on are not used again.
        """
        for line in [line for lines in self._idle.values() for line in lines if line.told]:
            self._take(line)
            self._start_draining(line.stream)
        with trio.move_on_after(HEARD_SECONDS):
            while self._draining:
                self._drained = trio.Event()
                await self._drained.wait()

    def sweep(self, now: float) -> None:
        """Closes streams that were not used for a while."""
        oldest = now - self._config.keep_seconds
        for lines in list(self._idle.values()):
            for line in [line for line in lines if line.idle_since <= oldest]:
                self._take(line)
                self._nursery.start_soon(_close, line.stream)

    # ------------------------------------------------------------------------------- one exchange

    async def _exchange(self, peer: PeerId, addrs: tuple[Multiaddr, ...], request: Request) -> tuple[Message, Stream]:
        while True:
            line = self._reuse(peer) or _Line(peer, await self._open(peer, addrs))
            is_new = not line.answers
            try:
                return await self._exchange_on(line, request), line.stream
            except _ENDS:
                if is_new:
                    raise

    async def _exchange_on(self, line: _Line, request: Request) -> Message:
        sent = False
        try:
            await line.stream.send_all(request.data)
            sent = True
            answer = await line.answer(request.type)
        except trio.Cancelled:
            if sent:
                self._nursery.start_soon(self._await_late, line, request.type)
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

    async def _tell_on_kept(self, peer: PeerId, request: Request) -> bool:
        line = self._reuse(peer, answers=2)
        if line is None:
            return False
        try:
            await line.stream.send_all(request.data)
        except _ENDS:
            line.stream.reset()
            return False
        except BaseException:
            line.stream.reset()
            raise
        line.told = True
        self._keep(line)
        return True

    async def _tell_on_new(self, peer: PeerId, addrs: tuple[Multiaddr, ...], request: Request) -> None:
        stream = await self._open(peer, addrs)
        try:
            await stream.send_all(request.data)
        except BaseException:
            stream.reset()
            raise
        self._start_draining(stream)

    async def _open(self, peer: PeerId, addrs: tuple[Multiaddr, ...]) -> Stream:
        host = self._host
        if peer in self._state.connected:
            return await host.open_stream(peer, self._config.protocol_id)
        # Without an address the host would ask its peer routing, which is this DHT.
        addrs = addrs or tuple(host.peerstore.addrs(peer))
        if not addrs:
            raise RequestFailed(f"no address of {peer} is known")
        return await host.open_stream(await host.connect(peer, addrs), self._config.protocol_id)

    async def _await_late(self, line: _Line, expected: MessageType) -> None:
        """Nobody waits for this answer any more, but behind it the stream is good for the next request."""
        with trio.move_on_after(self._config.request_seconds):
            try:
                await line.answer(expected)
            except _ENDS:
                line.stream.reset()
            else:
                self._keep(line)
            return
        line.stream.reset()

    def _start_draining(self, stream: Stream) -> None:
        self._draining.add(stream)
        self._nursery.start_soon(self._drain, stream)

    async def _drain(self, stream: Stream) -> None:
        """Ends what we say; the peer's end is the sign that it has read all of it."""
        try:
            await self._read_to_end(stream)
        finally:
            self._draining.discard(stream)
            self._drained.set()

    async def _read_to_end(self, stream: Stream) -> None:
        with trio.move_on_after(self._config.request_seconds):
            try:
                await stream.send_eof()
                while await stream.receive_some(READ_BYTES):
                    pass
            except _ENDS:
                pass  # a reset behind our close is how some say that they have it
            await _close(stream)
            return
        stream.reset()

    # ------------------------------------------------------------------------------- streams that are kept

    def _reuse(self, peer: PeerId, answers: int = 0) -> _Line | None:
        """The stream that was used last, if it has brought so many answers."""
        lines = self._idle.get(peer)
        if not lines or lines[-1].answers < answers:
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
