"""Cuts byte streams into lines and looks into each (docs/protocols/mcp.md, lines)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from talos.errors import LocalProtocolError
from talos.mcp.line_info import (
    MAX_ID_BYTES,
    SMALL_LINE_BYTES,
    Crowd,
    IdKey,
    Kind,
    LineInfo,
    Number,
    Problem,
    Repeated,
    decode_text,
    id_key,
    is_variant,
    kind_of,
    load_value,
    meta_version,
)
from talos.mcp.scanner import SLICE_BYTES, Scanner
from talos.mcp.tokens import HELD

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "SLICE_BYTES",
    "SMALL_LINE_BYTES",
    "Checkpoint",
    "IdKey",
    "Inspection",
    "Kind",
    "LineDecoder",
    "LineInfo",
    "LongLine",
    "Problem",
    "inspect",
    "is_deep",
    "members",
    "printable",
]

PARSED_DEPTH = 100
"""Deeper lines are scanned, however short: the parser would recurse for each level."""

Checkpoint: TypeAlias = None
"""Stands between two slices of work: let others run."""

_WHITE_SPACE = " \t\n\r"
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*' + HELD + rb'"', re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


# ----------------------------------------------------------------------------------- one line


def inspect(line: bytes) -> LineInfo:
    """What `line` is, found at once: over 64 KiB rather use `Inspection`, which can be interrupted."""
    if len(line) > SMALL_LINE_BYTES or is_deep(line):
        return _scan(line)
    encoding = Problem.NONE
    try:
        text = str(line, "utf-8")
    except UnicodeDecodeError:
        text = decode_text(line)
        encoding = Problem.NOT_UTF8
    if text[:1] == "\ufeff":
        text = text[1:]
        encoding |= Problem.BOM
    body = text.lstrip(_WHITE_SPACE)
    if body[:1] not in {"{", "["}:
        return LineInfo(problems=encoding | Problem.BAD_JSON, garbage=True)
    try:
        value, end, has_constant = load_value(body)
    except json.JSONDecodeError:
        return LineInfo(problems=encoding | Problem.BAD_JSON, garbage=True)
    if end != len(body) and body[end:].strip(_WHITE_SPACE):
        return LineInfo(problems=encoding | Problem.TRAILING, garbage=True)
    info = _message(value, line) if type(value) is not list else _batch(value)
    if encoding is not Problem.NONE or has_constant:
        info.problems |= encoding | (Problem.CONSTANT if has_constant else Problem.NONE)
    return info


class Inspection:
    """`inspect` in slices: iterate, let others run at each step, then read `info`."""

    __slots__ = ("_info", "_line")

    def __init__(self, line: bytes) -> None:
        self._line = line
        self._info: LineInfo | None = None

    def __iter__(self) -> Iterator[Checkpoint]:
        line = self._line
        if len(line) <= SMALL_LINE_BYTES:
            self._info = inspect(line)
            return
        scanner = Scanner()
        for start in range(0, len(line), SLICE_BYTES):
            scanner.feed(line[start : start + SLICE_BYTES])
            yield None
        self._info = scanner.finish()

    @property
    def info(self) -> LineInfo:
        """LocalProtocolError before the last step."""
        if self._info is None:
            raise LocalProtocolError("mcp: the inspection is not finished")
        return self._info


def members(line: bytes) -> list[LineInfo]:
    """What the messages of a batch of at most 64 KiB are; of a longer or malformed one nothing."""
    if len(line) > SMALL_LINE_BYTES or inspect(line).kind is not Kind.BATCH or is_deep(line):
        return []
    value, _, _ = load_value(decode_text(line).lstrip("\ufeff" + _WHITE_SPACE))
    return [_message(member, None) for member in value]


def is_deep(line: bytes) -> bool:
    """Whether `line` is nested deeper than a parser should be asked to follow."""
    if line.count(b"[") + line.count(b"{") <= PARSED_DEPTH:
        return False
    depth = 0
    for bracket in _STRINGS.sub(b"", line).translate(None, _NOT_BRACKETS):
        if bracket & 2:  # of the four, the opening ones have this bit
            depth += 1
            if depth > PARSED_DEPTH:
                return True
        else:
            depth -= 1
    return False


def _scan(line: bytes) -> LineInfo:
    scanner = Scanner()
    for start in range(0, len(line), SLICE_BYTES):
        scanner.feed(line[start : start + SLICE_BYTES])
    return scanner.finish()


def _batch(value: list[Any]) -> LineInfo:
    if value and all(isinstance(member, dict) for member in value):
        return LineInfo(Kind.BATCH)
    return LineInfo(garbage=True)


def _message(value: dict[str, Any], line: bytes | None) -> LineInfo:
    if type(value) is Crowd:
        return LineInfo(problems=Problem.KEYS)
    info = LineInfo()
    method = value.get("method")
    has_method = method is not None or "method" in value
    if type(method) is str:
        info.method = method
    identity = value.get("id")
    has_id = identity is not None or "id" in value
    info.kind = kind_of(
        has_method=has_method, method=info.method, has_id=has_id, has_answer="result" in value or "error" in value
    )
    if has_id:
        _identify(info, identity, line)
    if type(value) is Repeated:
        info.problems |= Problem.DUPLICATE_KEY
    for key in value:
        if key not in _USUAL_KEYS and is_variant(key):
            info.problems |= Problem.CASE
    params = value.get("params")
    if isinstance(params, dict):
        _look_at_params(info, params)
    return info


_USUAL_KEYS = frozenset(("jsonrpc", "id", "method", "params", "result", "error", "name", "arguments", "_meta"))


def _identify(info: LineInfo, identity: object, line: bytes | None) -> None:
    raw: bytes | None = None
    if type(identity) is Number:
        raw = identity.encode()
    elif type(identity) is str:
        raw = _spelling(identity, line)
    if raw is not None and len(raw) <= MAX_ID_BYTES:
        info.id_key = id_key(identity)
        info.id_raw = raw
    else:
        info.problems |= Problem.ID


def _spelling(identity: str, line: bytes | None) -> bytes | None:
    """How `line` writes its id; for a member of a batch, which has no line of its own, one way to write it."""
    if line is None:
        return json.dumps(identity).encode()
    if b"\\" in line:
        return _scan(line).id_raw
    return b'"' + identity.encode("utf-8", "surrogateescape") + b'"'


def _look_at_params(info: LineInfo, params: dict[str, Any]) -> None:
    if type(params) is Crowd:
        info.problems |= Problem.KEYS
        return
    if type(params) is Repeated:
        info.problems |= Problem.DUPLICATE_KEY
    for key in params:
        if key not in _USUAL_KEYS and is_variant(key):
            info.problems |= Problem.CASE
    name, uri = params.get("name"), params.get("uri")
    if type(name) is str:
        info.name = name
    if type(uri) is str:
        info.uri = uri
    if info.method == "initialize":
        version = params.get("protocolVersion")
        info.version = version if type(version) is str else None
    else:
        info.version = meta_version(params.get("_meta"))
    if info.method == "notifications/cancelled":
        info.cancels = id_key(params.get("requestId"))


# ----------------------------------------------------------------------------------- many lines


@dataclass(slots=True)
class LongLine:
    """A line over the limit, of which only this was kept."""

    size: int
    info: LineInfo


class LineDecoder:
    """Cuts bytes into lines of at most `max_line`; one CR before the LF goes, and blank lines go.

    A longer line is looked into and thrown away as it comes.
    """

    __slots__ = ("_cr", "_max_line", "_pieces", "_scanner", "_size")

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._pieces: list[bytes] = []
        self._size = 0  # of the line so far
        self._scanner: Scanner | None = None  # of one that is too long
        self._cr = False

    def receive_data(self, data: bytes) -> Iterator[bytes | LongLine | Checkpoint]:
        """What `data` completes, in order. Exhaust it before the next call; at each Checkpoint let others run."""
        lines = data.split(b"\n")
        rest = lines.pop()
        for line in lines:
            if self._size or len(line) > self._max_line:
                yield from self._add(line)
                yield from self.end()
            elif line := _trimmed(line):
                yield line
        if rest:
            yield from self._add(rest)

    def end(self) -> Iterator[bytes | LongLine | Checkpoint]:
        """The source ended: what came behind the last LF is a line too."""
        if self._scanner is None and self._size > self._max_line + self._cr:
            yield from self._overflow()
        size, self._size = self._size - self._cr, 0
        if self._scanner is not None:
            yield LongLine(size, self._scanner.finish())
            self._scanner = None
        elif line := _trimmed(b"".join(self._pieces)):
            yield line
        self._pieces.clear()
        self._cr = False

    def _add(self, piece: bytes) -> Iterator[Checkpoint]:
        if not piece:
            return
        self._size += len(piece)
        self._cr = piece[-1] == 0x0D
        if self._scanner is not None:
            yield from self._discard(piece)
            return
        self._pieces.append(piece)
        if self._size > self._max_line + 1:  # one more might be the CR
            yield from self._overflow()

    def _overflow(self) -> Iterator[Checkpoint]:
        self._scanner = Scanner()
        pieces = self._pieces[::-1]
        self._pieces.clear()
        while pieces:
            yield from self._discard(pieces.pop())

    def _discard(self, piece: bytes) -> Iterator[Checkpoint]:
        assert self._scanner is not None
        for start in range(0, len(piece), SLICE_BYTES):
            self._scanner.feed(piece[start : start + SLICE_BYTES])
            yield None


def _trimmed(line: bytes) -> bytes:
    """Without its CR; nothing when it is blank."""
    if line[-1:] == b"\r":
        line = line[:-1]
    return line if line and (line[0] > 0x20 or line.strip(b" \t\r")) else b""


def printable(data: bytes | str, limit: int = 256) -> str:
    r"""`data` in printable ASCII, all else as `\x1b` or `\u202e`; cut behind `limit` characters."""
    text = data if isinstance(data, str) else data[: 4 * limit].decode("utf-8", "backslashreplace")
    cut = "..." if len(text) > limit else ""
    return "".join(char if " " <= char <= "~" else _escaped(ord(char)) for char in text[:limit]) + cut


def _escaped(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
