"""The numbers of messaging: types, suites, and what a receiver answers (docs/protocols/messaging.md)."""

from __future__ import annotations

import enum

__all__ = ["AckState", "Code", "MessageType", "Suite"]


class MessageType(enum.IntEnum):
    """What the content of a message is. Numbers from 0x40 to 0x7f are applications' own."""

    TEXT = 0x01
    ACK = 0x02
    STREAM_START = 0x03
    STREAM_CHUNK = 0x04
    STREAM_END = 0x05


class Suite(enum.IntEnum):
    """How the content is sealed."""

    PLAIN = 0
    """Only to everybody (`*`)."""
    SEALED = 1
    """X25519 with an ephemeral key, HKDF-SHA256, ChaCha20-Poly1305."""


class AckState(enum.IntEnum):
    """What an acknowledgement says of a message."""

    DELIVERED = 2
    READ = 3
    ACCEPTED = 4
    DECLINED = 5
    UNSUPPORTED = 6


class Code(enum.IntEnum):
    """What the receiver says of an envelope."""

    OK = 0
    STORED = 1
    """Kept sealed until its owner lets the stranger in."""
    BAD_FRAME = 16
    TOO_LARGE = 17
    UNSUPPORTED = 18
    RATE_LIMITED = 19
    STAMP_REQUIRED = 20
    REFUSED = 21
    UNKNOWN_KEY = 22
    """Sealed to a key that the receiver does not have, or altered: it cannot tell which."""
    BAD_PAYLOAD = 23
    BAD_SIGNATURE = 24
    BAD_TIMESTAMP = 25
    ID_CONFLICT = 26
    BUSY = 27
