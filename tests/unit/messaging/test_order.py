"""The order of messages: gaps, forks, late ones, and what is held."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from talos.messaging.order import Mark, Order, OrderLimits
from talos.messaging.payload import NONE
from talos.messaging.retry import delay

if TYPE_CHECKING:
    from talos.messaging.order import Placed


def digest(seq: int) -> bytes:
    return seq.to_bytes(32, "big") if seq else NONE


def put(
    order: Order[int], seq: int, *, now: float = 0.0, prev: bytes | None = None, size: int = 1
) -> list[Placed[int]]:
    return order.place(seq, seq, digest(seq), digest(seq - 1) if prev is None else prev, size, now)


def shown(placed: list[Placed[int]]) -> list[tuple[int, str]]:
    return [(one.item, one.mark.value) for one in placed]


@given(st.permutations(range(1, 12)))
def test_any_order_of_arrival_is_put_right(arrival: list[int]) -> None:
    order: Order[int] = Order()
    placed = [one for seq in arrival for one in put(order, seq)]
    assert shown(placed) == [(seq, "") for seq in range(1, 12)]
    assert order.next_deadline() is None
    assert (order.next_seq, order.last) == (12, digest(11))


def test_a_gap_is_given_up_after_its_time() -> None:
    order: Order[int] = Order()
    assert shown(put(order, 1)) == [(1, "")]
    assert shown(put(order, 3, now=5.0)) == []
    assert shown(put(order, 4, now=6.0)) == []
    assert order.next_deadline() == 35.0
    assert order.deadline_passed(34.9) == []
    assert shown(order.deadline_passed(35.0)) == [(3, "gap"), (4, "")]
    assert shown(put(order, 2, now=40.0)) == [(2, "gap")], "late, and no fork: it points to what was shown"


def test_what_is_held_is_bounded() -> None:
    order: Order[int] = Order(OrderLimits(messages=3, bytes=100))
    assert [shown(put(order, seq)) for seq in (3, 5, 7)] == [[], [], []]
    assert shown(put(order, 9)) == [(3, "gap")]
    assert shown(put(order, 11, size=99)) == [(5, "gap"), (7, "gap")], "by bytes"


def test_forks_are_marked_and_none_is_dropped() -> None:
    order: Order[int] = Order()
    put(order, 1)
    assert shown(put(order, 2, prev=b"\xff" * 32)) == [(2, "fork")], "points back to another message"
    assert shown(put(order, 2)) == [(2, "fork")], "the same number again"
    put(order, 5)
    assert shown(put(order, 5)) == [(5, "fork")], "while the first is held"
    order.deadline_passed(30.0)
    assert shown(put(order, 3, prev=b"\xee" * 32)) == [(3, "fork")], "late, behind another message than was shown"


def test_the_order_goes_on_after_a_restart() -> None:
    before: Order[int] = Order()
    put(before, 1)
    after: Order[int] = Order(next_seq=before.next_seq, last=before.last)
    assert shown(put(after, 2)) == [(2, "")]


def test_digests_of_the_past_are_forgotten() -> None:
    order: Order[int] = Order(OrderLimits(digests=2))
    for seq in range(1, 6):
        put(order, seq)
    assert shown(put(order, 1)) == [(1, "gap")], "too long ago to be called a fork"
    assert Mark.FORK.value == "fork"


def test_delays_double_up_to_a_quarter_of_an_hour() -> None:
    rng = random.Random(1)
    for attempt, least, most in ((0, 1.6, 2.4), (1, 3.2, 4.8), (8, 409, 615), (9, 720, 1080), (1000, 720, 1080)):
        assert all(least <= delay(attempt, rng) <= most for _ in range(50))
