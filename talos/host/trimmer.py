"""The number of connections, kept between a low and a high mark."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from talos.errors import ConnectionCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from talos.host.connection import HostConnection
    from talos.host.limits import ManagerLimits
    from talos.identity.peer_id import PeerId

__all__ = ["Trimmer"]

AGAIN_SECONDS = 10.0
"""Between two looks while there are too many, for connections that have grown old or fallen idle meanwhile."""


class Trimmer:
    """Closes connections down to the low mark once there are more than the high one.

    Those of kept peers, those that an application uses and those younger than the grace period stay; of the rest
    the youngest go first, for the oldest have proven their worth.
    """

    def __init__(
        self,
        limits: ManagerLimits,
        connections: Callable[[], Sequence[HostConnection]],
        close: Callable[[HostConnection, ConnectionCode], None],
        nursery: trio.Nursery,
    ) -> None:
        self._limits = limits
        self._connections = connections
        self._close = close
        self._nursery = nursery
        self._kept: Counter[PeerId] = Counter()
        self._standing = 0
        self._running = False

    @contextmanager
    def keeping(self, peer: PeerId) -> Iterator[None]:
        """Exempts a peer for the length of the block."""
        self._kept[peer] += 1
        try:
            yield
        finally:
            self._kept[peer] -= 1
            if not self._kept[peer]:
                del self._kept[peer]

    def added(self) -> None:
        """There is one more."""
        self._standing += 1
        if self._standing > self._limits.high and not self._running:
            self._running = True
            self._nursery.start_soon(self._run)

    def removed(self) -> None:
        """There is one less."""
        self._standing -= 1

    async def _run(self) -> None:
        while self._standing > self._limits.high:
            self._trim(trio.current_time())
            await trio.sleep(AGAIN_SECONDS)
        self._running = False

    def _trim(self, now: float) -> None:
        staying = [connection for connection in self._connections() if not connection.draining]
        old_enough = now - self._limits.grace_seconds
        idle = [
            connection
            for connection in staying
            if connection.opened_at <= old_enough and not connection.in_use and connection.remote_peer not in self._kept
        ]
        idle.sort(key=lambda connection: connection.opened_at, reverse=True)
        for connection in idle[: max(0, len(staying) - self._limits.low)]:
            self._close(connection, ConnectionCode.GARBAGE_COLLECTED)
