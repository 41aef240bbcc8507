"""Descriptors 0, 1 and 2 before anything else is loaded, above all of a command whose stdout is a wire.

After `claim`, whatever prints by mistake, in Python or below it, lands on stderr. Standard library only.
"""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass
from io import TextIOWrapper
from typing import TextIO

__all__ = ["Wire", "claim", "command_of", "mend"]

WIRE_COMMAND = "mcp-connect"
_WITH_VALUE = frozenset({"--data-dir", "--home", "--timeout"})  # global options that take the next argument
_LOWEST = 3


@dataclass(frozen=True, slots=True)
class Wire:
    """The private descriptors of what was stdin and stdout."""

    read: int
    write: int


def command_of(arguments: list[str]) -> str | None:
    """The command that `arguments` call: the first that is neither a global option nor the value of one."""
    waiting = iter(arguments)
    for argument in waiting:
        if argument in _WITH_VALUE:
            next(waiting, None)
        elif not argument.startswith("-"):
            return argument
    return None


def claim(arguments: list[str]) -> Wire | None:
    """Moves the descriptors where the command needs it: 0 becomes the null device, 1 what 2 is."""
    if command_of(arguments) != WIRE_COMMAND:
        return None
    wire = Wire(_moved(0), _moved(1))
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    sys.stdin = _text_from(0)
    sys.stdout = _text_to(2)
    return wire


def mend() -> None:
    """Opens what of 0, 1 and 2 came closed, so that no file takes its number; makes Python print any text there."""
    for descriptor in range(_LOWEST):
        _open_if_closed(descriptor)
    if sys.stdin is None:
        sys.stdin = _text_from(0)
    sys.stdout, sys.stderr = _mended(sys.stdout, 1), _mended(sys.stderr, 2)


def _moved(descriptor: int) -> int:
    """A private copy above 2."""
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LOWEST)


def _open_if_closed(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


def _mended(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:
        return _text_to(descriptor)
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _text_to(descriptor: int) -> TextIO:
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _text_from(descriptor: int) -> TextIO:
    return open(descriptor, encoding="utf-8", errors="surrogateescape", closefd=False)
