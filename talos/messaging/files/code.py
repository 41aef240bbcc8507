"""Why a file was refused or a transfer ended."""

from __future__ import annotations

import enum

__all__ = ["FileCode"]


class FileCode(enum.IntEnum):
    """Numbers of FileError, of the end of a stream, and of an offer that is declined; 0 is success."""

    TOO_LARGE = 1
    TYPE_REFUSED = 2
    NO_SPACE = 3
    NAME_REFUSED = 4
    POLICY = 5
    SOURCE_CHANGED = 6
    HASH_MISMATCH = 7
    CANCELLED = 8
    EXPIRED = 9
    CODEC = 10
