"""Entry point of the `talos` command. It loads nothing of the network stack by itself."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from talos import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

USAGE = 2


class _Parser(argparse.ArgumentParser):
    """Errors as the rest of Talos prints them: one line, one hint, on stderr."""

    def error(self, message: str) -> None:  # type: ignore[override]  # never returns
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        print(f"{self.prog}: hint: see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = _Parser(prog="talos", description="A libp2p networking stack on trio.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"talos {__version__}")
    parser.parse_args(arguments)
    parser.print_help()
    return 0
