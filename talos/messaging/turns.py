"""Whose turn it is to be shown: one order for each sender, conversation and epoch, kept with the messages."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from talos.errors import EnvelopeRejected, StoreFailed, TalosError
from talos.messaging.canonical import channel_conversation, conversation
from talos.messaging.code import Code
from talos.messaging.order import Order, Placed
from talos.messaging.store import Flow

if TYPE_CHECKING:
    from collections.abc import Callable
    from sqlite3 import Connection

    from talos.messaging.database import Job
    from talos.messaging.state import State
    from talos.messaging.store import StoredMessage

__all__ = ["Arrival", "Turn", "Turns"]

_log = logging.getLogger(__name__)

IN = b"in"
RESTORE_SECONDS = 1.0
FlowKey = tuple[bytes, ...]


@dataclass(slots=True, eq=False)
class Arrival:
    """A message on its way into the store; it has its number when it is there."""

    message: StoredMessage


@dataclass(slots=True, eq=False)
class _Line:
    """An order and what of it is not durable yet."""

    key: FlowKey
    epoch: int
    order: Order[Arrival]
    writing: int = 0
    broken: bool = False
    """Something of it could not be written: the store is right, and this is read anew from there."""


@dataclass(slots=True, eq=False)
class Turn:
    """What a message, or the end of a gap's time, brings about."""

    line: _Line
    flow: Flow
    placed: list[Placed[Arrival]] = field(default_factory=list)

    def includes(self, arrival: Arrival) -> bool:
        return any(one.item is arrival for one in self.placed)

    def mark_of(self, arrival: Arrival) -> str:
        return next((one.mark.value for one in self.placed if one.item is arrival), "")


