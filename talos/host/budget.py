"""The budgets that connections and streams charge, and the shared scopes above them."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Self

from talos.abc import GateStep, Resource
from talos.errors import LimitExceeded, LocalProtocolError
from talos.host import gate as gates
from talos.host.limit_tables import SourceTable
from talos.host.scope import COUNTERS, NAMES, Scope, SharedScope, as_tuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from multiaddr import Multiaddr

    from talos.abc import ProtocolId
    from talos.host.limit_tables import PeerScope
    from talos.host.limits import Limits
    from talos.host.limits_config import LimitsConfig
    from talos.host.scope import Holder
    from talos.host.source import Source
    from talos.identity.peer_id import PeerId

__all__ = ["ConnectionScope", "Space", "StreamScope"]

_MEMORY = COUNTERS[Resource.MEMORY]
_MEMORY_USED = _MEMORY[0]
_BOTH = frozenset({NAMES.index("connections"), NAMES.index("streams")})
"""Counters that are the sum of two others."""


class Space:
    """What all share: one space for everybody, a second of equal size for the allow-listed."""

    __slots__ = ("sources", "system", "transient")

    def __init__(self, config: LimitsConfig, suffix: str = "") -> None:
        system = as_tuple(config.system)
        self.system = SharedScope(f"system{suffix}", (*system[:-1], min(system[-1], _half_the_descriptors())))
        self.transient = SharedScope(f"transient{suffix}", as_tuple(config.transient))
        self.sources: SourceTable[ConnectionScope] = SourceTable(config.ip)


class ConnectionScope(Scope):
    """The budget of one connection; made by `Limits`."""

    __slots__ = (
        "_addr", "_closed", "_direction", "_evict", "_holder", "_limits", "_origin", "_own", "_peer", "_shared",
        "_source", "_space", "_streams_in_use", "evicted",
    )  # fmt: skip

    def __init__(
        self, limits: Limits, space: Space, addr: Multiaddr, evict: Callable[[], None], source: Source | None
    ) -> None:
        super().__init__("connection", limits.connection_limits)
        self._addr = addr
        self._closed = False
        self._direction = Resource.CONN_IN
        self._evict = evict
        self._holder: Holder | None = None
        self._limits = limits
        self._origin = space
        self._own = self.used
        self._peer: PeerScope[ConnectionScope] | None = None
        self._shared: tuple[SharedScope, ...] = (space.system, space.transient)
        self._source = source
        self._space = space
        self._streams_in_use = 0
        self.evicted = False

    @property
    def peer(self) -> PeerId | None:
        """Who it turned out to be."""
        return None if self._peer is None else self._peer.peer

    @property
    def in_use(self) -> bool:
        """Whether an application has a stream on it; identify and ping are none."""
        return self._streams_in_use > 0

    # ------------------------------------------------------------------------------- budget

    def reserve(self, kind: Resource, amount: int = 1) -> None:
        """As `Budget.reserve`."""
        if amount < 0:
            raise LocalProtocolError(f"cannot reserve {amount} {kind.value}")
        if self._closed:
            raise LimitExceeded("connection had to make room", scope=self.kind, kind=kind.value)
        counters = COUNTERS[kind]
        holder = self._holder
        try:
            self.admit(counters, amount)
            if holder is not None:
                holder.admit(counters, amount)
            for shared in self._shared:
                shared.admit_for(counters, amount, holder)
        except LimitExceeded as error:
            self._limits.count_refusal(error)
            raise
        self._charge(counters, amount)

    def release(self, kind: Resource, amount: int = 1) -> None:
        """As `Budget.release`; after an eviction there is nothing left to give back."""
        if self._closed:
            return
        counters = COUNTERS[kind]
        if not 0 <= amount <= self.used[counters[0]]:
            raise LocalProtocolError(f"cannot release {amount} {kind.value}, {self.used[counters[0]]} are reserved")
        self._charge(counters, -amount)

    def authenticated(self, peer: PeerId) -> None:
        """As `Budget.authenticated`; a refusal leaves the connection transient, and its owner closes it."""
        if self._peer is not None:
            raise LocalProtocolError("connection is authenticated already")
        limits = self._limits
        step = GateStep.SECURED_IN if self._direction is Resource.CONN_IN else GateStep.SECURED_OUT
        gates.check(limits.gate, step, peer, self._addr, limits.emit)
        if self._closed:
            raise LimitExceeded("connection had to make room", scope=self.kind, kind="connections")
        space = limits.space_of(peer, self._origin)
        scope = limits.peers.scope(peer)
        self._charge_above(-1)
        try:
            if self._source is not None:
                self._origin.sources.admit_authenticated(self._source)
            if (oldest := limits.peers.to_supplant(scope)) is not None:
                oldest.evict("supplanted")
                scope = limits.peers.scope(peer)
            scope.admit_all(self.used)
            space.system.admit_all_for(self.used, scope)
        except LimitExceeded as error:
            self._charge_above(1)
            limits.count_refusal(error)
            raise
        self._move(scope, space)

    # ------------------------------------------------------------------------------- life

    def open(self, direction: Resource, descriptors: int) -> None:
        """Makes the first charge; by `Limits`."""
        self._direction = direction
        own = [0] * len(NAMES)
        for counter in COUNTERS[direction]:
            own[counter] = 1
        own[COUNTERS[Resource.FD][0]] = descriptors
        system, transient = self._shared
        source = self._source
        holder = None if source is None else self._origin.sources.scope(source)
        self.admit_all(own)
        system.admit_all_for(own, holder)
        if source is not None:
            gates.check(self._limits.gate, GateStep.ACCEPT, None, self._addr, self._limits.emit)
        try:
            transient.admit_all_for(own, holder)
        except LimitExceeded:
            crowd = self._origin.sources.oldest_of_the_crowd()
            if source is None or crowd is None:
                raise
            crowd.evict("half-open")
            transient.admit_all_for(own, holder)
        if source is not None and holder is not None:
            self._origin.sources.enter(source, holder, self)
        self._holder = holder
        self.used = list(own)
        self._own = own
        self._charge_above(1)

    def evict(self, reason: str) -> None:
        """Gives everything back at once and tells the owner to stop; nothing counts as leaked."""
        self._limits.evicted[reason] += 1
        self.evicted = True
        self._close()
        self._evict()

    def stream(self, *, inbound: bool) -> StreamScope:
        """The budget of a stream before negotiation, as a `with` block; LimitExceeded when too many negotiate.

        The stream itself is charged to the connection by its muxer.
        """
        if self._peer is None or self._closed:
            raise LimitExceeded("no streams on this connection", scope=self.kind, kind="streams")
        return StreamScope(self._limits, self, self._peer, self._space.transient, inbound=inbound)

    def stream_in_use(self, change: int) -> None:
        """An application's stream came or went."""
        self._streams_in_use += change

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closed:
            return
        left = (
            used - own
            for counter, (used, own) in enumerate(zip(self.used, self._own, strict=True))
            if counter not in _BOTH
        )
        self._limits.leaked += sum(left)
        self._close()

    def _close(self) -> None:
        self._closed = True
        self._charge_above(-1)
        self.used = [0] * len(NAMES)
        if self._source is not None:
            self._origin.sources.leave(self._source, self)
        if self._peer is not None:
            self._limits.peers.leave(self._peer, self)

    def _move(self, scope: PeerScope[ConnectionScope], space: Space) -> None:
        """From transient to `scope`."""
        if self._source is not None:
            self._origin.sources.authenticated(self._source, self)
            if space is not self._origin:
                self._origin.sources.give_back(self._source)
        self._peer = self._holder = scope
        self._space = space
        self._shared = (space.system,)
        self._charge_above(1)
        self._limits.peers.enter(scope, self)

    def _charge(self, counters: tuple[int, ...], amount: int) -> None:
        self.add(counters, amount)
        if self._holder is not None:
            self._holder.add(counters, amount)
        for shared in self._shared:
            shared.add(counters, amount)

    def _charge_above(self, sign: int) -> None:
        """Charges all that is held to the scopes above, or takes it off them."""
        if self._holder is not None:
            self._holder.add_all(self.used, sign)
        for shared in self._shared:
            shared.add_all(self.used, sign)


