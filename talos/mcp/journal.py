"""What the tunnel writes into the audit log, and when: no record, no call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.errors import AuditError, ConfigError
from talos.muxed.doorbell import Doorbell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.abc import AuditEntry, AuditLog
    from talos.mcp.limits import McpLimits
    from talos.mcp.stats import McpStats

__all__ = ["MODES", "Journal", "check_mode"]

MODES = ("calls", "each", "off")
FLUSH_SECONDS = 0.05
FLUSH_ENTRIES = 256
ENTRY_BYTES = 384
"""Roughly what an entry takes besides what it keeps of its line."""


def check_mode(mode: str, log: AuditLog | None) -> None:
    """ConfigError when there is no such mode, or nothing to write to."""
    if mode not in MODES:
        raise ConfigError(f"audit mode {mode!r} is none of {', '.join(MODES)}")
    if (log is None) != (mode == "off"):
        raise ConfigError("an audit log is needed unless the mode is off")


class Journal:
    """Entries on their way to the log, in order. Everything raises AuditError once the log refuses or is late.

    `calls`: what `commit` gets is durable on return, what `queue` gets within 50 ms or 256 entries. `each`: both are
    durable on return. `off`: nothing is decided, and callers need not make entries.
    """

    def __init__(self, log: AuditLog | None, mode: str, limits: McpLimits, stats: McpStats) -> None:
        self.enabled = mode != "off"
        self._each = mode == "each"
        self._log = log
        self._limits = limits
        self._stats = stats
        self._queued: list[AuditEntry] = []
        self._queued_bytes = 0
        self._pending = 0
        self._pending_bytes = 0
        self._first = Doorbell()
        self._many = Doorbell()
        self._room = trio.Event()

    async def commit(self, entries: Sequence[AuditEntry]) -> None:
        """Durable on return, with all that was queued before."""
        if self.enabled and entries:
            self._add(entries)
            await self._flush()

    async def queue(self, entries: Sequence[AuditEntry]) -> None:
        """To be durable soon; waits while the queue is full."""
        if not self.enabled or not entries:
            return
        self._add(entries)
        if self._each:
            await self._flush()
            return
        self._first.ring()
        if len(self._queued) >= FLUSH_ENTRIES:
            self._many.ring()
        if self._is_full():
            with trio.move_on_after(self._limits.audit_late_seconds) as late:
                while self._is_full():
                    self._many.ring()
                    await self._room.wait()
            if late.cancelled_caught:
                raise AuditError("the audit log is late: its queue is full")

    async def flush(self) -> None:
        """Makes durable what is queued."""
        if self._queued:
            await self._flush()

    async def run(self) -> None:
        """Writes what is queued when its time has come, until cancelled; AuditError when the log refuses."""
        if not self.enabled:
            return
        while True:
            if not self._queued:
                await self._first.wait()
            with trio.move_on_after(FLUSH_SECONDS):
                while len(self._queued) < FLUSH_ENTRIES:
                    await self._many.wait()
            await self.flush()

    def _is_full(self) -> bool:
        limits = self._limits
        return self._pending > limits.audit_queue_entries or self._pending_bytes > limits.audit_queue_bytes

    def _add(self, entries: Sequence[AuditEntry]) -> None:
        self._queued.extend(entries)
        size = sum(ENTRY_BYTES + len(entry.detail) + len(entry.sealed) for entry in entries)
        self._queued_bytes += size
        self._pending += len(entries)
        self._pending_bytes += size
        self._stats.audit_queue += len(entries)

    async def _flush(self) -> None:
        entries, self._queued = self._queued, []
        size, self._queued_bytes = self._queued_bytes, 0
        assert self._log is not None
        decided = False
        try:
            with trio.fail_after(self._limits.audit_late_seconds):
                await self._log.record_many(entries)
            decided = True
        except trio.TooSlowError as error:
            decided = True
            raise AuditError(f"the audit log is over {self._limits.audit_late_seconds:g} seconds late") from error
        except AuditError:
            decided = True
            raise
        finally:
            if decided:
                self._forget(len(entries), size)
            else:  # cancelled: whoever flushes next writes them, and the log knows those that it has
                self._queued[:0] = entries
                self._queued_bytes += size

    def _forget(self, entries: int, size: int) -> None:
        self._pending -= entries
        self._pending_bytes -= size
        self._stats.audit_queue -= entries
        self._room.set()
        self._room = trio.Event()
