"""Listening: accept for ever, survive a shortage, come back when the socket is gone."""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from talos.abc import ServiceFault
from talos.addr import ip_of, parse
from talos.errors import LimitExceeded, ListenError, RefusedByGate, TalosError
from talos.host.contain import Owner, contain, contain_sync

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from multiaddr import Multiaddr

    from talos.abc import Connection, Inbound, Listener, Transport
    from talos.host.events import EventBus
    from talos.host.limits import ConnectionScope, Limits

__all__ = ["ListenerConfig", "ListenerTask", "reachable_addrs"]

_log = logging.getLogger(__name__)

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
GONE_BY_THEMSELVES = frozenset({errno.ECONNABORTED, errno.EINTR, errno.EPROTO})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig:
    """How a listener waits when the system has nothing left, and when its socket is gone."""

    first_pause_seconds: float = 0.1
    """After EMFILE and its like; doubles with each further one."""
    longest_pause_seconds: float = 1.0
    relisten_seconds: tuple[float, ...] = (1.0, 5.0, 30.0, 60.0, 300.0)
    """Before each try to listen again; the last one repeats."""


class ListenerTask:
    """One address that is listened on, for as long as its task runs."""

    def __init__(
        self,
        transport: Transport,
        wanted: Multiaddr,
        *,
        limits: Limits,
        bus: EventBus,
        nursery: trio.Nursery,
        run_connection: Callable[[Connection, ConnectionScope], Awaitable[None]],
        changed: Callable[[], None],
        config: ListenerConfig | None = None,
    ) -> None:
        self.wanted = wanted
        self.addr: Multiaddr | None = None
        """Where it listens now; None while it cannot."""
        self.scope = trio.CancelScope()
        self._transport = transport
        self._limits = limits
        self._bus = bus
        self._nursery = nursery
        self._run_connection = run_connection
        self._changed = changed
        self._config = config or ListenerConfig()
        self._pause = 0.0

    async def listen(self) -> Listener:
        """ListenError when the address cannot be listened on."""
        listener = await self._transport.listen(self.wanted)
        self.addr = listener.addr
        self._changed()
        return listener

    async def run(self, listener: Listener | None = None) -> None:
        """Accepts until `scope` is cancelled; without a listener it makes one first, and tries for ever."""
        with self.scope:
            await contain(Owner("listener", self._bus.emit), self._run, listener)

    async def _run(self, listener: Listener | None) -> None:
        failures = 0
        while True:
            try:
                accepted = await self._accept_all(listener or await self.listen())
                failures = 0 if accepted else failures
            except ListenError as error:
                self._bus.emit(ServiceFault("listener", error))
            listener = None
            delays = self._config.relisten_seconds
            await trio.sleep(delays[min(failures, len(delays) - 1)])
            failures += 1

    async def _accept_all(self, listener: Listener) -> int:
        """How many were accepted before the socket was gone."""
        accepted = 0
        try:
            while True:
                inbound = await self._accept(listener)
                accepted += 1
                if inbound is not None:
                    self._admit(inbound)
        except (OSError, trio.ClosedResourceError) as error:
            _log.warning("listener on %s is gone: %s", self.addr, error)
            self._bus.emit(ServiceFault("listener", error))
            return accepted
        finally:
            self.addr = None
            self._changed()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await listener.aclose()

    async def _accept(self, listener: Listener) -> Inbound | None:
        """The next one, or None after a pause for want of descriptors or memory. OSError: the socket is gone."""
        try:
            inbound = await listener.accept()
        except OSError as error:
            if error.errno in GONE_BY_THEMSELVES:
                return None
            if error.errno not in SHORTAGES:
                raise
            config = self._config
            self._pause = min(max(2 * self._pause, config.first_pause_seconds), config.longest_pause_seconds)
            _log.warning("accept on %s pauses for %.1f s: %s", self.addr, self._pause, error)
            await trio.sleep(self._pause)
            return None
        self._pause = 0.0
        return inbound

    def _admit(self, inbound: Inbound) -> None:
        """Counts and gates before a byte is read; who is refused is closed unread."""
        life = trio.CancelScope()
        scope = contain_sync(Owner("limits", self._bus.emit), self._budget, inbound, life)
        if scope is None:
            inbound.refuse()
        else:
            self._nursery.start_soon(self._serve, inbound, scope, life)

    def _budget(self, inbound: Inbound, life: trio.CancelScope) -> ConnectionScope | None:
        """None for who is refused; whatever else the limits raise refuses as well, and is a fault."""
        try:
            return self._limits.inbound(inbound.remote_addr, life.cancel)
        except (LimitExceeded, RefusedByGate) as error:
            _log.info("inbound connection from %s refused: %s", inbound.remote_addr, error)
            return None

    async def _serve(self, inbound: Inbound, scope: ConnectionScope, life: trio.CancelScope) -> None:
        owner = Owner("connection", self._bus.emit)
        with life, scope:
            await contain(owner, self._open, inbound, scope, owner)

    async def _open(self, inbound: Inbound, scope: ConnectionScope, owner: Owner) -> None:
        stands = False
        try:
            async with inbound.open(scope) as connection:
                stands = True
                owner.peer = connection.remote_peer
                await self._run_connection(connection, scope)
        except TalosError as error:
            if stands:
                raise
            self._limits.count_failure(error)
            _log.info("inbound connection from %s came to nothing: %s", inbound.remote_addr, error)


def reachable_addrs(addr: Multiaddr) -> list[Multiaddr]:
    """Where `addr` can be dialled: a wildcard IP becomes the addresses of the interfaces."""
    ip = ip_of(addr)
    if ip is None or not ip.is_unspecified:
        return [addr]
    from multiaddr.utils import get_network_addrs

    loopback, family = ("127.0.0.1", "ip4") if ip.version == 4 else ("::1", "ip6")
    tail = str(addr).split("/", 3)[3]
    hosts = dict.fromkeys([*get_network_addrs(ip.version), loopback])
    return [parse(f"/{family}/{host}/{tail}") for host in hosts]
