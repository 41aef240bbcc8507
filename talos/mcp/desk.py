"""The client's end of `mcp-connect`: its open requests, and its stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.mcp.endings import Owed
from talos.mcp.flight import Code, Flight, error_line
from talos.mcp.framing import Kind, LineDecoder, LongLine, members
from talos.mcp.inspecting import inspected
from talos.mcp.limits import McpLimits
from talos.mcp.turn import turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from talos.mcp.endings import McpExit
    from talos.mcp.framing import LineInfo

__all__ = ["FIRST_REQUEST_SECONDS", "READ_BYTES", "Desk", "answer_and_leave", "messages"]

READ_BYTES = 256 * 1024
WHOLE_BYTES = 512 * 1024
"""Lines that are written together are joined up to this."""
BATCH_LINES = 128
FIRST_REQUEST_SECONDS = 2.0
"""How long a failure waits for a request, so that it can be told."""
ERRORS_SECONDS = 2.0


async def answer_and_leave(
    stdin: trio.abc.ReceiveStream,
    stdout: trio.abc.SendStream,
    end: McpExit,
    *,
    reason: str = "failed",
    limits: McpLimits | None = None,
) -> McpExit:
    """For failures before there is a node: answers the first requests, within 2 seconds, with 5031. Gives `end`."""
    desk = Desk(stdout, limits or McpLimits())
    with trio.move_on_after(FIRST_REQUEST_SECONDS):
        decoder = LineDecoder(desk.limits.max_line)
        while not desk.requests.open and (data := await stdin.receive_some(READ_BYTES)):
            await desk.take(decoder.receive_data(bytes(data)))
    await desk.answer_all(Owed(Code.UNREACHABLE, reason))
    return end


class Desk:
    """The client's end: its requests, and its stdout, which one task writes to at a time."""

    def __init__(self, stdout: trio.abc.SendStream, limits: McpLimits) -> None:
        self.limits = limits
        self.requests = Flight(limits)
        self.first_request = trio.Event()
        self._stdout = stdout
        self._writing = trio.Lock()

    async def take(self, items: Iterable[bytes | LongLine | None]) -> list[tuple[bytes, LineInfo]]:
        """The lines of the client; its requests are known from here on. A line over our limit is answered."""
        lines: list[tuple[bytes, LineInfo]] = []
        for item in items:
            if item is None:
                await trio.lowlevel.checkpoint()
            elif isinstance(item, LongLine):
                await self.too_large(item.info, self.limits.max_line)
            else:
                info = await inspected(item)
                self.read(item, info)
                lines.append((item, info))
                if len(lines) % BATCH_LINES == 0:
                    await trio.lowlevel.checkpoint()
        return lines

    def read(self, line: bytes, info: LineInfo, seq: int = 0, now: float = 0.0) -> None:
        """A line was read, or has its number now: its requests will be owed an answer."""
        for each in messages(line, info):
            if each.kind is Kind.REQUEST:
                self.requests.opened(each, seq, now)
                self.first_request.set()

    async def too_large(self, info: LineInfo, limit: int) -> None:
        """Answers a line that cannot be sent, where it has an answer."""
        if info.kind in (Kind.REQUEST, Kind.OPAQUE):
            await self.write((error_line(Code.TOO_LARGE, "too-large", info.id_raw, limit=limit),))

    async def write(self, lines: Sequence[bytes]) -> None:
        """Whole lines, in order. trio.BrokenResourceError when nobody reads them any more."""
        async with turn(self._writing):
            pieces: list[bytes] = []
            size = 0
            for line in lines:
                pieces += (line, b"\n")
                size += len(line) + 1
            if size <= WHOLE_BYTES:
                await self._stdout.send_all(b"".join(pieces))
            else:
                for piece in pieces:  # a long line is not copied
                    await self._stdout.send_all(piece)

    async def answer_all(self, owed: Owed) -> None:
        """An error for each open request; a client that does not take them within 2 seconds goes without."""
        errors = [line for _, line in self.requests.owed(owed.code, owed.reason)]
        if not errors:
            return
        with trio.move_on_after(ERRORS_SECONDS):
            try:
                await self.write(errors)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # nobody is there to be told


def messages(line: bytes, info: LineInfo) -> Sequence[LineInfo]:
    """Those of a batch, else the line's own."""
    return members(line) if info.kind is Kind.BATCH else (info,)
