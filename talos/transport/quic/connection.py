"""The trio half of a QUIC connection: a writer and a timer around the machine; datagrams come from the endpoint."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from talos.abc import ConnectionStats, Role, StreamReset
from talos.errors import ConnectionCode, DialError, HandshakeError, StreamCode, TalosError
from talos.identity.peer_id import PeerId
from talos.muxed.doorbell import Doorbell
from talos.muxed.stream import MachineStream
from talos.transport.quic.event import (
    Confirmed,
    ConnectionEnded,
    DataReceived,
    Event,
    IdIssued,
    IdRetired,
    Moved,
    SendingStopped,
    StreamAborted,
    StreamEnded,
    StreamOpened,
)
from talos.transport.quic.udp import BATCH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from multiaddr import Multiaddr

    from talos.abc import Budget
    from talos.identity.keys import PublicKey
    from talos.muxed.budget import BudgetLedger
    from talos.transport.quic.config import QuicConfig
    from talos.transport.quic.endpoint import Endpoint
    from talos.transport.quic.machine import QuicMachine
    from talos.transport.quic.udp import Address

__all__ = ["QuicConnection", "QuicStream", "open_connection"]

logger = logging.getLogger(__name__)


class QuicStream(MachineStream):
    """As `MachineStream`; in addition a peer that reads no more makes sending raise StreamReset, reading goes on."""

    _stopped: int | None = None

    def stopped(self, code: int) -> None:
        """The peer sent STOP_SENDING."""
        self._stopped = code
        self.window_opened()

    def _raise_if_not_sending(self) -> None:
        super()._raise_if_not_sending()
        if self._stopped is not None:
            raise StreamReset(self._stopped, remote=True)


class QuicConnection:
    """Streams over one QUIC connection; see `talos.abc.Connection`."""

    limited = False

    def __init__(
        self,
        machine: QuicMachine,
        endpoint: Endpoint,
        config: QuicConfig,
        *,
        role: Role,
        local_peer: PeerId,
        local_addr: Multiaddr,
        remote_addr: Multiaddr,
    ) -> None:
        self.machine = machine
        self.stats = ConnectionStats()
        self.role = role
        self.local_peer = local_peer
        self.local_addr = local_addr
        self.remote_addr = remote_addr
        self.cids: set[bytes] = set()
        """Under which the endpoint finds it."""
        self._endpoint = endpoint
        self._config = config
        self._streams: dict[int, QuicStream] = {}
        self._arrived: OrderedDict[int, QuicStream] = OrderedDict()
        self._acceptors = trio.lowlevel.ParkingLot()
        self._openers = trio.lowlevel.ParkingLot()
        self.waiting_for_room: OrderedDict[MachineStream, None] = OrderedDict()
        self.unyielded = 0
        self.writer_idle = False
        self._work = Doorbell()
        self._timer = Doorbell()
        self._timer_at = math.inf
        self._settled = trio.Event()
        self._heard = trio.Event()
        self._writer_done = trio.Event()
        self._scopes: list[trio.CancelScope] = []
        self._running = 0
        self._all_done = trio.Event()
        self.block_scope = trio.CancelScope()
        self.fault: TalosError | None = None
        self.unreachable = ""
        """What ICMP says of the peer's address."""
        self._lost = False
        self._closing = False
        self._farewell = b""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.role.value} at {self.remote_addr}>"

    @property
    def remote_key(self) -> PublicKey:
        """The peer's proven key."""
        key = self.machine.remote_key
        assert key is not None, "asked for before the handshake was done"
        return key

    @property
    def remote_peer(self) -> PeerId:
        """The peer's proven identity."""
        return self._remote_peer

    # ------------------------------------------------------------------------------- what applications call

    async def open_stream(self) -> QuicStream:
        """A new stream; waits while the peer takes none. LimitExceeded past our cap.

        The peer learns of it with the first bytes. trio.BrokenResourceError once the connection ended,
        trio.ClosedResourceError once we closed it.
        """
        await trio.lowlevel.checkpoint()
        while not self.machine.can_open:
            self._raise_if_ended()
            await self._openers.park()
        self._raise_if_ended()
        stream = QuicStream(self, self.machine.open_stream())
        self._streams[stream.stream_id] = stream
        self.stats.streams_out += 1
        return stream

    def _raise_if_ended(self) -> None:
        if self._closing:
            raise trio.ClosedResourceError("this side closed the connection")
        if self._lost:
            raise trio.BrokenResourceError("the connection ended")

    async def accept_stream(self) -> QuicStream:
        """The peer's next stream. trio.EndOfChannel when none will come. Cancelling it loses no stream."""
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            if self._closing or self._lost:
                raise trio.EndOfChannel
            await self._acceptors.park()
        stream_id, stream = self._arrived.popitem(last=False)
        self.machine.accept(stream_id)
        return stream

    async def aclose(self, code: int = ConnectionCode.NONE) -> None:
        """Tells the peer why, resets what is open, and cancels the block. Idempotent."""
        self._say_goodbye(code)
        await self._flushed()
        self.block_scope.cancel()

    # ------------------------------------------------------------------------------- what streams call

    def flush(self) -> None:
        """Sends what the machine has, soon."""
        self.writer_idle = False
        self._work.ring()

    def consumed(self, stream: MachineStream, size: int) -> None:
        """The application took bytes of a stream."""
        if self._streams.get(stream.stream_id) is stream:
            events = self.machine.consumed(stream.stream_id, size, trio.current_time())
            if events:
                self._apply(events)
            self.flush()

    def leave(self, stream: MachineStream) -> None:
        """The application closed a stream; what it sent still goes out."""
        del self._streams[stream.stream_id]
        self.machine.abandon(stream.stream_id)
        self._went(stream)

    def reset(self, stream: MachineStream, code: int) -> None:
        """The application aborts a stream."""
        del self._streams[stream.stream_id]
        self.machine.reset(stream.stream_id, code)
        self._went(stream)

    def _went(self, stream: MachineStream) -> None:
        self._arrived.pop(stream.stream_id, None)
        self._openers.unpark()
        self._apply(self.machine.resume(trio.current_time()))
        self.flush()

    # ------------------------------------------------------------------------------- what the endpoint calls

    def receive(self, data: bytes, segment: int, address: Address) -> None:
        """Datagrams came in."""
        self.stats.bytes_in += len(data)
        self._apply(self.machine.receive(data, segment, address, trio.current_time()))
        if self.machine.heard and not self._heard.is_set():
            self._heard.set()
        if self._openers.statistics().tasks_waiting and self.machine.can_open:
            self._openers.unpark_all()
        self.flush()

    def not_delivered(self, reason: str) -> None:
        """ICMP brought back a datagram of ours; that ends a dial which nobody answered."""
        if not self.machine.heard:
            self.unreachable = reason
            self._end()

    # ------------------------------------------------------------------------------- events

    def _apply(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, StreamOpened):
                self._meet(event.stream_id)
            elif isinstance(event, DataReceived | StreamEnded | SendingStopped | StreamAborted):
                stream = self._streams.get(event.stream_id)
                if stream is not None:  # none any more once this side has said good-bye
                    self._apply_to_stream(stream, event)
            else:
                self._apply_to_connection(event)
        self._count()

    def _meet(self, stream_id: int) -> None:
        if self._closing or self._lost:
            return
        self._streams[stream_id] = self._arrived[stream_id] = QuicStream(self, stream_id)
        self.stats.streams_in += 1
        self._acceptors.unpark()

    def _apply_to_stream(self, stream: QuicStream, event: Event) -> None:
        match event:
            case DataReceived():
                stream.deliver(event.data)
            case StreamEnded():
                stream.end()
            case SendingStopped():
                stream.stopped(event.code)
            case StreamAborted():
                self._arrived.pop(event.stream_id, None)
                del self._streams[event.stream_id]
                stream.abort(event.code, remote=event.remote)

    def _apply_to_connection(self, event: Event) -> None:
        match event:
            case Confirmed():
                key = self.machine.remote_key
                assert key is not None
                self._remote_peer = PeerId.from_key(key)
                self._settled.set()
            case IdIssued():
                self._endpoint.route(event.cid, self)
            case IdRetired():
                self._endpoint.forget(event.cid, self)
            case Moved():
                logger.debug("the peer is at %s now", event.address)
            case ConnectionEnded():
                self.fault = self.fault or event.fault
                self._end()

    def _count(self) -> None:
        stats, machine = self.stats, self.machine
        stats.frames_in, stats.frames_out = machine.frames_in, machine.frames_out
        stats.resets_in, stats.resets_out = machine.resets_in, machine.resets_out
        stats.dropped, stats.rtt_seconds = machine.dropped, machine.rtt_seconds

    # ------------------------------------------------------------------------------- the tasks

    def start(self, nursery: trio.Nursery) -> None:
        """Starts the tasks, which `shut_down` ends."""
        for task in (self._write, self._keep_time, self._endpoint.pump):
            scope = trio.CancelScope(shield=True)
            self._scopes.append(scope)
            self._running += 1
            nursery.start_soon(self._run, scope, task)

    async def _run(self, scope: trio.CancelScope, task: Callable[[], Awaitable[None]]) -> None:
        try:
            with scope:
                await task()
        except (OSError, trio.ClosedResourceError) as error:
            logger.debug("the socket is gone: %s", error)
            self._end()
        finally:
            self._running -= 1
            if not self._running:
                self._all_done.set()

    async def _write(self) -> None:
        """The writer: one batch after the other while the machine has something."""
        machine, stats, send = self.machine, self.stats, self._endpoint.send
        try:
            while True:
                datagrams = machine.datagrams_to_send(trio.current_time(), BATCH)
                if datagrams:
                    stats.bytes_out += sum(len(data) for data, _ in datagrams)
                    if self._closing:
                        self._farewell = datagrams[-1][0]
                    await send(datagrams)
                    self._let_writers_in()
                    await trio.lowlevel.checkpoint()
                    continue
                self._apply(machine.resume(trio.current_time()))
                if self._closing or self._lost:
                    return
                self._let_writers_in()
                self._set_timer()
                self.writer_idle = True
                await self._work.wait()
                await trio.lowlevel.checkpoint()  # who has just sent may end the stream: one packet takes both
        finally:
            self._writer_done.set()

    def _let_writers_in(self) -> None:
        waiting = self.waiting_for_room
        for stream in [stream for stream in waiting if self.machine.room(stream.stream_id)]:
            waiting.pop(stream, None)
            stream.window_opened()

    def _set_timer(self) -> None:
        deadline = self.machine.next_deadline()
        if deadline is not None and deadline < self._timer_at:
            self._timer.ring()

    async def _keep_time(self) -> None:
        """The timer."""
        machine = self.machine
        while not self._lost:
            deadline = machine.next_deadline()
            self._timer_at = math.inf if deadline is None else deadline
            with trio.move_on_at(self._timer_at):
                await self._timer.wait()
            now = trio.current_time()
            if now >= self._timer_at:
                self._apply(machine.deadline_passed(now))
                self.flush()

    # ------------------------------------------------------------------------------- the handshake

    async def establish(self, budget: Budget | None) -> None:
        """Until the peer is proven and agreed to. DialError, HandshakeError, LimitExceeded, RefusedByGate."""
        started = trio.current_time()
        config = self._config
        if self.role is Role.DIALER:
            with trio.move_on_at(started + config.connect_seconds):
                await self._heard.wait()
            if self.unreachable:
                raise DialError(f"{self.remote_addr}: {self.unreachable}")
            if not self._heard.is_set():
                raise DialError(f"{self.remote_addr}: no answer within {config.connect_seconds:g} s")
        seconds = config.handshake_seconds if self.role is Role.DIALER else config.accept_seconds
        with trio.move_on_at(started + seconds):
            await self._settled.wait()
        if self._lost:
            raise self.fault or HandshakeError("the connection was closed during the handshake")
        if not self._settled.is_set():
            raise HandshakeError(f"no connection after {seconds:g} s of handshake")
        if budget is not None:
            budget.authenticated(self.remote_peer)

    # ------------------------------------------------------------------------------- the end

    def _end(self) -> None:
        """Nothing more comes in: cancels the block first, so that it ends so and not by a stream's error."""
        if self._lost:
            return
        self._lost = True
        if self._settled.is_set():
            self.block_scope.cancel()
        self._abort_streams(StreamCode.NONE, remote=True)
        self._settled.set()
        self._heard.set()
        self._timer.ring()
        self.flush()

    def _say_goodbye(self, code: int) -> None:
        if self._closing or self._lost:
            return
        self._closing = True
        self.machine.go_away(code)
        self._abort_streams(StreamCode.SHUTDOWN, remote=False)
        self.flush()

    def _abort_streams(self, code: int, *, remote: bool) -> None:
        for stream in self._streams.values():
            stream.abort(code, remote=remote)
        self._streams.clear()
        self._arrived.clear()
        self._acceptors.unpark_all()
        self._openers.unpark_all()

    async def _flushed(self) -> None:
        with trio.move_on_after(self._config.flush_seconds, shield=True):
            await self._writer_done.wait()

    async def shut_down(self, code: int = ConnectionCode.NONE) -> None:
        """The block is left: says good-bye and sends it within a bound."""
        self._say_goodbye(code)
        await self._flushed()
        self._lost = True
        for scope in self._scopes:
            scope.cancel()
        with trio.CancelScope(shield=True):  # without a deadline: nothing that they wait for withstands being cancelled
            await self._all_done.wait()
        self.machine.release_all()
        self._count()
        if self._farewell:
            self._endpoint.linger(self, self._farewell, trio.current_time())
        self._endpoint.forget_all(self)


@asynccontextmanager
async def open_connection(
    connection: QuicConnection, budget: Budget | None, ledger: BudgetLedger | None
) -> AsyncIterator[QuicConnection]:
    """Runs `connection` for the length of the block; entering runs the handshake. As `talos.abc.Transport.dial`."""
    try:
        async with trio.open_nursery() as nursery:
            connection.start(nursery)
            code = ConnectionCode.NONE
            try:
                try:
                    await connection.establish(budget)
                except TalosError:
                    code = ConnectionCode.GATED
                    raise
                with connection.block_scope:
                    yield connection
            finally:
                await connection.shut_down(code)
                if ledger is not None:
                    ledger.release_all()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:  # a fault of our own tasks as well
            raise
        # The nursery's wrapping of what the block raised.
        raise group.exceptions[0] from group.exceptions[0].__cause__
    if connection.fault is not None:
        raise connection.fault
