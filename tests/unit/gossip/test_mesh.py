"""Who is in the mesh: GRAFT, PRUNE, back-offs, peer exchange, and what a heartbeat brings into bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from talos.gossip import wire
from talos.gossip.config import GossipConfig, GossipLimits
from talos.gossip.event import Candidate, Connect, Grafted, Pruned
from talos.gossip.score_config import ScoreConfig, ScoreThresholds, TopicScore
from talos.gossip.wire import Prune
from talos.identity.peer_record import SignedPeerRecord
from tests.unit.gossip.peers import (
    FLOODSUB,
    TOPIC,
    V1_0,
    V1_2,
    control,
    give,
    join,
    key,
    kinds,
    make_router,
    message,
    peer,
    rpc,
    sent,
    sent_control,
    woken,
)

if TYPE_CHECKING:
    from talos.gossip.router import Router

QUIET = ScoreConfig(default_topic=None, app_specific_weight=1.0)
"""Only what the application says counts."""


def router_with(*numbers: int, **changes: Any) -> Router:
    """A router whose mesh is made at the next heartbeat."""
    record_of = changes.pop("record_of", lambda _: None)
    changes.setdefault("score", QUIET)
    router = make_router(GossipConfig(**changes), record_of=record_of)
    router.subscribe(TOPIC, 0)
    join(router, *numbers)
    return router


def mesh_numbers(router: Router, upto: int = 40) -> set[int]:
    return {number for number in range(1, upto) if peer(number) in router.mesh(TOPIC)}


# ------------------------------------------------------------------------------------- GRAFT and PRUNE


def test_a_graft_is_taken() -> None:
    router = router_with(1)
    assert kinds(control(router, 1, wire.graft(TOPIC)), Grafted) == [Grafted(TOPIC, peer(1))]
    assert not control(router, 1, wire.graft(TOPIC))
    assert router.mesh(TOPIC) == {peer(1)}


def test_a_graft_says_that_the_peer_wants_the_topic() -> None:
    router = make_router(GossipConfig(score=QUIET))
    router.subscribe(TOPIC, 0)
    join(router, 1, topics=())
    control(router, 1, wire.graft(TOPIC))
    assert router.peers(TOPIC) == {peer(1)}
    assert peer(1) in router.mesh(TOPIC)


def test_a_graft_of_an_unknown_topic_leaves_nothing() -> None:
    router = router_with(1)
    assert not control(router, 1, wire.graft("unknown"))
    assert router.topics_of(peer(1)) == {TOPIC}
    assert sent_control(router, 1).prune == []


def test_a_floodsub_peer_has_no_control() -> None:
    router = router_with()
    join(router, 1, protocol=FLOODSUB)
    control(router, 1, wire.graft(TOPIC))
    router.heartbeat(1)
    assert not router.mesh(TOPIC)


def test_a_direct_peer_is_not_in_the_mesh() -> None:
    router = router_with(1, direct_peers=frozenset((peer(1),)))
    router.heartbeat(1)
    assert not router.mesh(TOPIC)
    assert woken(control(router, 1, wire.graft(TOPIC))) == {peer(1)}
    [prune] = sent_control(router, 1).prune
    assert (prune.topic, list(prune.peers), prune.backoff) == (TOPIC, [], 60)


def test_a_graft_within_the_backoff_is_refused_blamed_and_prolongs_it() -> None:
    router = router_with(1, 2)
    control(router, 1, wire.prune(Prune(TOPIC, backoff=30)))
    # 10 s after the PRUNE: only once. The flood threshold counts from its beginning, as if it were 60 s long.
    control(router, 1, wire.graft(TOPIC), now=29)
    assert router.score(peer(1)) == -10
    [prune] = sent_control(router, 1).prune
    assert prune.backoff == 60
    control(router, 1, wire.graft(TOPIC), now=31)
    assert router.score(peer(1)) == -90
    assert router.stats.grafts_refused == 2
    control(router, 2, wire.prune(Prune(TOPIC)))
    control(router, 2, wire.graft(TOPIC), now=59)
    assert router.score(peer(2)) == -10


def test_after_the_backoff_a_graft_is_taken() -> None:
    router = router_with(1)
    control(router, 1, wire.prune(Prune(TOPIC, backoff=30)))
    control(router, 1, wire.graft(TOPIC), now=30)
    assert peer(1) in router.mesh(TOPIC)


def test_a_peer_of_bad_score_is_refused_and_told_nobody() -> None:
    router = router_with(1, 2)
    router.set_application_score(peer(1), -1)
    control(router, 1, wire.graft(TOPIC))
    [prune] = sent_control(router, 1).prune
    assert list(prune.peers) == []


def test_a_full_mesh_takes_only_whom_we_dialled() -> None:
    router = router_with(*range(1, 7), d=3, d_lo=3, d_hi=3, d_out=1, d_score=2)
    join(router, 10, outbound=True)
    for number in range(1, 4):
        control(router, number, wire.graft(TOPIC))
    control(router, 4, wire.graft(TOPIC))
    assert mesh_numbers(router) == {1, 2, 3}
    [prune] = sent_control(router, 4).prune
    assert {raw for raw, _ in prune.peers} == {bytes(peer(one)) for one in (1, 2, 3, 5, 6, 10)}
    control(router, 10, wire.graft(TOPIC))
    assert mesh_numbers(router) == {1, 2, 3, 10}


@pytest.mark.parametrize(("said", "held"), [(None, 60), (0, 1), (30, 30), (2**63 - 1, 3600), (2**64 - 1, 3600)])
def test_a_backoff_holds_within_bounds(said: int | None, held: int) -> None:
    router = router_with(1)
    control(router, 1, wire.graft(TOPIC))
    prune = wire.prune(Prune(TOPIC, backoff=None if said is None else min(said, 2**63 - 1)))
    if said == 2**64 - 1:
        prune = b"\x22\x11\x0a\x04news\x18" + b"\xff" * 9 + b"\x01"
    assert kinds(control(router, 1, prune), Pruned) == [Pruned(TOPIC, peer(1))]
    for now in (1, held - 1, held + 0.5):
        router.heartbeat(now)
        assert not router.mesh(TOPIC)
    router.heartbeat(held + 1)
    assert router.mesh(TOPIC) == {peer(1)}


def test_a_prune_of_a_topic_not_ours_leaves_nothing() -> None:
    router = router_with(1)
    assert not control(router, 1, wire.prune(Prune("unknown", [(bytes(peer(9)), b"")], 9)))
    assert len(router._mesh._backoffs) == 0


def test_backoffs_outlive_a_connection() -> None:
    router = router_with(1)
    control(router, 1, wire.prune(Prune(TOPIC)))
    router.peer_left(peer(1), 1)
    join(router, 1, now=2)
    router.heartbeat(3)
    assert not router.mesh(TOPIC)


# ------------------------------------------------------------------------------------- subscriptions


def test_subscribing_grafts_those_who_want_it() -> None:
    router = make_router(GossipConfig(score=QUIET))
    join(router, *range(1, 10))
    effects = router.subscribe(TOPIC, 0)
    assert len(kinds(effects, Grafted)) == 6
    assert woken(effects) == {peer(number) for number in range(1, 10)}
    for number in range(1, 10):
        told = sent(router, number)
        assert told.subscriptions == [(True, TOPIC)]
        assert told.control is not None
        assert told.control.graft == ([TOPIC] if number in mesh_numbers(router) else [])


def test_subscribing_prefers_those_of_the_fanout() -> None:
    router = make_router(GossipConfig(score=QUIET, flood_publish=False))
    join(router, *range(1, 20))
    router.publish(TOPIC, b"", 0)
    before = router.fanout(TOPIC)
    assert len(before) == 6
    router.subscribe(TOPIC, 0)
    assert router.mesh(TOPIC) == before
    assert not router.fanout(TOPIC)


def test_unsubscribing_prunes_with_the_short_backoff() -> None:
    router = router_with(1, 2)
    router.heartbeat(1)
    for number in (1, 2):
        router.data_to_send(peer(number))
    assert len(kinds(router.unsubscribe(TOPIC, 2), Pruned)) == 2
    told = sent(router, 1)
    assert told.subscriptions == [(False, TOPIC)]
    assert told.control is not None
    assert [prune.backoff for prune in told.control.prune] == [10]
    router.subscribe(TOPIC, 3)
    assert not router.mesh(TOPIC)
    router.heartbeat(13.5)
    assert router.mesh(TOPIC) == {peer(1), peer(2)}


def test_who_does_not_want_the_topic_any_more_leaves_the_mesh() -> None:
    router = router_with(1)
    router.heartbeat(1)
    effects = router.receive(peer(1), rpc(wire.subscription(TOPIC, wanted=False)), 2)
    assert kinds(effects, Pruned)
    assert not router.peers(TOPIC)
    assert not router.receive(peer(1), rpc(wire.subscription(TOPIC, wanted=False)), 2)


# ------------------------------------------------------------------------------------- heartbeat


def test_a_thin_mesh_is_filled_up_to_d() -> None:
    router = router_with(*range(1, 11))
    effects = router.heartbeat(1)
    assert len(kinds(effects, Grafted)) == 6
    assert sum(sent_control(router, number).graft == [TOPIC] for number in range(1, 11)) == 6
    router.heartbeat(2)
    assert len(router.mesh(TOPIC)) == 6


def test_between_the_bounds_nothing_happens() -> None:
    router = router_with(*range(1, 11))
    for number in range(1, 6):
        control(router, number, wire.graft(TOPIC))
    router._config = replace(router._config, d_out=1)
    router._mesh._config = replace(router._config, d_out=1)
    router._neighbours.get(peer(1)).outbound = True  # type: ignore[union-attr]
    router.heartbeat(1)
    assert mesh_numbers(router) == {1, 2, 3, 4, 5}


def test_who_scores_below_zero_leaves() -> None:
    router = router_with(1, 2, 3)
    router.heartbeat(1)
    router.data_to_send(peer(1))
    router.set_application_score(peer(1), -1)
    assert kinds(router.heartbeat(2), Pruned) == [Pruned(TOPIC, peer(1))]
    [prune] = sent_control(router, 1).prune
    assert list(prune.peers) == []
    assert mesh_numbers(router) == {2, 3}
    router.heartbeat(3)
    assert mesh_numbers(router) == {2, 3}


def test_a_full_mesh_is_cut_and_the_best_and_our_own_stay() -> None:
    router = router_with(*range(1, 15))
    join(router, 20, 21, outbound=True)
    for number in (*range(1, 13), 20, 21):
        control(router, number, wire.graft(TOPIC))
    assert len(router.mesh(TOPIC)) == 14
    for number in (1, 2, 3, 4):
        router.set_application_score(peer(number), 10)
    router.heartbeat(1)
    assert {1, 2, 3, 4, 20, 21} == mesh_numbers(router)
    assert sum(len(sent_control(router, number).prune) for number in range(1, 13)) == 8


def test_a_cut_mesh_is_filled_by_chance_beyond_those() -> None:
    router = router_with(*range(1, 15))
    join(router, 20, outbound=True)
    for number in range(1, 14):
        control(router, number, wire.graft(TOPIC))
    control(router, 20, wire.graft(TOPIC))
    router.set_application_score(peer(20), 1)
    router.heartbeat(1)
    left = mesh_numbers(router)
    assert 20 in left
    assert len(left) == 6


def test_some_of_the_mesh_we_dialled() -> None:
    router = router_with(*range(1, 7))
    for number in range(1, 7):
        control(router, number, wire.graft(TOPIC))
    join(router, 20, 21, 22, outbound=True)
    router.heartbeat(1)
    found = mesh_numbers(router)
    assert set(range(1, 7)) <= found
    assert len(found & {20, 21, 22}) == 2


@pytest.mark.parametrize(("median", "grafted"), [(5, 2), (25, 0)])
def test_a_poor_mesh_looks_for_better_peers_now_and_then(median: float, grafted: int) -> None:
    thresholds = ScoreThresholds(opportunistic_graft_threshold=20.0)
    router = router_with(*range(1, 7), opportunistic_graft_ticks=3, score=replace(QUIET, thresholds=thresholds))
    for number in range(1, 7):
        control(router, number, wire.graft(TOPIC))
        router._neighbours.get(peer(number)).outbound = True  # type: ignore[union-attr]
        router.set_application_score(peer(number), median)
    join(router, *range(20, 25))
    for number in range(20, 24):
        router.set_application_score(peer(number), 6)
    router.heartbeat(1)
    router.heartbeat(2)
    assert mesh_numbers(router) == set(range(1, 7))
    router.heartbeat(3)
    found = mesh_numbers(router) - set(range(1, 7))
    assert len(found) == grafted
    assert 24 not in found


def test_backoffs_are_forgotten_in_time() -> None:
    router = router_with(1)
    control(router, 1, wire.prune(Prune(TOPIC, backoff=5)))
    for now in range(1, 16):
        router.heartbeat(now)
    assert len(router._mesh._backoffs) == 0


# ------------------------------------------------------------------------------------- peer exchange


def record(number: int) -> bytes:
    return SignedPeerRecord.make(key(number), [b"\x04\x7f\x00\x00\x01\x06\x0f\xa1"], 1).envelope.raw


def test_a_pruned_peer_is_told_others_with_their_records() -> None:
    records = {peer(2): record(2), peer(3): bytes(2000), peer(4): record(4)}
    router = router_with(1, 2, 3, 4, 5, record_of=records.get)
    router.set_application_score(peer(5), -1)
    router.heartbeat(1)
    for number in range(1, 5):
        router.data_to_send(peer(number))
    router.unsubscribe(TOPIC, 2)
    [prune] = sent_control(router, 1).prune
    told = {bytes(raw): bytes(envelope) for raw, envelope in prune.peers}
    assert told == {bytes(peer(2)): record(2), bytes(peer(3)): b"", bytes(peer(4)): record(4)}


def test_records_beyond_the_room_are_left_out() -> None:
    router = router_with(1, 2, 3, 4, record_of=lambda _: bytes(200), limits=GossipLimits(control_bytes=1000))
    router.heartbeat(1)
    router.unsubscribe(TOPIC, 2)
    [prune] = sent_control(router, 1).prune
    assert sorted(len(envelope) for _, envelope in prune.peers) == [0, 200, 200]


def test_no_peers_are_told_where_that_is_off_or_unknown_to_the_peer() -> None:
    router = router_with(1, 2, do_px=False)
    join(router, 3, protocol=V1_0)
    router.heartbeat(1)
    router.unsubscribe(TOPIC, 2)
    [prune] = sent_control(router, 1).prune
    assert (list(prune.peers), prune.backoff) == ([], 10)
    [prune] = sent_control(router, 3).prune
    assert (list(prune.peers), prune.backoff) == ([], None)


def test_peers_told_by_a_good_neighbour_are_worth_dialling() -> None:
    router = router_with(1, 2)
    router.set_application_score(peer(1), 10)
    told = [
        (bytes(peer(20)), record(20)),
        (bytes(peer(21)), b""),
        (bytes(peer(22)), record(23)),
        (bytes(peer(24)), b"junk"),
        (b"junk", b""),
        (bytes(peer(0)), b""),
        (bytes(peer(2)), b""),
    ]
    [effect] = kinds(control(router, 1, wire.prune(Prune(TOPIC, told, 60))), Connect)
    assert effect.candidates == (
        Candidate(peer(20), (b"\x04\x7f\x00\x00\x01\x06\x0f\xa1",), record(20)),
        Candidate(peer(21)),
    )
    assert not kinds(control(router, 1, wire.prune(Prune(TOPIC, [(b"junk", b"")], 60))), Connect)


def test_sixteen_are_taken_of_ten_thousand_told() -> None:
    router = router_with(1, limits=GossipLimits(control_bytes=1 << 20), score=None)
    told = [(b"\x12\x20" + number.to_bytes(32, "big"), b"") for number in range(10_000)]
    [effect] = kinds(control(router, 1, wire.prune(Prune(TOPIC, told, 60))), Connect)
    assert len(effect.candidates) == 16


def test_peers_told_by_others_are_not_heeded() -> None:
    router = router_with(1)
    router.set_application_score(peer(1), 9.9)
    assert not kinds(control(router, 1, wire.prune(Prune(TOPIC, [(bytes(peer(20)), b"")], 60))), Connect)


def test_the_score_of_a_mesh_peer_rises() -> None:
    topic = TopicScore(topic_weight=1.0, time_in_mesh_weight=1.0)
    router = router_with(score=ScoreConfig(default_topic=topic))
    join(router, 1, protocol=V1_2)
    router.heartbeat(1)
    router.heartbeat(3)
    give(router, 1, message(5), now=3)
    assert router.score(peer(1)) == 2 + 1
