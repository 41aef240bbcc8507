"""The routing table: seniority, caches, diversity, silence, and what is remembered."""

from __future__ import annotations

import hashlib
import random

import pytest

from talos.addr import parse
from talos.dht.key import common_prefix, kad_id
from talos.dht.routing_table import Added, Remembered, RoutingTable, RoutingTableConfig, address_group
from talos.errors import ConfigError
from talos.identity.peer_id import PeerId


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + hashlib.sha256(number.to_bytes(8, "big")).digest())


OWN = peer(0)
OWN_KAD = kad_id(OWN.raw)
MANY = [peer(number) for number in range(1, 2000)]


def in_bucket(number: int, count: int) -> list[PeerId]:
    found = [other for other in MANY if common_prefix(kad_id(other.raw), OWN_KAD) == number]
    assert len(found) >= count
    return found[:count]


def small(**changes: int) -> RoutingTable:
    return RoutingTable(OWN, RoutingTableConfig(bucket_size=2, **changes))


def test_ourselves_never_enter() -> None:
    table = RoutingTable(OWN)
    assert table.add(OWN, 0) is Added.REFUSED
    assert len(table) == 0
    assert OWN not in table


def test_each_bucket_keeps_k_and_the_senior_ones() -> None:
    table = RoutingTable(OWN)
    outcomes = [table.add(other, 0) for other in in_bucket(0, 25)]
    assert outcomes == [Added.MEMBER] * 20 + [Added.CACHED] * 5
    assert list(table) == in_bucket(0, 20)
    assert table.bucket_sizes() == {0: 20}


def test_the_newest_of_the_cache_takes_the_place_of_who_leaves() -> None:
    table = small()
    one, two, three, four = in_bucket(0, 4)
    for other in (one, two, three, four):
        table.add(other, 0)
    table.remove(one)
    assert set(table) == {two, four}
    table.remove(two)
    assert set(table) == {four, three}
    table.remove(three)
    table.remove(four)
    assert list(table) == []
    assert table.bucket_sizes() == {}


def test_who_is_in_a_cache_can_be_taken_out_of_it() -> None:
    table = small()
    one, two, three, four = in_bucket(0, 4)
    for other in (one, two, three, four):
        table.add(other, 0)
    table.remove(four)
    assert table.failed(three) is False
    table.remove(one)
    assert list(table) == [two]


def test_the_cache_has_an_end() -> None:
    table = small()
    for other in in_bucket(0, 2 + 11):
        table.add(other, 0)
    left = 0
    while len(table):
        table.remove(next(iter(table)))
        left += 1
    assert left == 2 + 10


def test_unknown_peers_are_no_matter() -> None:
    table = RoutingTable(OWN)
    table.remove(MANY[0])
    table.heard(MANY[0], 5)
    assert table.failed(MANY[0]) is False
    assert table.heard_at(MANY[0]) is None
    table.add(in_bucket(0, 1)[0], 0)
    table.remove(in_bucket(0, 2)[1])
    assert len(table) == 1


def test_the_second_failure_in_a_row_removes() -> None:
    table = RoutingTable(OWN)
    other = MANY[0]
    table.add(other, 0)
    assert table.failed(other) is False
    table.heard(other, 1)
    assert table.failed(other) is False
    assert other in table
    assert table.failed(other) is True
    assert other not in table


def test_quiet_members_are_told_longest_unheard_first() -> None:
    table = RoutingTable(OWN, RoutingTableConfig(quiet_seconds=300))
    first, second, third = MANY[:3]
    table.add(first, 10)
    table.add(second, 0)
    table.add(third, 11)
    assert table.quiet(299) == []
    assert table.quiet(310) == [second, first]
    assert table.add(second, 310) is Added.MEMBER
    assert table.heard_at(second) == 310
    assert table.quiet(310) == [first]


@pytest.mark.parametrize("shared", [0, 1, 3, 5])
def test_nearest_is_exact_wherever_the_target_lies(shared: int) -> None:
    table = RoutingTable(OWN)
    for other in MANY:
        table.add(other, 0)
    target = kad_id(in_bucket(shared, 1)[0].raw)
    expected = sorted(table, key=lambda other: kad_id(other.raw) ^ target)
    assert table.nearest(target) == expected[:20]
    assert table.nearest(target, 3) == expected[:3]
    assert table.nearest(target, 1000) == expected
    assert table.nearest(target, 3, exclude={expected[1]}) == [expected[0], expected[2], expected[3]]
    assert table.nearest(OWN_KAD) == sorted(table, key=lambda other: kad_id(other.raw) ^ OWN_KAD)[:20]


