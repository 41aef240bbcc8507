"""What scores are made of (gossipsub v1.1, "Peer scoring"): weights, caps, decays and thresholds.

Names are the specification's, in lower case. The defaults of the peer-wide part and the thresholds are those
deployed by rust-libp2p. P3 and P3b weigh nothing by default: which rate of deliveries is right is the
application's knowledge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from talos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ScoreConfig", "ScoreThresholds", "TopicScore"]


def _check(holds: bool, what: str) -> None:  # noqa: FBT001 - an assertion
    if not holds:
        raise ConfigError(f"gossip score: {what}")


def _check_finite(config: object) -> None:
    for entry in fields(config):  # type: ignore[arg-type] # always a dataclass
        value = getattr(config, entry.name)
        if isinstance(value, float):
            _check(math.isfinite(value), f"{entry.name} must be finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreThresholds:
    """From which score on a peer gets what."""

    gossip_threshold: float = -10.0
    """Below it nothing is gossiped to or taken from the peer's gossip."""
    publish_threshold: float = -50.0
    """Below it our own messages are not flooded to the peer."""
    graylist_threshold: float = -80.0
    """Below it the peer's RPCs stay unread."""
    accept_px_threshold: float = 10.0
    """From it on the peers that it names in PRUNE are taken."""
    opportunistic_graft_threshold: float = 20.0
    """A mesh whose median is below it looks for better peers."""

    def __post_init__(self) -> None:
        _check_finite(self)
        _check(
            self.graylist_threshold < self.publish_threshold <= self.gossip_threshold < 0,
            "thresholds must rise: graylist < publish <= gossip < 0",
        )
        _check(self.accept_px_threshold >= 0, "accept_px_threshold must not be negative")
        _check(self.opportunistic_graft_threshold >= 0, "opportunistic_graft_threshold must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicScore:
    """How a peer's conduct in one topic counts. Times in seconds; a decay is what is left after one interval."""

    topic_weight: float = 0.5

    time_in_mesh_weight: float = 1.0
    """P1."""
    time_in_mesh_quantum: float = 1.0
    time_in_mesh_cap: float = 3600.0
    """In quanta."""

    first_message_deliveries_weight: float = 1.0
    """P2."""
    first_message_deliveries_decay: float = 0.5
    first_message_deliveries_cap: float = 2000.0

    mesh_message_deliveries_weight: float = 0.0
    """P3, at most 0."""
    mesh_message_deliveries_decay: float = 0.5
    mesh_message_deliveries_cap: float = 100.0
    mesh_message_deliveries_threshold: float = 20.0
    mesh_message_deliveries_window: float = 0.01
    """How long after a message was found valid another copy of it still counts."""
    mesh_message_deliveries_activation: float = 5.0
    """How long a peer is in the mesh before it owes deliveries."""

    mesh_failure_penalty_weight: float = 0.0
    """P3b, at most 0."""
    mesh_failure_penalty_decay: float = 0.5

    invalid_message_deliveries_weight: float = -1.0
    """P4, at most 0."""
    invalid_message_deliveries_decay: float = 0.3

    def __post_init__(self) -> None:
        _check_finite(self)
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name.endswith("_decay"):
                _check(0 < value < 1, f"{entry.name} must be within 0 and 1")
            elif entry.name.endswith(("_cap", "_quantum", "_threshold")):
                _check(value > 0, f"{entry.name} must be above 0")
            elif entry.name.endswith(("_window", "_activation")) or entry.name in (
                "topic_weight",
                "time_in_mesh_weight",
                "first_message_deliveries_weight",
            ):
                _check(value >= 0, f"{entry.name} must not be negative")
            else:
                _check(value <= 0, f"{entry.name} must not be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """How peers are scored, over all topics."""

    thresholds: ScoreThresholds = ScoreThresholds()
    topics: Mapping[str, TopicScore] = field(default_factory=dict)
    """Of the topics named here."""
    default_topic: TopicScore | None = TopicScore()
    """Of all other topics; None leaves them out of the score."""
    topic_score_cap: float = 3600.0
    """The most that all topics together give; 0 for no cap."""

    app_specific_weight: float = 10.0
    """P5."""

    ip_colocation_factor_weight: float = -5.0
    """P6, at most 0."""
    ip_colocation_factor_threshold: int = 10
    """So many peers of one address are none too many. Loopback and private addresses never count."""

    behaviour_penalty_weight: float = -10.0
    """P7, at most 0."""
    behaviour_penalty_threshold: float = 0.0
    behaviour_penalty_decay: float = 0.2

    decay_interval: float = 1.0
    decay_to_zero: float = 0.1
    """A counter below it becomes 0."""
    retain_score: float = 3600.0
    """How long a peer's bad score outlives its connection, in seconds."""
    retained_scores: int = 8192
    """Scores of peers that have left; the one that was left first leaves."""

    def __post_init__(self) -> None:
        _check_finite(self)
        _check(self.topic_score_cap >= 0, "topic_score_cap must not be negative")
        _check(self.ip_colocation_factor_weight <= 0, "ip_colocation_factor_weight must not be above 0")
        _check(self.ip_colocation_factor_threshold >= 1, "ip_colocation_factor_threshold must be above 0")
        _check(self.behaviour_penalty_weight <= 0, "behaviour_penalty_weight must not be above 0")
        _check(self.behaviour_penalty_threshold >= 0, "behaviour_penalty_threshold must not be negative")
        _check(0 < self.behaviour_penalty_decay < 1, "behaviour_penalty_decay must be within 0 and 1")
        _check(self.decay_interval > 0, "decay_interval must be above 0")
        _check(0 < self.decay_to_zero < 1, "decay_to_zero must be within 0 and 1")
        _check(self.retain_score >= 0, "retain_score must not be negative")
        _check(self.retained_scores >= 1, "retained_scores must be above 0")

    def of(self, topic: str) -> TopicScore | None:
        """How the topic counts; None when it does not."""
        return self.topics.get(topic, self.default_topic)
