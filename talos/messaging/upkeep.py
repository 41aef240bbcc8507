"""What the message store needs beside messages: mending after a crash, forgetting, wiping."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from talos.errors import AuditError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from talos.messaging.composer import Composer
    from talos.messaging.intake import Intake
    from talos.messaging.state import State
    from talos.messaging.store import StoredMessage

__all__ = ["Upkeep"]

_log = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 60.0


class Upkeep:
    """`begin` comes before all else, `run` is its task."""

    def __init__(self, state: State, composer: Composer, intake: Intake) -> None:
        self._state = state
        self._composer = composer
        self._intake = intake

    async def begin(self, directory: Path) -> None:
        """Before anything else: looks whether the store is that of the last run, and mends what a crash left."""
        await self._composer.begin(directory)
        await self._count_seen()
        try:
            await self._mend(self._state.store.unrecorded())
        except AuditError as error:
            _log.warning("what a crash left cannot be recorded yet: %s", error)

    async def run(self) -> None:
        """Forgets what is so old that the clock refuses it, wipes what was to vanish, records what waits for that."""
        store = self._state.store
        left: set[int] = set()
        while True:
            now = self._state.now_ms()
            await self._count_seen()
            while await store.database.write(partial(store.wipe, now_ms=now)):
                pass
            unrecorded = store.unrecorded()
            await self._mend([message for message in unrecorded if message.number in left])
            left = {message.number for message in unrecorded}
            await trio.sleep(HOUSEKEEPING_SECONDS)

    async def _count_seen(self) -> None:
        """Forgets ids that are so old that the clock refuses them, and says how many are left."""
        state, before = self._state, self._intake.seen
        left = await state.store.database.write(partial(state.store.forget_seen, now_ms=state.now_ms()))
        self._intake.seen += left - before

    async def _mend(self, messages: Sequence[StoredMessage]) -> None:
        """Records what is not recorded; one by one, as the log may refuse one of them alone."""
        store = self._state.store
        for message in messages:
            if any(message.sealed_hash):
                row = store.outbox_row(message.number)
                await self._state.record([(message, row.envelope if row is not None else b"")])
