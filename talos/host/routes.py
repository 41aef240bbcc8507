"""Which handler answers which protocol."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from talos.abc import Handler, ProtocolId
from talos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

__all__ = ["MAX_PROTOCOL_BYTES", "MAX_ROUTES", "Route", "Routes"]

MAX_ROUTES = 1000
"""What peers keep of us, and far more than a node serves."""
MAX_PROTOCOL_BYTES = 1022
"""A multistream line of 1024 bytes holds no longer name."""

H = TypeVar("H", bound=Handler)


@dataclass(frozen=True, slots=True)
class Route:
    """One mounted handler; `limited` admits relayed connections."""

    handler: Handler
    limited: bool = False


class Routes:
    """Handlers by protocol: a table that a node looks into, or one that is made before the node.

    Protocols are compared as exact strings; mounting one twice is a ConfigError.
    """

    def __init__(self, changed: Callable[[], None] | None = None) -> None:
        self._routes: dict[ProtocolId, Route] = {}
        self._on_limited: dict[ProtocolId, Route] = {}
        self._changed = changed

    @property
    def protocols(self) -> tuple[ProtocolId, ...]:
        """All that are mounted, oldest first."""
        return tuple(self._routes)

    def get(self, protocol: ProtocolId) -> Route | None:
        """Who serves it; None when nobody does."""
        return self._routes.get(protocol)

    def offered(self, *, limited: bool) -> Container[ProtocolId]:
        """What a connection may ask for; it follows later changes."""
        return self._on_limited if limited else self._routes

    def handle(self, *protocols: ProtocolId, limited: bool = False) -> Callable[[H], H]:
        """Decorator that mounts a handler for good."""
        if not protocols:
            raise ConfigError("handle needs at least one protocol")

        def mount(handler: H) -> H:
            self.add({protocol: Route(handler, limited) for protocol in protocols})
            return handler

        return mount

    @contextmanager
    def mounted(self, protocol: ProtocolId, handler: Handler, *, limited: bool = False) -> Iterator[None]:
        """Mounts a handler for the length of the block; streams that it serves by then go on."""
        self.add({protocol: Route(handler, limited)})
        try:
            yield
        finally:
            del self._routes[protocol]
            self._on_limited.pop(protocol, None)
            self._tell()

    def include(self, other: Routes) -> None:
        """Mounts what `other` holds now."""
        self.add(other._routes)

    def add(self, routes: dict[ProtocolId, Route]) -> None:
        """All of them or none."""
        for protocol in routes:
            if protocol in self._routes:
                raise ConfigError(f"{protocol} is mounted already")
            if not 0 < len(protocol.encode()) <= MAX_PROTOCOL_BYTES or "\n" in protocol:
                raise ConfigError(f"{protocol!r} cannot be the name of a protocol")
        if len(self._routes) + len(routes) > MAX_ROUTES:
            raise ConfigError(f"a node serves at most {MAX_ROUTES} protocols")
        self._routes.update(routes)
        self._on_limited.update({protocol: route for protocol, route in routes.items() if route.limited})
        self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()
