"""Traces and the rate of log lines."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio

from talos.host import log
from talos.host.limits import LimitsConfig, Rate
from talos.host.log import RateFilter
from talos.host.trace import Trace, TraceComplete, TraceFailed, TraceStarted

if TYPE_CHECKING:
    from talos.abc import Event


async def test_a_step_that_works(autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "talos.trace.dial")
    told: list[Event] = []
    with Trace("dial", told.append, peer="somebody\n") as trace:
        await trio.sleep(2)
        trace.facts["addr"] = "/memory/1"
    assert told == [TraceStarted(trace), TraceComplete(trace, 2.0)]
    assert [record.getMessage() for record in caplog.records] == [
        r"started peer=somebody\n",
        r"complete in 2000.0 ms peer=somebody\n addr=/memory/1",
    ]


async def test_a_step_that_fails(autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "talos.trace.dial")
    told: list[Event] = []
    error = ValueError("no")
    with pytest.raises(ValueError, match="no"), Trace("dial", told.append):
        raise error
    failed = told[-1]
    assert isinstance(failed, TraceFailed)
    assert failed.exception is error
    assert "failed in 0.0 ms (ValueError: no)" in caplog.text


async def test_a_step_that_is_cancelled_has_failed() -> None:
    told: list[Event] = []
    with trio.move_on_after(0), Trace("dial", told.append):
        await trio.sleep_forever()
    assert isinstance(told[-1], TraceFailed)


async def test_a_step_that_nobody_logs_is_still_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "talos")
    told: list[Event] = []
    with Trace("dial", told.append):
        pass
    assert len(told) == 2
    assert caplog.records == []


def record(message: str, *args: object, level: int = logging.INFO, name: str = "talos.x") -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, message, args, None)


def test_lines_of_a_category_have_a_rate() -> None:
    now = 0.0
    limiter = RateFilter(Rate(per_second=1, burst=2), clock=lambda: now)
    assert [limiter.filter(record("refused %s", n)) for n in range(5)] == [True, True, False, False, False]
    assert limiter.filter(record("another"))
    assert limiter.filter(record("refused %s", 0, name="talos.y"))
    now = 1.0
    line = record("refused %s", "100%")
    assert limiter.filter(line)
    assert line.getMessage() == "refused 100% (3 such lines before it suppressed)"
    assert not limiter.filter(record("refused %s", 9))


def test_lines_at_debug_always_pass() -> None:
    limiter = RateFilter(Rate(per_second=1, burst=1), clock=lambda: 0.0)
    assert all(limiter.filter(record("x", level=logging.DEBUG)) for _ in range(5))


def test_only_so_many_categories_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_CATEGORIES", 2)
    limiter = RateFilter(Rate(per_second=1, burst=1), clock=lambda: 0.0)
    for number in range(10):
        assert limiter.filter(record(f"line {number}"))
    assert len(limiter._categories) == 2


def test_install_puts_one_filter_on_each_logger_of_ours() -> None:
    ours, theirs = logging.getLogger("talos.test.install"), logging.getLogger("talosian")
    log.install()
    log.install(Rate(per_second=2, burst=3))
    assert len(ours.filters) == 1
    assert log._shared.rate == Rate(per_second=2, burst=3)
    log.install(LimitsConfig().log_rate)
    assert not any(isinstance(each, RateFilter) for each in theirs.filters)
