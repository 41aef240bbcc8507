"""One implementation under measurement: its listener, kept for a row, and its dialers."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from interop.process import PeerFailed, cpu_seconds, dial, listener, network
from interop.stack import LISTEN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from interop.process import Adapter, ListenerProcess

__all__ = ["Operated", "Side"]

DEADLINE_SECONDS = 120.0
NETWORK_STACK = "tcp/noise/yamux"
MAX_USES = {"py": 20}
"""After about 250 inbound connections py takes no more, so its listener is replaced in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operated:
    """The dialer's answer, and the CPU seconds that it cost both ends."""

    result: Mapping[str, Any]
    dialer_cpu: float
    listener_cpu: float


class Side:
    """Use as a context manager: leaving ends the listeners."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self._listeners: dict[str, ListenerProcess] = {}
        self._uses = 0
        self._stack = AsyncExitStack()

    @property
    def name(self) -> str:
        return self.adapter.name

    async def listening(self, stack: str) -> ListenerProcess:
        """The listener for `stack`, started when there is none."""
        if self._uses >= MAX_USES.get(self.name, math.inf):
            await self.aclose()
        self._uses += 1
        if stack not in self._listeners:
            listen = LISTEN[stack.partition("/")[0]]
            self._listeners[stack] = await self._stack.enter_async_context(listener(self.adapter, stack, listen))
        return self._listeners[stack]

    async def operate(self, stack: str, operation: str, **options: int) -> Operated:
        """Runs one dialer to its end; PeerFailed when it cannot, or not within a bound."""
        peer = await self.listening(stack)
        before = cpu_seconds(peer.pid)
        with trio.move_on_after(DEADLINE_SECONDS):
            result = await dial(self.adapter, peer.addr, stack, operation, options)
            return Operated(
                result=result, dialer_cpu=result["cpu_seconds"], listener_cpu=cpu_seconds(peer.pid) - before
            )
        raise PeerFailed(f"{self.name}: {operation} is not done within {DEADLINE_SECONDS:.0f} s")

    async def network(self, **options: object) -> Mapping[str, Any]:
        """What a whole network of this implementation, in one process, measured of itself; PeerFailed as above."""
        with trio.move_on_after(DEADLINE_SECONDS):
            return await network(self.adapter, NETWORK_STACK, **options)
        raise PeerFailed(f"{self.name}: the network is not done within {DEADLINE_SECONDS:.0f} s")

    async def aclose(self) -> None:
        """Ends the listeners; the next use starts new ones."""
        self._listeners.clear()
        self._uses = 0
        await self._stack.aclose()

    async def __aenter__(self) -> Side:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
