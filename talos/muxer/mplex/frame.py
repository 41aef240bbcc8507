"""Mplex on the wire: two varints, then data (libp2p specification, mplex)."""

from __future__ import annotations

import enum

from talos.wire import varint

__all__ = [
    "MAX_FRAME_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_SENT_FRAME_BYTES",
    "MAX_STREAM_ID",
    "PROTOCOL_ID",
    "Flag",
    "header",
]

PROTOCOL_ID = "/mplex/6.7.0"

MAX_STREAM_ID = (1 << 60) - 1
"""So that the id and three bits of flag fit a varint of nine bytes."""

MAX_FRAME_BYTES = 1024 * 1024
MAX_SENT_FRAME_BYTES = 64 * 1024
MAX_HEADER_BYTES = 2 * varint.MAX_BYTES


class Flag(enum.IntEnum):
    """What a frame is. Initiator and receiver name the **sender's** role on that stream."""

    NEW_STREAM = 0
    MESSAGE_RECEIVER = 1
    MESSAGE_INITIATOR = 2
    CLOSE_RECEIVER = 3
    CLOSE_INITIATOR = 4
    RESET_RECEIVER = 5
    RESET_INITIATOR = 6


def header(number: int, flag: int, length: int) -> bytes:
    """What stands before `length` bytes of data."""
    return varint.encode(number << 3 | flag) + varint.encode(length)
