"""Files: offered in a sealed message, pulled in verified chunks.

async with open_files(messaging, node, keys, directory=home, downloads=home / "downloads", audit=chain) as files:
    transfer = await files.send(peer, Path("report.pdf"))
    await transfer.wait()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.messaging.files.code import FileCode
    from talos.messaging.files.config import Accept, FileConfig
    from talos.messaging.files.mime import TypeLimits
    from talos.messaging.files.service import Files, open_files
    from talos.messaging.files.transfer import Transfer, TransferProgress, TransferState

__all__ = [
    "Accept",
    "FileCode",
    "FileConfig",
    "Files",
    "Transfer",
    "TransferProgress",
    "TransferState",
    "TypeLimits",
    "open_files",
]

_HOMES = {
    "Accept": "talos.messaging.files.config",
    "FileCode": "talos.messaging.files.code",
    "FileConfig": "talos.messaging.files.config",
    "Files": "talos.messaging.files.service",
    "Transfer": "talos.messaging.files.transfer",
    "TransferProgress": "talos.messaging.files.transfer",
    "TransferState": "talos.messaging.files.transfer",
    "TypeLimits": "talos.messaging.files.mime",
    "open_files": "talos.messaging.files.service",
}

__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
