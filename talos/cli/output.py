"""Rules of printing.

- stdout is the answer, stderr the rest. With `--json` the answer is one object on a line, ASCII-escaped, with
  `"v": 1` and `"kind"`; its fields are those of `schema/<kind>.json`, of which none is ever absent.
- Every string goes through `printable`: what peers, servers and files wrote never drives a terminal.
- Errors are `talos: error: …`, lines of what was tried, `talos: hint: …`, or one JSON object; always on stderr.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

    from talos.cli.exits import Problem

__all__ = ["Output", "printable", "short", "size_text"]

VERSION = 1
MAX_TRIED = 8
UNIT = 1024
BAR_CELLS = 24
MAX_INTEGER = 1 << 53
"""Larger integers go as text: JSON readers keep them in doubles."""

# C0, DEL and C1; bidirectional controls; line and paragraph separators; lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with every character that steers a terminal written out: `\\x1b`, `\\u202e`."""
    return _UNSAFE.sub(_escape, text)


def short(peer: str) -> str:
    """A peer id cut in the middle: `12D3KooWQ7cE…x2fA`."""
    return f"{peer[:12]}…{peer[-4:]}" if len(peer) > 20 else peer


def counted(number: int, noun: str) -> str:
    """`1 peer`, `2 peers`, `2 entries`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("ry") else f"{number} {noun}s"


def size_text(size: int) -> str:
    """Bytes as people read them: `3.2 MiB`."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < UNIT:
            break
        value, unit = value / UNIT, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


class Output:
    """Where a command prints; the options decide what of it appears."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose

    def line(self, text: str = "") -> None:
        """One line of the answer."""
        _print(printable(text), sys.stdout)

    def emit(self, kind: str, **fields: object) -> None:
        """One JSON object of the answer."""
        _print(_json(kind, fields), sys.stdout)

    def note(self, text: str) -> None:
        """One line beside the answer; not with `-q`."""
        if not self.quiet:
            _print(printable(text), sys.stderr)

    def progress(self, done: int, total: int | None) -> None:
        """How far something is: one line that is drawn again in its place, on terminals alone."""
        if self.quiet or self.as_json or not total or not sys.stderr.isatty():
            return
        cells = BAR_CELLS * done // total
        bar = "#" * cells + "." * (BAR_CELLS - cells)
        end = "\n" if done == total else ""
        sys.stderr.write(f"\r[{bar}] {size_text(done)} of {size_text(total)} {end}")
        sys.stderr.flush()

    def detail(self, text: str) -> None:
        """One line beside the answer, with `-v` only."""
        if self.verbose and not self.quiet:
            _print(printable(text), sys.stderr)

    def warn(self, text: str) -> None:
        """Something that weakens this identity or its record: always said."""
        _print(f"talos: warning: {printable(text)}", sys.stderr)

    def problem(self, problem: Problem) -> None:
        """An error, what was tried, and what to do next."""
        if self.as_json:
            _print(_json("error", problem.fields()), sys.stderr)
            return
        lines = [f"talos: error: {printable(problem.message)}"]
        lines += [f"  tried {printable(line)}" for line in problem.tried[:MAX_TRIED]]
        if len(problem.tried) > MAX_TRIED:
            lines.append(f"  and {len(problem.tried) - MAX_TRIED} more")
        if problem.hint:
            lines.append(f"talos: hint: {printable(problem.hint)}")
        _print("\n".join(lines), sys.stderr)


def _print(text: str, stream: TextIO) -> None:
    print(text, file=stream, flush=True)


def _json(kind: str, fields: dict[str, object]) -> str:
    return json.dumps({"v": VERSION, "kind": kind, **{name: _value(value) for name, value in fields.items()}})


def _value(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_INTEGER:
        return str(value)
    if isinstance(value, dict):
        return {name: _value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_value(inner) for inner in value]
    return value


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
