"""Whose turn it is to be shown: one order for each sender, conversation and epoch, kept with the messages."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import trio

from talos.messaging.canonical import conversation
from talos.messaging.order import Order, Placed
from talos.messaging.store import Flow

if TYPE_CHECKING:
    from sqlite3 import Connection

    from talos.messaging.state import State
    from talos.messaging.store import StoredMessage

__all__ = ["Arrival", "Turn", "Turns"]

IN = b"in"
FlowKey = tuple[bytes, ...]


@dataclass(slots=True, eq=False)
class Arrival:
    """A message on its way into the store; it has its number when it is there."""

    message: StoredMessage


@dataclass(slots=True, eq=False)
class Turn:
    """What a message, or the end of a gap's time, brings about."""

    key: FlowKey
    flow: Flow
    placed: list[Placed[Arrival]] = field(default_factory=list)

    def includes(self, arrival: Arrival) -> bool:
        return any(one.item is arrival for one in self.placed)

    def mark_of(self, arrival: Arrival) -> str:
        return next((one.mark.value for one in self.placed if one.item is arrival), "")


class Turns:
    """The orders in memory, a bounded number; the store has the rest."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._orders: OrderedDict[FlowKey, Order[Arrival]] = OrderedDict()
        self._gap = trio.Event()

    def place(self, arrival: Arrival, now: float) -> Turn:
        """Whose turns have come by this message."""
        payload = arrival.message.payload
        key = self._key(arrival.message)
        order = self._order(key, payload.epoch)
        placed = order.place(
            arrival, payload.seq, arrival.message.digest, payload.prev, len(arrival.message.content), now
        )
        if order.next_deadline() is not None:
            self._gap.set()
        return Turn(key, Flow(payload.epoch, order.next_seq, order.last), placed)

    def write(self, connection: Connection, turn: Turn) -> None:
        """In the writer's thread, when the messages of `turn` have their numbers."""
        store = self._state.store
        for item, mark in ((one.item, one.mark.value) for one in turn.placed):
            if mark != item.message.mark:
                item.message = replace(item.message, mark=mark)
                store.set_message(connection, item.message)
            store.show(connection, item.message.number)
        store.set_flow(connection, turn.flow, *turn.key)

    def written(self, turn: Turn) -> None:
        """What `write` wrote is durable."""
        if turn.placed:
            self._state.watch.arrived()

    def forget(self, turn: Turn) -> None:
        """It could not be written: the store is right, and read again."""
        self._orders.pop(turn.key, None)

    async def run(self) -> None:
        """Shows what was held when the process ended, then what waits too long, for ever."""
        for message in self._state.store.held():
            arrival = Arrival(message)
            await self._show(self.place(arrival, trio.current_time()), but=arrival)
        while True:
            self._gap = trio.Event()
            deadlines = [order.next_deadline() for order in self._orders.values()]
            with trio.move_on_at(min((one for one in deadlines if one is not None), default=math.inf)):
                await self._gap.wait()
            now = trio.current_time()
            for key, order in list(self._orders.items()):
                placed = order.deadline_passed(now)
                if placed:
                    epoch = placed[0].item.message.payload.epoch
                    await self._show(Turn(key, Flow(epoch, order.next_seq, order.last), placed))

    async def _show(self, turn: Turn, *, but: Arrival | None = None) -> None:
        if but is None or turn.placed:
            await self._state.store.database.write(lambda c: self.write(c, turn))
            self.written(turn)

    def _order(self, key: FlowKey, epoch: int) -> Order[Arrival]:
        order = self._orders.pop(key, None)
        if order is None:
            flow = self._state.store.flow(*key) or Flow(epoch, 1, bytes(32))
            order = Order(self._state.config.order, next_seq=flow.next_seq, last=flow.last)
            self._make_room()
        self._orders[key] = order
        return order

    def _make_room(self) -> None:
        """Orders without a gap leave; one with a gap stays until its time is over."""
        if len(self._orders) < self._state.config.receive.flows:
            return
        idle = next((key for key, order in self._orders.items() if order.next_deadline() is None), None)
        if idle is not None:
            del self._orders[idle]

    def _key(self, message: StoredMessage) -> FlowKey:
        payload = message.payload
        place = conversation(payload.sender, self._state.me)
        return IN, payload.sender, place, payload.device.to_bytes(4, "big"), payload.epoch.to_bytes(8, "big")
