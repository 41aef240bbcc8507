"""Whose turn it is: weights, control first, nobody starves, and what is late or too much."""

from __future__ import annotations

import pytest

from talos.errors import LimitExceeded
from talos.messaging.schedule import QUANTUM_BYTES, Priority, Schedule

KIB = 1024


def test_a_text_goes_before_what_was_there_first() -> None:
    schedule = Schedule[str]()
    for number in range(100):
        schedule.add(Priority.BULK, f"slice {number}", 64 * KIB)
    schedule.add(Priority.BACKGROUND, "old", KIB)
    schedule.add(Priority.INTERACTIVE, "text", KIB)
    schedule.add(Priority.CONTROL, "ack", KIB)
    assert schedule.turn(0.0).items == ["ack", "text", "slice 0", "slice 1", "old"]
    schedule.add(Priority.INTERACTIVE, "another", KIB)
    assert schedule.turn(0.0).items == ["another", "slice 2", "slice 3"]


def test_shares_are_those_of_the_weights() -> None:
    """Each class always has something: of 15 parts they get 8, 4, 2, 1."""
    schedule, sent = Schedule[Priority](), dict.fromkeys(Priority, 0)
    classes = [priority for priority in Priority if priority is not Priority.CONTROL]
    for _ in range(30):
        for priority in classes:
            while schedule.waiting(priority) < 32:
                schedule.add(priority, priority, 30 * KIB)
        for gone in schedule.turn(0.0).items:
            sent[gone] += 30 * KIB
    shares = [sent[priority] / QUANTUM_BYTES / 30 for priority in classes]
    assert shares == pytest.approx([8, 4, 2, 1], abs=0.1)


def test_what_is_larger_than_a_share_goes_when_it_has_saved_enough() -> None:
    schedule = Schedule[str]()
    for _ in range(3):
        schedule.add(Priority.BACKGROUND, "large", 90 * KIB)
    for _ in range(40):
        schedule.add(Priority.INTERACTIVE, "text", 64 * KIB)
    turns = [schedule.turn(0.0).items.count("large") for _ in range(5)]
    assert turns == [0, 1, 1, 0, 1]
    alone = Schedule[str]()
    alone.add(Priority.BACKGROUND, "huge", 10 * 64 * KIB)
    assert alone.turn(0.0).items == ["huge"]
    assert alone.turn(0.0).items == []


def test_control_is_bounded_too() -> None:
    schedule = Schedule[str]()
    for _ in range(100):
        schedule.add(Priority.CONTROL, "ack", KIB)
    schedule.add(Priority.INTERACTIVE, "text", KIB)
    turn = schedule.turn(0.0)
    assert (turn.items.count("ack"), turn.items[-1]) == (64, "text")
    schedule.add(Priority.CONTROL, "large", 90 * KIB)
    assert schedule.turn(0.0).items.count("ack") == 36
    assert schedule.turn(0.0).items == ["large"]


def test_what_is_late_does_not_go() -> None:
    schedule = Schedule[str]()
    schedule.add(Priority.REALTIME, "late", 64 * KIB, deadline=1.0)
    schedule.add(Priority.REALTIME, "in time", 64 * KIB, deadline=3.0)
    turn = schedule.turn(2.0)
    assert (turn.late, turn.items) == (["late"], ["in time"])
    schedule.add(Priority.REALTIME, "late", KIB, deadline=1.0)
    turn = schedule.turn(2.0)
    assert (turn.late, turn.items, len(schedule)) == (["late"], [], 0)


@pytest.mark.parametrize(
    ("priority", "most"),
    [(Priority.CONTROL, 1024), (Priority.INTERACTIVE, 1024), (Priority.BULK, 128), (Priority.BACKGROUND, 256)],
)
def test_each_queue_has_its_limit(priority: Priority, most: int) -> None:
    schedule = Schedule[int]()
    for number in range(most):
        assert schedule.add(priority, number, 1) is None
    with pytest.raises(LimitExceeded):
        schedule.add(priority, most, 1)
    assert schedule.waiting(priority) == most
    assert schedule.clear() == list(range(most))
    assert not schedule


def test_of_a_full_live_queue_the_oldest_leaves() -> None:
    schedule = Schedule[int]()
    for number in range(64):
        assert schedule.add(Priority.REALTIME, number, 1) is None
    assert schedule.add(Priority.REALTIME, 64, 1) == 0
    assert schedule.turn(0.0).items == list(range(1, 65))
