"""Scores against tables computed by hand, from the formula of the specification."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from talos.errors import ConfigError
from talos.gossip.score import PeerScores
from talos.gossip.score_config import ScoreConfig, ScoreThresholds, TopicScore
from tests.unit.gossip.peers import peer

A, B = peer(1), peer(2)
PLAIN = TopicScore(
    topic_weight=1,
    time_in_mesh_weight=0,
    first_message_deliveries_weight=0,
    invalid_message_deliveries_weight=0,
)
PUBLIC = ip_address("8.8.8.8")


def scored(topic: TopicScore = PLAIN, **options: Any) -> PeerScores:
    """Scores with A connected; the topic is `t`."""
    config = ScoreConfig(topics={"t": topic}, default_topic=None, **options)
    scores = PeerScores(config, now=0, kept_topics=10)
    scores.joined(A, None)
    return scores


def test_nobody_is_scored_without_a_configuration() -> None:
    scores = PeerScores(None, now=0, kept_topics=10)
    scores.joined(A, PUBLIC)
    scores.invalid_delivery(A, "t")
    scores.misbehaved(A)
    scores.refresh(5)
    assert scores.score(A) == 0
    scores.left(A, 6)


def test_p1_time_in_mesh_in_quanta_up_to_its_cap() -> None:
    scores = scored(replace(PLAIN, topic_weight=0.5, time_in_mesh_weight=3, time_in_mesh_quantum=2, time_in_mesh_cap=4))
    scores.grafted(A, "t", 0)
    expected = {1: 0.5 * 3 * 0.5, 2: 3 * 1 * 0.5, 6: 3 * 3 * 0.5, 8: 3 * 4 * 0.5, 20: 3 * 4 * 0.5}
    for now, score in expected.items():
        scores.refresh(now)
        assert scores.score(A) == pytest.approx(score)
    scores.pruned(A, "t")
    assert scores.score(A) == 0


def test_p2_first_deliveries_capped_and_decaying() -> None:
    scores = scored(
        replace(
            PLAIN,
            topic_weight=2,
            first_message_deliveries_weight=1.5,
            first_message_deliveries_cap=3,
            first_message_deliveries_decay=0.5,
        )
    )
    for deliveries, score in ((1, 3.0), (2, 6.0), (3, 9.0), (4, 9.0)):
        scores.first_delivery(A, "t")
        assert scores.score(A) == pytest.approx(score), deliveries
    # 3 → 1.5 → 0.75 → 0.375 → 0.1875 → below 0.1: 0
    for now, left in enumerate((1.5, 0.75, 0.375, 0.1875, 0, 0), 1):
        scores.refresh(now)
        assert scores.score(A) == pytest.approx(left * 3)


P3 = replace(
    PLAIN,
    mesh_message_deliveries_weight=-2,
    mesh_message_deliveries_threshold=5,
    mesh_message_deliveries_cap=6,
    mesh_message_deliveries_decay=0.5,
    mesh_message_deliveries_activation=3,
    mesh_message_deliveries_window=1,
    mesh_failure_penalty_weight=-1,
    mesh_failure_penalty_decay=0.5,
)


def test_p3_the_deficit_counts_once_active() -> None:
    scores = scored(P3)
    scores.grafted(A, "t", 0)
    scores.refresh(3)
    assert scores.score(A) == 0
    scores.refresh(4)
    assert scores.score(A) == -2 * 5**2
    scores.first_delivery(A, "t")
    assert scores.score(A) == -2 * 4**2
    scores.near_first_delivery(A, "t")
    scores.near_first_delivery(A, "t", late_by=1)
    assert scores.score(A) == -2 * 2**2
    scores.near_first_delivery(A, "t", late_by=1.001)
    assert scores.score(A) == -2 * 2**2
    for _ in range(9):
        scores.near_first_delivery(A, "t")
    assert scores.score(A) == 0
    scores.refresh(5)  # 6 × 0.5 = 3, a deficit of 2
    assert scores.score(A) == -2 * 2**2


def test_p3_deliveries_outside_the_mesh_do_not_count() -> None:
    scores = scored(P3)
    scores.first_delivery(A, "t")
    scores.grafted(A, "t", 0)
    scores.refresh(4)
    assert scores.score(A) == -2 * 5**2


def test_p3b_what_was_owed_sticks() -> None:
    scores = scored(P3)
    scores.grafted(A, "t", 0)
    scores.refresh(4)
    scores.pruned(A, "t")
    assert scores.score(A) == -(5**2)
    scores.refresh(5)
    assert scores.score(A) == -(5**2) / 2
    # Back in the mesh: the old penalty stays, the new time begins without a deficit.
    scores.grafted(A, "t", 5)
    assert scores.score(A) == -(5**2) / 2


def test_p4_invalid_messages_squared() -> None:
    scores = scored(
        replace(PLAIN, topic_weight=0.5, invalid_message_deliveries_weight=-3, invalid_message_deliveries_decay=0.5)
    )
    for count, score in ((1, -1.5), (2, -6.0), (3, -13.5)):
        scores.invalid_delivery(A, "t")
        assert scores.score(A) == score, count
    scores.refresh(1)
    assert scores.score(A) == 0.5 * -3 * 1.5**2


def test_p5_the_application_has_its_say() -> None:
    scores = scored(app_specific_weight=2)
    scores.set_application(A, -7)
    assert scores.score(A) == -14
    scores.set_application(B, -7)
    assert scores.score(B) == 0


def test_p6_peers_on_one_public_address() -> None:
    scores = scored(ip_colocation_factor_weight=-5, ip_colocation_factor_threshold=2)
    together = [peer(number) for number in range(10, 14)]
    for count, score in enumerate((0, 0, -5, -20)):
        scores.joined(together[count], PUBLIC)
        assert all(scores.score(one) == score for one in together[: count + 1])
    assert scores.score(A) == 0
    scores.left(together[0], 1)
    assert scores.score(together[1]) == -5
    for one in together[1:]:
        scores.left(one, 1)
    scores.joined(together[0], PUBLIC)
    assert scores.score(together[0]) == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1", "fe80::1"])
def test_p6_is_off_for_addresses_that_are_not_public(address: str) -> None:
    scores = scored(ip_colocation_factor_threshold=1)
    for number in range(10, 14):
        scores.joined(peer(number), ip_address(address))
    assert scores.score(peer(10)) == 0


def test_p7_misbehaviour_beyond_the_threshold_squared() -> None:
    scores = scored(behaviour_penalty_weight=-10, behaviour_penalty_threshold=2, behaviour_penalty_decay=0.5)
    for count, score in ((1, 0), (2, 0), (3, -10), (4, -40)):
        scores.misbehaved(A)
        assert scores.score(A) == score, count
    scores.misbehaved(A, 2)
    assert scores.score(A) == -160
    scores.refresh(1)
    assert scores.score(A) == -10
    for now in range(2, 9):
        scores.refresh(now)
    assert scores.score(A) == 0
    scores.misbehaved(B)
    assert scores.score(B) == 0


def test_topics_together_are_capped_and_the_rest_is_not() -> None:
    topic = replace(PLAIN, first_message_deliveries_weight=10)
    config = ScoreConfig(default_topic=topic, topic_score_cap=25, app_specific_weight=1)
    scores = PeerScores(config, now=0, kept_topics=10)
    scores.joined(A, None)
    for name in ("a", "b"):
        scores.first_delivery(A, name)
        scores.first_delivery(A, name)
    scores.set_application(A, 3)
    assert scores.score(A) == 28
    uncapped = PeerScores(replace(config, topic_score_cap=0), now=0, kept_topics=10)
    uncapped.joined(A, None)
    for _ in range(4):
        uncapped.first_delivery(A, "a")
    assert uncapped.score(A) == 40


def test_topics_that_do_not_count_and_peers_that_are_not_there() -> None:
    scores = scored()
    scores.invalid_delivery(A, "another")
    scores.invalid_delivery(B, "t")
    assert (scores.score(A), scores.score(B)) == (0, 0)


def test_counted_topics_of_a_peer_are_bounded() -> None:
    config = ScoreConfig(default_topic=replace(PLAIN, invalid_message_deliveries_weight=-1))
    scores = PeerScores(config, now=0, kept_topics=2)
    scores.joined(A, None)
    for name in "abcd":
        scores.invalid_delivery(A, name)
    assert scores.score(A) == -2


def test_a_bad_score_outlives_the_connection() -> None:
    scores = scored(P3, retain_score=100, behaviour_penalty_weight=-1)
    scores.misbehaved(A, 3)
    scores.grafted(A, "t", 0)
    scores.refresh(0.5)
    scores.left(A, 1)
    assert scores.score(A) == -9
    scores.refresh(50)
    scores.joined(A, None)
    assert scores.score(A) == -9
    scores.left(A, 60)
    scores.refresh(160)
    assert scores.score(A) == 0
    scores.left(A, 161)


def test_a_good_score_does_not() -> None:
    scores = scored(replace(PLAIN, first_message_deliveries_weight=1))
    scores.first_delivery(A, "t")
    scores.left(A, 1)
    scores.joined(A, None)
    assert scores.score(A) == 0


def test_nothing_is_retained_of_who_did_nothing() -> None:
    scores = scored()
    scores.left(A, 1)
    assert not scores._retained


def test_retained_scores_are_bounded() -> None:
    scores = scored(retained_scores=2)
    for number in range(10, 13):
        scores.joined(peer(number), None)
        scores.misbehaved(peer(number))
        scores.left(peer(number), 1)
    assert [scores.score(peer(number)) for number in range(10, 13)] == [0, -10, -10]


def test_a_long_sleep_decays_once() -> None:
    scores = scored(behaviour_penalty_weight=-1, behaviour_penalty_decay=0.5)
    scores.misbehaved(A, 8)
    scores.refresh(0.5)
    assert scores.score(A) == -64
    scores.refresh(1000)
    assert scores.score(A) == -16
    scores.refresh(1000.9)
    assert scores.score(A) == -16
    scores.refresh(1001)
    assert scores.score(A) == -4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ScoreThresholds(gossip_threshold=0.0),
        lambda: ScoreThresholds(publish_threshold=-5.0),
        lambda: ScoreThresholds(graylist_threshold=-50.0),
        lambda: ScoreThresholds(accept_px_threshold=-1.0),
        lambda: ScoreThresholds(opportunistic_graft_threshold=-1.0),
        lambda: ScoreThresholds(gossip_threshold=float("nan")),
        lambda: TopicScore(topic_weight=-1.0),
        lambda: TopicScore(time_in_mesh_weight=float("inf")),
        lambda: TopicScore(time_in_mesh_quantum=0.0),
        lambda: TopicScore(first_message_deliveries_decay=1.0),
        lambda: TopicScore(mesh_message_deliveries_weight=1.0),
        lambda: TopicScore(mesh_message_deliveries_window=-1.0),
        lambda: TopicScore(mesh_message_deliveries_cap=0.0),
        lambda: ScoreConfig(topic_score_cap=-1.0),
        lambda: ScoreConfig(ip_colocation_factor_weight=1.0),
        lambda: ScoreConfig(ip_colocation_factor_threshold=0),
        lambda: ScoreConfig(behaviour_penalty_weight=1.0),
        lambda: ScoreConfig(behaviour_penalty_threshold=-1.0),
        lambda: ScoreConfig(behaviour_penalty_decay=0.0),
        lambda: ScoreConfig(decay_interval=0.0),
        lambda: ScoreConfig(decay_to_zero=1.0),
        lambda: ScoreConfig(retain_score=-1.0),
        lambda: ScoreConfig(retained_scores=0),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="gossip score"):
        wrong()