def test_a_group_has_few_in_the_table_and_fewer_in_a_bucket() -> None:
    table, group = RoutingTable(OWN), (4, 16, 0x0506)
    assert [table.add(other, 0, group) for other in in_bucket(0, 4)] == [Added.MEMBER] * 2 + [Added.REFUSED] * 2
    assert [table.add(other, 0, group) for other in in_bucket(1, 2)] == [Added.MEMBER, Added.REFUSED]
    assert table.add(in_bucket(2, 1)[0], 0, group) is Added.REFUSED
    assert table.add(in_bucket(2, 1)[0], 0, (4, 16, 0x0507)) is Added.MEMBER
    assert table.add(in_bucket(2, 2)[1], 0) is Added.MEMBER, "no group: exempt"
    table.remove(in_bucket(1, 1)[0])
    assert table.add(in_bucket(3, 1)[0], 0, group) is Added.MEMBER, "the place is free again"


def test_two_hundred_of_one_group() -> None:
    table = RoutingTable(OWN)
    for other in MANY[:200]:
        table.add(other, 0, (4, 16, 1))
    assert len(table) == 3
    assert max(table.bucket_sizes().values()) <= 2


def test_who_is_promoted_is_checked_again() -> None:
    table, group = small(per_group=1, per_group_in_bucket=1), (4, 16, 1)
    one, two, waiting, other_group = in_bucket(0, 4)
    table.add(one, 0)
    table.add(two, 0)
    assert table.add(other_group, 0, (4, 16, 2)) is Added.CACHED
    assert table.add(waiting, 0, group) is Added.CACHED, "there was none of the group yet"
    table.add(in_bucket(1, 1)[0], 0, group)
    table.remove(one)
    assert set(table) == {two, other_group, in_bucket(1, 1)[0]}
    table.remove(two)
    assert set(table) == {other_group, in_bucket(1, 1)[0]}, "nobody is left in the cache"


def test_promotion_within_the_group_of_who_left() -> None:
    table, group = small(per_group=1, per_group_in_bucket=1), (4, 16, 1)
    one, two, waiting = in_bucket(0, 3)
    table.add(one, 0)
    table.add(two, 0)
    table.add(waiting, 0, group)
    table.remove(one)
    assert waiting in table
    table.remove(waiting)
    assert table.add(one, 0, group) is Added.MEMBER


def test_refresh_keys_lie_in_each_bucket_and_the_last_is_our_own() -> None:
    table = RoutingTable(OWN, RoutingTableConfig(max_refresh_bits=3))
    rng = random.Random(1)
    assert table.refresh_keys(rng) == [OWN.raw]
    table.add(in_bucket(2, 1)[0], 0)
    *keys, last = table.refresh_keys(rng)
    assert [common_prefix(kad_id(key), OWN_KAD) for key in keys] == [0, 1, 2]
    assert last == OWN.raw
    table.add(in_bucket(6, 1)[0], 0)
    assert len(table.refresh_keys(rng)) == 4 + 1


def test_the_size_of_the_network_shows_in_the_buckets() -> None:
    table = RoutingTable(OWN)
    assert table.network_size() == 1
    assert table.region_bits() == 0
    for other in MANY[:30]:
        table.add(other, 0)
    assert table.network_size() == 31
    for other in MANY:
        table.add(other, 0)
    assert 1200 < table.network_size() < 3000
    assert table.region_bits() == (table.network_size() // 20).bit_length() - 1


def test_a_full_bucket_with_nothing_behind_it_is_counted() -> None:
    table = RoutingTable(OWN)
    for other in in_bucket(0, 30):
        table.add(other, 0)
    assert table.network_size() == 21


def test_a_snapshot_comes_back_quiet() -> None:
    table = RoutingTable(OWN)
    table.add(MANY[0], 100)
    table.add(MANY[1], 50, (4, 16, 9))
    remembered = table.snapshot()
    assert remembered == [Remembered(MANY[0], None), Remembered(MANY[1], (4, 16, 9))]
    again = RoutingTable(OWN)
    again.restore(remembered)
    assert again.snapshot() == remembered
    assert again.quiet(0) == MANY[:2]


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("/ip4/5.6.7.8/tcp/1", (4, 16, 0x0506)),
        ("/ip4/12.6.7.8/tcp/1", (4, 8, 12)),
        ("/ip6/2a00:1450:4001::1/tcp/1", (6, 32, 0x2A001450)),
        ("/ip4/10.0.0.1/tcp/1", None),
        ("/ip4/127.0.0.1/tcp/1", None),
        ("/memory/7", None),
    ],
)
def test_groups(text: str, group: tuple[int, int, int] | None) -> None:
    assert address_group(parse(text)) == group


@pytest.mark.parametrize(
    "wrong",
    [
        {"bucket_size": 0},
        {"quiet_seconds": 0},
        {"failures": 0},
        {"per_group": 1},
        {"per_group_in_bucket": 0},
        {"max_refresh_bits": 16},
    ],
)
def test_configurations_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        RoutingTableConfig(**wrong)
