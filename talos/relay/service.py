"""The relay itself: answers hop requests, calls by stop, and carries bytes until a limit."""

from __future__ import annotations

import logging
import math
import time
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from talos import addr as addresses
from talos.abc import PeerDisconnected, StreamReset
from talos.errors import RemoteProtocolError, StreamCode, TalosError
from talos.host.block import background
from talos.host.direct import direct_connection
from talos.relay.machine import RelayLimits, RelayMachine
from talos.relay.pipe import Pipe
from talos.relay.wire import (
    HOP,
    MAX_ADDRS,
    MAX_MESSAGE_BYTES,
    STOP,
    HopMessage,
    HopType,
    Reservation,
    Status,
    StopMessage,
    StopType,
    Voucher,
    decode_hop,
    decode_stop,
    encode_hop,
    encode_stop,
    seal_voucher,
)
from talos.wire.message_stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.abc import Connection, Event, Host, Stream
    from talos.identity.peer_id import PeerId

__all__ = ["RelayServer", "open_relay"]

HOP_SECONDS = 60.0
"""For a request to arrive and the answer to be given."""
STOP_SECONDS = 10.0
"""For the peer that is called to answer."""

_log = logging.getLogger(__name__)
_ENDS = (TalosError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, EOFError)


@asynccontextmanager
async def open_relay(host: Host, limits: RelayLimits | None = None) -> AsyncIterator[RelayServer]:
    """Relays for others for the length of the block, within `limits`."""
    async with background() as nursery:
        server = RelayServer(host, limits or RelayLimits())
        with host.mounted(HOP, server.serve, limited=True), host.observe(server.observe):
            nursery.start_soon(server.expire)
            try:
                yield server
            finally:
                server.close()


