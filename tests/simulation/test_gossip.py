"""Smaller networks: what the documents say of gossip, as a test."""

from __future__ import annotations

import pytest

from tests.simulation.gossip import Outcome, attacks, calm, loss_and_churn, partition

pytestmark = pytest.mark.long

NODES = 60


def test_calm() -> None:
    assert calm(NODES).delivery == 1.0


@pytest.mark.parametrize("seed", [2, 20])
def test_loss_and_churn(seed: int) -> None:
    outcome = loss_and_churn(NODES, per_second=0.02, seed=seed)
    assert outcome.delivery == 1.0
    assert outcome.p99 <= 6


def test_partition_and_healing() -> None:
    for outcome in partition(NODES, seconds=10):
        assert outcome.delivery == 1.0


@pytest.mark.parametrize("number", range(len(list(attacks(NODES)))))
def test_attack(number: int) -> None:
    outcome: Outcome = list(attacks(NODES))[number]()
    assert outcome.delivery >= 0.999, outcome
    assert outcome.p99 <= 6, outcome
