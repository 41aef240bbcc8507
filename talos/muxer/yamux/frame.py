"""Yamux on the wire: a header of 12 bytes, and behind data frames the payload (libp2p specification, yamux)."""

from __future__ import annotations

import enum
import struct

__all__ = [
    "HEADER",
    "HEADER_BYTES",
    "INITIAL_WINDOW_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_STREAM_ID",
    "MAX_WINDOW_BYTES",
    "PROTOCOL_ID",
    "Flag",
    "Kind",
]

PROTOCOL_ID = "/yamux/1.0.0"

HEADER = struct.Struct(">HHII")
"""Version and type as one number (the version is 0), flags, stream id, length."""

HEADER_BYTES = HEADER.size
INITIAL_WINDOW_BYTES = 256 * 1024
MAX_WINDOW_BYTES = (1 << 32) - 1
MAX_STREAM_ID = (1 << 32) - 1

MAX_FRAME_BYTES = 65_519 - HEADER_BYTES
"""Of payload, in what we send: one noise message holds the frame. What we take is bounded by the window alone."""


class Kind(enum.IntEnum):
    """What a frame is, and so what its length means."""

    DATA = 0
    """Length: payload bytes that follow."""
    WINDOW = 1
    """Length: added to the send window; with RST the reason."""
    PING = 2
    """Length: opaque, echoed."""
    GO_AWAY = 3
    """Length: the reason."""


class Flag(enum.IntFlag):
    """SYN opens a stream or asks by ping, ACK accepts or answers, FIN ends our direction, RST ends both."""

    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8
