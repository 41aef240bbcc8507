"""A thousand nodes: what the documents say of the DHT, as a test."""

from __future__ import annotations

import math
import random

import pytest

from tests.simulation.dht import MISCHIEF, Churn, eclipse, find_peers, kill, misbehaving, revive, store_and_get
from tests.simulation.dht_network import Network

pytestmark = pytest.mark.long

NODES = 1000
HOPS = math.log2(NODES) / 2 + 2


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(NODES, random.Random(31))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_dead_nodes(network: Network, share: float) -> None:
    revive(network)
    rows = [store_and_get(network, 1000, "get", lambda: kill(network, share)), find_peers(network, 1000, "find")]
    for row in rows:
        assert row.rate >= (0.999 if share <= 0.2 else 0.99)
        assert row.median_hops <= HOPS


@pytest.mark.parametrize("name", MISCHIEF)
def test_a_third_misbehaves(network: Network, name: str) -> None:
    revive(network)
    for row in misbehaving(network, 300, name, MISCHIEF[name]):
        assert row.rate >= 0.99


@pytest.mark.parametrize("sybils", [20, 60])
def test_a_key_among_sybils(network: Network, sybils: int) -> None:
    revive(network)
    result = eclipse(network, sybils, 10)
    assert result.region.rate >= 0.95


def test_half_of_the_nodes_are_replaced_in_an_hour() -> None:
    churn = Churn(Network(200, random.Random(32)), 200)
    assert len(churn.get.hops) >= 150
    assert churn.get.rate >= 0.99
    assert churn.find.rate >= 0.99


def test_the_same_seed_gives_the_same_numbers() -> None:
    rows = [find_peers(Network(200, random.Random(33)), 50, "find") for _ in range(2)]
    assert rows[0] == rows[1]
