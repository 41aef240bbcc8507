"""Events: queues that are bounded, observers that are contained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from multiaddr import Multiaddr

from talos.abc import AddressConfirmed, Dropped, Event, HandlerFailed, ServiceFault
from talos.host.events import EventBus

if TYPE_CHECKING:
    from collections.abc import Sequence


def event(number: int) -> AddressConfirmed:
    return AddressConfirmed(Multiaddr(f"/ip4/1.2.3.4/tcp/{number}"))


def drain(channel: trio.MemoryReceiveChannel[Event]) -> list[Event]:
    got: list[Event] = []
    while channel.statistics().current_buffer_used:
        got.append(channel.receive_nowait())
    return got


async def test_every_subscriber_gets_every_event_in_order() -> None:
    bus = EventBus()
    bus.emit(event(0))
    async with bus.subscribe() as one, bus.subscribe() as two:
        for number in (1, 2, 3):
            bus.emit(event(number))
        assert drain(one) == drain(two) == [event(1), event(2), event(3)]


async def test_a_waiting_subscriber_is_woken() -> None:
    bus = EventBus()
    async with bus.subscribe() as channel, trio.open_nursery() as nursery:

        async def emit_soon() -> None:
            await trio.lowlevel.checkpoint()
            bus.emit(event(1))

        nursery.start_soon(emit_soon)
        assert await channel.receive() == event(1)


async def test_a_slow_subscriber_learns_what_it_lost() -> None:
    bus = EventBus(queue=2)
    async with bus.subscribe() as channel:
        for number in range(1, 6):
            bus.emit(event(number))
        assert channel.receive_nowait() == event(1)
        bus.emit(event(6))  # the place that came free is not enough: `Dropped` is still behind
        assert drain(channel) == [event(2), Dropped(4)]
        for number in range(7, 11):
            bus.emit(event(number))
        assert drain(channel) == [event(7), event(8), Dropped(2)]


async def test_events_and_drops_keep_their_order() -> None:
    bus = EventBus(queue=2)
    async with bus.subscribe() as channel:
        for number in range(1, 4):
            bus.emit(event(number))
        assert [channel.receive_nowait(), channel.receive_nowait()] == [event(1), event(2)]
        bus.emit(event(4))
        bus.emit(event(5))
        assert drain(channel) == [Dropped(1), event(4), Dropped(1)]


async def test_leaving_the_block_ends_the_subscription() -> None:
    bus = EventBus()
    async with bus.subscribe() as channel:
        pass
    bus.emit(event(1))
    with pytest.raises(trio.ClosedResourceError):
        await channel.receive()


async def test_a_subscriber_that_closed_its_end_harms_nobody() -> None:
    bus = EventBus()
    async with bus.subscribe() as one, bus.subscribe() as two:
        one.close()
        bus.emit(event(1))
        assert drain(two) == [event(1)]


def test_observers_are_called_at_once_within_their_block() -> None:
    bus = EventBus()
    seen: list[Event] = []
    with bus.observe(seen.append), bus.observe(seen.append):
        bus.emit(event(1))
        bus.tell(event(2))
    bus.emit(event(3))
    assert seen == [event(1), event(1), event(2), event(2)]


async def test_what_is_told_to_observers_is_not_queued() -> None:
    bus = EventBus()
    async with bus.subscribe() as channel:
        bus.tell(event(1))
        assert drain(channel) == []


async def test_an_observer_that_raises_is_skipped_and_told_of() -> None:
    bus = EventBus()
    calls: list[Event] = []

    def broken(event: Event) -> None:
        calls.append(event)
        raise ValueError("broken")

    after: list[Event] = []
    async with bus.subscribe() as channel:
        with bus.observe(broken), bus.observe(after.append):
            bus.emit(event(1))
        fault, first = drain(channel)
        assert isinstance(fault, ServiceFault)
        assert first == event(1)
    assert calls == after == [event(1)]
    assert bus.faults == {("observer", "ValueError"): 1}


@pytest.mark.parametrize(
    ("errors", "faults"),
    [
        ([ValueError(), ValueError(), KeyError()], {("x", "ValueError"): 2, ("x", "KeyError"): 1}),
        ([trio.BrokenResourceError(), trio.TooSlowError()], {}),
    ],
)
def test_faults_are_counted_by_owner_and_class(errors: Sequence[Exception], faults: dict[object, int]) -> None:
    bus = EventBus()
    for error in errors:
        bus.emit(HandlerFailed("x", None, "/x", error))
    assert bus.faults == faults
