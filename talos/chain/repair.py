"""Mending: damaged rows are found on reading and by a weekly scrub, and fetched again by block id from who has them.

Only a block whose id, signature and body are right takes the place of a damaged row. Index and tree are not mended
here: `talos chain recover` makes them anew.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from talos.chain.block import block_id, body_hash, check_signature
from talos.chain.driver import now
from talos.chain.effects import Answered, Send
from talos.chain.messages import Request
from talos.errors import ChainError, LocalProtocolError, ProofInvalid, StoreCorrupt

if TYPE_CHECKING:
    from talos.chain.block import Block
    from talos.chain.core import Core
    from talos.chain.effects import Peer
    from talos.chain.reading import Reading

__all__ = ["keep_whole"]

SCRUB_SECONDS = 7 * 86_400.0
SLICE_BLOCKS = 64
ANSWER_SECONDS = 30.0
PAUSE_SECONDS = 60.0
"""Until what nobody gave is asked for again."""

_log = logging.getLogger(__name__)


async def keep_whole(core: Core) -> None:
    """Looks at everything once a week, and at once when something was found damaged; until cancelled."""
    pause = SCRUB_SECONDS
    while True:
        with trio.move_on_after(pause):
            await core.damaged.wait()
        try:
            found = await _scrub(core)
            core.damaged = trio.Event()  # looking has set it
            left = [height for height in found if not await _mend(core, height)]
        except ChainError as error:
            _log.warning("the chain cannot be mended: %s", error)
            return
        core.reading.forget()
        if left:
            core.damaged = trio.Event()  # what nobody gave is asked for after a pause, not at once
        pause = PAUSE_SECONDS if left else SCRUB_SECONDS


async def _scrub(core: Core) -> list[int]:
    """The heights whose header or body is not what was written."""
    found: list[int] = []
    for start in range(core.machine.min_height, core.machine.tip.header.height + 1, SLICE_BLOCKS):
        stop = min(start + SLICE_BLOCKS, core.machine.tip.header.height + 1)
        found += await trio.to_thread.run_sync(_damaged, core.serving, start, stop, limiter=core.serving_limit)
    return found


def _damaged(reading: Reading, start: int, stop: int) -> list[int]:
    found = []
    for height in range(start, stop):
        try:
            reading.items_at(height)
        except (StoreCorrupt, ProofInvalid):  # a header that is missing is a proof of nothing
            found.append(height)
    return found


async def _mend(core: Core, height: int) -> bool:
    wanted = _id_at(core.reading, height)
    if wanted is None:
        return False
    for peer in core.machine.peers:
        block = await _fetch(core, peer, wanted)
        if block is not None and _is_right(core, block, wanted):
            await core.writer.alone(core.store.mend, block)
            _log.warning("block %d was damaged, and is mended by peer %s", height, peer)
            return True
    return False


async def _fetch(core: Core, peer: Peer, wanted: bytes) -> Block | None:
    """What the peer gives for this id, unchecked; None when that is nothing."""
    with core.listen() as events, trio.move_on_after(ANSWER_SECONDS):
        try:
            sends = core.machine.ask(peer, now(), block_id=wanted)
        except LocalProtocolError:
            return None
        requests = [effect.message for effect in sends if isinstance(effect, Send)]
        asked = {request.id for request in requests if isinstance(request, Request)}
        core.driver.do(sends)
        async for effect in events:
            if isinstance(effect, Answered) and effect.peer == peer and effect.response.id in asked:
                return effect.response.blocks[0] if effect.response.blocks else None
    return None


def _id_at(reading: Reading, height: int) -> bytes | None:
    """By its header, or where that is damaged by the one behind it."""
    for place in (height, height + 1):
        try:
            stored = reading.header_at(place)
        except StoreCorrupt:
            continue
        if stored is not None:
            return stored.block_id if place == height else stored.header.prev_id
    return None


def _is_right(core: Core, block: Block, wanted: bytes) -> bool:
    header = block.header
    author = core.params.author(header.author_pk)
    if block_id(block.raw) != wanted or author is None or len(block.items) != header.n_items:
        return False
    try:
        check_signature(author.key, wanted, block.sig)
    except ProofInvalid:
        return False
    return body_hash(block.items) == header.body_hash
