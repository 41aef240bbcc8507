"""When a message that did not arrive is tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.errors import DialError, HandshakeError, LimitExceeded, NegotiationError, RefusedByGate, RoutingError
from talos.messaging.code import Code

if TYPE_CHECKING:
    from random import Random

__all__ = ["RETRYABLE", "UNREACHABLE", "delay"]

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 900.0
_DOUBLINGS = 9
"""2 s doubled so often is past the longest."""

UNREACHABLE = (
    DialError,
    HandshakeError,
    LimitExceeded,
    NegotiationError,
    RefusedByGate,
    RoutingError,
    EOFError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
)
"""What opening a stream and talking on it end in when the peer is not there."""

RETRYABLE = frozenset((Code.RATE_LIMITED, Code.STAMP_REQUIRED, Code.UNKNOWN_KEY, Code.BAD_TIMESTAMP, Code.BUSY))
"""Answers that may be others next time; every other one is final."""


def delay(attempt: int, random: Random) -> float:
    """Seconds before attempt number `attempt` (from 0) is repeated: doubled each time, at most 15 min, a fifth off."""
    return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(attempt, _DOUBLINGS)) * random.uniform(0.8, 1.2)
