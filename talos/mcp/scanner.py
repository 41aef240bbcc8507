"""Looks into a line of any length without holding it: fed in slices, it keeps next to nothing.

It is strict about the message and the members of its containers (depths 1 and 2) and follows strings and brackets
below. For a line that is well-formed there, it finds exactly what parsing it whole finds.
"""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING, TypeAlias

from talos.mcp.line_info import (
    MAX_ID_BYTES,
    MAX_KEYS,
    IdKey,
    Kind,
    LineInfo,
    Number,
    Problem,
    decode_text,
    id_key,
    is_variant,
    kind_of,
    load_value,
    meta_version,
)
from talos.mcp.tokens import (
    BACKSLASH,
    CLOSE_ARRAY,
    CLOSE_OBJECT,
    COLON,
    ENDED,
    MAX_DEPTH,
    OPEN_ARRAY,
    OPEN_OBJECT,
    QUOTE,
    Malformed,
    Tokens,
    match_items,
    match_objects,
    match_pairs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["MAX_DEPTH", "SLICE_BYTES", "Scanner"]

SLICE_BYTES = 32 * 1024
"""Feed no more at once where others wait: the densest slice takes 15 ms on a slow machine, a usual one 0.2 ms."""

_BOM = b"\xef\xbb\xbf"

if TYPE_CHECKING:
    Steps: TypeAlias = Generator[None, None, None]


class _Keys:
    """The keys of one object: counted, and compared while they are not too many."""

    __slots__ = ("count", "problems", "seen")

    def __init__(self) -> None:
        self.count = 0
        self.seen: set[int] = set()
        self.problems = Problem.NONE

    @property
    def too_many(self) -> bool:
        return self.count > MAX_KEYS

    def add(self, raw: bytes | None) -> str:
        """The key that `raw` spells; one too long to be kept has no name."""
        self.count += 1
        if self.too_many or raw is None:
            self.problems = Problem.KEYS
            self.count = MAX_KEYS + 1
            return ""
        key = _text(raw)
        known = hash(key)  # of a secret key; the keys themselves could take 64 MiB
        if known in self.seen:
            self.problems |= Problem.DUPLICATE_KEY
        self.seen.add(known)
        if is_variant(key):
            self.problems |= Problem.CASE
        return key


class _Params:
    """What is wanted of `params`."""

    __slots__ = ("keys", "meta", "name", "request_id", "uri", "version")

    def __init__(self) -> None:
        self.keys = _Keys()
        self.name: str | None = None
        self.uri: str | None = None
        self.version: str | None = None
        self.request_id: IdKey | None = None
        self.meta: str | None = None


class Scanner(Tokens):
    """`feed` it the line piece by piece, then `finish`."""

    def __init__(self) -> None:
        super().__init__()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._encoding = Problem.NONE  # NOT_UTF8, BOM
        self._fault: Problem | None = None
        # what the message has
        self._garbage = True
        self._is_batch = False
        self._keys = _Keys()
        self._id: str | None = None
        self._id_raw: bytes | None = None
        self._method: str | None = None
        self._has_method = self._has_id = self._has_answer = False
        self._params = _Params()
        self._steps: Steps | None = self._line()
        next(self._steps)

    def feed(self, piece: bytes) -> None:
        """The next bytes of the line; at most SLICE_BYTES where others wait."""
        self._check_encoding(piece)
        if self._steps is not None:
            self._data = self._data[self._at :] + piece
            self._at = 0
            self._step()

    def finish(self) -> LineInfo:
        """What the line is, now that it has ended."""
        self._ended = True
        self._check_encoding(b"", final=True)
        if self._steps is not None:
            self._step()
        return self._info()

    def _check_encoding(self, piece: bytes, *, final: bool = False) -> None:
        if Problem.NOT_UTF8 in self._encoding:
            return
        try:
            self._decoder.decode(piece, final)
        except UnicodeDecodeError:
            self._encoding |= Problem.NOT_UTF8

    def _step(self) -> None:
        assert self._steps is not None
        try:
            next(self._steps)
        except StopIteration:
            self._steps = None
        except Malformed as fault:
            self._fault = fault.problem
            self._steps = None
            self._data = b""

    def _info(self) -> LineInfo:
        if self._fault is not None:
            return LineInfo(problems=self._encoding | self._fault, garbage=True)
        problems = self._encoding
        if self._has_constant:
            problems |= Problem.CONSTANT
        if self._is_too_deep:
            problems |= Problem.DEPTH
        if self._is_batch:
            return LineInfo(Kind.OPAQUE if self._garbage else Kind.BATCH, problems=problems, garbage=self._garbage)
        if self._keys.too_many:
            return LineInfo(problems=problems | Problem.KEYS)
        params = self._params
        problems |= self._keys.problems | params.keys.problems
        if params.keys.too_many:
            params = _Params()
        key = None
        if self._id_raw is not None and len(self._id_raw) <= MAX_ID_BYTES:
            key = id_key(self._id)
        elif self._has_id:
            problems |= Problem.ID
        method = self._method
        return LineInfo(
            kind=kind_of(has_method=self._has_method, method=method, has_id=self._has_id, has_answer=self._has_answer),
            id_raw=self._id_raw if key is not None else None,
            id_key=key,
            method=method,
            name=params.name,
            uri=params.uri,
            version=params.version if method == "initialize" else params.meta,
            problems=problems,
            cancels=params.request_id if method == "notifications/cancelled" else None,
        )

    # ------------------------------------------------------------------------------- the message

    def _line(self) -> Steps:
        while len(self._data) < len(_BOM) and not self._ended:
            yield
        if self._data.startswith(_BOM):
            self._encoding |= Problem.BOM
            self._at = len(_BOM)
        opening = yield from self._peek()
        if opening == OPEN_OBJECT:
            yield from self._members(self._keys, self._message_member)
            self._garbage = False
        elif opening == OPEN_ARRAY:
            self._is_batch = True
            yield from self._batch()
        else:
            raise Malformed(Problem.BAD_JSON)
        if (yield from self._peek()) != ENDED:
            raise Malformed(Problem.TRAILING)

    def _batch(self) -> Steps:
        self._at += 1
        if (yield from self._peek()) == CLOSE_ARRAY:
            self._at += 1
            return
        objects = True
        while True:
            self._at = (match_objects if objects else match_items)(self._data, self._at).end()
            if (yield from self._peek()) == OPEN_OBJECT:
                yield from self._members(None, self._element)
            else:
                objects = False
                yield from self._value()
            if not (yield from self._goes_on(CLOSE_ARRAY)):
                break
        self._garbage = not objects

    def _message_member(self, key: str) -> Steps:
        first = yield from self._peek()
        match key:
            case "id":
                self._has_id = True
                raw = self._id_raw = yield from self._kept_scalar(first, self._value)
                self._id = None if raw is None else _scalar_value(raw)
            case "method":
                self._has_method = True
                self._method = yield from self._kept_text(first, self._value)
            case "params":
                self._params = _Params()
                if first == OPEN_OBJECT:
                    yield from self._members(self._params.keys, self._params_member)
                else:
                    yield from self._value()
            case _:
                self._has_answer |= key in {"result", "error"}
                yield from self._value()

    def _params_member(self, key: str) -> Steps:
        first = yield from self._peek()
        params = self._params
        match key:
            case "name":
                params.name = yield from self._kept_text(first, self._element)
            case "uri":
                params.uri = yield from self._kept_text(first, self._element)
            case "protocolVersion":
                params.version = yield from self._kept_text(first, self._element)
            case "requestId":
                raw = yield from self._kept_scalar(first, self._element)
                params.request_id = None if raw is None else id_key(_scalar_value(raw))
            case "_meta" if first == OPEN_OBJECT:
                params.meta = _meta((yield from self._skip(keep=True)))
            case "_meta":
                params.meta = None
                yield from self._element(key)
            case _:
                yield from self._element(key)

    # ------------------------------------------------------------------------------- depths 1 and 2

    def _members(self, keys: _Keys | None, value: Callable[[str], Steps]) -> Steps:
        """An object, at its bracket; `value` takes each value."""
        self._at += 1
        if (yield from self._peek()) == CLOSE_OBJECT:
            self._at += 1
            return
        while True:
            if keys is None or keys.too_many:
                self._at = match_pairs(self._data, self._at).end()
            if (yield from self._peek()) != QUOTE:
                raise Malformed(Problem.BAD_JSON)
            raw = yield from self._string(keep=keys is not None)
            if (yield from self._peek()) != COLON:
                raise Malformed(Problem.BAD_JSON)
            self._at += 1
            yield from value(keys.add(raw) if keys is not None else "")
            if not (yield from self._goes_on(CLOSE_OBJECT)):
                return

    def _array(self) -> Steps:
        """An array at depth 2, at its bracket."""
        self._at += 1
        if (yield from self._peek()) == CLOSE_ARRAY:
            self._at += 1
            return
        while True:
            self._at = match_items(self._data, self._at).end()
            yield from self._element()
            if not (yield from self._goes_on(CLOSE_ARRAY)):
                return

    def _value(self, _key: str = "") -> Steps:
        """A member of the message."""
        first = yield from self._peek()
        if first == OPEN_OBJECT:
            yield from self._members(None, self._element)
        elif first == OPEN_ARRAY:
            yield from self._array()
        else:
            yield from self._element()

    def _element(self, _key: str = "") -> Steps:
        """A member of a container of the message."""
        first = yield from self._peek()
        if first == QUOTE:
            yield from self._string(keep=False)
        elif first in {OPEN_OBJECT, OPEN_ARRAY}:
            yield from self._skip(keep=False)
        else:
            yield from self._word()

    def _kept_text(self, first: int, otherwise: Callable[[str], Steps]) -> Generator[None, None, str | None]:
        """The value as text, if it is a string that can be kept; `otherwise` takes what is no string."""
        if first != QUOTE:
            yield from otherwise("")
            return None
        raw = yield from self._string(keep=True)
        return None if raw is None else _text(raw)

    def _kept_scalar(self, first: int, otherwise: Callable[[str], Steps]) -> Generator[None, None, bytes | None]:
        """The value as spelt, if it is a string or a number that can be kept; `otherwise` takes a container."""
        if first == QUOTE:
            return (yield from self._string(keep=True))
        if first in {OPEN_OBJECT, OPEN_ARRAY}:
            yield from otherwise("")
            return None
        word = yield from self._word()
        return word if word[-1:].isdigit() else None


def _text(raw: bytes) -> str:
    """What the string `raw` means."""
    if BACKSLASH not in raw:
        return decode_text(raw[1:-1])
    value: str = json.loads(decode_text(raw))
    return value


def _scalar_value(raw: bytes) -> str:
    return _text(raw) if raw[0] == QUOTE else Number(raw.decode())


def _meta(raw: bytes | None) -> str | None:
    """The revision named in `params._meta`, if that can be read."""
    if raw is None:
        return None
    try:
        return meta_version(load_value(decode_text(raw))[0])
    except json.JSONDecodeError:
        return None
