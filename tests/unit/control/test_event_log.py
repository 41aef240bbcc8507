"""Events are numbered without gaps; what is lost is counted."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from talos.control.event_log import EventLog, EventLogConfig
from talos.errors import ConfigError


def numbers(log: EventLog, after: int) -> tuple[int, list[int]]:
    missed, events = log.after(after)
    return missed, [event.number for event in events]


def test_what_is_kept_and_what_is_missed() -> None:
    log = EventLog(EventLogConfig(events=3))
    assert numbers(log, 0) == (0, [])
    for number in range(5):
        log.append("x", {"n": number})
    assert numbers(log, 0) == (2, [3, 4, 5])
    assert numbers(log, 2) == (0, [3, 4, 5])
    assert numbers(log, 4) == (0, [5])
    assert numbers(log, 5) == (0, [])
    assert numbers(log, 99) == (0, [])
    assert json.loads(log.after(4)[1][0].data) == {"kind": "x", "n": 4}


def test_bytes_are_bounded_too_and_the_newest_always_stays() -> None:
    log = EventLog(EventLogConfig(size=100))
    log.append("x", {"t": "a" * 40})
    log.append("x", {"t": "b" * 40})
    assert numbers(log, 0) == (1, [2])
    log.append("x", {"t": "c" * 4000})
    assert numbers(log, 0) == (2, [3])


@pytest.mark.parametrize("wrong", [{"events": 0}, {"size": 0}])
def test_a_log_keeps_something(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        EventLogConfig(**wrong)


async def test_waiting_ends_with_the_event_or_with_the_log(autojump_clock: Any) -> None:
    log = EventLog()
    woken: list[str] = []

    async def wait(name: str, after: int) -> None:
        await log.wait_after(after)
        woken.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "first", 0)
        nursery.start_soon(wait, "second", 1)
        await trio.testing.wait_all_tasks_blocked()
        log.append("x", {})
        await trio.testing.wait_all_tasks_blocked()
        assert woken == ["first"]
        assert not log.over_after(1)
        log.close()
    assert woken == ["first", "second"]
    assert log.over_after(1)
    assert not log.over_after(0)
