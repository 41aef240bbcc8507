"""What is known of one JSON-RPC line, and the rules that both ways of finding it out share."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

__all__ = [
    "KNOWN_KEYS",
    "MAX_ID_BYTES",
    "MAX_KEYS",
    "SMALL_LINE_BYTES",
    "Crowd",
    "IdKey",
    "Kind",
    "LineInfo",
    "Number",
    "Problem",
    "Repeated",
    "decode_text",
    "id_key",
    "is_variant",
    "kind_of",
    "load_value",
    "meta_version",
]

SMALL_LINE_BYTES = 64 * 1024
"""Up to this a line is parsed whole, above it is scanned in slices."""
MAX_ID_BYTES = 1024
MAX_KEYS = 1024
"""Of one object that are compared with each other; a message with more is not looked into."""

KNOWN_KEYS = frozenset(("jsonrpc", "id", "method", "params", "result", "error", "name", "uri", "arguments"))
PROTOCOL_VERSION = "io.modelcontextprotocol/protocolVersion"

IdKey: TypeAlias = tuple[str, object]
"""Type and decoded value: `1` and `1.0` are equal, `1` and `"1"` are not."""


class Kind(enum.IntEnum):
    """What a line is; the numbers are those of the audit log."""

    REQUEST = 1
    NOTIFICATION = 2
    RESPONSE = 3
    BATCH = 4
    """An array of objects."""
    OPAQUE = 5


class Problem(enum.Flag):
    """Why two readers might not understand a line alike."""

    NONE = 0
    NOT_UTF8 = enum.auto()
    BOM = enum.auto()
    BAD_JSON = enum.auto()
    TRAILING = enum.auto()
    """Bytes behind the message."""
    DEPTH = enum.auto()
    """Over 512."""
    ID = enum.auto()
    """Neither string nor number, or over 1,024 bytes."""
    DUPLICATE_KEY = enum.auto()
    """In the message or its `params`."""
    CASE = enum.auto()
    """A key there that is one of `KNOWN_KEYS` only when case is ignored."""
    CONSTANT = enum.auto()
    """NaN or Infinity."""
    KEYS = enum.auto()
    """Over 1,024 keys in the message or its `params`; those keys were not looked at."""


@dataclass(slots=True)
class LineInfo:
    """What `inspect` finds. Texts are None where there is none, or no string."""

    kind: Kind = Kind.OPAQUE
    id_raw: bytes | None = None
    """As written."""
    id_key: IdKey | None = None
    method: str | None = None
    name: str | None = None
    """`params.name`: of a tool or a prompt."""
    uri: str | None = None
    version: str | None = None
    """The protocol revision that the message names."""
    problems: Problem = Problem.NONE
    cancels: IdKey | None = None
    """The request that a `notifications/cancelled` means."""
    garbage: bool = False
    """Neither an object nor an array of objects."""


class Number(str):
    """A number as it is spelt."""

    __slots__ = ()


class Repeated(dict[str, Any]):
    """An object in which a key occurs twice; the last one counts."""

    __slots__ = ()


class Crowd(dict[str, Any]):
    """An object of over 1,024 keys."""

    __slots__ = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        return Repeated(members) if len(pairs) <= MAX_KEYS else Crowd(members)
    return members if len(members) <= MAX_KEYS else Crowd(members)


def load_value(text: str, start: int = 0) -> tuple[Any, int, bool]:
    """The JSON value at `start`, where it ends, and whether it has a NaN or Infinity. json.JSONDecodeError."""
    if "NaN" not in text and "Infinity" not in text:
        value, end = _DECODER.raw_decode(text, start)
        return value, end, False
    constants: list[str] = []
    decoder = json.JSONDecoder(
        object_pairs_hook=_object, parse_int=Number, parse_float=Number, parse_constant=constants.append
    )
    value, end = decoder.raw_decode(text, start)
    return value, end, bool(constants)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=Number, parse_float=Number)


def decode_text(raw: bytes) -> str:
    """Of any bytes; what is not UTF-8 comes out as lone surrogates."""
    return str(raw, "utf-8", "surrogateescape")


def id_key(value: object) -> IdKey | None:
    """What identifies a request whose id is `value`, a string or a `Number`; None for anything else."""
    if type(value) is Number:
        try:
            return "number", int(value)
        except ValueError:
            return _odd_number(value)
    return ("string", value) if type(value) is str else None


def _odd_number(spelling: str) -> IdKey | None:
    """A Decimal equals the int of its value, and so does its hash."""
    if len(spelling) > MAX_ID_BYTES:
        return None
    try:
        return "number", Decimal(spelling)
    except InvalidOperation:  # an exponent of twenty digits
        return "number", spelling


def is_variant(key: str) -> bool:
    """Whether `key` is one of the keys that matter only to a reader that ignores case."""
    return key not in KNOWN_KEYS and key.casefold() in KNOWN_KEYS


def kind_of(*, has_method: bool, method: str | None, has_id: bool, has_answer: bool) -> Kind:
    """The kind of an object with these members."""
    if has_method:
        if method is None:
            return Kind.OPAQUE
        return Kind.REQUEST if has_id else Kind.NOTIFICATION
    return Kind.RESPONSE if has_id and has_answer else Kind.OPAQUE


def meta_version(meta: object) -> str | None:
    """The revision in a request's `params._meta`."""
    version = meta.get(PROTOCOL_VERSION) if isinstance(meta, dict) else None
    return version if type(version) is str else None
