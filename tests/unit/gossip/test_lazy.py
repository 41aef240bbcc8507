"""IHAVE, IWANT, IDONTWANT: what is announced, asked for and answered, and where it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from talos.gossip import wire
from talos.gossip.config import GossipConfig, GossipLimits
from talos.gossip.score_config import ScoreConfig
from tests.unit.gossip.peers import (
    FLOODSUB,
    TOPIC,
    V1_1,
    control,
    give,
    join,
    make_router,
    message,
    message_id,
    peer,
    sent,
    sent_control,
)

if TYPE_CHECKING:
    from talos.gossip.router import Router

QUIET = ScoreConfig(default_topic=None, app_specific_weight=1.0)
LARGE = bytes(1024)


def router_with(*numbers: int, **changes: Any) -> Router:
    changes.setdefault("score", QUIET)
    validate = changes.pop("validate", False)
    router = make_router(GossipConfig(**changes))
    router.subscribe(TOPIC, 0, validate=validate)
    join(router, *numbers)
    return router


# ------------------------------------------------------------------------------------- IHAVE


def test_what_is_new_is_asked_for() -> None:
    router = router_with(1)
    give(router, 1, message(5))
    control(router, 1, wire.ihave(TOPIC, [message_id(5), message_id(6), b"x" * 129]), wire.ihave("other", [b"no"]))
    assert sent_control(router, 1).iwant == [message_id(6)]
    assert not control(router, 1, wire.ihave(TOPIC, [message_id(5)]))


def test_so_many_rpcs_with_ihave_in_a_heartbeat() -> None:
    router = router_with(1, max_ihave_messages=2)
    for number in range(4):
        control(router, 1, wire.ihave(TOPIC, [b"%d" % number]))
    assert sent_control(router, 1).iwant == [b"0", b"1"]
    assert router.stats.ignored_control == 2
    router.heartbeat(1)
    control(router, 1, wire.ihave(TOPIC, [b"5"]))
    assert sent_control(router, 1).iwant == [b"5"]


def test_so_many_ids_in_a_heartbeat() -> None:
    router = router_with(1, max_ihave_length=5)
    control(router, 1, wire.ihave(TOPIC, [b"%d" % number for number in range(3)]))
    control(router, 1, wire.ihave(TOPIC, [b"a%d" % number for number in range(9)]))
    control(router, 1, wire.ihave(TOPIC, [b"more"]))
    assert len(sent_control(router, 1).iwant) == 5
    assert router.stats.iwant_sent == 5
    assert router.stats.ignored_control == 1


def test_gossip_of_a_peer_below_the_threshold_is_ignored() -> None:
    router = router_with(1)
    give(router, 1, message(5))
    router.set_application_score(peer(1), -10.1)
    assert not control(router, 1, wire.ihave(TOPIC, [b"1"]))
    assert not control(router, 1, wire.iwant([message_id(5)]))
    assert router.stats.ignored_control == 2


def test_a_promise_that_is_not_kept_is_misbehaviour() -> None:
    router = router_with(1, 2)
    control(router, 1, wire.ihave(TOPIC, [b"never"]))
    control(router, 2, wire.ihave(TOPIC, [message_id(5)]))
    give(router, 1, message(5), now=2)
    router.heartbeat(3)
    assert router.stats.broken_promises == 0
    router.heartbeat(3.1)
    assert router.stats.broken_promises == 1
    assert router.score(peer(1)) < 0
    assert router.score(peer(2)) == 0


def test_long_requests_are_cut_as_their_reader_counts() -> None:
    router = router_with(1, limits=GossipLimits(control_bytes=1024))
    ids = [b"%040d" % number for number in range(24)]
    control(router, 1, wire.ihave(TOPIC, ids[:12]))
    control(router, 1, wire.ihave(TOPIC, ids[12:]))
    control(router, 1, wire.ihave(TOPIC, [bytes(100)] * 1))
    assert sorted(sent_control(router, 1).iwant) == [bytes(100), *sorted(ids)]


# ------------------------------------------------------------------------------------- IWANT


def test_a_message_is_sent_to_one_peer_three_times() -> None:
    router = router_with(1, 2)
    give(router, 2, message(5))
    for _ in range(1000):
        control(router, 1, wire.iwant([message_id(5), message_id(5)]))
    assert sent(router, 1).messages == [message(5)] * 3
    assert router.stats.iwant_answered == 3
    assert not control(router, 1, wire.iwant([b"unknown"]))


# ------------------------------------------------------------------------------------- IDONTWANT


def test_what_a_peer_does_not_want_is_not_sent_until_forgotten() -> None:
    router = router_with(1, 2, idontwant_ticks=2)
    router.heartbeat(1)
    router.data_to_send(peer(1))
    control(router, 1, wire.idontwant([message_id(5)]))
    give(router, 2, message(5))
    control(router, 1, wire.iwant([message_id(5)]))
    assert sent(router, 1).messages == []
    router.heartbeat(2)
    assert router._neighbours.get(peer(1)).dont_want  # type: ignore[union-attr]
    router.heartbeat(3)
    assert not router._neighbours.get(peer(1)).dont_want  # type: ignore[union-attr]


def test_idontwant_is_bounded() -> None:
    limits = GossipLimits(idontwant_kept=3, message_id_bytes=10)
    router = router_with(1, idontwant_messages=4, idontwant_length=2, limits=limits)
    kept = router._neighbours.get(peer(1)).dont_want  # type: ignore[union-attr]
    control(router, 1, wire.idontwant([b"1", b"2", b"3"]), wire.idontwant([b"4", bytes(11)]))
    assert list(kept) == [b"4"]
    control(router, 1, wire.idontwant([b"4", b"5"]), wire.idontwant([b"6", b"7"]), wire.idontwant([b"8"]))
    assert list(kept) == [b"5", b"6", b"7"]
    assert router.stats.ignored_control == 2


def test_idontwant_of_an_old_version_means_nothing() -> None:
    router = router_with()
    join(router, 1, protocol=V1_1)
    control(router, 1, wire.idontwant([b"1"]))
    assert not router._neighbours.get(peer(1)).dont_want  # type: ignore[union-attr]


def test_a_large_message_that_waits_is_announced_to_the_mesh() -> None:
    router = router_with(1, 2, 3, validate=True)
    join(router, 4, protocol=V1_1)
    router.heartbeat(1)
    for number in (1, 2, 3, 4):
        router.data_to_send(peer(number))
    control(router, 3, wire.idontwant([message_id(5)]))
    give(router, 1, message(5, LARGE), message(6, LARGE[1:]))
    wanted = {number: [list(ids) for ids in sent_control(router, number).idontwant] for number in (1, 2, 3, 4)}
    assert wanted == {1: [], 2: [[message_id(5)]], 3: [], 4: []}


def test_one_that_follows_at_once_is_announced_only_where_others_stand_before_it() -> None:
    router = router_with(1, 2)
    router.heartbeat(1)
    router.data_to_send(peer(2))
    give(router, 1, message(5, LARGE))
    give(router, 1, message(6, LARGE))
    told = sent(router, 2)
    assert told.control is not None
    assert [list(ids) for ids in told.control.idontwant] == [[message_id(6)]]
    assert len(told.messages) == 2


def test_who_brings_a_message_that_waits_for_it_is_not_sent_it() -> None:
    router = router_with(1, 2)
    router.heartbeat(1)
    router.data_to_send(peer(2))
    give(router, 1, message(5))
    give(router, 2, message(5))
    assert sent(router, 2).messages == []
    assert router.stats.unwanted == 1


# ------------------------------------------------------------------------------------- announcing


def announced(router: Router, *numbers: int) -> dict[int, list[bytes]]:
    return {number: [bytes(one) for _, ids in sent_control(router, number).ihave for one in ids] for number in numbers}


def test_those_outside_the_mesh_hear_of_the_last_messages() -> None:
    router = router_with(*range(1, 13))
    join(router, 13, protocol=FLOODSUB)
    router.add_direct(peer(12))
    router.heartbeat(1)
    mesh = [number for number in range(1, 14) if peer(number) in router.mesh(TOPIC)]
    router.set_application_score(peer(next(n for n in range(1, 12) if n not in mesh)), -11)
    give(router, mesh[0], message(20), now=1)
    for number in range(1, 14):
        router.data_to_send(peer(number))
    router.heartbeat(2)
    heard = announced(router, *range(1, 14))
    assert [number for number, ids in heard.items() if ids] == [
        number for number in range(1, 12) if number not in mesh and router.score(peer(number)) >= 0
    ]
    assert {tuple(ids) for ids in heard.values() if ids} == {(message_id(20),)}
    for now in (3, 4):
        router.heartbeat(now)
        assert any(announced(router, *range(1, 12)).values())
    router.heartbeat(5)
    assert not any(announced(router, *range(1, 12)).values())


def test_a_part_of_many_is_told() -> None:
    router = router_with(*range(1, 47), gossip_factor=0.5)
    router.heartbeat(1)
    router.publish(TOPIC, b"", 1)
    router.heartbeat(2)
    assert sum(bool(ids) for ids in announced(router, *range(1, 47)).values()) == 20
    assert router.stats.ihave_sent == 20


def test_of_too_many_ids_each_hears_of_others() -> None:
    router = router_with(*range(1, 20), max_ihave_length=3, limits=GossipLimits(control_bytes=600))
    router.heartbeat(1)
    for _ in range(9):
        router.publish(TOPIC, b"", 1)
    for number in range(1, 20):
        router.data_to_send(peer(number))
    router.heartbeat(2)
    heard = [set(ids) for ids in announced(router, *range(1, 20)).values() if ids]
    assert all(len(ids) == 3 for ids in heard)
    assert len({frozenset(ids) for ids in heard}) > 1


def test_messages_of_topics_left_are_not_announced() -> None:
    router = router_with(*range(1, 10))
    router.publish(TOPIC, b"", 0)
    router.unsubscribe(TOPIC, 0)
    for number in range(1, 10):
        router.data_to_send(peer(number))
    router.heartbeat(1)
    assert not any(announced(router, *range(1, 10)).values())


def test_fanout_topics_are_announced_too() -> None:
    router = make_router(GossipConfig(score=QUIET, flood_publish=False))
    join(router, *range(1, 10))
    router.publish(TOPIC, b"", 0)
    for number in range(1, 10):
        router.data_to_send(peer(number))
    router.heartbeat(1)
    heard = announced(router, *range(1, 10))
    assert {peer(number) for number, ids in heard.items() if ids} == router.peers(TOPIC) - router.fanout(TOPIC)
