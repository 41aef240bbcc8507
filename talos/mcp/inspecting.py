"""Inspection of a line that gives way to other tasks while it is long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.mcp.framing import SMALL_LINE_BYTES, Inspection, inspect

if TYPE_CHECKING:
    from talos.mcp.framing import LineInfo

__all__ = ["inspected"]


async def inspected(line: bytes) -> LineInfo:
    """`inspect`, with a checkpoint after each slice of a long line and none for a short one."""
    if len(line) <= SMALL_LINE_BYTES:
        return inspect(line)
    steps = Inspection(line)
    for _ in steps:
        await trio.lowlevel.checkpoint()
    return steps.info
