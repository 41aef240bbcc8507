"""Files between identities: offered in a sealed message, pulled in verified chunks, resumed after anything."""

from __future__ import annotations

import os
import random as random_module
import secrets
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from talos.errors import LimitExceeded, LocalProtocolError, TransferFailed
from talos.host.block import background
from talos.messaging.code import AckState, MessageType
from talos.messaging.content import MAX_INLINE_MANIFEST_BYTES, MAX_MANIFEST_BYTES, StreamEnd, StreamKind, StreamStart
from talos.messaging.database import open_database
from talos.messaging.files.code import FileCode
from talos.messaging.files.config import FileConfig
from talos.messaging.files.desk import Desk, busy
from talos.messaging.files.exchange import Exchange
from talos.messaging.files.finish import Setting
from talos.messaging.files.frames import PROTOCOL_ID
from talos.messaging.files.manifest import Manifest
from talos.messaging.files.part import open_directory, remove_strays
from talos.messaging.files.rules import check_files
from talos.messaging.files.source import hash_walk, walk
from talos.messaging.files.spool import Spool
from talos.messaging.files.store import SCHEMA, TransferStore
from talos.messaging.files.transfer import DIRECTORY_TYPE, Transfer, TransferProgress, TransferState
from talos.messaging.handling import Verdict
from talos.messaging.people import Everybody
from talos.messaging.rows import RowCipher
from talos.messaging.store import MessageState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from talos.abc import AuditLog, Host
    from talos.identity.peer_id import PeerId
    from talos.messaging.files.source import Hashed, Walk
    from talos.messaging.handling import Received
    from talos.messaging.people import Acquaintances, Keyring
    from talos.messaging.service import Messaging, Outgoing

__all__ = ["Files", "Transfer", "TransferProgress", "TransferState", "open_files"]

HOUSEKEEPING_SECONDS = 3600.0
WATCHED = 256
"""Changes ahead of a watcher; more than transfers can be, unless nobody reads."""


