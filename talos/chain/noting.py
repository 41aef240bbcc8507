"""Evidence against others, noted in the own chain: from then on its owner cannot unlearn it without a trace."""

from __future__ import annotations

import logging
from hashlib import sha256
from typing import TYPE_CHECKING

from talos.chain.effects import Evidence
from talos.chain.entry import Kind
from talos.chain.evidence import MAGIC
from talos.errors import AuditError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from talos.chain.core import Core
    from talos.chain.effects import Effect

__all__ = ["note_evidence", "pass_on"]

MAX_NOTED = 64
"""While a chain is open: who signs falsely without end does not fill our chain with it."""

_log = logging.getLogger(__name__)


async def note_evidence(
    events: trio.MemoryReceiveChannel[Effect], note: Callable[[Kind, tuple[bytes, ...]], Awaitable[None]]
) -> None:
    """Records the hash of each evidence that comes, until cancelled."""
    noted: set[bytes] = set()
    async with events:
        async for effect in events:
            if not isinstance(effect, Evidence) or not effect.file.startswith(MAGIC):
                continue
            digest = sha256(effect.file).digest()
            if digest in noted or len(noted) >= MAX_NOTED:
                continue
            noted.add(digest)
            try:
                await note(Kind.EVIDENCE, (digest,))
            except AuditError as error:  # the own chain is frozen or full: the file is kept all the same
                _log.warning("evidence %s is in no entry: %s", digest.hex(), error)


async def pass_on(core: Core, own: Core) -> None:
    """What a copy finds out is told in the own chain, until cancelled."""
    async with core.listen() as events:
        async for effect in events:
            if isinstance(effect, Evidence):
                own.tell(effect)
