"""What writes judged lines to a server's stdin, in their order."""

from __future__ import annotations

import select
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio

from talos.muxed.doorbell import Doorbell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.mcp.link import Link
    from talos.mcp.pipes import PipeWriter

__all__ = ["THE_END", "Judged", "ServerSink"]

WRITE_BYTES = 256 * 1024
"""Short lines are written together up to this."""
SMALL_WRITE_BYTES = select.PIPE_BUF
"""So little the kernel takes whole or not at all."""


class Judged(NamedTuple):
    """What is done next: `line` is written if there is one, then `seq` reported as consumed if there is one."""

    line: bytes
    seq: int


THE_END = Judged(b"", 0)
"""The client has no more lines."""


class ServerSink:
    """The queue before a server's stdin; the window of the session bounds it, for nothing in it is consumed."""

    def __init__(self, stdin: PipeWriter, link: Link) -> None:
        self._stdin = stdin
        self._link = link
        self._queue: deque[Judged] = deque()
        self._bell = Doorbell()
        self._idle = False

    def put(self, *judged: Judged) -> None:
        """To be written behind what is there."""
        self._queue.extend(judged)
        self._bell.ring()

    def write_or_put(self, judged: Sequence[Judged]) -> None:
        """Spares the other task its turn, as long as the server takes what it is given."""
        if self._idle and not self._queue:
            data = b"".join([piece for line, _ in judged if line for piece in (line, b"\n")])
            if len(data) <= SMALL_WRITE_BYTES and self._written_at_once(data):
                self._consumed(judged[-1].seq)
                return
        self.put(*judged)

    def _written_at_once(self, data: bytes) -> bool:
        try:
            return not data or self._stdin.send_nowait(data) == len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False  # which the other task finds out too

    async def run(self) -> bool:
        """Writes until `THE_END`, which is True, or until the server takes no more."""
        while True:
            self._idle = True
            while not self._queue:
                await self._bell.wait()
            self._idle = False
            pieces, seq, ended = self._next()
            if not await self._write(pieces):
                return False
            self._consumed(seq)
            if ended:
                return True

    def _next(self) -> tuple[list[bytes], int, bool]:
        """What is written together, the seq that is consumed then, and whether that is all."""
        pieces: list[bytes] = []
        size = seq = 0
        while self._queue and size < WRITE_BYTES:
            judged = self._queue.popleft()
            if judged is THE_END:
                return pieces, seq, True
            if judged.line:
                pieces += (judged.line, b"\n")
                size += len(judged.line) + 1
            seq = judged.seq or seq
        return pieces, seq, False

    async def _write(self, pieces: list[bytes]) -> bool:
        try:
            if sum(map(len, pieces)) <= 2 * WRITE_BYTES:
                await self._stdin.send_all(b"".join(pieces))
            else:
                for piece in pieces:  # a long line is not copied
                    await self._stdin.send_all(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    def _consumed(self, seq: int) -> None:
        if seq:
            self._link.machine.consumed(seq, self._link.now())
            self._link.wake()
