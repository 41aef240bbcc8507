"""Two streams joined: what one gives, the other gets, until both have ended or a limit is reached."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from talos.errors import StreamCode

if TYPE_CHECKING:
    from talos.abc import Stream

__all__ = ["Pipe"]

CHUNK_BYTES = 16 * 1024

_log = logging.getLogger(__name__)


class Pipe:
    """One circuit. `carried` counts both ways; zero for `most_bytes` is no limit, each way has its own."""

    def __init__(self, one: Stream, other: Stream, *, most_bytes: int) -> None:
        self.carried = 0
        self._one = one
        self._other = other
        self._most = most_bytes

    async def run(self, first_of_one: bytes, first_of_other: bytes, *, seconds: float) -> None:
        """Carries until both sides have ended theirs. At a limit, or when one side breaks, both are reset.

        The bytes are those that had been read already.
        """
        with trio.CancelScope(deadline=trio.current_time() + seconds) as patience:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, self._one, self._other, first_of_one, nursery.cancel_scope)
                nursery.start_soon(self._copy, self._other, self._one, first_of_other, nursery.cancel_scope)
        if patience.cancelled_caught:
            self._reset()

    async def _copy(self, source: Stream, target: Stream, first: bytes, both: trio.CancelScope) -> None:
        carried = 0
        try:
            data: bytes | bytearray = first
            while data or (data := await source.receive_some(CHUNK_BYTES)):
                carried += len(data)
                if self._most and carried > self._most:
                    self._reset()
                    both.cancel()
                    return
                await target.send_all(data)
                self.carried += len(data)
                data = b""
            await target.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            _log.debug("circuit ended: %s", error)
            self._reset()
            both.cancel()

    def _reset(self) -> None:
        self._one.reset(StreamCode.NONE)
        self._other.reset(StreamCode.NONE)
