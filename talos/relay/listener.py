"""A reservation as a listener: calls come from its relay, and waiting for them renews it."""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING

import trio
from multiaddr import Multiaddr

from talos import addr as addresses
from talos.abc import Role
from talos.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from talos.abc import Connection, Host
    from talos.identity.peer_id import PeerId
    from talos.relay.stream import CircuitStream
    from talos.relay.wire import Reservation

__all__ = ["CircuitListener", "relayed_addrs"]

RENEW_AT = 0.8
"""Of its time, a reservation is renewed."""
CIRCUIT = Multiaddr("/p2p-circuit")


class CircuitListener:
    """A `ByteListener` at one relay; made by `Circuit.listen`. One task accepts."""

    def __init__(
        self,
        host: Host,
        connection: Connection,
        reservation: Reservation,
        *,
        backlog: int,
        longest_seconds: float,
        renew: Callable[[PeerId], Awaitable[Reservation]],
        gone: Callable[[PeerId, str], None],
    ) -> None:
        self.relay = connection.remote_peer
        self.addrs = relayed_addrs(connection, reservation.addrs)
        """Where we are reached through it, without our own `/p2p/…`."""
        if not self.addrs:
            raise ListenError(f"relay {self.relay} has no address to tell others")
        self._backlog = backlog
        self._longest = longest_seconds
        self._renew = renew
        self._gone = gone
        self._calls: deque[tuple[CircuitStream, Multiaddr]] = deque()
        self._reason: str | None = None
        self._moved = trio.Event()
        self._renew_at = self._due(reservation)
        self._stack = ExitStack()
        self._stack.enter_context(host.announcing(self.addrs))
        self._stack.enter_context(host.keeping(self.relay))

    @property
    def addr(self) -> Multiaddr:
        return self.addrs[0]

    async def accept(self) -> tuple[CircuitStream, Multiaddr]:
        """The next call; ListenError when the reservation is gone and was not renewed."""
        while True:
            if self._calls:
                await trio.lowlevel.checkpoint()
                return self._calls.popleft()
            if self._reason is not None:
                raise ListenError(self._reason)
            with trio.CancelScope(deadline=self._renew_at):
                await self._moved.wait()
            self._moved = trio.Event()
            if trio.current_time() >= self._renew_at:
                await self._renew_now()

    async def aclose(self) -> None:
        """Takes no more calls; the relay is not told, for it has no message for that."""
        self._stack.close()
        while self._calls:
            self._calls.popleft()[0].close()
        self._gone(self.relay, self._reason or "no longer wanted")
        self._reason = self._reason or "closed"
        await trio.lowlevel.checkpoint()

    def lost(self) -> None:
        """The connection to the relay is gone, and the reservation with it."""
        self._fail(f"the connection to relay {self.relay} is gone")

    @property
    def full(self) -> bool:
        """Whether no call can be taken now."""
        return self._reason is not None or len(self._calls) >= self._backlog

    def put(self, circuit: CircuitStream, source: PeerId, relay_addr: Multiaddr) -> bool:
        """A call for `accept`; False when there is no room any more, or nobody who listens."""
        if self.full:
            return False
        through = addresses.with_peer(relay_addr, self.relay).encapsulate(CIRCUIT)
        self._calls.append((circuit, addresses.with_peer(through, source)))
        self._moved.set()
        return True

    async def _renew_now(self) -> None:
        try:
            self._renew_at = self._due(await self._renew(self.relay))
        except ListenError as error:
            self._fail(str(error))

    def _fail(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._moved.set()

    def _due(self, reservation: Reservation) -> float:
        """In trio's time; the wall clock says only how long the reservation lasts."""
        seconds = min(max(reservation.expire - time.time(), 0.0), self._longest)
        return trio.current_time() + max(RENEW_AT * seconds, 1.0) if seconds < math.inf else math.inf


def relayed_addrs(connection: Connection, told: tuple[bytes, ...]) -> tuple[Multiaddr, ...]:
    """`/…/p2p/<relay>/p2p-circuit` of the address where the relay was dialled, then of the others that it told.

    Those that are malformed, another peer's, or private where the relay is public, are left out.
    """
    relay, known = connection.remote_peer, addresses.split_peer(connection.remote_addr)[0]
    kept: dict[Multiaddr, None] = {}
    if connection.role is Role.DIALER:
        kept[addresses.with_peer(known, relay)] = None
    for addr in addresses.decode_each(told):
        if addresses.is_relayed(addr) or addresses.split_peer(addr)[1] not in (None, relay):
            continue
        if addresses.is_public(known) and not addresses.is_public(addr):
            continue
        kept[addresses.with_peer(addr, relay)] = None
    return tuple(addr.encapsulate(CIRCUIT) for addr in kept)
