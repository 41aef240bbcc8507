"""The resource manager: who holds what, and who is refused.

    system ⊃ (transient | peer) ⊃ connection ⊃ stream

An inbound connection also counts in its sources, a stream in its protocol and service, of all peers and of one.
Rules:

- A charge is agreed by the whole chain of scopes or not made. Nothing blocks.
- Connections are transient until their peer is proven, streams until their protocol is agreed.
- A full transient scope evicts the oldest half-open connection of the source that has most of them.
- A peer that has its number of connections loses the oldest one that no application uses.
- Scopes are `with` blocks. Leaving gives back what is left and counts it in `Limits.leaked`, which stays 0 in a
  program without mistakes. What is evicted is given back at once; its owner only learns to stop.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import trio

from talos.abc import Resource
from talos.errors import LimitExceeded
from talos.host.budget import ConnectionScope, Space, StreamScope
from talos.host.limit_tables import PeerTable
from talos.host.limits_config import (
    DialLimits,
    IpLimits,
    LimitsConfig,
    ManagerLimits,
    PeerstoreLimits,
    Rate,
    ScopeLimits,
    ServiceLimits,
)
from talos.host.scope import NAMES, as_tuple
from talos.host.source import in_prefixes, parse_prefixes, source_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiaddr import Multiaddr

    from talos.abc import Event, Gate
    from talos.errors import TalosError
    from talos.identity.peer_id import PeerId

__all__ = [
    "ConnectionScope",
    "DialLimits",
    "IpLimits",
    "Limits",
    "LimitsConfig",
    "ManagerLimits",
    "PeerstoreLimits",
    "Rate",
    "ScopeLimits",
    "ServiceLimits",
    "StreamScope",
]


def _nobody(*_: object) -> None:
    """Whom to tell where nobody wants to know."""


class Limits:
    """All scopes of one node.

    `gate` is asked at ACCEPT, SECURED_IN and SECURED_OUT, where the order of admission wants it; `emit` hears of a
    gate that raised. `refused` counts by scope and kind, `evicted` by reason, `failed` the inbound connections that
    came to nothing, by reason, `leaked` what blocks left behind.
    """

    def __init__(
        self,
        config: LimitsConfig | None = None,
        *,
        gate: Gate | None = None,
        clock: Callable[[], float] = trio.current_time,
        emit: Callable[[Event], None] = _nobody,
    ) -> None:
        self.config = config = config or LimitsConfig()
        self.gate = gate
        self.emit = emit
        self.leaked = 0
        self.refused: Counter[str] = Counter()
        self.evicted: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.peers: PeerTable[ConnectionScope] = PeerTable(config)
        self.connection_limits = as_tuple(config.connection)
        self.stream_limits = as_tuple(config.stream)
        self._clock = clock
        self._allowed_prefixes = parse_prefixes(config.allowed_prefixes)
        self._everybody = Space(config)
        self._allowed = Space(config, " (allow-listed)")

    def inbound(
        self, remote_addr: Multiaddr, evict: Callable[[], None] = _nobody, *, descriptors: int = 1
    ) -> ConnectionScope:
        """The budget of a connection of which no byte is read yet, as a `with` block.

        Asked in order: rate and count of its sources, system, gate ACCEPT, transient. Raises LimitExceeded or
        RefusedByGate. `evict` is called at most once, when the connection has to make room; it must not block.
        """
        source = source_of(remote_addr, exempt_loopback=self.config.ip.exempt_loopback)
        allowed = in_prefixes(source.ip, self._allowed_prefixes)
        space = self._allowed if allowed else self._everybody
        scope = ConnectionScope(self, space, remote_addr, evict, source)
        try:
            space.sources.admit(source, self._clock(), rated=not allowed)
            scope.open(Resource.CONN_IN, descriptors)
        except LimitExceeded as error:
            self.count_refusal(error)
            raise
        return scope

    def outbound(
        self, remote_addr: Multiaddr, evict: Callable[[], None] = _nobody, *, descriptors: int = 1
    ) -> ConnectionScope:
        """The budget of a connection that we dial, as `inbound` but without sources; the dialer asked the gate."""
        scope = ConnectionScope(self, self._everybody, remote_addr, evict, None)
        try:
            scope.open(Resource.CONN_OUT, descriptors)
        except LimitExceeded as error:
            self.count_refusal(error)
            raise
        return scope

    def snapshot(self) -> dict[str, int]:
        """What is held, by scope and counter; every value is 0 when no connection is open."""
        shared = [scope for space in (self._everybody, self._allowed) for scope in (space.system, space.transient)]
        groups = [*self.peers.protocols.values(), *self.peers.services.values()]
        held = {
            f"{scope.kind} {scope.subject}".rstrip() + f": {name}": used
            for scope in [*shared, *groups]
            for name, used in zip(NAMES, scope.used, strict=True)
        }
        sources = len(self._everybody.sources) + len(self._allowed.sources)
        return {**held, "peers": len(self.peers), "sources": sources}

    def count_refusal(self, error: LimitExceeded) -> None:
        self.refused[f"{error.scope}: {error.kind}"] += 1

    def count_failure(self, error: TalosError) -> None:
        """An inbound connection ended before it stood: by `handshake_timeout`, a limit or the class of `error`."""
        if isinstance(error.__cause__, trio.TooSlowError):
            reason = "handshake_timeout"
        elif isinstance(error, LimitExceeded) and error.kind:
            reason = error.kind.replace(" ", "_")
        else:
            reason = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
        self.failed[reason] += 1

    def space_of(self, peer: PeerId, otherwise: Space) -> Space:
        """Whose space the connections of `peer` fill."""
        return self._allowed if peer in self.config.allowed_peers else otherwise
