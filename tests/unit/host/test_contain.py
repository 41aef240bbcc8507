"""The wall: what stops at it, what passes, and what is told."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import trio

from talos.abc import Event, HandlerFailed, ServiceFault, StreamReset
from talos.errors import LimitExceeded, RemoteProtocolError, StreamCode
from talos.host import contain as wall
from talos.host.contain import Owner, contain, contain_sync, is_expected_end, printable, reset_code


@pytest.fixture(autouse=True)
def _fresh_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wall, "_lines", wall._FaultLines())
    monkeypatch.setattr(wall._log, "filters", [])  # a node of another test may have left its rate there


async def fail(error: BaseException) -> None:
    await trio.lowlevel.checkpoint()
    raise error


@pytest.mark.parametrize(
    "error", [ValueError("v"), RecursionError(), MemoryError(), StreamReset(7, remote=True)], ids=repr
)
async def test_exceptions_end_here_and_are_told(error: Exception) -> None:
    told: list[Event] = []
    owner = Owner("/echo", told.append, protocol="/echo")
    await contain(owner, fail, error)
    await contain(owner, fail, ExceptionGroup("one", [ExceptionGroup("deep", [error])]))
    assert told == [HandlerFailed("/echo", None, "/echo", error)] * 2


async def test_a_group_of_several_is_told_as_it_is() -> None:
    told: list[Event] = []
    await contain(Owner("x", told.append), fail, ExceptionGroup("two", [ValueError(), KeyError()]))
    [fault] = told
    assert isinstance(fault, ServiceFault)
    assert isinstance(fault.exception, ExceptionGroup)
    assert [type(error) for error in fault.exception.exceptions] == [ValueError, KeyError]


async def test_what_works_is_handed_on() -> None:
    async def seven(n: int) -> int:
        await trio.lowlevel.checkpoint()
        return n

    assert await contain(Owner("x", lambda _: None), seven, 7) == 7


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
async def test_what_ends_programs_passes(error: BaseException) -> None:
    told: list[Event] = []
    with pytest.raises(type(error)):
        await contain(Owner("x", told.append), fail, error)
    assert told == []


async def test_cancellation_passes() -> None:
    told: list[Event] = []
    with trio.move_on_after(0) as scope:
        await contain(Owner("x", told.append), trio.sleep_forever)
    assert scope.cancelled_caught
    assert told == []


async def test_what_comes_together_with_a_cancellation_is_contained() -> None:
    told: list[Event] = []

    async def stubborn() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("late")

    with trio.move_on_after(0) as scope:
        await contain(Owner("x", told.append), stubborn)
        raise AssertionError("the cancellation was lost")
    assert scope.cancelled_caught
    [fault] = told
    assert isinstance(fault, ServiceFault)
    assert isinstance(fault.exception, ValueError)


async def test_a_mixed_group_is_split() -> None:
    told: list[Event] = []
    mixed = BaseExceptionGroup("mixed", [ValueError("v"), KeyboardInterrupt()])
    with pytest.raises(BaseExceptionGroup) as caught:
        await contain(Owner("x", told.append), fail, mixed)
    assert [type(error) for error in caught.value.exceptions] == [KeyboardInterrupt]
    assert len(told) == 1


def test_functions_that_do_not_wait_are_contained_too() -> None:
    told: list[Event] = []
    owner = Owner("gate", told.append)
    assert contain_sync(owner, lambda a, b: a + b, 1, 2) == 3
    assert contain_sync(owner, lambda: 1 // 0) is None
    assert isinstance(told[0], ServiceFault)
    assert isinstance(told[0].exception, ZeroDivisionError)


def test_one_line_for_each_owner_class_and_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("talos.host.contain.time", SimpleNamespace(monotonic=lambda: now))
    caplog.set_level(logging.INFO, "talos")

    def broken() -> None:
        raise ValueError("bad\r\n\x1b[2Jbytes")

    owner = Owner("x", lambda _: None)
    for _ in range(5):
        contain_sync(owner, broken)
    contain_sync(Owner("y", lambda _: None), broken)
    now = 61.0
    contain_sync(owner, broken)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        r"x failed: ValueError: bad\r\n\x1b[2Jbytes",
        r"y failed: ValueError: bad\r\n\x1b[2Jbytes",
        r"x failed: ValueError: bad\r\n\x1b[2Jbytes (4 more since the last such line)",
    ]
    assert not any(record.exc_info for record in caplog.records)


def test_tracebacks_are_for_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "talos")
    contain_sync(Owner("x", lambda _: None), lambda: 1 // 0)
    assert [bool(record.exc_info) for record in caplog.records] == [False, True]


def test_the_kinds_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wall, "MAX_LOGGED_KINDS", 3)
    for number in range(10):
        contain_sync(Owner(f"owner {number}", lambda _: None), lambda: 1 // 0)
    assert len(wall._lines._kinds) == 3


def test_expected_ends_are_no_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "talos")

    def gone() -> None:
        raise trio.BrokenResourceError

    contain_sync(Owner("x", lambda _: None), gone)
    assert caplog.records == []


def test_which_ends_are_expected() -> None:
    assert is_expected_end(StreamReset(0, remote=True))
    assert is_expected_end(ExceptionGroup("g", [trio.TooSlowError(), EOFError()]))
    assert not is_expected_end(ExceptionGroup("g", [trio.TooSlowError(), ValueError()]))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RemoteProtocolError("x"), StreamCode.PROTOCOL_VIOLATION),
        (ExceptionGroup("g", [ValueError(), LimitExceeded("x")]), StreamCode.RESOURCE_LIMIT),
        (StreamReset(StreamCode.GATED, remote=True), StreamCode.NONE),
        (KeyboardInterrupt(), StreamCode.NONE),
    ],
)
def test_what_the_peer_is_told(error: BaseException, code: StreamCode) -> None:
    assert reset_code(error) is code


def test_printable_is_one_short_line() -> None:
    assert printable("a\nb\u202e\ud800") == r"a\nb\u202e\ud800"
    assert len(printable("x" * 10_000)) == 300
