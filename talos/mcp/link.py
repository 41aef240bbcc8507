"""The trio half of a tunnel machine: one stream, one reader, one writer, one clock."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING

import trio

from talos.errors import NegotiationError, RemoteProtocolError, StreamCode
from talos.mcp.event import Closed, LineArrived, OpenArrived, Opened, PeerEof, Refused, WindowOpened
from talos.mcp.machine import SessionMachine, State
from talos.muxed.doorbell import Doorbell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from talos.abc import Stream
    from talos.mcp.event import Event

__all__ = ["Link"]

READ_BYTES = 256 * 1024
_STREAM_ENDS = (trio.BrokenResourceError, trio.ClosedResourceError, NegotiationError)
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


class Link:
    """Runs a machine over a stream. `over` is set when the session is, whoever ended it; `closed` says why.

    What arrives waits in `inbox`, which the machine's window bounds. `arrival` and `window` ring for one task each.
    """

    def __init__(self, stream: Stream, make_machine: Callable[[float], SessionMachine]) -> None:
        self.stream = stream
        self.inbox: deque[LineArrived] = deque()
        self.peer_ended = False
        self.opening: OpenArrived | Opened | Refused | None = None
        self.closed: Closed | None = None
        self.error: BaseException | None = None
        """What the stream or the peer did wrong, if that ended the session."""
        self.over = trio.Event()
        self.answered = trio.Event()
        """The other side's opening message is in `opening`, or the session is over before."""
        self.arrival = Doorbell()
        self.window = Doorbell()
        self._suspended_before = _suspended()
        self._slept = 0.0
        self._data = Doorbell()
        self._idle = False
        self._ready = b""
        self._timer = Doorbell()
        self._sleeps_until = math.inf
        self._peer_hung_up = trio.Event()
        self.machine = make_machine(self.now())

    def now(self) -> float:
        """Seconds that also pass while the computer sleeps, which shows when the next deadline is looked at."""
        return trio.current_time() + self._slept

    def wake(self) -> None:
        """To be called after each verb of the machine: there may be something to send, or to do earlier."""
        if self._idle:
            self._ready = self.machine.data_to_send(self.now())
            if self._ready or self.machine.state is State.CLOSED:
                self._idle = False
                self._data.ring()
        deadline = self.machine.next_deadline()
        if deadline is not None and deadline < self._sleeps_until:
            self._timer.ring()

    async def room_for(self, cost: int) -> None:
        """Until a line of that cost may be submitted. One task at a time."""
        while not self.machine.can_submit(cost):
            self.wake()
            await self.window.wait()

    async def run(self) -> None:
        """Reads, writes and keeps time; returns when the session is over and all is sent that there was to send."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            nursery.start_soon(self._keep_time)
            await self._write()
            await self._peer_hung_up.wait()
            nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        machine, stream = self.machine, self.stream
        try:
            while data := await stream.receive_some(READ_BYTES):
                opening = machine.state is State.OPENING
                try:
                    self._take(machine.receive_data(bytes(data), self.now()))
                except RemoteProtocolError as error:
                    self.error = error
                    self._lost("protocol error", reset=StreamCode.PROTOCOL_VIOLATION if opening else None)
                self.wake()
            self._take(machine.stream_lost())
        except _STREAM_ENDS as error:
            self._broken(error)
        finally:
            self._peer_hung_up.set()
            self._data.ring()

    async def _write(self) -> None:
        machine, stream = self.machine, self.stream
        try:
            while True:
                data = self._ready or machine.data_to_send(self.now())
                self._ready = b""
                if data:
                    await stream.send_all(data)
                elif machine.state is State.CLOSED:
                    await stream.send_eof()
                    return
                else:
                    self._idle = True
                    await self._data.wait()
                    self._idle = False
        except _STREAM_ENDS as error:
            self._broken(error)

    async def _keep_time(self) -> None:
        machine = self.machine
        while (deadline := machine.next_deadline()) is not None:
            self._slept = max(0.0, _suspended() - self._suspended_before)
            if deadline <= self.now():
                self._take(machine.deadline_passed(self.now()))
                self.wake()
                continue
            self._sleeps_until = deadline
            with trio.move_on_after(deadline - self.now()):
                await self._timer.wait()
            self._sleeps_until = math.inf

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case LineArrived():
                    self.inbox.append(event)
                    self.arrival.ring()
                case WindowOpened():
                    self.window.ring()
                case PeerEof():
                    self.peer_ended = True
                    self.arrival.ring()
                case OpenArrived() | Opened() | Refused():
                    self.opening = event
                    self.answered.set()
                case Closed():
                    self._end(event)

    def _end(self, closed: Closed) -> None:
        if self.closed is None:
            self.closed = closed
        self.over.set()
        self.answered.set()
        self.arrival.ring()
        self._data.ring()

    def _lost(self, text: str, *, reset: StreamCode | None = None) -> None:
        """The session is over by an error; what the machine says of it goes out unless the stream is reset."""
        if reset is not None:
            self.machine.stream_lost()
            self.stream.reset(reset)
        self._end(Closed(None, text, remote=False))

    def _broken(self, error: BaseException) -> None:
        if self.error is None and self.closed is None:
            self.error = error
        self._take(self.machine.stream_lost())
        self._peer_hung_up.set()


def _suspended() -> float:
    """How long the machine has slept since it was started; trio's clock leaves that out."""
    if _BOOT_CLOCK is None:
        return 0.0
    return time.clock_gettime(_BOOT_CLOCK) - time.clock_gettime(time.CLOCK_MONOTONIC)
