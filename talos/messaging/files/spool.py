"""What is piped in and sent as a file: kept on the disk for as long as its transfer may read it again."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from talos.errors import TransferFailed
from talos.messaging.files.code import FileCode
from talos.messaging.files.part import FILE_MODE, disk_faults, open_directory
from talos.messaging.files.rules import check_room

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from talos.messaging.files.config import FileConfig

__all__ = ["Spool"]


class Spool:
    """A directory of the home, made with the first file in it; the files are their owner's alone."""

    def __init__(self, directory: Path, config: FileConfig) -> None:
        self._directory = directory
        self._config = config

    async def write(self, pieces: AsyncIterator[bytes]) -> Path:
        """Writes all that comes into a file of its own.

        TransferFailed when it is more than a transfer takes, or the disk has no room; then, and when it is cancelled,
        nothing is left.
        """
        os.close(open_directory(self._directory))
        path, size = self._directory / secrets.token_hex(8), 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with disk_faults(), os.fdopen(os.open(path, flags, FILE_MODE), "wb") as file:
                async for piece in pieces:
                    size += len(piece)
                    self._check(file.fileno(), size, len(piece))
                    await trio.to_thread.run_sync(file.write, piece)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def _check(self, descriptor: int, size: int, more: int) -> None:
        if size > self._config.total_bytes:
            limit = self._config.total_bytes
            raise TransferFailed(f"more than {limit} bytes were piped in", code=FileCode.TOO_LARGE)
        check_room(descriptor, more, self._config)

    def discard(self, sources: Iterable[str]) -> None:
        """Removes those of the files that were piped in."""
        for source in sources:
            if Path(source).parent == self._directory.resolve():
                Path(source).unlink(missing_ok=True)

    def keep_only(self, sources: Iterable[str]) -> None:
        """Removes what a run before this one left and nobody sends any more."""
        wanted = {Path(source).name for source in sources}
        with contextlib.suppress(FileNotFoundError):
            for path in self._directory.iterdir():
                if path.name not in wanted:
                    path.unlink()
