"""Where offers come in: who may send what, and what is said to it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from talos.errors import TransferFailed
from talos.messaging.code import AckState
from talos.messaging.content import StreamKind, StreamStart
from talos.messaging.files.code import FileCode
from talos.messaging.files.config import DAY_SECONDS, Accept
from talos.messaging.files.part import disk_faults
from talos.messaging.files.pulling import check_list
from talos.messaging.files.rules import check_room, folder_bytes
from talos.messaging.files.transfer import Transfer, TransferState
from talos.messaging.handling import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from talos.identity.peer_id import PeerId
    from talos.messaging.files.exchange import Exchange
    from talos.messaging.files.finish import Setting
    from talos.messaging.handling import Received
    from talos.messaging.people import Acquaintances

__all__ = ["Desk", "busy"]

_log = logging.getLogger(__name__)

CODECS = ("", "identity")


class Desk:
    """Judges offers, one at a time, so that each sees what the one before it was promised."""

    def __init__(
        self,
        setting: Setting,
        known: dict[bytes, Transfer],
        people: Acquaintances,
        exchange: Exchange,
        on_state: Callable[[Transfer], None],
    ) -> None:
        self._setting = setting
        self._known = known
        self._people = people
        self._exchange = exchange
        self._on_state = on_state
        self._turn = trio.Lock()

    async def offered(self, received: Received) -> Verdict | None:
        """An offer came, perhaps again; None when it is not of files."""
        offer = StreamStart.decode(received.content)
        if offer.kind != StreamKind.FILE:
            return None
        async with self._turn:
            known = self._known.get(offer.stream_id)
            if known is not None:
                mine = known.incoming and known.peer == received.sender
                return _verdict(known) if mine else Verdict(AckState.DECLINED, FileCode.POLICY)
            transfer = Transfer(
                peer=received.sender,
                incoming=True,
                offer=offer,
                created_ms=self._setting.now_ms(),
                changed_ms=self._setting.now_ms(),
                on_state=self._on_state,
            )
            try:
                taken = self._check(transfer)
                await self._check_room(transfer)
            except TransferFailed as error:
                _log.info("files of %s are declined: %s", received.sender, error)
                return Verdict(AckState.DECLINED, error.code)
            return await self._enter(transfer, taken=taken)

    async def accept(self, transfer: Transfer) -> None:
        """The owner says yes; TransferFailed, and it is declined, when there is no room by now."""
        async with self._turn:
            try:
                await self._check_room(transfer)
            except TransferFailed as error:
                await self._exchange.end(transfer, TransferState.DECLINED, error.code)
                raise
            await self._exchange.accepted(transfer)

    async def _enter(self, transfer: Transfer, *, taken: bool) -> Verdict:
        self._known[transfer.id] = transfer
        await self._setting.store.save(transfer)
        await self._setting.store.save_list(transfer)
        self._on_state(transfer)
        if taken:
            await self._exchange.accepted(transfer)
        return _verdict(transfer)

    # ------------------------------------------------------------------------------- what is taken

    def _check(self, transfer: Transfer) -> bool:
        """TransferFailed for what is not taken; False for what the owner is to be asked about."""
        config, offer = self._setting.config, transfer.offer
        taken = self._is_welcome(transfer.peer)
        if not taken and not config.ask:
            raise TransferFailed("not from this peer", code=FileCode.POLICY)
        if offer.codec not in CODECS:
            raise TransferFailed("a codec that is not known", code=FileCode.CODEC)
        if offer.total_size > config.total_bytes or offer.files > config.entries:
            raise TransferFailed("more than is taken at once", code=FileCode.TOO_LARGE)
        if busy(self._known.values(), transfer.peer, config.transfers_per_peer, config.transfers):
            raise TransferFailed("too many transfers", code=FileCode.POLICY)
        if not self._people.known(transfer.peer):
            self._check_stranger(transfer)
        if offer.manifest:
            transfer.manifest = check_list(transfer, offer.manifest, config)
            transfer.offer = replace(offer, manifest=b"")
        return taken

    def _is_welcome(self, peer: PeerId) -> bool:
        accept = self._setting.config.accept
        return accept is Accept.ANYONE or (accept is Accept.CONTACTS and self._people.known(peer))

    def _check_stranger(self, transfer: Transfer) -> None:
        since = transfer.created_ms - DAY_SECONDS * 1000
        today = sum(
            one.total
            for one in self._known.values()
            if one.incoming and one.peer == transfer.peer and one.created_ms > since
        )
        if today + transfer.total > self._setting.config.stranger_bytes_per_day:
            raise TransferFailed("more than a stranger may send in a day", code=FileCode.POLICY)

    async def _check_room(self, transfer: Transfer) -> None:
        """What was promised to others and is not there yet counts as if it were."""
        setting = self._setting
        promised = sum(
            one.total - one.progress.done
            for one in self._known.values()
            if one.incoming and not one.state.final and one.state is not TransferState.OFFERED
        )

        def check() -> None:
            with disk_faults():
                check_room(setting.folder, promised + transfer.total, setting.config)
                held = folder_bytes(setting.downloads)
            if held + promised + transfer.total > setting.config.folder_bytes:
                raise TransferFailed("the downloads folder is full", code=FileCode.NO_SPACE)

        await trio.to_thread.run_sync(check)


def busy(known: Iterable[Transfer], peer: PeerId, per_peer: int, total: int) -> bool:
    """Whether one transfer more, with this peer, would be too many."""
    going = [one.peer for one in known if not one.state.final]
    return len(going) >= total or going.count(peer) >= per_peer


def _verdict(transfer: Transfer) -> Verdict:
    if transfer.state is TransferState.OFFERED:
        return Verdict(AckState.DELIVERED)
    if transfer.state in (TransferState.DECLINED, TransferState.CANCELLED, TransferState.FAILED):
        return Verdict(AckState.DECLINED, transfer.code)
    return Verdict(AckState.ACCEPTED)
