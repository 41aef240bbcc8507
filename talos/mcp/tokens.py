"""What a line is made of, read from slices: strings, words, whole containers. Each may be cut anywhere."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from talos.mcp.line_info import SMALL_LINE_BYTES, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["HELD", "MAX_DEPTH", "Malformed", "Tokens"]

MAX_DEPTH = 512
KEPT_BYTES = SMALL_LINE_BYTES
"""Of a key or of a text that is wanted; no line that is parsed whole has a longer one."""

HELD = b"+" if sys.version_info >= (3, 11, 5) else b""
"""Behind the repeat of a group: it never goes back. Before Python 3.11.5 a group that was held so kept what its
last, failed round had read; going back there finds nothing else, for no two ways lead through a token.
"""
# What is one class of bytes is always held: that could go back by any of its bytes.
_WS = rb"[ \t\n\r]*+"
_STRICT = rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*' + HELD
_LAX = rb'(?:[^"\\]++|\\.)*' + HELD
_DIGITS = rb"(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?" + HELD + rb"(?:[eE][-+]?[0-9]++)?" + HELD
_SCALAR = rb"(?:-?" + _DIGITS + rb"|true|false|null)"


def _container(inner: bytes) -> bytes:
    """A whole container of lax strings, anything that is no bracket, and `inner`."""
    return rb'[\[{](?:[^"\[\]{}NI]++|"' + _LAX + rb'"' + inner + rb")*" + HELD + rb"[\]}]"


_LEAF = _container(b"")
_LEAVES = _container(rb"|" + _container(rb"|" + _LEAF))  # some levels at once save steps
_VALUE = rb'(?:"' + _STRICT + rb'"|' + _SCALAR + rb"|" + _LEAVES + rb")"
_PAIR = rb'"' + _STRICT + rb'"' + _WS + rb":" + _WS + _VALUE + _WS
_OBJECT = rb"\{" + _WS + rb"(?:" + _PAIR + rb"(?:," + _WS + _PAIR + rb")*" + HELD + rb")?" + HELD + rb"\}"


def _matcher(pattern: bytes) -> Callable[[bytes, int], re.Match[bytes]]:
    """Of a pattern that matches everywhere, if only nothing."""
    return re.compile(pattern, re.DOTALL).match  # type: ignore[return-value]


_whitespace = _matcher(_WS)
_strict_text = _matcher(_STRICT)
_lax_text = _matcher(_LAX)
_word = _matcher(rb"[-+.0-9A-Za-z]*+")
match_items = _matcher(rb"(?:" + _WS + _VALUE + _WS + rb",)*" + HELD)
match_pairs = _matcher(rb"(?:" + _WS + _PAIR + rb",)*" + HELD)
match_objects = _matcher(rb"(?:" + _WS + _OBJECT + _WS + rb",)*" + HELD)
_filler = _matcher(rb'(?:[^"\[\]{}NI]++|"' + _LAX + rb'"|' + _LEAF + rb")*" + HELD)
_deep_filler = _matcher(rb'(?:[^"\[\]{}]++|"' + _LAX + rb'")*' + HELD)
_opens = _matcher(rb"[\[{]*+")
_closes = re.compile(rb"[\]}]*+").match
_scalar = re.compile(_SCALAR + rb"|NaN|-?Infinity").match

QUOTE, BACKSLASH, COMMA, COLON = b'"\\,:'
OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT = b"[]{}"
ENDED = -1
"""What `peek` says behind the last byte."""


class Malformed(Exception):
    """The line is no JSON, or not one value; only the scanner sees it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


class Tokens:
    """Reads tokens out of `_data` from `_at` on; each method is a generator that yields when it needs more bytes."""

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self._ended = False
        self._has_constant = self._is_too_deep = False

    def _peek(self) -> Generator[None, None, int]:
        """The next byte that is no white space; ENDED at the end."""
        while True:
            self._at = _whitespace(self._data, self._at).end()
            if self._at < len(self._data):
                return self._data[self._at]
            if self._ended:
                return ENDED
            yield

    def _goes_on(self, closing: int) -> Generator[None, None, bool]:
        """Whether a comma follows; else it must be the closing bracket."""
        byte = yield from self._peek()
        self._at += 1
        if byte == COMMA:
            return True
        if byte != closing:
            raise Malformed(Problem.BAD_JSON)
        return False

    def _string(self, *, keep: bool) -> Generator[None, None, bytes | None]:
        """A string, at its quote; as spelt if that is wanted and short enough."""
        kept = bytearray(b'"') if keep else None
        self._at += 1
        while True:
            start, self._at = self._at, _strict_text(self._data, self._at).end()
            if kept is not None:
                kept += self._data[start : self._at]
                if len(kept) > KEPT_BYTES:
                    kept = None
            rest = len(self._data) - self._at
            if rest and self._data[self._at] == QUOTE:
                self._at += 1
                return None if kept is None else bytes(kept) + b'"'
            cut = not rest or (self._data[self._at] == BACKSLASH and rest < 6)
            if self._ended or not cut:
                raise Malformed(Problem.BAD_JSON)
            yield

    def _word(self) -> Generator[None, None, bytes]:
        """A number, `true`, `false`, `null`, or one of the constants that JSON has not."""
        while (end := _word(self._data, self._at).end()) == len(self._data) and not self._ended:
            if end - self._at > KEPT_BYTES:
                raise Malformed(Problem.BAD_JSON)  # a number of 64 KiB
            yield
        match = _scalar(self._data, self._at)
        if match is None:
            raise Malformed(Problem.BAD_JSON)
        self._at = match.end()
        word = match[0]
        if word[-1:] in b"Ny":
            self._has_constant = True
        return word

    def _skip(self, *, keep: bool) -> Generator[None, None, bytes | None]:
        """A container at depth 3 and all in it, at its bracket; as spelt if that is wanted and short enough."""
        kept = bytearray() if keep else None
        depth, in_string = 0, False
        mark = self._at
        while True:
            data = self._data
            if in_string:
                self._at = _lax_text(data, self._at).end()
                if self._at < len(data) and data[self._at] == QUOTE:
                    self._at += 1
                    in_string = False
            if not in_string:
                depth = self._skip_brackets(data, depth)
                if not depth:
                    break
                if self._at < len(data):
                    in_string = True  # that does not end here
                    self._at += 1
                    continue
            if self._ended:
                raise Malformed(Problem.BAD_JSON)
            if kept is not None:
                kept += data[mark : self._at]
                if len(kept) > KEPT_BYTES:
                    kept = None
            yield
            mark = self._at
        return None if kept is None else bytes(kept) + data[mark : self._at]

    def _skip_brackets(self, data: bytes, depth: int) -> int:
        """Goes on to the end of the container, of the data, or to a string that the data cut; the depth there."""
        size = len(data)
        while True:
            shallow = depth and depth < MAX_DEPTH - 4 and not self._has_constant
            at = (_filler if shallow else _deep_filler)(data, self._at).end() if depth else self._at
            self._at = at
            if at == size or data[at] == QUOTE:
                return depth
            end = _opens(data, at).end()
            if end > at:
                depth += end - at
                if depth + 2 > MAX_DEPTH:
                    self._is_too_deep = True
            else:
                end = _closes(data, at, at + depth).end() if depth else at  # type: ignore[union-attr]
                depth -= end - at
            if end == at:
                self._has_constant = True
            self._at = end
            if not depth:
                return 0
