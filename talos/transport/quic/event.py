"""What the machine of a connection reports. Streams are named by their QUIC ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from talos.errors import TalosError

__all__ = [
    "Confirmed",
    "ConnectionEnded",
    "DataReceived",
    "Event",
    "IdIssued",
    "IdRetired",
    "Moved",
    "SendingStopped",
    "StreamAborted",
    "StreamEnded",
    "StreamOpened",
]


@dataclass(slots=True)
class Confirmed:
    """The handshake is done on both sides; the peer's key is proven."""


@dataclass(slots=True)
class StreamOpened:
    """The peer opened a stream."""

    stream_id: int


@dataclass(slots=True)
class DataReceived:
    """Bytes for the application, which reports with `consumed` what it took of them."""

    stream_id: int
    data: bytes


@dataclass(slots=True)
class StreamEnded:
    """The peer will send no more on this stream."""

    stream_id: int


@dataclass(slots=True)
class SendingStopped:
    """The peer reads no more of this stream; its own direction is as it was."""

    stream_id: int
    code: int


@dataclass(slots=True)
class StreamAborted:
    """The stream is gone, both ways. Not reported for our own `reset`."""

    stream_id: int
    code: int
    remote: bool


@dataclass(slots=True)
class IdIssued:
    """Packets to this connection id belong here from now on."""

    cid: bytes


@dataclass(slots=True)
class IdRetired:
    """The peer uses this connection id no more."""

    cid: bytes


@dataclass(slots=True)
class Moved:
    """The peer's address has changed and is proven."""

    address: tuple[str, int]


@dataclass(slots=True)
class ConnectionEnded:
    """Nothing more comes. `fault` says why, None for the peer's own good-bye with `code`."""

    code: int
    fault: TalosError | None


Event: TypeAlias = (
    Confirmed
    | StreamOpened
    | DataReceived
    | StreamEnded
    | SendingStopped
    | StreamAborted
    | IdIssued
    | IdRetired
    | Moved
    | ConnectionEnded
)
