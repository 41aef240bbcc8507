"""The words and figures of the control API that both of its ends know. Standard library only."""

from __future__ import annotations

from typing import Final

__all__ = ["API", "API_HEADER", "ENDINGS", "ERROR", "LAGGED", "RESULT", "VERSION_HEADER"]

API: Final = 1
"""The number that both ends must share; fields and routes are only added under it."""
API_HEADER: Final = "talos-api"
VERSION_HEADER: Final = "talos-version"

RESULT: Final = "result"
ERROR: Final = "error"
STAGE: Final = "stage"
PROGRESS: Final = "progress"
LAGGED: Final = "lagged"
ENDINGS: Final = frozenset({RESULT, ERROR})
"""An operation has exactly one of these, and nothing after it."""

MAX_BODY_BYTES: Final = 1 << 20
MAX_JSON_DEPTH: Final = 64
MAX_ANSWER_BYTES: Final = 64 * 1024
"""What any answer but a stream has at most: it fits the buffers of a socket whose other end does not read."""
STREAM_EVENTS: Final = 100
STREAM_BYTES: Final = 32 * 1024
STREAM_SECONDS: Final = 60.0
"""A stream ends after any of these three; the client goes on with `Last-Event-ID`."""
MAX_STREAMS: Final = 64
MAX_OPERATIONS: Final = 128
LEASE_SECONDS: Final = 10.0
"""How long an operation may go on, or its end be kept, while nobody follows it."""
KEPT_EVENTS: Final = 4096
KEPT_BYTES: Final = 4 << 20
