"""What a tunnel machine reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from talos.mcp.wire import Accept, CloseCode, Open

__all__ = ["Closed", "Event", "LineArrived", "OpenArrived", "Opened", "PeerEof", "Refused", "WindowOpened"]


@dataclass(slots=True)
class OpenArrived:
    """At serve: judge `open`, whose field shapes are not checked yet, and call `accept`."""

    open: Open


@dataclass(slots=True)
class Opened:
    """At connect: the session is open."""

    accept: Accept


@dataclass(slots=True)
class Refused:
    """At connect: there will be no session."""

    accept: Accept


@dataclass(slots=True)
class LineArrived:
    """The next line of the peer; `consumed` is owed for it."""

    seq: int
    line: bytes


@dataclass(slots=True)
class WindowOpened:
    """`can_submit` said no, and the peer has consumed something since."""


@dataclass(slots=True)
class PeerEof:
    """The peer's source ended behind line `last`. Said once."""

    last: int


@dataclass(slots=True)
class Closed:
    """The session is over."""

    code: CloseCode | int | None
    """None: the stream was lost or the peer fell silent. A number that is no CloseCode is the peer's own."""
    text: str
    remote: bool
    """Whether the peer said so."""


Event: TypeAlias = OpenArrived | Opened | Refused | LineArrived | WindowOpened | PeerEof | Closed
