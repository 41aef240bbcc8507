from __future__ import annotations

import trio

from talos.abc import TopicMessage
from talos.gossip.subscription import Subscription, TopicDesk
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

PEER = PeerId.from_key(PrivateKey.generate().public_key)


def message(number: int) -> TopicMessage:
    return TopicMessage(topic="t", data=bytes([number]), id=bytes([number]), source=PEER)


async def test_a_slow_reader_loses_the_oldest() -> None:
    subscription = Subscription(3)
    for number in range(5):
        subscription.push(message(number))
    assert subscription.lost == 2
    assert [subscription.receiver.receive_nowait().data for _ in range(3)] == [b"\x02", b"\x03", b"\x04"]


async def test_a_waiting_reader_gets_the_next_one() -> None:
    subscription = Subscription(1)
    got: list[TopicMessage] = []

    async def read() -> None:
        got.append(await subscription.receiver.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        subscription.push(message(1))
        subscription.push(message(2))
    assert [one.data for one in got] == [b"\x01"]
    assert subscription.lost == 0


async def test_a_reader_that_closed_its_end_hears_nothing() -> None:
    subscription = Subscription(1)
    subscription.receiver.close()
    subscription.push(message(1))
    assert subscription.lost == 0


async def test_a_desk_gives_to_all_and_remembers_what_was_lost() -> None:
    desk = TopicDesk()
    desk.subscriptions += [Subscription(1), Subscription(2)]
    for number in range(3):
        desk.push(message(number))
    assert desk.lost == 3
    first, second = desk.subscriptions
    desk.leave(first)
    assert (desk.lost, desk.subscriptions) == (3, [second])
    assert second.receiver.receive_nowait().data == b"\x01"
    try:
        first.receiver.receive_nowait()
    except trio.ClosedResourceError:
        return
    raise AssertionError("the channel of who left is closed")
