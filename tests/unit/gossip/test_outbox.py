"""What waits for one peer: order, limits, and what is dropped first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.gossip import wire
from talos.gossip.config import GossipLimits
from talos.gossip.outbox import Outbox
from talos.gossip.stats import RouterStats
from talos.wire.length_prefix import LengthPrefixDecoder

if TYPE_CHECKING:
    from talos.gossip.wire import Rpc

HAS: set[bytes] = set()


def make(**limits: int) -> tuple[Outbox, RouterStats]:
    stats = RouterStats()
    return Outbox(GossipLimits(**limits), stats, HAS.__contains__), stats  # type: ignore[arg-type]


def message(size: int = 10, fill: bytes = b"m") -> bytes:
    return wire.publish(fill * size)


def rpcs(data: bytes) -> list[Rpc]:
    return [wire.decode_rpc(body, GossipLimits()) for body in LengthPrefixDecoder(1 << 21).receive_data(data)]


def test_nothing_waits() -> None:
    outbox, _ = make()
    assert outbox.take(1000) == b""
    outbox.hello(None)
    assert outbox.take(1000) == b""


def test_one_rpc_holds_what_fits() -> None:
    outbox, _ = make()
    outbox.hello(wire.EXTENSIONS)
    outbox.put_announcement(wire.ihave("t", [b"1"]))
    outbox.put_message(b"1", message())
    outbox.put_prompt(wire.iwant([b"2"]))
    outbox.put_mesh("t", wire.graft("t"))
    outbox.subscribe("t", wanted=True)
    assert outbox.has_messages
    [rpc] = rpcs(outbox.take(1000))
    assert rpc.subscriptions == [(True, "t")]
    assert rpc.messages == [b"m" * 10]
    assert rpc.control is not None
    assert (rpc.control.extensions, rpc.control.graft, rpc.control.iwant) == (True, ["t"], [b"2"])
    assert rpc.control.ihave
    assert outbox.take(1000) == b""
    assert (len(outbox), outbox.size, outbox.has_messages) == (0, 0, False)


def test_of_a_topic_only_the_newest_state_is_sent() -> None:
    outbox, _ = make()
    outbox.subscribe("t", wanted=True)
    outbox.subscribe("t", wanted=False)
    outbox.put_mesh("t", wire.graft("t"))
    outbox.put_mesh("t", wire.prune(wire.Prune("t")))
    [rpc] = rpcs(outbox.take(1000))
    assert rpc.subscriptions == [(False, "t")]
    assert rpc.control is not None
    assert rpc.control.graft == []
    assert len(rpc.control.prune) == 1


def test_subscriptions_are_split_as_their_reader_counts_them() -> None:
    outbox, _ = make(subscriptions=2)
    for topic in "abcde":
        outbox.subscribe(topic, wanted=True)
    assert [len(rpc.subscriptions) for rpc in rpcs(outbox.take(1000))] == [2, 2, 1]


def test_control_is_split_and_a_large_item_goes_alone() -> None:
    outbox, _ = make(control_bytes=100)
    for topic in "ab":
        outbox.put_mesh(topic, wire.graft(topic * 30))
    outbox.put_mesh("c", wire.graft("c" * 200))
    outbox.put_mesh("d", wire.graft("d"))
    outbox.put_prompt(wire.iwant([b"1" * 60]))
    outbox.put_prompt(wire.iwant([b"2" * 60]))
    grafted = [[topic[0] for topic in rpc.control.graft] for rpc in rpcs(outbox.take(9999)) if rpc.control]
    assert grafted == [["a", "b"], ["c"], ["d"], []]


def test_messages_are_split_and_a_large_one_goes_alone() -> None:
    outbox, _ = make(messages=3)
    outbox.put_mesh("t", wire.graft("t"))
    for size in (70_000, 10, 10, 10, 10, 61_000, 61_000):
        outbox.put_message(b"", message(size))
    assert [[len(one) for one in rpc.messages] for rpc in rpcs(outbox.take(1 << 20))] == [
        [],
        [70_000],
        [10, 10, 10],
        [10, 61_000],
        [61_000],
    ]


def test_take_stops_at_its_size_between_rpcs() -> None:
    outbox, _ = make()
    for _ in range(3):
        outbox.put_message(b"", message(60_000))
    assert len(rpcs(outbox.take(60_000))) == 1
    assert len(rpcs(outbox.take(1 << 20))) == 2


def test_full_of_items_drops_control_first_the_oldest() -> None:
    outbox, stats = make(outbox_messages=3)
    outbox.put_prompt(wire.iwant([b"p"]))
    outbox.put_announcement(wire.ihave("t", [b"a"]))
    for fill in (b"1", b"2", b"3", b"4"):
        outbox.put_message(fill, message(fill=fill))
    assert (stats.dropped_control, stats.dropped_messages) == (2, 1)
    [rpc] = rpcs(outbox.take(1000))
    assert [one[:1] for one in rpc.messages] == [b"2", b"3", b"4"]
    assert rpc.control is None


def test_full_of_bytes_the_same() -> None:
    outbox, stats = make(outbox_bytes=40)
    outbox.put_announcement(wire.ihave("t", [b"a"]))
    for _ in range(4):
        outbox.put_message(b"", message())
        assert outbox.size <= 40
    assert (stats.dropped_control, stats.dropped_messages) == (1, 1)
    outbox.put_message(b"", message(100))
    assert len(outbox) == 0


def test_what_the_peer_has_is_not_sent() -> None:
    outbox, stats = make()
    HAS.add(b"known")
    outbox.put_message(b"known", message())
    assert outbox.take(1000) == b""
    assert stats.unwanted == 1
    assert outbox.size == 0
