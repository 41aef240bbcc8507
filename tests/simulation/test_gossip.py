"""Smaller networks: what the documents say of gossip, as a test."""

from __future__ import annotations

import pytest

from tests.simulation.gossip import PEACEFUL, loss_and_churn, play, scenes

pytestmark = pytest.mark.long

NODES = 48


@pytest.mark.parametrize("name", PEACEFUL)
def test_in_peace_everything_is_delivered(name: str) -> None:
    for outcome in play(name, NODES)[0]:
        assert outcome.delivery == 1.0, outcome
        assert outcome.p99 <= 6, outcome


def test_more_churn_than_that() -> None:
    outcome = loss_and_churn(NODES, loss=0.1, per_second=0.04, seed=20)
    assert outcome.delivery == 1.0, outcome


@pytest.mark.parametrize("name", [name for name in scenes(NODES) if name not in PEACEFUL])
def test_gs09_under_attack_nearly_everything_is_delivered(name: str) -> None:
    for outcome in play(name, NODES)[0]:
        assert outcome.delivery >= 0.999, outcome
        assert outcome.p99 <= 6, outcome
