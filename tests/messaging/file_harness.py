"""People who send files to each other, over the nodes of `harness`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

from talos.messaging.files.service import open_files
from talos.messaging.people import WalletKeys
from tests.messaging.harness import Person

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from talos.messaging.files.config import FileConfig
    from talos.messaging.files.service import Files
    from talos.messaging.people import Acquaintances

KIB, MIB = 1024, 1024 * 1024


class Sender(Person):
    """Somebody with a downloads folder; `files_open` starts a node of the same identity, again and again."""

    @property
    def downloads(self) -> Path:
        return self.directory / "downloads"

    @asynccontextmanager
    async def files_open(
        self, config: FileConfig | None = None, *, people: Acquaintances | None = None
    ) -> AsyncIterator[Files]:
        async with (
            self.open(people=people) as messaging,
            open_files(
                messaging,
                self.node,
                WalletKeys(self.wallet),
                config,
                directory=self.directory,
                downloads=self.downloads,
                audit=self.log,
                people=people,
                now_ms=self.clock,
            ) as files,
        ):
            yield files


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes of no known type."""
    return b"\0\1\2\3"[:size] + Random(seed).randbytes(max(0, size - 4))


def tree(folder: Path) -> dict[str, bytes]:
    """All files below, without what is unfinished; links are not followed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".incoming" not in path.parts and not path.is_symlink()
    }


def leftovers(folder: Path) -> list[str]:
    """What is unfinished."""
    incoming = folder / ".incoming"
    return sorted(str(path.relative_to(incoming)) for path in incoming.rglob("*")) if incoming.exists() else []
