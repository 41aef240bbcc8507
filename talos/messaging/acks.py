"""Acknowledgements of our messages: judged, their receipts recorded, the messages settled."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from talos.errors import AuditError, EntryConflict, EnvelopeRejected, ProofInvalid
from talos.messaging.checks import check_parties
from talos.messaging.code import AckState, Code, MessageType
from talos.messaging.content import Ack, AckItem
from talos.messaging.envelope import open_inner, open_outer, verify
from talos.messaging.payload import Payload
from talos.messaging.store import MessageState, StoredMessage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from sqlite3 import Connection

    from talos.identity.peer_id import PeerId
    from talos.messaging.state import State

__all__ = ["Acknowledgements"]

_log = logging.getLogger(__name__)


class Acknowledgements:
    """What peers say that they have."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def take(self, peer: PeerId, envelopes: Sequence[bytes]) -> frozenset[bytes]:
        """The ids of our messages that `peer` acknowledges by these; none of one that is not valid. AuditError."""
        items: list[AckItem] = []
        for envelope in envelopes:
            try:
                items.extend(self._open_ack(peer, envelope).items)
            except EnvelopeRejected as error:
                _log.warning("acknowledgement of %s is not valid: %s", peer, error)
        return await self._acknowledged(peer, items)

    async def note(self, peer: PeerId, ack: Ack) -> Code:
        try:
            await self._acknowledged(peer, ack.items)
        except AuditError as error:
            raise EnvelopeRejected("the receipt cannot be recorded", code=Code.BUSY) from error
        return Code.OK

    async def _acknowledged(self, peer: PeerId, items: Sequence[AckItem]) -> frozenset[bytes]:
        """Records the receipts of what is acknowledged and settles it, all at once; the ids of what is."""
        state, settled = self._state, set()
        news: dict[bytes, tuple[StoredMessage, AckItem]] = {}
        for item in items:
            message = state.store.message(state.me, item.id)
            if message is None or message.peer != peer or message.digest != item.digest:
                _log.warning("%s acknowledges what was not sent to it", peer)
            elif item.state is AckState.READ:
                await self._note_reading(message)
            elif message.state.final or message.state is MessageState.DELIVERED:
                settled.add(item.id)
            elif self._has_receipt(peer, message, item):
                news.setdefault(item.id, (message, item))
        await self._record_receipts(peer, list(news.values()))
        await self._settle(list(news.values()))
        return frozenset(settled | news.keys())

    async def _note_reading(self, message: StoredMessage) -> None:
        if message.state is MessageState.DELIVERED:
            await self._state.store.database.write(
                partial(
                    self._state.store.change,
                    number=message.number,
                    state=MessageState.READ,
                    read_ms=self._state.now_ms(),
                )
            )
            self._state.watch.changed(message.id)

    def _has_receipt(self, peer: PeerId, message: StoredMessage, item: AckItem) -> bool:
        if item.receipt is None:
            _log.warning("%s acknowledges without a receipt", peer)
            return False
        try:
            self._state.audit.check_receipt(
                item.receipt,
                msg_id=message.id,
                sealed_hash=message.sealed_hash,
                sender=self._state.host.peer_id,
                receiver=peer,
            )
        except ProofInvalid as error:
            _log.warning("receipt of %s is not valid: %s", peer, error)
            return False
        return True

    async def _record_receipts(self, peer: PeerId, news: Sequence[tuple[StoredMessage, AckItem]]) -> None:
        """Where a receipt of that message is in the log already, from before a crash, that one counts."""
        entries = [
            self._state.receipt_entry(message, peer, item.receipt) for message, item in news if item.receipt is not None
        ]
        if not entries:
            return
        try:
            await self._state.audit.record_many(entries)
        except EntryConflict:
            for entry in entries:
                with suppress(EntryConflict):
                    await self._state.audit.record(entry)

    async def _settle(self, news: Sequence[tuple[StoredMessage, AckItem]]) -> None:
        state = self._state

        def write(connection: Connection) -> None:
            for message, item in news:
                changes = {"receipt": item.receipt, "ack_state": item.state, "code": item.code}
                state.settle_in(connection, message.number, MessageState.DELIVERED, **changes)

        if news:
            await state.store.database.write(write)
            for message, _ in news:
                state.settled(message, MessageState.DELIVERED)

    def _open_ack(self, peer: PeerId, envelope: bytes) -> Ack:
        state = self._state
        outer = open_outer(envelope, state.me, state.keyring.secrets())
        payload = Payload.decode(outer.payload)
        check_parties(state, payload, peer)
        m, _ = verify(payload)
        if payload.type != MessageType.ACK:
            raise EnvelopeRejected("another message than an acknowledgement", code=Code.BAD_PAYLOAD)
        if outer.key_record:
            state.book.learn(peer, outer.key_record)
        return Ack.decode(open_inner(payload, m, state.keyring.secrets()).content)