class RelayServer:
    """The running relay; made by `open_relay`."""

    def __init__(self, host: Host, limits: RelayLimits) -> None:
        self.limits = limits
        self.bytes_relayed = 0
        self._host = host
        self._machine = RelayMachine(limits)
        self._kept: dict[PeerId, ExitStack] = {}
        """Holders of reservations, whose connections are not trimmed."""
        self._changed = trio.Event()

    @property
    def reservations(self) -> int:
        """That stand now."""
        return self._machine.reservations

    @property
    def circuits(self) -> int:
        """That are open now."""
        return self._machine.circuits

    # -- life

    def observe(self, event: Event) -> None:
        """Drops the reservation of who has no direct connection any more."""
        if (
            isinstance(event, PeerDisconnected)
            and event.peer in self._kept
            and direct_connection(self._host, event.peer) is None
        ):
            self._machine.disconnected(event.peer)
            self._forget(event.peer)

    async def expire(self) -> None:
        """Drops reservations when their time is over."""
        while True:
            deadline = self._machine.next_deadline()
            with trio.CancelScope(deadline=math.inf if deadline is None else deadline):
                await self._changed.wait()
                self._changed = trio.Event()
            for peer in self._machine.expire(trio.current_time()):
                self._forget(peer)

    def close(self) -> None:
        """Lets go of all peers."""
        for peer in tuple(self._kept):
            self._forget(peer)

    def _forget(self, peer: PeerId) -> None:
        kept = self._kept.pop(peer, None)
        if kept is not None:
            kept.close()

    # -- requests

    async def serve(self, stream: Stream) -> None:
        """Answers one request; what becomes a circuit ends with the call."""
        hop = MessageStream(stream, decode=decode_hop, encode=encode_hop, max_size=MAX_MESSAGE_BYTES)
        with trio.move_on_after(HOP_SECONDS) as patience:
            try:
                request = await hop.receive()
            except EOFError:
                return
            except RemoteProtocolError:
                await _tell(hop, Status.MALFORMED_MESSAGE)
                return
            if request.type is HopType.RESERVE:
                await self._reserve(hop, stream.connection)
            elif request.type is HopType.CONNECT and request.peer is not None:
                patience.deadline = math.inf  # from here on what is waited for has deadlines of its own
                await self._connect(hop, stream, request.peer)
            else:
                missing = request.type is HopType.CONNECT
                await _tell(hop, Status.MALFORMED_MESSAGE if missing else Status.UNEXPECTED_MESSAGE)
            return
        stream.reset(StreamCode.NONE)

    async def _reserve(self, hop: MessageStream[HopMessage, HopMessage], connection: Connection) -> None:
        peer, now = connection.remote_peer, trio.current_time()
        ip = addresses.ip_of(connection.remote_addr)
        status = self._machine.reserve(peer, ip, limited=connection.limited, now=now)
        if status is not Status.OK:
            _log.debug("no reservation for %s: %s", peer, status.name)
            await _tell(hop, status)
            return
        if peer not in self._kept:
            kept = self._kept[peer] = ExitStack()
            kept.enter_context(self._host.keeping(peer))
        self._changed.set()
        expire = int(time.time()) + self.limits.reservation_seconds
        voucher = seal_voucher(self._host.key, Voucher(self._host.peer_id, peer, expire))
        granted = Reservation(expire, self._addrs_for(connection), voucher)
        await hop.send(HopMessage(type=HopType.STATUS, status=Status.OK, reservation=granted, limit=self.limits.limit))

    def _addrs_for(self, connection: Connection) -> tuple[bytes, ...]:
        """Where we are reached, for a peer to tell others: never relayed; loopback for peers on this machine only."""
        ip = addresses.ip_of(connection.remote_addr)
        local = ip is None or ip.is_loopback
        told = [
            addr.to_bytes()
            for addr in self._host.addrs
            if not addresses.is_relayed(addr) and (local or not addresses.is_loopback(addr))
        ]
        return tuple(told[:MAX_ADDRS])

    # -- circuits

    async def _connect(self, hop: MessageStream[HopMessage, HopMessage], stream: Stream, target: PeerId) -> None:
        connection = stream.connection
        source = connection.remote_peer
        ip = addresses.ip_of(connection.remote_addr)
        if target == self._host.peer_id:
            await _tell(hop, Status.PERMISSION_DENIED)
            return
        status = self._machine.connect(source, target, ip, limited=connection.limited, now=trio.current_time())
        if status is not Status.OK:
            _log.debug("no circuit from %s to %s: %s", source, target, status.name)
            await _tell(hop, status)
            return
        try:
            await self._carry(hop, stream, target)
        finally:
            self._machine.ended(source, target)

    async def _carry(self, hop: MessageStream[HopMessage, HopMessage], stream: Stream, target: PeerId) -> None:
        called = await self._call(stream.connection.remote_peer, target)
        if called is None:
            await _tell(hop, Status.CONNECTION_FAILED)
            return
        there, first = called
        try:
            await hop.send(HopMessage(type=HopType.STATUS, status=Status.OK, limit=self.limits.limit))
            pipe = Pipe(stream, there, most_bytes=self.limits.circuit_bytes)
            try:
                await pipe.run(hop.take_leftover(), first, seconds=self.limits.circuit_seconds or math.inf)
            finally:
                self.bytes_relayed += pipe.carried
        finally:
            with trio.move_on_after(1.0, shield=True):
                await trio.aclose_forcefully(there)

    async def _call(self, source: PeerId, target: PeerId) -> tuple[Stream, bytes] | None:
        """A stream on which `target` took the call, and what it has said already; None when it did not."""
        connection = direct_connection(self._host, target)
        if connection is None:
            return None
        stream: Stream | None = None
        try:
            with trio.fail_after(STOP_SECONDS):
                stream = await self._host.open_stream(connection, STOP)
                stop = MessageStream[StopMessage, StopMessage](
                    stream, decode=decode_stop, encode=encode_stop, max_size=MAX_MESSAGE_BYTES
                )
                await stop.send(StopMessage(type=StopType.CONNECT, peer=source, limit=self.limits.limit))
                answer = await stop.receive()
        except BaseException as error:
            if stream is not None:
                stream.reset()
            if not isinstance(error, _ENDS):
                raise
            _log.debug("%s was not reached for %s: %s", target, source, error)
            return None
        if answer.type is not StopType.STATUS or answer.status != Status.OK:
            stream.reset()
            _log.debug("%s does not take a call of %s: status %d", target, source, answer.status)
            return None
        return stream, stop.take_leftover()


async def _tell(hop: MessageStream[HopMessage, HopMessage], status: Status) -> None:
    """The answer, for whoever still listens."""
    try:
        await hop.send(HopMessage(type=HopType.STATUS, status=status))
    except (StreamReset, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        _log.debug("nobody to tell %s: %s", status.name, error)