class StreamScope(Scope):
    """The budget of one stream: transient until `negotiated`, then its protocol's and service's."""

    __slots__ = ("_connection", "_counters", "_groups", "_in_use", "_limits", "_peer", "_transient")

    def __init__(
        self,
        limits: Limits,
        connection: ConnectionScope,
        peer: PeerScope[ConnectionScope],
        transient: SharedScope,
        *,
        inbound: bool,
    ) -> None:
        super().__init__("stream", limits.stream_limits)
        self._connection = connection
        self._counters = counters = COUNTERS[Resource.STREAM_IN if inbound else Resource.STREAM_OUT]
        self._groups: tuple[Scope, ...] = ()
        self._in_use = False
        self._limits = limits
        self._peer = peer
        self._transient = transient
        try:
            transient.admit_for(counters, 1, peer.negotiating)
        except LimitExceeded as error:
            limits.count_refusal(error)
            raise
        self._charge_transient(1)

    def negotiated(self, protocol: ProtocolId) -> None:
        """`protocol` is agreed; LimitExceeded when it has too many streams, and the owner resets this one."""
        if self._groups:
            raise LocalProtocolError("stream is negotiated already")
        limits = self._limits
        groups = limits.peers.groups(self._peer, protocol)
        memory = self.used[_MEMORY_USED]
        try:
            for group in groups:
                group.admit(self._counters, 1)
                group.admit(_MEMORY, memory)
        except LimitExceeded as error:
            limits.count_refusal(error)
            raise
        self._charge_transient(-1)
        for group in groups:
            group.add(self._counters, 1)
            group.add(_MEMORY, memory)
        self._groups = groups
        self._in_use = limits.config.service_of.get(protocol) not in limits.config.background
        if self._in_use:
            self._connection.stream_in_use(1)

    def reserve(self, kind: Resource, amount: int = 1) -> None:
        """As `Budget.reserve`, for MEMORY held on behalf of this stream above its muxer."""
        if kind is not Resource.MEMORY:
            raise LocalProtocolError(f"a stream holds memory only, not {kind.value}")
        try:
            self.admit(_MEMORY, amount)
            for group in self._groups:
                group.admit(_MEMORY, amount)
        except LimitExceeded as error:
            self._limits.count_refusal(error)
            raise
        self._connection.reserve(kind, amount)
        self._charge_memory(amount)

    def release(self, kind: Resource, amount: int = 1) -> None:
        """As `Budget.release`."""
        if kind is not Resource.MEMORY or not 0 <= amount <= self.used[_MEMORY_USED]:
            raise LocalProtocolError(
                f"cannot release {amount} {kind.value}, {self.used[_MEMORY_USED]} bytes are reserved"
            )
        self._connection.release(kind, amount)
        self._charge_memory(-amount)

    def authenticated(self, peer: PeerId) -> None:  # noqa: ARG002 - the seam's shape
        """Streams are of authenticated connections."""
        raise LocalProtocolError("a stream is authenticated by its connection")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if memory := self.used[_MEMORY_USED]:
            if not self._connection.evicted:
                self._limits.leaked += memory
            self.release(Resource.MEMORY, memory)
        if self._groups:
            for group in self._groups:
                group.add(self._counters, -1)
        else:
            self._charge_transient(-1)
        if self._in_use:
            self._connection.stream_in_use(-1)

    def _charge_transient(self, amount: int) -> None:
        self._transient.add(self._counters, amount)
        self._peer.negotiating.add(self._counters, amount)

    def _charge_memory(self, amount: int) -> None:
        self.add(_MEMORY, amount)
        for group in self._groups:
            group.add(_MEMORY, amount)


def _half_the_descriptors() -> int:
    """The other half is for files, listeners and whatever else the process does."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, soft // 2) if soft != resource.RLIM_INFINITY else 1 << 62
