"""The byte stream of a circuit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.multistream import PrefixedStream

if TYPE_CHECKING:
    from talos.abc import Stream

__all__ = ["CircuitStream"]


class CircuitStream(PrefixedStream):
    """What a relay carries between two peers; `closed` is set when this side lets go of it."""

    def __init__(self, stream: Stream, prefix: bytes) -> None:
        super().__init__(stream, prefix)
        self._below = stream
        self.closed = trio.Event()

    def close(self) -> None:
        """Ends it at once, without a checkpoint."""
        self._below.reset()
        self.closed.set()

    async def aclose(self) -> None:
        """As the stream below."""
        try:
            await super().aclose()
        finally:
            self.closed.set()
