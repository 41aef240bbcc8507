"""What a node is made of and how long it waits. Limits stand in `talos.host.limits`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, TypeAlias, cast

from talos.abc import ByteTransport, SecurityTransport, Transport
from talos.addr import parse, split_peer
from talos.errors import ConfigError
from talos.host.dial_machine import Stagger
from talos.host.limits import LimitsConfig
from talos.identity.keys import PrivateKey
from talos.muxer.yamux import Yamux
from talos.transport.tcp import Tcp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from multiaddr import Multiaddr

    from talos.abc import Gate, Muxer
    from talos.host.routes import Routes

__all__ = ["NodeConfig", "SecurityFactory", "Stack", "StackPart", "TimeoutsConfig", "TransportFactory"]

PLAINTEXT_ID = "/plaintext/2.0.0"

SecurityFactory: TypeAlias = Callable[[PrivateKey], SecurityTransport]
StackPart: TypeAlias = ByteTransport | Transport
TransportFactory: TypeAlias = Callable[[PrivateKey], Transport]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The layers of a node, each in order of preference."""

    transports: tuple[StackPart | TransportFactory, ...] = field(default_factory=lambda: (Tcp(),))
    """The first that matches an address carries it. One that proves our key itself may be a class that the node calls
    with it: `(Tcp(), Quic)`."""
    security: tuple[SecurityTransport | SecurityFactory, ...] = ()
    """Ready ones, or classes that the node calls with its key: `(Noise, Tls)`. Empty: Noise."""
    muxers: tuple[Muxer, ...] = field(default_factory=lambda: (Yamux(),))

    def __post_init__(self) -> None:
        if not self.transports:
            raise ConfigError("a stack needs a transport")
        if not self.muxers and any(isinstance(part, ByteTransport) for part in self.transports):
            raise ConfigError("a byte transport needs a muxer above it")
        for part in self.transports:
            if not isinstance(part, ByteTransport | Transport) and not callable(part):
                raise ConfigError(f"{part!r} is no transport")

    def securities(self, key: PrivateKey, *, insecure: bool = False) -> tuple[SecurityTransport, ...]:
        """The security transports of a node with that key; ConfigError for plaintext that nobody asked for."""
        if not self.security:
            from talos.security.noise import Noise

            return (Noise(key),)
        made = tuple(_made(part, key) for part in self.security)
        if not insecure:
            _refuse_plaintext(made)
        return made


def _made(part: SecurityTransport | SecurityFactory, key: PrivateKey) -> SecurityTransport:
    if isinstance(part, type) or not hasattr(part, "secure"):
        return cast("SecurityFactory", part)(key)
    return cast("SecurityTransport", part)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutsConfig:
    """Seconds. Each is a total: no byte that arrives extends it."""

    dial: float = 15.0
    """A whole dial: resolving names, all addresses, the upgrade."""
    connect: float = 5.0
    """Raw bytes to one address, before the upgrade."""
    authenticate: float = 10.0
    """From the connected bytes to the proven key of the peer."""
    upgrade: float = 15.0
    """From the connected bytes to the multiplexed connection, either side."""
    negotiate: float = 10.0
    """Agreement on the protocol of one stream."""
    open_stream: float = 15.0
    """A whole `open_stream` on a connection that stands."""
    flush: float = 2.0
    """At the end: telling the peers good-bye and sending what is queued. What the muxers need to close comes on top;
    with theirs as they are, leaving a node takes less than 5 s."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            seconds = getattr(self, entry.name)
            if not (math.isfinite(seconds) and seconds > 0):
                raise ConfigError(f"timeout {entry.name} must be a positive number of seconds, not {seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything that `open_node` needs; change one with `dataclasses.replace`."""

    key: PrivateKey | None = None
    """Who the node is; None makes a new Ed25519 key for its life."""
    listen: tuple[Multiaddr, ...] = ()
    """Where to listen, without `/p2p/…`. Empty: a node that only dials."""
    announce: tuple[Multiaddr, ...] | None = None
    """What to tell others instead of the addresses that are listened on, without `/p2p/…`."""
    stack: Stack = field(default_factory=Stack)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    timeouts: TimeoutsConfig = field(default_factory=TimeoutsConfig)
    stagger: Stagger = field(default_factory=Stagger)
    gates: tuple[Gate, ...] = ()
    """All of them have to allow a connection."""
    routes: tuple[Routes, ...] = ()
    """Handlers that are mounted before the first connection can come."""
    insecure: bool = False
    """Allows plaintext: for tests only, everybody on the path reads and changes everything."""

    def __post_init__(self) -> None:
        for addr in (*self.listen, *(self.announce or ())):
            if split_peer(parse(str(addr)))[1] is not None:
                raise ConfigError(f"address {addr} of this node must not end in /p2p/…")
        if not self.insecure:
            _refuse_plaintext(self.stack.security)


def _refuse_plaintext(parts: Iterable[object]) -> None:
    """Sees ready ones and classes; what another factory makes is looked at when it is made."""
    if any(getattr(part, "protocol_id", None) == PLAINTEXT_ID for part in parts):
        raise ConfigError("plaintext is refused without insecure=True")
