"""Client or server: what is mounted, and when that changes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from talos.abc import AddressConfirmed, AddressesChanged, Event, Reachability, ReachabilityChanged
from talos.dht.config import DhtMode, DhtScope

if TYPE_CHECKING:
    from types import TracebackType

    from talos.dht.server import Server
    from talos.dht.state import DhtState

__all__ = ["DhtModeChanged", "Modes"]


@dataclass(slots=True)
class DhtModeChanged(Event):
    """The node's DHT serves from now on, or no longer."""

    mode: DhtMode


class Modes:
    """Mounts and unmounts the server for the length of its block. Identify tells our peers, as of any handler."""

    def __init__(self, state: DhtState, server: Server) -> None:
        self.mode = DhtMode.CLIENT
        self._state = state
        self._server = server
        self._confirmed = False
        self._observing = ExitStack()
        self._mounted = ExitStack()

    def __enter__(self) -> Self:
        self._observing.enter_context(self._state.host.observe(self._observe))
        self._decide()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._observing.close()
        self._mounted.close()

    def _observe(self, event: Event) -> None:
        match event:
            case AddressConfirmed(addr=addr) if self._state.in_scope((addr,)):
                self._confirmed = True
                self._decide()
            case ReachabilityChanged(reachability=Reachability.PRIVATE) if self._confirmed:
                self._confirmed = False
                self._decide()
            case AddressesChanged():
                self._decide()

    def _decide(self) -> None:
        mode = self._wanted()
        if mode is self.mode:
            return
        self.mode = mode
        if mode is DhtMode.SERVER:
            mounted = self._state.host.mounted(self._state.config.protocol_id, self._server.serve)
            self._mounted.enter_context(mounted)
        else:
            self._mounted.close()
        self._state.host.emit(DhtModeChanged(mode))

    def _wanted(self) -> DhtMode:
        config = self._state.config
        if config.mode is not DhtMode.AUTO:
            return config.mode
        listens = config.scope is DhtScope.ANY and bool(self._state.host.addrs)
        return DhtMode.SERVER if self._confirmed or listens else DhtMode.CLIENT
