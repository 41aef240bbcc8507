"""A session's entries on their way into the log."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from talos.mcp.journal import Journal
    from talos.mcp.transcript import MetaType, TranscriptEntries, Way

__all__ = ["Record", "now_ms"]

THREAD_BYTES = 1 << 20


@dataclass(slots=True)
class Record:
    """What makes the entries of a session, and what writes them."""

    entries: TranscriptEntries
    journal: Journal

    async def event(self, meta: MetaType, *, line: bytes | None = None, **fields: int | str | bytes) -> None:
        """Records what is of no line, durably. AuditError."""
        if self.journal.enabled:
            salt = secrets.token_bytes(32)
            entry = self.entries.event(meta, salt=salt, now_ms=now_ms(), line=line, **fields)
            await self.journal.commit((entry,))

    async def hashed(self, way: Way, seq: int, line: bytes) -> bytes | None:
        """The hash of a line that would hold up others; None for a small one, which the entry hashes by itself."""
        if len(line) < THREAD_BYTES:
            return None
        return await trio.to_thread.run_sync(self.entries.transcript.line_hash, way, seq, line)


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000
