"""Ranking, staggering and back-off, by hand-made clocks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.host.dial_machine import AddressGroup, Backoff, DialMachine, Rank, Stagger, plan

STAGGER = Stagger()
PUBLIC, PRIVATE, RELAYED = AddressGroup.PUBLIC, AddressGroup.PRIVATE, AddressGroup.RELAYED


def planned(ranks: dict[str, Rank]) -> list[tuple[float, str]]:
    return [(round(seconds, 6), addr) for seconds, addr in plan(ranks, ranks.__getitem__, STAGGER)]


def test_public_addresses_start_a_quarter_second_apart_ipv6_then_quic_then_lowest_port() -> None:
    ranks = {
        "v4 tcp 9": Rank(PUBLIC, port=9),
        "v4 tcp 1": Rank(PUBLIC, port=1),
        "v6 tcp 5": Rank(PUBLIC, ipv6=True, port=5),
        "v6 quic 7": Rank(PUBLIC, ipv6=True, quic=True, port=7),
        "v4 quic 8": Rank(PUBLIC, quic=True, port=8),
    }
    assert planned(ranks) == [
        (0.0, "v6 quic 7"),
        (0.25, "v6 tcp 5"),
        (0.5, "v4 quic 8"),
        (0.75, "v4 tcp 1"),
        (1.0, "v4 tcp 9"),
    ]


def test_private_and_public_start_together_and_relayed_half_a_second_later() -> None:
    ranks = {
        "relayed": Rank(RELAYED),
        "public": Rank(PUBLIC),
        "private 1": Rank(PRIVATE, port=1),
        "private 2": Rank(PRIVATE, port=2),
    }
    assert planned(ranks) == [(0.0, "private 1"), (0.0, "public"), (0.03, "private 2"), (0.5, "relayed")]


def test_relayed_alone_start_at_once() -> None:
    assert planned({"a": Rank(RELAYED), "b": Rank(RELAYED)}) == [(0.0, "a"), (0.25, "b")]


def test_an_address_given_twice_is_planned_once() -> None:
    assert plan(["a", "a"], lambda _: Rank(PUBLIC), STAGGER) == [(0.0, "a")]


def machine(*seconds: float, max_parallel: int = 8) -> DialMachine[int]:
    return DialMachine(list(zip(seconds, range(len(seconds)), strict=True)), max_parallel=max_parallel, now=100.0)


def test_starts_come_when_they_are_due() -> None:
    dial = machine(0.0, 0.25, 0.5)
    assert dial.deadline_passed(100.0) == [0]
    assert dial.next_deadline() == 100.25
    assert dial.deadline_passed(100.2) == []
    assert dial.deadline_passed(100.5) == [1, 2]
    assert dial.next_deadline() is None
    assert not dial.exhausted


def test_a_failure_starts_the_next_at_once_and_keeps_the_distance_behind_it() -> None:
    dial = machine(0.0, 0.25, 0.5)
    dial.deadline_passed(100.0)
    assert dial.failed(0, 100.01) == [1]
    assert dial.next_deadline() == pytest.approx(100.26)
    assert dial.failed(1, 100.02) == [2]
    assert dial.failed(2, 100.03) == []
    assert dial.exhausted


def test_a_late_failure_never_pushes_the_plan_back() -> None:
    dial = machine(0.0, 0.25, 0.5)
    dial.deadline_passed(100.3)
    assert dial.failed(0, 100.3) == [2]


def test_success_names_what_is_to_be_cancelled_and_starts_nothing_more() -> None:
    dial = machine(0.0, 0.0, 0.5)
    assert dial.deadline_passed(100.0) == [0, 1]
    assert dial.succeeded(1) == {0}
    assert dial.deadline_passed(200.0) == []
    assert dial.next_deadline() is None
    assert dial.exhausted


def test_no_more_than_the_parallel_limit_is_in_flight() -> None:
    dial = machine(*[0.0] * 5, max_parallel=2)
    assert dial.deadline_passed(100.0) == [0, 1]
    assert dial.next_deadline() is None
    assert dial.failed(0, 100.0) == [2]
    assert dial.in_flight == {1, 2}


def test_without_addresses_it_is_exhausted_at_once() -> None:
    assert machine().exhausted


@given(
    st.lists(st.floats(0, 3), max_size=30).map(sorted),
    st.integers(1, 8),
    st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=80),
)
def test_every_address_is_started_once_whatever_fails_when(
    seconds: list[float], max_parallel: int, steps: list[tuple[bool, float]]
) -> None:
    dial = machine(*seconds, max_parallel=max_parallel)
    now = 100.0
    started = dial.deadline_passed(now)
    for fails, wait in steps:
        now += wait
        if fails and dial.in_flight:
            started += dial.failed(min(dial.in_flight), now)
        else:
            started += dial.deadline_passed(now)
        assert len(dial.in_flight) <= max_parallel
    while not dial.exhausted:
        now += 1
        started += dial.failed(min(dial.in_flight), now) if dial.in_flight else dial.deadline_passed(now)
    assert started == list(range(len(seconds)))


# -- back-off


def backoff(jitter: float = 0.0, max_entries: int = 8192) -> Backoff[str]:
    return Backoff(random.Random(1), jitter=jitter, max_entries=max_entries)


def test_backoff_grows_with_the_square_of_the_failures_up_to_five_minutes() -> None:
    table, now, waits = backoff(), 0.0, []
    for _ in range(20):
        table.failed("a", now)
        waits.append(round(table.remaining("a", now), 6))
        now += waits[-1]
    assert waits[:4] == [5.0, 6.0, 9.0, 14.0]
    assert waits[-1] == 300.0
    assert table.remaining("a", now) == 0.0


def test_success_forgets_the_failures() -> None:
    table = backoff()
    table.failed("a", 0.0)
    table.failed("a", 0.0)
    table.succeeded("a")
    assert table.remaining("a", 0.0) == 0.0
    table.failed("a", 0.0)
    assert table.remaining("a", 0.0) == 5.0


def test_old_failures_are_forgotten() -> None:
    table = backoff()
    for _ in range(10):
        table.failed("a", 0.0)
    table.failed("a", 1000.0)
    assert table.remaining("a", 1000.0) == 5.0


def test_jitter_spreads_by_a_tenth_and_not_past_the_cap() -> None:
    table = backoff(jitter=0.1)
    for number in range(200):
        table.failed(str(number), 0.0)
    waits = {table.remaining(str(number), 0.0) for number in range(200)}
    assert len(waits) > 100
    assert all(4.5 <= wait <= 5.5 for wait in waits)
    for _ in range(50):
        table.failed("a", 0.0)
    assert table.remaining("a", 0.0) <= 300.0


def test_a_banished_key_stays_out_until_its_time() -> None:
    table = backoff()
    table.banish("a", 3600.0)
    assert table.remaining("a", 0.0) == 3600.0
    assert table.remaining("b", 0.0) == 0.0


def test_the_table_is_bounded_and_the_oldest_failure_leaves() -> None:
    table = backoff(max_entries=2)
    for key in ("a", "b", "a", "c"):
        table.failed(key, 0.0)
    assert len(table) == 2
    assert table.remaining("b", 0.0) == 0.0
    assert table.remaining("a", 0.0) > 0.0
