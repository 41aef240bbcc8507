"""The lookup: it converges on a network of a thousand, and no answer, however false, leads it astray."""

from __future__ import annotations

import random
from functools import cache

import hypothesis.strategies as st
from hypothesis import given, settings

from talos.addr import parse
from talos.dht.key import kad_id
from talos.dht.peer import PeerInfo
from talos.dht.query import Lookup, LookupConfig, Purpose
from talos.identity.peer_id import PeerId
from tests.simulation.dht_network import Network, run

ADDRS = (parse("/ip4/127.0.0.1/tcp/1"),)
PEERS = [PeerId(b"\x12\x20" + random.Random(number).randbytes(32)) for number in range(60)]
OWN = PEERS[0]
CONFIG = LookupConfig(k=5, alpha=3, beta=2, disjoint_paths=3, max_peers=6, max_requests=25, max_false=2)


@cache
def thousand() -> Network:
    return Network(1000, random.Random(20))


@settings(max_examples=40)
@given(st.binary(min_size=1, max_size=40), st.integers(0, 999), st.sampled_from([Purpose.STORE, Purpose.REFRESH]))
def test_it_ends_with_the_nearest_of_a_thousand(key: bytes, number: int, purpose: Purpose) -> None:
    network = thousand()
    origin = list(network.nodes.values())[number]
    search = run(network, origin, key, purpose)
    target = kad_id(key)
    nearest = sorted(network.nodes.values(), key=lambda node: node.kad ^ target)
    expected = [node.peer for node in nearest if node is not origin]
    wanted = 20 if purpose is Purpose.STORE else 3
    assert search.lookup.closest(wanted) == expected[:wanted]
    assert search.lookup.hops <= 7


@given(
    st.sampled_from(Purpose),
    st.lists(st.sampled_from(PEERS), max_size=8),
    st.lists(
        st.tuples(st.integers(0, 9), st.lists(st.sampled_from(PEERS), max_size=12), st.booleans(), st.integers(0, 9)),
        max_size=80,
    ),
)
def test_whatever_is_answered(
    purpose: Purpose, seeds: list[PeerId], answers: list[tuple[int, list[PeerId], bool, int]]
) -> None:
    """Each tuple: which of the waiting peers, whom it names, whether with addresses, and 0 for a failure."""
    key = PEERS[7].raw
    lookup = Lookup(key, seeds, own=OWN, purpose=purpose, quorum=30, config=CONFIG)
    asked: list[PeerId] = []
    waiting: list[PeerId] = []
    answered = set()
    for which, named, with_addrs, luck in answers:
        new = lookup.to_ask()
        asked += new
        waiting += new
        assert lookup.waiting == len(waiting) <= CONFIG.alpha
        if not waiting:
            break
        peer = waiting.pop(which % len(waiting))
        if luck == 0:
            lookup.failed(peer)
            continue
        step = lookup.answered(peer, [PeerInfo(other, ADDRS if with_addrs else ()) for other in named], hits=luck % 3)
        answered.add(peer)
        assert step.taken <= min(CONFIG.max_peers, step.offered)
    assert len(asked) == len(set(asked)) == lookup.asked <= CONFIG.max_requests
    assert OWN not in asked
    assert set(lookup.closest(100)) <= answered
    assert waiting or lookup.to_ask() or lookup.done, "it has ended, or there is something to wait for"


@given(st.data())
def test_silence_ends_it(data: st.DataObject) -> None:
    purpose = data.draw(st.sampled_from(Purpose))
    lookup = Lookup(b"/x/y", PEERS[1:30], own=OWN, purpose=purpose, config=CONFIG)
    while not lookup.done:
        for peer in lookup.to_ask():
            lookup.failed(peer)
    assert lookup.asked == CONFIG.max_requests
    assert lookup.closest() == []
