"""What a muxer's machine reports. Streams are named by the machine's own integer ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "DataReceived",
    "Event",
    "GoAwayReceived",
    "PeerSilent",
    "StreamAborted",
    "StreamEnded",
    "StreamOpened",
    "WindowOpened",
]


@dataclass(slots=True)
class StreamOpened:
    """The peer opened a stream: `accept` or `reset` it."""

    stream_id: int


@dataclass(slots=True)
class DataReceived:
    """Bytes for the application, which reports with `consumed` what it took of them."""

    stream_id: int
    data: bytes


@dataclass(slots=True)
class StreamEnded:
    """The peer will send no more on this stream; our direction is as it was."""

    stream_id: int


@dataclass(slots=True)
class StreamAborted:
    """The stream is gone, both ways, and its id means nothing any more. Not reported for our own `reset`."""

    stream_id: int
    code: int
    remote: bool


@dataclass(slots=True)
class WindowOpened:
    """`send` takes bytes again on a stream whose window was used up."""

    stream_id: int


@dataclass(slots=True)
class GoAwayReceived:
    """The peer takes no new streams and opens none; open ones go on."""

    code: int


@dataclass(slots=True)
class PeerSilent:
    """A ping was not answered in time: the connection is dead."""


Event: TypeAlias = (
    StreamOpened | DataReceived | StreamEnded | StreamAborted | WindowOpened | GoAwayReceived | PeerSilent
)
