"""Does what a chain's machine decides: mines, writes, tells. One per open chain.

clock     waits for the machine's next deadline, or for news
work      gives the machine its turns, a few milliseconds each, while it has blocks to check
disk      persists, stages and replaces, one after the other, in the writer's turn
mining    one task for each block that is tried, in slices; above 16 bits in a process of its own
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

import trio

from talos.chain.checkpoint import Checkpoint
from talos.chain.effects import (
    Alarm,
    Announce,
    Answered,
    DropStage,
    Effect,
    Evidence,
    Fault,
    KeepCheckpoint,
    Mine,
    Now,
    Persist,
    Replace,
    Send,
    Serve,
    Stage,
    StopMining,
)
from talos.chain.entry import inspect
from talos.chain.genesis import Mode
from talos.chain.mining import mine
from talos.chain.reading import Row
from talos.errors import ChainError, StoreFull

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from talos.chain.block import Checked
    from talos.chain.machine import ChainMachine
    from talos.chain.opening import OpenChain
    from talos.chain.writer import Writer
    from talos.errors import ChainError as AnyChainError

__all__ = ["Driver", "now"]

NOTE_SECONDS = 1.0
"""At most one checkpoint in this time."""
MAX_WAITING_EFFECTS = 1024

_log = logging.getLogger(__name__)


def now() -> Now:
    return Now(trio.current_time(), time.time_ns() // 1_000_000)


class Driver:
    """Runs a machine over a store. `hears` gets what others are to be told: sends, faults, announcements, alarms."""

    def __init__(
        self,
        opened: OpenChain,
        machine: ChainMachine,
        writer: Writer,
        *,
        boxes: dict[bytes, bytes],
        retry_seconds: float,
    ) -> None:
        self.machine = machine
        self.hears: Callable[[Effect], None] = lambda _: None
        self.durable: Callable[[Iterable[bytes]], Awaitable[None]] = _nothing_waits
        """Waits until own entries are on the disk: no block comes before them."""
        self._opened = opened
        self._store = opened.store
        self._writer = writer
        self._boxes = boxes
        """What opens the entries that are in no block yet."""
        self._retry_seconds = retry_seconds
        self._news = trio.Event()
        self._send_disk, self._receive_disk = trio.open_memory_channel[Effect](MAX_WAITING_EFFECTS)
        self._send_mine, self._receive_mine = trio.open_memory_channel[Mine](MAX_WAITING_EFFECTS)
        self._mining: dict[object, trio.CancelScope] = {}
        self._noted = -NOTE_SECONDS
        self._sealed = trio.Event()

    def kick(self) -> None:
        """Something has changed that the machine may want to act on."""
        self._news.set()

    def keep(self, evidence: Evidence) -> None:
        """Keeps it when the disk has time: of a flood the first thousand are enough."""
        with contextlib.suppress(trio.WouldBlock):
            self.do([evidence])

    def do(self, effects: Iterable[Effect]) -> None:
        """Starts what the machine asks for; never waits."""
        for effect in effects:
            match effect:
                case Mine():
                    self._send_mine.send_nowait(effect)
                case StopMining():
                    scope = self._mining.pop(effect.ticket, None)
                    if scope is not None:
                        scope.cancel()
                case Persist() | Stage() | DropStage() | Replace() | Evidence() | KeepCheckpoint():
                    self._send_disk.send_nowait(effect)
                case Alarm():
                    _log.warning("%s", effect.text)
                    self.hears(effect)
                case Send() | Serve() | Answered() | Fault() | Announce():
                    self.hears(effect)
        self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._clock)
            nursery.start_soon(self._disk)
            async for effect in self._receive_mine:
                nursery.start_soon(self._mine, effect)

    async def sealed(self) -> None:
        """Everything that waited at the call is in a block on return. AuditError when the disk refuses."""
        keys = set(self._boxes)
        while keys & self._boxes.keys():
            self._writer.check()
            self.do(self.machine.seal(now(), force=True))
            await self._sealed.wait()

    async def seal_group(self, new: int) -> Checked | None:
        """A block of what waits, where so many new entries are worth one at once, to be persisted in the same turn."""
        for effect in self.machine.seal_group(new, now()):
            if not isinstance(effect, Mine):
                self.do([effect])
                continue
            nonce = await mine(effect.draft.header)
            for found in self.machine.mined(effect.ticket, nonce, now()):
                assert isinstance(found, Persist)
                return found.blocks[0]
        return None

    async def persist_group(self, block: Checked, boxes: Mapping[bytes, bytes], rest: Sequence[Row]) -> None:
        """The block of `seal_group`, and rows of what waits on, in one transaction. ChainError: nothing is there."""
        note = self._note(block)
        try:
            await self._writer.in_thread(self._persist_now, (block,), boxes, note, rest)
        except BaseException:
            self.machine.persist_failed()
            raise
        self._persisted((block,), note)
        self.do(self.machine.persisted(now()))
        self._tell_sealed()

    async def finish(self) -> None:
        """Seals what waits, and signs where the chain ends: the next opening misses nothing that was here."""
        await self.sealed()
        tip = self.machine.tip
        note = self._store.reading.checkpoint()
        if self._opened.key is not None and self._opened.params.mode is Mode.FEED and not self.machine.frozen:
            header = tip.header
            made = Checkpoint(self._opened.params.origin, header.log_size, header.log_root).sign(self._opened.key)
            if made != note:
                await self._writer.alone(self._keep_checkpoint, header.log_size, made)

    def _keep_checkpoint(self, size: int, note: bytes) -> None:
        self._store.put_checkpoint(size, note)
        self._store.write_head(note)

    def _note(self, block: Checked) -> tuple[int, bytes] | None:
        """A checkpoint of the block, when it is time for one and it says nothing that may still change."""
        key, params = self._opened.key, self._opened.params
        if key is None or trio.current_time() - self._noted < NOTE_SECONDS:
            return None
        header = block.header
        if params.mode is Mode.SHARED:
            final = self._store.reading.header_at(header.height - params.finality_depth)
            if final is None:
                return None
            header = final.header
        self._noted = trio.current_time()
        return header.log_size, Checkpoint(params.origin, header.log_size, header.log_root).sign(key)

    async def _clock(self) -> None:
        machine = self.machine
        while True:
            if machine.has_work:
                self.do(machine.work(now()))
                await trio.lowlevel.checkpoint()
                continue
            deadline = machine.next_deadline()
            with trio.move_on_at(trio.current_time() + 3600 if deadline is None else deadline):
                await self._news.wait()
            self._news = trio.Event()
            deadline = machine.next_deadline()
            if deadline is not None and deadline <= trio.current_time():
                self.do(machine.deadline_passed(now()))

    async def _mine(self, effect: Mine) -> None:
        with trio.CancelScope() as scope:
            self._mining[effect.ticket] = scope
            nonce = await mine(effect.draft.header)
            self.do(self.machine.mined(effect.ticket, nonce, now()))
        self._mining.pop(effect.ticket, None)

    async def _disk(self) -> None:
        async for effect in self._receive_disk:
            try:
                await self._write(effect)
            except ChainError as error:
                await self._refused(effect, error)
            else:
                if isinstance(effect, Persist | Replace):
                    self.do(self.machine.persisted(now()))
            self._tell_sealed()

    def _tell_sealed(self) -> None:
        """Whoever waits for a block looks again."""
        self._sealed.set()
        self._sealed = trio.Event()

    async def _write(self, effect: Effect) -> None:
        store, alone = self._store, self._writer.alone
        match effect:
            case Persist(blocks=blocks):
                await self._persist(blocks)
            case Stage(blocks=blocks):
                await alone(store.stage, blocks)
            case DropStage():
                await alone(store.drop_stage)
            case Replace():
                await self._replace(effect)
            case Evidence(file=file):
                await alone(store.put_evidence, file)
                if self.machine.frozen_at is not None:
                    await alone(store.set_meta, "frozen", self.machine.frozen_at.to_bytes(8, "big"))
                self.hears(effect)
            case KeepCheckpoint(size=size, note=note):
                await alone(self._keep_checkpoint, size, note)

    async def _persist(self, blocks: tuple[Checked, ...]) -> None:
        keys = [key for block in blocks for key in block.keys]
        await self.durable(keys)
        boxes = {key: self._boxes[key] for key in keys if key in self._boxes}
        note = self._note(blocks[-1])
        await self._writer.alone(self._persist_now, blocks, boxes, note)
        self._persisted(blocks, note)

    def _persisted(self, blocks: tuple[Checked, ...], note: tuple[int, bytes] | None) -> None:
        if note is not None:
            self.machine.checkpoint = note[1]
        for block in blocks:
            for key in block.keys:
                self._boxes.pop(key, None)

    def _persist_now(
        self,
        blocks: tuple[Checked, ...],
        boxes: Mapping[bytes, bytes],
        note: tuple[int, bytes] | None,
        rest: Sequence[Row] = (),
    ) -> None:
        """In the writer's thread: what was committed is committed, though HEAD may have to wait."""
        self._store.persist(blocks, boxes, note, rest)
        if note is not None:
            try:
                self._store.write_head(note[1])
            except StoreFull as error:
                _log.warning("%s: HEAD stays at the checkpoint before", error)
        self._store.tidy()

    async def _replace(self, effect: Replace) -> None:
        reading = self._store.reading
        keyed = [(inspect(entry).key24, entry, sealed) for entry, sealed in effect.readmit]
        rows = [Row(key, entry, sealed, reading.box(key)) for key, entry, sealed in keyed]
        await self._writer.alone(self._store.replace, effect.fork_height, rows)
        reading.forget()
        self._boxes.update((row.key, row.box) for row in rows)
        for key in [key for key in self._boxes if reading.position(key) is not None]:
            del self._boxes[key]

    async def _refused(self, effect: Effect, error: AnyChainError) -> None:
        """A full disk passes; whoever records is told meanwhile. All else ends the chain."""
        _log.warning("the chain cannot be written: %s", error)
        if isinstance(effect, Persist | Replace):
            self.machine.persist_failed()
        if not isinstance(error, StoreFull):
            self._writer.stop(error)
            return
        await trio.sleep(self._retry_seconds)
        self.kick()


async def _nothing_waits(_: Iterable[bytes]) -> None:
    await trio.lowlevel.checkpoint()