@asynccontextmanager
async def open_files(
    messaging: Messaging,
    host: Host,
    keyring: Keyring,
    config: FileConfig | None = None,
    *,
    directory: Path,
    downloads: Path,
    audit: AuditLog,
    people: Acquaintances | None = None,
    now_ms: Callable[[], int] | None = None,
    random: random_module.Random | None = None,
) -> AsyncIterator[Files]:
    """Files to and from the host's identity for the length of the block; what was under way goes on.

    Transfers are kept in `files.db` in `directory`; `downloads` is made, for its owner alone, where there is none.
    StoreFailed or StoreCorrupt when the store cannot be read, OSError when `downloads` cannot be used.
    """
    with ExitStack() as stack:
        database = stack.enter_context(open_database(directory / "files.db", SCHEMA))
        folder = open_directory(downloads)
        stack.callback(os.close, folder)
        setting = Setting(
            messaging=messaging,
            host=host,
            config=config or FileConfig(),
            store=TransferStore(database, RowCipher(keyring.store_key)),
            audit=audit,
            downloads=downloads,
            folder=folder,
            now_ms=now_ms or (lambda: time.time_ns() // 1_000_000),
            random=random or random_module.Random(),  # noqa: S311 - spreads retries
        )
        async with background() as nursery:
            nursery.start_soon(database.run)
            files = Files(setting, people or Everybody(), nursery, Spool(directory / "outgoing", setting.config))
            try:
                with ExitStack() as mounted:
                    files.mount(mounted)
                    await files.resume()
                    yield files
            finally:
                await files.leave()


class Files:
    """Made by `open_files`. Calls may come from several tasks."""

    def __init__(self, setting: Setting, people: Acquaintances, nursery: trio.Nursery, spool: Spool) -> None:
        self._setting = setting
        self._nursery = nursery
        self._spool = spool
        self._known: dict[bytes, Transfer] = {}
        self._exchange = Exchange(setting, self._known, nursery)
        self._desk = Desk(setting, self._known, people, self._exchange, self._changed)
        self._watchers: list[trio.MemorySendChannel[Transfer]] = []

    def mount(self, stack: ExitStack) -> None:
        """Answers peers; `open_files` does."""
        setting, inside = self._setting, self._exchange.guests.inside
        offered, ended = partial(inside, self._desk.offered), partial(inside, self._ended)
        stack.enter_context(setting.messaging.handling(MessageType.STREAM_START, offered))
        stack.enter_context(setting.messaging.handling(MessageType.STREAM_END, ended))
        stack.enter_context(setting.host.mounted(PROTOCOL_ID, self._exchange.serve))
        stack.enter_context(setting.host.observe(self._exchange.observe))

    async def resume(self) -> None:
        """Takes up what was under way; `open_files` does."""
        for transfer in self._setting.store.load():
            transfer.on_state = self._changed
            if not transfer.state.final and transfer.state not in (TransferState.OFFERED, TransferState.ACCEPTED):
                transfer.state = TransferState.PAUSED
            self._known[transfer.id] = transfer
            if transfer.state.final:
                continue
            if transfer.state is not TransferState.OFFERED:
                self._exchange.start(transfer)
            elif not transfer.incoming:
                await self._offer(transfer)
        going = [one.id for one in self._known.values() if one.incoming and not one.state.final]
        await trio.to_thread.run_sync(remove_strays, self._setting.folder, going)
        self._spool.keep_only(source for one in self._known.values() if not one.state.final for source in one.sources)
        self._nursery.start_soon(self._keep_house)

    async def leave(self) -> None:
        """Ends what peers have begun; `open_files` does."""
        await self._exchange.guests.leave()

    # ------------------------------------------------------------------------------- sending

    async def send(self, to: PeerId, paths: Path | Sequence[Path], *, name: str | None = None) -> Transfer:
        """Offers a file, a directory, or several; returns when all is hashed and the offer is durable.

        `name` is what the recipient sees and keeps it under. OSError when something cannot be read,
        LocalProtocolError when there is nothing to send, TransferFailed when it is more than is sent at once,
        LimitExceeded with four transfers under way to this peer, and what `Messaging.post` raises. Files are read
        while they are sent: one that changes ends the transfer.
        """
        config = self._setting.config
        roots = [paths] if isinstance(paths, Path) else list(paths)
        if not roots:
            raise LocalProtocolError("nothing to send: no paths")
        self._check_busy(to)

        def read() -> tuple[Walk, list[Hashed]]:
            found = walk(roots, config, name=name)
            return found, hash_walk(found)

        found, hashed = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
        transfer = self._made(to, found, hashed)
        await self._setting.store.save_list(transfer)
        await self._setting.store.save(transfer)
        self._known[transfer.id] = transfer
        try:
            await self._offer(transfer)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._forget(transfer)
            raise
        self._changed(transfer)
        return transfer

    async def send_piped(self, to: PeerId, pieces: AsyncIterator[bytes], *, name: str) -> Transfer:
        """The same with what is piped in, which is kept in `outgoing` beside the store until the transfer is over.

        Returns and raises as `send`; TransferFailed also when the disk has no room for it.
        """
        self._check_busy(to)
        path = await self._spool.write(pieces)
        try:
            return await self.send(to, path, name=name)
        except BaseException:
            self._spool.discard([str(path.resolve())])
            raise

    def _check_busy(self, to: PeerId) -> None:
        config = self._setting.config
        if busy(self._known.values(), to, config.transfers_per_peer, config.transfers):
            raise LimitExceeded("too many transfers", limit=config.transfers_per_peer, kind="transfers")

    def _made(self, to: PeerId, found: Walk, hashed: list[Hashed]) -> Transfer:
        manifest = Manifest(tuple(one.entry for one in hashed))
        check_files(manifest, self._setting.config, directory=found.directory)
        encoded = manifest.encode()
        if len(encoded) > MAX_MANIFEST_BYTES:
            raise TransferFailed("a list of files over 4 MiB", code=FileCode.TOO_LARGE)
        offer = StreamStart(
            stream_id=secrets.token_bytes(16),
            kind=StreamKind.FILE,
            media_type=DIRECTORY_TYPE if found.directory else manifest.files[0].mime,
            total_size=manifest.total_size,
            files=len(manifest.files),
            key=secrets.token_bytes(32),
            manifest_hash=sha256(encoded).digest(),
            manifest_size=len(encoded),
            name=found.name,
        )
        now = self._setting.now_ms()
        return Transfer(
            peer=to,
            incoming=False,
            offer=offer,
            created_ms=now,
            changed_ms=now,
            manifest=manifest,
            sources=tuple(file.where for file in found.files),
            skipped=tuple(found.skipped),
            hashed=dict(enumerate(hashed, 1)),
            on_state=self._changed,
        )

    async def _offer(self, transfer: Transfer) -> None:
        """Posts the offer, unless a run before this one has, and waits for the answer in the background."""
        messaging = self._setting.messaging
        outgoing = messaging.outgoing(transfer.message_id) if transfer.message_id else None
        if outgoing is None:
            assert transfer.manifest is not None, "what is offered has a list"
            data = transfer.manifest.encode()
            inline = data if len(data) <= MAX_INLINE_MANIFEST_BYTES else b""
            content = replace(transfer.offer, manifest=inline)
            outgoing = await messaging.post(transfer.peer, MessageType.STREAM_START, content.encode())
            transfer.message_id = outgoing.id
            await self._setting.store.save(transfer)
        self._nursery.start_soon(self._await_answer, transfer, outgoing)

    async def _await_answer(self, transfer: Transfer, outgoing: Outgoing) -> None:
        answered = await outgoing.wait()
        if transfer.state is not TransferState.OFFERED:
            return
        if answered.state in (MessageState.DELIVERED, MessageState.READ):
            if answered.ack_state == AckState.ACCEPTED:
                await self._exchange.accepted(transfer)
            elif answered.ack_state != AckState.DELIVERED:
                code = answered.code if answered.ack_state == AckState.DECLINED else FileCode.POLICY
                await self._exchange.end(transfer, TransferState.DECLINED, code, tell=False)
        else:
            code = FileCode.EXPIRED if answered.state is MessageState.EXPIRED else FileCode.POLICY
            await self._exchange.end(transfer, TransferState.FAILED, code, tell=False)

    # ------------------------------------------------------------------------------- receiving

    def offers(self) -> list[Transfer]:
        """What waits for the owner's word."""
        return [one for one in self._known.values() if one.incoming and one.state is TransferState.OFFERED]

    async def accept(self, stream_id: bytes) -> None:
        """Takes an offer; TransferFailed, and it is declined, when there is no room any more."""
        await self._desk.accept(self._offered(stream_id))

    async def decline(self, stream_id: bytes) -> None:
        """Refuses an offer; its sender is told."""
        await self._exchange.end(self._offered(stream_id), TransferState.DECLINED, FileCode.POLICY)

    def _offered(self, stream_id: bytes) -> Transfer:
        transfer = self._known.get(stream_id)
        if transfer is None or not transfer.incoming or transfer.state is not TransferState.OFFERED:
            raise LocalProtocolError("no such offer waits")
        return transfer

    async def _ended(self, received: Received) -> Verdict | None:
        """The last message of a transfer; None when it is not ours."""
        end = StreamEnd.decode(received.content)
        transfer = self._known.get(end.stream_id)
        if transfer is None or transfer.peer != received.sender:
            return None
        if end.status:
            state = TransferState.CANCELLED if end.status == FileCode.CANCELLED else TransferState.FAILED
            if transfer.state is TransferState.OFFERED and not transfer.incoming:
                state = TransferState.DECLINED
            await self._exchange.end(transfer, state, end.status, tell=False)
            return Verdict(AckState.DELIVERED)
        if not transfer.incoming or end.root != transfer.offer.manifest_hash:
            return Verdict(AckState.DECLINED, FileCode.HASH_MISMATCH)
        if transfer.state is TransferState.COMPLETE:
            return Verdict(AckState.DELIVERED)
        return Verdict(AckState.DECLINED, transfer.code or FileCode.HASH_MISMATCH)

    # ------------------------------------------------------------------------------- looking

    def transfers(self) -> list[Transfer]:
        """Those that go on, and the last ones that are over; oldest first."""
        return list(self._known.values())

    def transfer(self, stream_id: bytes) -> Transfer | None:
        return self._known.get(stream_id)

    async def cancel(self, stream_id: bytes) -> None:
        """Gives up a transfer, whichever way it goes; the other side is told. Nothing when it is over."""
        transfer = self._known.get(stream_id)
        if transfer is None:
            raise LocalProtocolError("there is no such transfer")
        await self._exchange.end(transfer, TransferState.CANCELLED, FileCode.CANCELLED)

    @contextmanager
    def watching(self) -> Iterator[trio.MemoryReceiveChannel[Transfer]]:
        """Each transfer when its state changes, for the length of the block; a slow reader misses changes."""
        send, receive = trio.open_memory_channel[Transfer](WATCHED)
        self._watchers.append(send)
        try:
            yield receive
        finally:
            self._watchers.remove(send)
            send.close()
            receive.close()

    def _changed(self, transfer: Transfer) -> None:
        if transfer.state.final:
            self._spool.discard(transfer.sources)
        for watcher in self._watchers:
            if watcher.statistics().current_buffer_used < WATCHED:
                watcher.send_nowait(transfer)

    # ------------------------------------------------------------------------------- upkeep

    async def _forget(self, transfer: Transfer) -> None:
        self._known.pop(transfer.id, None)
        await self._setting.store.remove(transfer.id)

    async def _keep_house(self) -> None:
        """Ends what stands still for too long, and forgets the oldest of what is over."""
        while True:
            await self.tidy()
            await trio.sleep(HOUSEKEEPING_SECONDS)

    async def tidy(self) -> None:
        """What is done once an hour."""
        config = self._setting.config
        before = self._setting.now_ms() - int(config.part_seconds * 1000)
        for transfer in self.transfers():
            if transfer.state in (TransferState.PAUSED, TransferState.ACCEPTED) and transfer.changed_ms < before:
                await self._exchange.end(transfer, TransferState.FAILED, FileCode.EXPIRED)
        over = [one for one in self.transfers() if one.state.final]
        for transfer in over[: max(0, len(over) - config.remembered)]:
            await self._forget(transfer)
