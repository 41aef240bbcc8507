"""What happens to an exception that no command expects: a file for the developers, one line for the user."""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from typing import TYPE_CHECKING

from talos.cli.exits import Problem

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from talos.cli.session import Session

__all__ = ["install"]


def install(session: Session) -> None:
    """Takes over `sys.excepthook`: the interpreter then leaves with 1, and no traceback is seen without `--debug`."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        if session.debug:
            sys.stderr.write(text)
        path = _save(session, text)
        where = f"; saved as {path}" if path else ""
        message = f"a bug in talos: {kind.__name__}{where}"
        session.out.problem(Problem(code="failed", message=message, hint="report it with that file, or with --debug"))

    sys.excepthook = hook


def _save(session: Session, text: str) -> Path | None:
    """Writes no local values, only where a home is, and nothing when that fails: there is an error to tell already."""
    from talos.cli.exits import Failure
    from talos.errors import TalosError
    from talos.identity import private_file

    head = f"talos crash report\npython {platform.python_version()} on {platform.system()}\n\n"
    try:
        home = session.home
        home.check()
        private_file.make_directory(home.log)
        path = home.log / f"crash-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.txt"
        private_file.write(path, (head + text).encode(errors="backslashreplace"), replace=True)
    except (OSError, TalosError, Failure):
        return None
    return path
