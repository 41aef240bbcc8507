"""The facts in an audit entry of the tunnel, as bytes (docs/protocols/mcp.md, entries)."""

from __future__ import annotations

import enum
import hashlib
import struct
from typing import TYPE_CHECKING

from talos.errors import ProofInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Decision", "MetaType", "Tag", "decode_detail", "encode_detail"]

MAX_VALUE_BYTES = 256
MAX_ARGUMENTS_BYTES = 4096


class MetaType(enum.IntEnum):
    """What an entry is about."""

    REQUEST = 1
    NOTIFICATION = 2
    RESPONSE = 3
    BATCH = 4
    OPAQUE = 5
    OPENED = 16
    RESUMED = 17
    CLOSED = 18
    DROPPED = 19
    REFUSED = 20
    PIN = 21
    POLICY = 22


class Decision(enum.IntEnum):
    """What was done with a line."""

    FORWARDED = 1
    DENIED = 2
    DROPPED = 3
    ANSWERED = 4
    """By the tunnel itself."""


class Tag(enum.IntEnum):
    """The facts in an entry's detail; those of `_NUMBERS` are ints, those of `_TEXTS` str, the others bytes."""

    SERVER = 1
    METHOD = 2
    NAME = 3
    """Of the tool or prompt, or the URI."""
    ID_RAW = 4
    DECISION = 5
    REASON = 6
    POLICY_HASH = 7
    ANSWERS = 8
    """Seq of the request that this answers, in the other direction."""
    DURATION = 9
    """Milliseconds."""
    ERROR_CODE = 10
    UNFILTERED = 11
    """Hash of the line as the server wrote it."""
    EXIT_STATUS = 12
    COUNT = 13
    ARGUMENTS = 14
    HEADS = 15
    """u64 seq and 32-byte head, up and then down."""


_NUMBERS = frozenset((Tag.DECISION, Tag.ANSWERS, Tag.DURATION, Tag.ERROR_CODE, Tag.EXIT_STATUS, Tag.COUNT))
_HEAD = struct.Struct(">BH")
_NUMBER_HEADS = {tag: _HEAD.pack(tag, 8) for tag in Tag}
_TEXTS = frozenset((Tag.SERVER, Tag.METHOD, Tag.NAME, Tag.REASON))


def encode_detail(facts: Mapping[Tag, int | str | bytes]) -> bytes:
    """`facts` in their one encoding. Long values are cut, and followed by the SHA-256 of the whole."""
    parts: list[bytes] = []
    for tag in sorted(facts):
        value = facts[tag]
        if isinstance(value, int):
            parts.append(_NUMBER_HEADS[tag] + value.to_bytes(8, "big"))
            continue
        raw = value.encode("utf-8", "backslashreplace") if isinstance(value, str) else value
        if len(raw) > MAX_VALUE_BYTES:
            raw = _cut(raw, MAX_ARGUMENTS_BYTES if tag is Tag.ARGUMENTS else MAX_VALUE_BYTES)
        parts.append(_HEAD.pack(tag, len(raw)) + raw)
    return b"".join(parts)


def decode_detail(detail: bytes) -> dict[Tag, int | str | bytes]:
    """The facts in `detail`; tags of a later release are left out. ProofInvalid when it is no detail.

    A text that was cut ends with `...`; other values that were keep the hash behind them.
    """
    facts: dict[Tag, int | str | bytes] = {}
    at = last = 0
    while at < len(detail):
        end = at + 3 + int.from_bytes(detail[at + 1 : at + 3], "big")
        number, raw = detail[at], detail[at + 3 : end]
        if number <= last or at + 3 > len(detail) or end > len(detail):
            raise ProofInvalid("an entry's detail is malformed")
        if number <= Tag.HEADS:
            tag = Tag(number)
            facts[tag] = _value(tag, raw)
        last, at = number, end
    return facts


def _value(tag: Tag, raw: bytes) -> int | str | bytes:
    if tag in _NUMBERS:
        if len(raw) != 8:
            raise ProofInvalid("an entry's detail has a number that is none")
        return int.from_bytes(raw, "big")
    if tag not in _TEXTS:
        return raw
    if len(raw) > MAX_VALUE_BYTES:
        return raw[:MAX_VALUE_BYTES].decode("utf-8", "replace") + "..."
    return raw.decode("utf-8", "replace")


def _cut(value: bytes, limit: int) -> bytes:
    return value if len(value) <= limit else value[:limit] + hashlib.sha256(value).digest()
