"""The library's log, to stderr or to a file of the user's own."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from talos.cli.output import printable
from talos.identity.private_file import FILE_MODE

if TYPE_CHECKING:
    from io import TextIOWrapper
    from pathlib import Path

    from talos.cli.config import LogConfig
    from talos.cli.session import Session

__all__ = ["LEVELS", "configure", "configure_for"]

LEVELS = ("debug", "info", "warning", "error")


class _Line(logging.Formatter):
    """One record, one line, nothing in it that steers a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _PrivateFile(logging.FileHandler):
    """A file for its owner's eyes, appended."""

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(self.baseFilename, flags, FILE_MODE), "a", encoding="utf-8")


def configure_for(session: Session, settings: LogConfig) -> None:
    """As `[log]` says; `--debug` and `-v` stand over its level."""
    level = "debug" if session.debug else "info" if session.verbose else settings.level
    configure(level, session.home.path / settings.file if settings.file else None)


def configure(level: str, path: Path | None = None) -> None:
    """Sends the records of `talos` from `level` on to stderr, or to `path` (0600, appended)."""
    handler = logging.StreamHandler() if path is None else _PrivateFile(path)
    handler.setFormatter(_Line("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("talos")
    before, logger.handlers[:] = list(logger.handlers), [handler]
    for old in before:
        if isinstance(old, _PrivateFile):
            old.close()
    logger.setLevel(level.upper())
    logger.propagate = False
