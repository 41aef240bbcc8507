"""What is recorded, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from talos.abc import AuditEntry, Direction, EntryKind
from talos.errors import AuditError, ConfigError
from talos.mcp.journal import ENTRY_BYTES, FLUSH_ENTRIES, FLUSH_SECONDS, Journal, check_mode
from talos.mcp.limits import McpLimits
from talos.mcp.stats import McpStats
from tests.mcp.harness import MemoryLog

if TYPE_CHECKING:
    from trio.testing import MockClock


def entries(count: int, size: int = 0) -> list[AuditEntry]:
    return [
        AuditEntry(
            kind=EntryKind.MCP_CALL,
            msg_id=number.to_bytes(16, "big"),
            direction=Direction.IN,
            counterparty=b"p",
            time_ms=0,
            detail=bytes(size),
        )
        for number in range(count)
    ]


def journal(log: MemoryLog | None, mode: str = "calls", limits: McpLimits | None = None) -> Journal:
    return Journal(log, mode, limits or McpLimits(), McpStats())


async def test_what_is_committed_takes_along_what_was_queued() -> None:
    log = MemoryLog()
    one = journal(log)
    first, second = entries(2)
    await one.queue([first])
    assert not log.entries
    await one.commit([second])
    assert log.entries == [first, second]
    assert log.commits == [2]
    await one.commit([])
    await one.flush()
    assert log.commits == [2]


async def test_what_is_queued_is_durable_soon(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    one = journal(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await wait_all_tasks_blocked()
        start = trio.current_time()
        await one.queue(entries(3))
        while not log.entries:  # noqa: ASYNC110 - on a virtual clock
            await trio.sleep(0.001)
        assert trio.current_time() - start <= FLUSH_SECONDS + 0.01
        await one.queue(entries(FLUSH_ENTRIES))
        await wait_all_tasks_blocked()
        assert log.commits == [3, FLUSH_ENTRIES]
        nursery.cancel_scope.cancel()


async def test_in_mode_each_everything_is_durable_at_once() -> None:
    log = MemoryLog()
    one = journal(log, "each")
    await one.queue(entries(1))
    assert len(log.entries) == 1


async def test_in_mode_off_nothing_is_written() -> None:
    one = journal(None, "off")
    assert not one.enabled
    await one.queue(entries(1))
    await one.commit(entries(1))
    await one.run()


def test_modes_are_checked() -> None:
    for mode, log in (("some", MemoryLog()), ("off", MemoryLog()), ("calls", None)):
        with pytest.raises(ConfigError):
            check_mode(mode, log)
    check_mode("each", MemoryLog())


@pytest.mark.parametrize("limits", [McpLimits(audit_queue_entries=8), McpLimits(audit_queue_bytes=8 * ENTRY_BYTES)])
async def test_a_full_queue_waits_and_then_gives_up(autojump_clock: MockClock, limits: McpLimits) -> None:
    log = MemoryLog()
    one = journal(log, limits=limits)
    log.stall = True
    with trio.move_on_after(1):
        await one.queue(entries(9))
    start = trio.current_time()
    with pytest.raises(AuditError, match="full"):
        await one.queue(entries(1))
    assert trio.current_time() - start == pytest.approx(5)
    log.stall = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await one.queue(entries(1))
        nursery.cancel_scope.cancel()
    assert len(log.entries) == 11


async def test_a_log_that_refuses_or_is_late_is_told(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    one = journal(log)
    log.refuse = True
    with pytest.raises(AuditError, match="full"):
        await one.commit(entries(1))
    log.refuse, log.stall = False, True
    with pytest.raises(AuditError, match="late"):
        await one.commit(entries(1))


async def test_a_cancelled_write_loses_nothing(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    one = journal(log)
    log.stall = True
    with trio.move_on_after(0.1):
        await one.commit(entries(2))
    log.stall = False
    await one.flush()
    assert log.entries == entries(2)
