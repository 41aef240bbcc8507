"""A whole program: what runs at the top of a `main`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["INTERRUPTED", "run"]

T = TypeVar("T")

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended: 128 + SIGINT."""


def run(main: Callable[..., Awaitable[T]], *args: object) -> T:
    """`trio.run` for a whole program: Ctrl-C ends it at once and quietly, with exit code 130."""
    try:
        return trio.run(main, *args)
    except KeyboardInterrupt:
        pass
    except BaseExceptionGroup as group:
        interrupts, others = group.split(KeyboardInterrupt)
        if interrupts is None or others is not None:
            raise
    sys.exit(INTERRUPTED)
