"""A connection as a node has it: protocols agreed per stream, handlers behind the wall, charges given back."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from talos.abc import MuxedStream, StreamReset
from talos.errors import ConnectionCode, NegotiationError, StreamCode
from talos.host.contain import Owner, contain, reset_code
from talos.multistream import negotiate_inbound, negotiate_outbound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from multiaddr import Multiaddr

    from talos.abc import Connection, ConnectionStats, Event, ProtocolId, Role, Stream
    from talos.host.config import TimeoutsConfig
    from talos.host.limits import ConnectionScope, StreamScope
    from talos.host.routes import Routes
    from talos.identity.keys import PublicKey
    from talos.identity.peer_id import PeerId

__all__ = ["HostConnection"]

_log = logging.getLogger(__name__)


class HostConnection:
    """The `abc.Connection` of a node, around the one that the transport made.

    `serve` is its life: it ends with the connection, and takes the handlers with it.
    """

    __slots__ = (
        "_emit",
        "_muxed",
        "_own_streams",
        "_routes",
        "_scope",
        "_timeouts",
        "draining",
        "layers",
        "limited",
        "local_addr",
        "local_peer",
        "opened_at",
        "remote_addr",
        "remote_key",
        "remote_peer",
        "role",
    )

    def __init__(
        self,
        muxed: Connection,
        scope: ConnectionScope,
        *,
        routes: Routes,
        emit: Callable[[Event], None],
        timeouts: TimeoutsConfig,
    ) -> None:
        self._muxed = muxed
        self._scope = scope
        self._routes = routes
        self._emit = emit
        self._timeouts = timeouts
        self._own_streams: set[_OwnStream] = set()
        self.local_peer: PeerId = muxed.local_peer
        self.remote_peer: PeerId = muxed.remote_peer
        self.remote_key: PublicKey = muxed.remote_key
        self.role: Role = muxed.role
        self.local_addr: Multiaddr = muxed.local_addr
        self.remote_addr: Multiaddr = muxed.remote_addr
        self.limited: bool = muxed.limited
        self.layers: tuple[ProtocolId, ...] = getattr(muxed, "layers", ())
        """Security and muxer, for those who look; empty where the transport brings its own."""
        self.opened_at = trio.current_time()
        self.draining = False
        """The peer opens no more streams, or the connection is being closed: not one to begin something on."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.role.value} {self.remote_peer} at {self.remote_addr}>"

    @property
    def stats(self) -> ConnectionStats:
        """Plain counters."""
        return self._muxed.stats

    @property
    def in_use(self) -> bool:
        """Whether a stream of an application runs on it; those of identify and ping do not count."""
        return self._scope.in_use

    # -- streams

    async def open_stream(self) -> MuxedStream:
        """A raw stream; charges beyond the muxer's own are the caller's."""
        return await self._muxed.open_stream()

    async def accept_stream(self) -> MuxedStream:
        """Not for callers of a node: `serve` takes them all."""
        return await self._muxed.accept_stream()

    async def open(self, protocols: Sequence[ProtocolId]) -> Stream:
        """A stream on which one of `protocols` is agreed, optimistically when there is one.

        NegotiationError, LimitExceeded, StreamReset; DialError never: the connection stands.
        """
        with trio.move_on_after(self._timeouts.open_stream) as patience:
            own = _OwnStream(await self._open_muxed(), self._own_streams)
            seconds = self._timeouts.negotiate
            try:
                scope = own.charge(self._scope.stream(inbound=False))
                if len(protocols) > 1:  # with one, nothing is waited for before the first receive
                    patience.deadline = min(patience.deadline, trio.current_time() + seconds)
                stream = await negotiate_outbound(own, self, protocols, answer_seconds=seconds)
                scope.negotiated(stream.protocol)
            except BaseException as error:
                own.reset(reset_code(error))
                raise
            return stream
        raise NegotiationError(f"{self.remote_peer} did not agree on {' or '.join(protocols)} in time")

    async def _open_muxed(self) -> MuxedStream:
        try:
            return await self._muxed.open_stream()
        except trio.ClosedResourceError as error:
            raise StreamReset(StreamCode.SHUTDOWN, remote=False) from error
        except trio.BrokenResourceError as error:
            raise StreamReset(remote=True) from error

    # -- life

    async def serve(self) -> None:
        """Answers the peer's streams until the connection ends."""
        try:
            async with trio.open_nursery() as nursery:
                try:
                    while True:
                        nursery.start_soon(self._serve_stream, await self._muxed.accept_stream())
                except trio.EndOfChannel:
                    # What runs on the connection may still end in good order; the muxer cancels us when it is gone.
                    self.draining = True
                    await trio.sleep_forever()
        finally:
            self.draining = True
            for stream in tuple(self._own_streams):
                stream.reset(StreamCode.NONE)

    async def aclose(self, code: int = ConnectionCode.NONE) -> None:
        """Ends it, with good-bye; `serve` is cancelled."""
        self.draining = True
        await self._muxed.aclose(code)

    # -- streams of the peer

    async def _serve_stream(self, muxed: MuxedStream) -> None:
        owner = Owner("handler", self._emit, self.remote_peer)
        await contain(owner, self._negotiate_and_handle, muxed, owner)

    async def _negotiate_and_handle(self, muxed: MuxedStream, owner: Owner) -> None:
        try:
            with self._scope.stream(inbound=True) as scope:
                stream = await self._negotiate(muxed)
                if stream is None:
                    return
                route = self._routes.get(stream.protocol)
                if route is None:  # unmounted since it was agreed
                    stream.reset(StreamCode.NEGOTIATION_FAILED)
                    return
                owner.name = owner.protocol = stream.protocol
                scope.negotiated(stream.protocol)
                await route.handler(stream)
                await stream.aclose()
        except BaseException as error:
            muxed.reset(reset_code(error))
            raise

    async def _negotiate(self, muxed: MuxedStream) -> Stream | None:
        """None when that led to nothing, which is the peer's affair; the stream is reset then."""
        offered = self._routes.offered(limited=self.limited)
        try:
            with trio.move_on_after(self._timeouts.negotiate):
                return await negotiate_inbound(muxed, self, offered)
            reason: object = "too slow"
        except (NegotiationError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            reason = error
        _log.debug("no protocol agreed on a stream of %s: %s", self.remote_peer, reason)
        return None


class _OwnStream(MuxedStream):
    """A stream that this side opened: closing or resetting it gives its charges back."""

    def __init__(self, muxed: MuxedStream, open_streams: set[_OwnStream]) -> None:
        self._muxed = muxed
        self._scope: StreamScope | None = None
        self._open_streams = open_streams
        open_streams.add(self)
        # The hot two go straight to the stream below.
        vars(self).update(send_all=muxed.send_all, receive_some=muxed.receive_some)

    def charge(self, scope: StreamScope) -> StreamScope:
        """`scope` is left when the stream ends."""
        self._scope = scope
        return scope.__enter__()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream below."""
        await self._muxed.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream below."""
        await self._muxed.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As the stream below."""
        return await self._muxed.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """As the stream below."""
        await self._muxed.send_eof()

    def reset(self, code: int = StreamCode.NONE) -> None:
        """As the stream below."""
        self._muxed.reset(code)
        self._release()

    async def aclose(self) -> None:
        """As the stream below."""
        try:
            await self._muxed.aclose()
        finally:
            self._release()

    def _release(self) -> None:
        self._open_streams.discard(self)
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.__exit__(None, None, None)