class Turns:
    """The orders in memory, a bounded number; the store has the rest. `submit` writes what `place` decided."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._lines: OrderedDict[FlowKey, _Line] = OrderedDict()
        self._gap = trio.Event()
        self._deadline = math.inf
        self._lost = False
        """Something that is held in the store is in no order here."""

    def place(self, arrival: Arrival, now: float) -> Turn:
        """Whose turns have come by this message; to be submitted at once. EnvelopeRejected(BUSY) where no room is."""
        return self._place(arrival, self._line(arrival.message), now)

    def submit(
        self, turn: Turn, arrival: Arrival | None = None, *, after: Callable[[], None] = lambda: None
    ) -> Job[None]:
        """Has what `turn` says written, and `arrival` itself, in the order of the calls; `after` is called then."""
        turn.line.writing += 1

        def written() -> None:
            after()
            self._written(turn)

        def undone() -> None:
            after()
            self._undone(turn.line)

        write = partial(self._write, turn=turn, arrival=arrival)
        return self._state.store.database.write_soon(write, then=written, undone=undone)

    async def run(self) -> None:
        """Shows what was held when the process ended, then what waits too long, for ever."""
        await self._restore()
        while True:
            self._gap = trio.Event()
            self._deadline = self._next_deadline()
            wait_until = trio.current_time() + RESTORE_SECONDS if self._lost else self._deadline
            with trio.move_on_at(wait_until):
                await self._gap.wait()
            if self._lost:
                await self._restore()
            now = trio.current_time()
            for line in list(self._lines.values()):
                self._show(line, line.order.deadline_passed(now))

    def _place(self, arrival: Arrival, line: _Line, now: float) -> Turn:
        payload, order = arrival.message.payload, line.order
        placed = order.place(
            arrival, payload.seq, arrival.message.digest, payload.prev, len(arrival.message.content), now
        )
        deadline = order.next_deadline()
        if deadline is not None and deadline < self._deadline:
            self._gap.set()
        return Turn(line, Flow(line.epoch, order.next_seq, order.last), placed)

    def _next_deadline(self) -> float:
        deadlines = (line.order.next_deadline() for line in self._lines.values())
        return min((one for one in deadlines if one is not None), default=math.inf)

    def _show(self, line: _Line, placed: list[Placed[Arrival]]) -> None:
        if placed and not line.broken:
            self.submit(Turn(line, Flow(line.epoch, line.order.next_seq, line.order.last), placed))

    # ------------------------------------------------------------------------------- writing

    def _write(self, connection: Connection, *, turn: Turn, arrival: Arrival | None) -> None:
        """In the writer's thread: all that a message changes, or nothing."""
        try:
            if turn.line.broken:
                raise StoreFailed("a message before this one could not be kept")
            if arrival is not None:
                self._keep(connection, turn, arrival)
            store = self._state.store
            for item, mark in ((one.item, one.mark.value) for one in turn.placed):
                if mark != item.message.mark:
                    item.message = replace(item.message, mark=mark)
                    store.change(connection, item.message.number, mark=mark)
                store.show(connection, item.message.number)
            store.set_flow(connection, turn.flow, *turn.line.key)
        except TalosError:
            turn.line.broken = True
            raise

    def _keep(self, connection: Connection, turn: Turn, arrival: Arrival) -> None:
        store, payload = self._state.store, arrival.message.payload
        message = replace(arrival.message, mark=turn.mark_of(arrival))
        arrival.message = replace(message, number=store.add_message(connection, message))
        until = payload.timestamp_ms + self._state.config.receive.past_seconds * 1000
        store.add_seen(connection, payload, message.digest, arrival.message.number, until)
        if not turn.includes(arrival):
            store.hold(connection, arrival.message.number)

    def _written(self, turn: Turn) -> None:
        turn.line.writing -= 1
        if turn.placed:
            self._state.watch.arrived()

    def _undone(self, line: _Line) -> None:
        line.writing -= 1
        line.broken = True
        self._lost = True
        self._gap.set()
        if self._lines.get(line.key) is line:
            del self._lines[line.key]

    # ------------------------------------------------------------------------------- lines

    async def _restore(self) -> None:
        """Places what is held in the store and in no order here."""
        self._lost = False
        await trio.lowlevel.checkpoint()
        here = {item.message.number for line in self._lines.values() for item in line.order.held}
        for message in self._state.store.held():
            key = self._key(message)
            line = self._lines.get(key) or self._add(key, message.payload.epoch)
            if message.number in here:
                continue
            if line.broken or line.writing:
                self._lost = True  # whether it is on its way to be shown is known in a moment
            else:
                turn = self._place(Arrival(message), line, trio.current_time())
                if turn.placed:
                    self.submit(turn)

    def _line(self, message: StoredMessage) -> _Line:
        key = self._key(message)
        line = self._lines.get(key)
        if line is None:
            self._make_room()
            return self._add(key, message.payload.epoch)
        if line.broken:
            raise EnvelopeRejected("a message before this one could not be kept", code=Code.BUSY)
        self._lines.move_to_end(key)
        return line

    def _add(self, key: FlowKey, epoch: int) -> _Line:
        flow = self._state.store.flow(*key) or Flow(epoch, 1, bytes(32))
        line = _Line(key, epoch, Order(self._state.config.order, next_seq=flow.next_seq, last=flow.last))
        self._lines[key] = line
        return line

    def _make_room(self) -> None:
        """The line that nothing came in for longest leaves; where all have gaps, the oldest one is given up at once."""
        if len(self._lines) < self._state.config.receive.flows:
            return
        quiet = [line for line in self._lines.values() if not line.writing]
        idle = next((line for line in quiet if line.order.next_deadline() is None), None)
        if idle is not None:
            del self._lines[idle.key]
            return
        if quiet:
            self._show(quiet[0], quiet[0].order.give_up())
        raise EnvelopeRejected("too many conversations have gaps", code=Code.BUSY)

    def _key(self, message: StoredMessage) -> FlowKey:
        payload = message.payload
        here = channel_conversation(payload.channel) if payload.to_all else None
        place = here or conversation(payload.sender, self._state.me)
        return IN, payload.sender, place, payload.device.to_bytes(4, "big"), payload.epoch.to_bytes(8, "big")
