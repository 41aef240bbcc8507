"""The trio half of any machine-driven muxer: a reader, a writer and a timer around the machine.

Who does what
- The reader feeds the machine and hands bytes to streams; it never waits for an application.
- The writer alone touches the channel's sending side. It sends what gathered since the last time, in one piece.
- The timer sleeps until the machine's next deadline, and watches that the channel still takes bytes.
- The block of `open_connection` runs under a cancel scope of its own, so that a connection that ends can cancel it
  and still say good-bye. For that the three tasks are shielded from the cancellation of what is around them:
  whoever is cancelled there leaves the block, and leaving it ends them within a bound.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from talos.abc import ConnectionStats
from talos.errors import ConnectionCode, StreamCode, TalosError
from talos.muxed.doorbell import Doorbell
from talos.muxed.stream import MachineStream
from talos.muxer.event import (
    DataReceived,
    Event,
    GoAwayReceived,
    PeerSilent,
    StreamAborted,
    StreamEnded,
    StreamOpened,
    WindowOpened,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from talos.muxer.machine import MuxerLimits, MuxerMachine

__all__ = ["MachineConnection", "open_connection"]

logger = logging.getLogger("talos.muxer")

READ_BYTES = 256 * 1024
WRITERS_WOKEN = 16
"""For each piece that is sent: each of them may queue a fair part of what there is room for."""


class MachineConnection:
    """Streams over one channel; see `talos.abc.MuxedConnection`."""

    def __init__(self, machine: MuxerMachine, channel: trio.abc.Stream, limits: MuxerLimits) -> None:
        self.machine: MuxerMachine = machine
        self.stats = ConnectionStats()
        self._channel = channel
        self._limits = limits
        self._streams: dict[int, MachineStream] = {}
        self._arrived: OrderedDict[int, MachineStream] = OrderedDict()  # not yet accepted
        self._acceptors = trio.lowlevel.ParkingLot()
        self._openers = trio.lowlevel.ParkingLot()
        # writing
        self.waiting_for_room: OrderedDict[MachineStream, None] = OrderedDict()
        self.unyielded = 0
        self.writer_idle = False
        self._work = Doorbell()
        self._writing_since = math.inf
        self._writer_done = trio.Event()
        # the clock
        self._timer = Doorbell()
        self._timer_at = math.inf
        # the tasks
        self._writer_scope = trio.CancelScope(shield=True)
        self._other_scopes = (trio.CancelScope(shield=True), trio.CancelScope(shield=True))
        self._running = 0
        self._all_done = trio.Event()
        # the end
        self.block_scope = trio.CancelScope()
        self.fault: TalosError | None = None
        self._lost = False  # nothing can be sent or received any more
        self._closing = False  # this side has said good-bye

    # ------------------------------------------------------------------------------- what applications call

    async def open_stream(self) -> MachineStream:
        """A new stream; waits while too many of ours are not yet acknowledged. LimitExceeded past our cap.

        trio.BrokenResourceError once the peer takes no more, trio.ClosedResourceError once we closed.
        """
        await trio.lowlevel.checkpoint()
        while not self.machine.can_open:
            self._raise_if_ended()
            await self._openers.park()
        self._raise_if_ended()
        stream = MachineStream(self, self.machine.open_stream(trio.current_time()))
        self._streams[stream.stream_id] = stream
        self.stats.streams_out += 1
        self.flush()
        return stream

    def _raise_if_ended(self) -> None:
        if self._closing:
            raise trio.ClosedResourceError("this side closed the connection")
        if self._lost or self.machine.closing:
            raise trio.BrokenResourceError("the connection ended, or the peer takes no more streams")

    async def accept_stream(self) -> MachineStream:
        """The peer's next stream. trio.EndOfChannel when none will come. Cancelling it loses no stream."""
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            if self._closing or self._lost or self.machine.closing:
                raise trio.EndOfChannel
            await self._acceptors.park()
        stream_id, stream = self._arrived.popitem(last=False)
        self.machine.accept(stream_id)
        self.flush()
        return stream

    async def aclose(self, code: int = ConnectionCode.NONE) -> None:
        """Tells the peer why, flushes within a bound, resets what is open, and cancels the block. Idempotent.

        Streams raise StreamReset, `accept_stream` raises trio.EndOfChannel.
        """
        self._say_goodbye(code)
        await self._flushed()
        self.block_scope.cancel()

    # ------------------------------------------------------------------------------- what streams call

    def flush(self) -> None:
        """Sends what the machine has queued, soon."""
        if self.writer_idle and self.machine.wants_to_send:
            self.writer_idle = False
            self._work.ring()

    def consumed(self, stream: MachineStream, size: int) -> None:
        """The application took bytes of a stream."""
        if self._streams.get(stream.stream_id) is stream:
            self.machine.consumed(stream.stream_id, size, trio.current_time())
            self.flush()

    def leave(self, stream: MachineStream) -> None:
        """The application closed a stream; what it sent still goes out."""
        del self._streams[stream.stream_id]
        self.machine.abandon(stream.stream_id)
        self._openers.unpark()
        self.flush()

    def reset(self, stream: MachineStream, code: int) -> None:
        """The application aborts a stream."""
        del self._streams[stream.stream_id]
        self.machine.reset(stream.stream_id, code)
        self._openers.unpark()
        self.flush()

    # ------------------------------------------------------------------------------- the tasks

    def start(self, nursery: trio.Nursery) -> None:
        """Starts the tasks, which `shut_down` ends."""
        reader_scope, timer_scope = self._other_scopes
        for scope, task in (
            (reader_scope, self._read),
            (self._writer_scope, self._write),
            (timer_scope, self._keep_time),
        ):
            self._running += 1
            nursery.start_soon(self._run, scope, task)

    async def _run(self, scope: trio.CancelScope, task: Callable[[], Awaitable[None]]) -> None:
        try:
            with scope:
                await task()
        finally:
            if scope is self._writer_scope:
                self._writer_done.set()
            self._running -= 1
            if not self._running:
                self._all_done.set()

    async def _read(self) -> None:
        """The reader task."""
        channel, machine, stats = self._channel, self.machine, self.stats
        try:
            while data := await channel.receive_some(READ_BYTES):
                if self._lost:
                    return
                stats.bytes_in += len(data)
                for event in machine.receive_data(data, trio.current_time()):
                    self._apply(event)
                if self._openers.statistics().tasks_waiting and machine.can_open:
                    self._openers.unpark_all()
                self._count()
                self.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            logger.debug("the channel broke: %s", error)
        except TalosError as fault:
            self.fault = fault
        self._end()

    def _apply(self, event: Event) -> None:
        match event:
            case DataReceived():
                self._streams[event.stream_id].deliver(event.data)
            case WindowOpened():
                self._streams[event.stream_id].window_opened()
            case StreamOpened():
                stream = MachineStream(self, event.stream_id)
                self._streams[event.stream_id] = self._arrived[event.stream_id] = stream
                self.stats.streams_in += 1
                self._acceptors.unpark()
            case StreamEnded():
                self._streams[event.stream_id].end()
            case StreamAborted():
                self._arrived.pop(event.stream_id, None)
                self._streams.pop(event.stream_id).abort(event.code, remote=event.remote)
            case GoAwayReceived():
                self._acceptors.unpark_all()
                self._openers.unpark_all()
            case PeerSilent():
                logger.debug("the peer does not answer")
                self._end(flush=False)

    def _count(self) -> None:
        stats, machine = self.stats, self.machine
        stats.frames_in, stats.frames_out = machine.frames_in, machine.frames_out
        stats.resets_in, stats.resets_out = machine.resets_in, machine.resets_out
        stats.dropped, stats.rtt_seconds = machine.dropped, machine.rtt_seconds

    async def _write(self) -> None:
        """The writer task."""
        try:
            await self._write_all()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            logger.debug("the channel broke: %s", error)
            self._end(flush=False)

    async def _write_all(self) -> None:
        machine, stats = self.machine, self.stats
        while True:
            data = machine.data_to_send()
            self._let_writers_in(everyone=not data)
            if data:
                now = self._writing_since = trio.current_time()
                if now + self._limits.stall_seconds < self._timer_at:
                    self._timer.ring()
                await self._channel.send_all(data)
                self._writing_since = math.inf
                stats.bytes_out += len(data)
            elif self._closing or self._lost:
                return
            else:
                self._count()
                self.writer_idle = True
                await self._work.wait()

    def _let_writers_in(self, *, everyone: bool) -> None:
        waiting = self.waiting_for_room
        for _ in range(len(waiting) if everyone else min(len(waiting), WRITERS_WOKEN)):
            waiting.popitem(last=False)[0].window_opened()

    async def _keep_time(self) -> None:
        """The timer task."""
        machine, stall = self.machine, self._limits.stall_seconds
        while not self._lost:
            now = trio.current_time()
            if now >= self._writing_since + stall:
                logger.debug("the channel takes nothing for %s s", stall)
                self._end(flush=False)
                return
            for event in machine.deadline_passed(now):
                self._apply(event)
            self.flush()
            deadline = machine.next_deadline()
            self._timer_at = min(self._writing_since + stall, math.inf if deadline is None else deadline)
            with trio.move_on_at(self._timer_at):
                await self._timer.wait()

    # ------------------------------------------------------------------------------- the end

    def _end(self, *, flush: bool = True) -> None:
        """Nothing more comes in: cancels the block first, so that it ends so and not by a stream's error."""
        self._lost = True
        self.block_scope.cancel()
        self._abort_streams(StreamCode.NONE, remote=True)
        if not flush:
            self._writer_scope.cancel()
        self._ring_writer()

    def _say_goodbye(self, code: int) -> None:
        if self._closing or self._lost:
            return
        self._closing = True
        for stream_id in self._streams:
            self.machine.reset(stream_id, StreamCode.SHUTDOWN)
        self.machine.go_away(code)
        self._abort_streams(StreamCode.SHUTDOWN, remote=False)
        self._ring_writer()

    def _abort_streams(self, code: int, *, remote: bool) -> None:
        for stream in self._streams.values():
            stream.abort(code, remote=remote)
        self._streams.clear()
        self._arrived.clear()
        self._acceptors.unpark_all()
        self._openers.unpark_all()

    def _ring_writer(self) -> None:
        self.writer_idle = False
        self._work.ring()

    async def _flushed(self) -> None:
        with trio.move_on_after(self._limits.flush_seconds, shield=True):
            await self._writer_done.wait()
        self._writer_scope.cancel()

    async def shut_down(self) -> None:
        """The block is left: says good-bye, flushes within a bound and closes the channel."""
        self._say_goodbye(ConnectionCode.NONE)
        await self._flushed()
        with trio.move_on_after(self._limits.flush_seconds, shield=True):
            try:
                await self._channel.aclose()
            except trio.BrokenResourceError as error:  # the peer had gone already
                logger.debug("closing the channel: %s", error)
        self._lost = True
        self._count()
        for scope in self._other_scopes:
            scope.cancel()
        # Without a deadline, for nothing that they wait for withstands being cancelled.
        with trio.CancelScope(shield=True):
            await self._all_done.wait()


@asynccontextmanager
async def open_connection(
    machine: MuxerMachine, channel: trio.abc.Stream, limits: MuxerLimits
) -> AsyncIterator[MachineConnection]:
    """Runs `machine` over `channel`, which it owns, for the length of the block; see `talos.abc.Muxer.open`."""
    connection = MachineConnection(machine, channel, limits)
    try:
        async with trio.open_nursery() as nursery:
            connection.start(nursery)
            try:
                with connection.block_scope:
                    yield connection
            finally:
                await connection.shut_down()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:  # a fault of our own tasks as well
            raise
        # The nursery's wrapping of what the block raised.
        raise group.exceptions[0] from group.exceptions[0].__cause__
    if connection.fault is not None:
        raise connection.fault
