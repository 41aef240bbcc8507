"""How transfers end: whole files into their place, both logs, the last message, the row."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from talos.abc import AuditEntry, Direction, EntryKind
from talos.errors import AuditError, LimitExceeded, MessagingError
from talos.messaging.code import MessageType
from talos.messaging.content import StreamEnd
from talos.messaging.files.names import safe_file_name
from talos.messaging.files.part import disk_faults
from talos.messaging.files.place import free_name, link_directory, link_file, planned_paths
from talos.messaging.files.transfer import TransferState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from talos.abc import AuditLog, Host
    from talos.messaging.files.config import FileConfig
    from talos.messaging.files.part import PartsDirectory
    from talos.messaging.files.store import TransferStore
    from talos.messaging.files.transfer import Transfer
    from talos.messaging.service import Messaging

__all__ = ["Finisher", "Setting"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What files need around them."""

    messaging: Messaging
    host: Host
    config: FileConfig
    store: TransferStore
    audit: AuditLog
    downloads: Path
    folder: int
    """A descriptor of `downloads`."""
    now_ms: Callable[[], int]
    random: Random


class Finisher:
    """Each step may be repeated after a crash, with the same result."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    async def received(self, transfer: Transfer, parts: PartsDirectory) -> None:
        """All parts are verified: they become files, and the log says so. AuditError when it cannot."""
        await self._settle(transfer)
        await self._place(transfer, parts)
        await self._record(transfer)
        transfer.path = self._setting.downloads / transfer.target
        await self._complete(transfer)

    async def sent(self, transfer: Transfer) -> None:
        """The receiver has all files. AuditError when the log cannot say so, and what posting raises."""
        await self._settle(transfer)
        await self._record(transfer)
        await self._post(transfer, 0)
        await self._complete(transfer)

    async def ended(self, transfer: Transfer, state: TransferState, code: int, *, tell: bool) -> None:
        """It is over, not well; the other side is told where that is wanted and can be."""
        setting = self._setting
        transfer.step(state, code=code)
        transfer.changed_ms = setting.now_ms()
        await setting.store.save(transfer)
        if not tell or (transfer.message_id and await setting.messaging.cancel(transfer.message_id)):
            return
        try:
            await self._post(transfer, code)
        except (MessagingError, LimitExceeded, AuditError) as error:
            _log.warning("%s cannot be told that a transfer is over: %r", transfer.peer, error)

    async def _settle(self, transfer: Transfer) -> None:
        transfer.step(TransferState.VERIFYING)
        if not transfer.settled_ms:
            transfer.settled_ms = self._setting.now_ms()
            await self._setting.store.save(transfer)

    async def _place(self, transfer: Transfer, parts: PartsDirectory) -> None:
        """Under a name that is kept before it is used, so that a crash leaves no second copy."""
        setting, files = self._setting, transfer.files
        assert files is not None, "its files are here"
        paths = planned_paths(files, directory=transfer.directory)
        wanted = safe_file_name(transfer.name) if transfer.directory else paths[0][0]

        def link(name: str) -> bool:
            with disk_faults():
                if not transfer.directory:
                    return link_file(setting.folder, parts.descriptor, name)
                link_directory(setting.folder, parts.descriptor, name, paths)
                return True

        while not transfer.target or not await trio.to_thread.run_sync(link, transfer.target):
            with disk_faults():
                transfer.target = free_name(setting.folder, wanted)
            await setting.store.save(transfer)

    async def _record(self, transfer: Transfer) -> None:
        """The same entry at each call."""
        setting, files = self._setting, transfer.files
        assert files is not None, "what is recorded has a list"
        mine, other = setting.host.peer_id.to_bytes(), transfer.peer.to_bytes()
        sender, recipient = (other, mine) if transfer.incoming else (mine, other)
        entry = AuditEntry(
            kind=EntryKind.FILE,
            msg_id=transfer.id,
            direction=Direction.IN if transfer.incoming else Direction.OUT,
            counterparty=other,
            time_ms=transfer.settled_ms,
            sender=sender,
            recipient=recipient,
            size=transfer.total,
            detail=transfer.offer.media_type.encode(),
            file_root=transfer.offer.manifest_hash if transfer.directory else files[0].root,
        )
        await setting.audit.record(entry)

    async def _post(self, transfer: Transfer, status: int) -> None:
        files = transfer.files or ()
        end = StreamEnd(
            stream_id=transfer.id,
            status=status,
            bytes_total=transfer.total,
            chunks=sum(entry.chunks for entry in files),
            root=b"" if status else transfer.offer.manifest_hash,
        )
        await self._setting.messaging.post(transfer.peer, MessageType.STREAM_END, end.encode())

    async def _complete(self, transfer: Transfer) -> None:
        transfer.changed_ms = self._setting.now_ms()
        transfer.step(TransferState.COMPLETE)
        await self._setting.store.save(transfer)
