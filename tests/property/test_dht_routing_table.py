"""The routing table: whatever comes and goes, it is what its rules say."""

from __future__ import annotations

import hashlib
from collections import Counter

import hypothesis.strategies as st
from hypothesis import given

from talos.dht.key import common_prefix, kad_id
from talos.dht.routing_table import Added, RoutingTable, RoutingTableConfig
from talos.identity.peer_id import PeerId

PEERS = [PeerId(b"\x12\x20" + hashlib.sha256(bytes((n,))).digest()) for n in range(256)]
OWN = PEERS[0]
GROUPS = [None, (4, 16, 1), (4, 16, 2), (6, 32, 3)]
ANYBODY = st.sampled_from(PEERS)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), ANYBODY, st.sampled_from(GROUPS)),
        st.tuples(st.sampled_from(["heard", "failed", "remove"]), ANYBODY, st.none()),
    ),
    max_size=300,
)


def after(actions: list[tuple[str, PeerId, tuple[int, int, int] | None]], size: int) -> RoutingTable:
    table = RoutingTable(OWN, RoutingTableConfig(bucket_size=size))
    for now, (verb, peer, group) in enumerate(actions):
        before = set(table)
        match verb:
            case "add":
                outcome = table.add(peer, now, group)
                assert (outcome is Added.MEMBER) == (peer in table)
                assert before <= set(table), "nobody leaves for a newcomer"
            case "heard":
                table.heard(peer, now)
                assert before == set(table)
            case "failed":
                assert table.failed(peer) == (peer in before and peer not in table)
            case _:
                table.remove(peer)
                assert peer not in table
    return table


@given(ACTIONS, st.integers(1, 8))
def test_sizes_groups_and_memberships(
    actions: list[tuple[str, PeerId, tuple[int, int, int] | None]], size: int
) -> None:
    table = after(actions, size)
    members = table.snapshot()
    assert len(members) == len(table) == len({member.peer for member in members}) == sum(table.bucket_sizes().values())
    assert OWN not in table
    assert all(count <= size for count in table.bucket_sizes().values())
    buckets = Counter((common_prefix(kad_id(peer.raw), table.own_kad), group) for peer, group in members if group)
    assert all(count <= 2 for count in buckets.values())
    assert all(count <= 3 for count in Counter(group for _, group in members if group).values())
    again = RoutingTable(OWN, RoutingTableConfig(bucket_size=size))
    again.restore(members)
    assert again.snapshot() == members


@given(ACTIONS, st.binary(max_size=40), st.integers(0, 60), st.sets(ANYBODY, max_size=5))
def test_nearest_is_what_brute_force_finds(
    actions: list[tuple[str, PeerId, tuple[int, int, int] | None]], key: bytes, count: int, exclude: set[PeerId]
) -> None:
    table = after(actions, 20)
    target = kad_id(key)
    expected = sorted(set(table) - exclude, key=lambda peer: kad_id(peer.raw) ^ target)
    assert table.nearest(target, count, exclude=exclude) == expected[:count]
