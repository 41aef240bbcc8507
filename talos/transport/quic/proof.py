"""The test at the start: that the libraries below do what our security rests on, in memory and in milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from talos.errors import HandshakeError, NotSupported
from talos.transport.quic.config import QuicConfig
from talos.transport.quic.event import ConnectionEnded, StreamOpened
from talos.transport.quic.machine import QuicMachine

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.transport.quic.event import Event
    from talos.transport.quic.handshake import Credentials

__all__ = ["prove"]

_DIALER, _LISTENER = ("127.0.0.1", 1), ("127.0.0.1", 2)
_ROUNDS = 16


def prove(credentials: Credentials, make: Callable[..., QuicMachine] = QuicMachine) -> None:
    """Two handshakes with ourselves: one must succeed, the one without a certificate must fail. NotSupported if not."""
    dialer, listener, _ = _meet(make, credentials, credentials)
    if dialer.remote_key is None or dialer.remote_key != listener.remote_key:
        raise NotSupported("QUIC: the libraries installed make no connection; install the versions that Talos names")
    _, listener, events = _meet(make, None, credentials)
    refused = any(isinstance(event, ConnectionEnded) and isinstance(event.fault, HandshakeError) for event in events)
    if listener.confirmed or not refused or any(isinstance(event, StreamOpened) for event in events):
        raise NotSupported("QUIC: the libraries installed accept a dialer without a certificate")


def _meet(
    make: Callable[..., QuicMachine], dialing: Credentials | None, listening: Credentials
) -> tuple[QuicMachine, QuicMachine, list[Event]]:
    """Runs a handshake; what the listener reported."""
    wall_clock = datetime.now(UTC)
    ids = {"source": b"dialing.", "destination": b"original"}
    config = QuicConfig()
    dialer = make(config, dialing, dialer=True, remote=_LISTENER, now=0.0, wall_clock=wall_clock, **ids)
    ids["source"] = b"answers."
    listener = make(config, listening, dialer=False, remote=_DIALER, now=0.0, wall_clock=wall_clock, **ids)
    events: list[Event] = []
    for _ in range(_ROUNDS):
        for data, _to in dialer.datagrams_to_send(0.0, _ROUNDS):
            events += listener.receive(data, len(data), _DIALER, 0.0)
        for data, _to in listener.datagrams_to_send(0.0, _ROUNDS):
            dialer.receive(data, len(data), _LISTENER, 0.0)
    return dialer, listener, events
