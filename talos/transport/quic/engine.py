"""The packet engine: qh3's native core, with everything it may raise turned into ours.

The core keeps packet numbers, acknowledgements, loss recovery, congestion, flow control, paths and stream buffers
(RFC 9000, 9002). It is an inner part of qh3, so the version is pinned and `Quic` tests it at its start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from qh3._hazmat import QuicConnectionCore

from talos.errors import RemoteProtocolError
from talos.transport.quic.packet import VERSION
from talos.transport.quic.parameters import Parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.transport.quic.config import QuicConfig

__all__ = ["EngineBroken", "guarded", "make_core", "parameters_of", "polled"]

T = TypeVar("T")

_NO_ROOM = "packet builder capacity exhausted"
ACK_DELAY_EXPONENT = 3
MAX_ACK_DELAY_SECONDS = 0.025
CONNECTION_IDS = 4
"""Of the peer that we keep, for migration."""
INITIAL_RTT_SECONDS = 0.1
FIRST_DATAGRAM_BYTES = 1200
"""Larger ones are tried as the path proves them (RFC 8899), up to an Ethernet frame."""


class EngineBroken(RemoteProtocolError):
    """The core panicked on what the peer sent, and cannot be used any more."""


def guarded(operation: Callable[..., T], *args: Any) -> T:
    """Calls the core. RemoteProtocolError for input it cannot go on with; EngineBroken when it panicked."""
    try:
        return operation(*args)
    except (RuntimeError, ValueError) as error:
        raise RemoteProtocolError(f"QUIC: {error}") from error
    except BaseException as error:  # a panic of native code is a BaseException of its own, and of no importable class
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise EngineBroken("QUIC: the engine broke") from error


def polled(poll: Callable[[float], T], now: float) -> T | None:
    """The next datagram, if there is one.

    The engine raises where the next frame does not fit what may be sent now, as before an address is proven; what it
    has queued stands, and goes out when more may.
    """
    try:
        return guarded(poll, now)
    except RemoteProtocolError as error:
        if _NO_ROOM in str(error):
            return None
        raise


def make_core(
    config: QuicConfig,
    *,
    dialer: bool,
    remote: tuple[Any, ...],
    source: bytes,
    destination: bytes,
    proven: bool,
    now: float,
) -> QuicConnectionCore:
    """A core for one connection; `proven` when the peer's address is."""
    return guarded(
        QuicConnectionCore,
        dialer,
        VERSION,
        ("::", 0) if ":" in remote[0] else ("0.0.0.0", 0),  # noqa: S104 - where packets go out is the socket's affair
        remote,
        source,
        destination,
        proven,
        CONNECTION_IDS,
        FIRST_DATAGRAM_BYTES,
        True,  # noqa: FBT003 - the engine takes positions only: paths are probed for larger datagrams
        config.idle_seconds,
        ACK_DELAY_EXPONENT,
        None,
        None,
        config.connection_window,
        0,
        config.stream_window,
        0,
        0,
        0,
        config.stream_window,
        config.max_inbound_streams,
        0,
        0,
        0,
        INITIAL_RTT_SECONDS,
        MAX_ACK_DELAY_SECONDS,
        now,
    )


def parameters_of(config: QuicConfig) -> Parameters:
    """What the core's settings are told the peer as."""
    return Parameters(
        idle_milliseconds=int(config.idle_seconds * 1000),
        max_data=config.connection_window,
        stream_data_bidi_local=config.stream_window,
        stream_data_bidi_remote=config.stream_window,
        max_streams_bidi=config.max_inbound_streams,
        active_connection_ids=CONNECTION_IDS,
    )
