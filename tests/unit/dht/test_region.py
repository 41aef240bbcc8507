"""The region query: everybody around a key, also when strangers have crowded in."""

from __future__ import annotations

import random

from talos.dht.key import common_prefix, kad_id
from talos.dht.query import LookupConfig
from talos.dht.region import MAX_PEERS, PARTS, RegionQuery
from tests.simulation.dht import by_region, eclipse
from tests.simulation.dht_network import Network, Search, random_peer

KEY = b"/example/key"
TARGET = kad_id(KEY)


def test_all_of_a_region_are_found() -> None:
    network = Network(400, random.Random(5))
    origin = network.honest()[0]
    bits = origin.table.region_bits()
    peers, messages, _ = by_region(network, origin, KEY)
    inside = {node.peer for node in network.honest() if common_prefix(node.kad, TARGET) >= bits} - {origin.peer}
    assert set(peers) == inside
    assert len(inside) >= 10
    assert messages < 400


def test_every_node_has_about_the_same_idea_of_the_network() -> None:
    network = Network(400, random.Random(5))
    sizes = sorted(node.table.network_size() for node in network.honest())
    assert 320 < sizes[200] < 480
    assert 200 < sizes[20] < sizes[380] < 800
    assert {node.table.region_bits() for node in network.honest()} <= {3, 4, 5}


def test_the_first_round_is_the_key_and_the_second_its_surroundings() -> None:
    rng = random.Random(6)
    query = RegionQuery(KEY, lambda target: [], own=random_peer(rng), bits=3, rng=rng)
    (first,) = query.to_run()
    assert first.key == KEY
    parts = query.to_run()
    assert [common_prefix(kad_id(lookup.key), TARGET) for lookup in parts] == list(range(3, 3 + PARTS))
    assert query.to_run() == []
    assert query.peers() == []
    assert query.addrs(random_peer(rng)) == ()


def test_addresses_are_those_that_answers_told() -> None:
    network = Network(30, random.Random(7))
    origin = network.honest()[0]
    query = RegionQuery(KEY, origin.table.nearest, own=origin.peer, bits=0, rng=network.rng)
    while lookups := query.to_run():
        for lookup in lookups:
            Search(network, origin, lookup, lambda search: None)
        network.clock.run()
    assert {info.peer for info in query.peers()} == {node.peer for node in network.honest()} - {origin.peer}
    assert any(query.addrs(node.peer) == node.info.addrs for node in network.honest())


def test_a_region_has_an_end() -> None:
    rng = random.Random(8)
    many = [random_peer(rng) for _ in range(MAX_PEERS + 50)]
    query = RegionQuery(KEY, lambda target: many, own=random_peer(rng), bits=0, rng=rng, config=LookupConfig(alpha=1))
    query.to_run()
    assert len(query.peers()) == MAX_PEERS
    assert [info.peer for info in query.peers()] == sorted(many, key=lambda peer: kad_id(peer.raw) ^ TARGET)[:MAX_PEERS]


def test_a_key_surrounded_by_sybils_is_found_by_its_region() -> None:
    network = Network(300, random.Random(9))
    result = eclipse(network, 20, 3)
    assert result.region.rate == 1.0
    assert result.lookup.rate < 0.5, "or the region query is not worth its messages"
