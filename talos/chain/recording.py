"""Own entries on their way to the disk: what is handed in while one commit runs becomes durable with the next.

A group is admitted when its turn comes, in one look at the index, and committed in one transaction: as rows of the
mempool, or, from 64 entries on, as a block, so that each entry is written once. One event wakes all who wait for it.
Few entries are written without a thread while the disk is fast; of those that come in one turn of the event loop, the
first is written at once and the others as a group.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from talos.chain.driver import now
from talos.chain.effects import Evidence
from talos.chain.evidence import conflicting
from talos.chain.reading import Row
from talos.errors import AuditError, ChainError, EntryConflict, LocalProtocolError, MempoolFull

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from talos.chain.block import Checked, Prepared
    from talos.chain.config import ChainConfig
    from talos.chain.driver import Driver
    from talos.chain.store import Store
    from talos.chain.writer import Writer

__all__ = ["Recorder"]


FEW_ENTRIES = 16
"""So many the event loop writes itself: a thread costs it about as much."""


@dataclass(slots=True, eq=False)
class _Request:
    """What one caller hands in: all of it becomes durable, or nothing."""

    entries: Sequence[Prepared]
    boxes: Sequence[bytes]
    duplicates: list[bool] = field(default_factory=list)
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _Group:
    """Requests that become durable together."""

    requests: list[_Request] = field(default_factory=list)
    count: int = 0
    size: int = 0
    rows: list[Row] = field(default_factory=list)
    """What is new among them, once they were admitted."""
    done: trio.Event = field(default_factory=trio.Event)
    error: ChainError | None = None


class Recorder:
    """Hands own entries to the machine and the store; `run` is its task."""

    def __init__(
        self,
        driver: Driver,
        store: Store,
        writer: Writer,
        *,
        boxes: dict[bytes, bytes],
        config: ChainConfig,
    ) -> None:
        self._machine = driver.machine
        self._driver = driver
        self._store = store
        self._writer = writer
        self._boxes = boxes
        """What opens the entries that are in no block yet."""
        self._config = config
        self._waiting: deque[_Group] = deque()
        self._count = self._size = 0
        self._flying: _Group | None = None
        self._crowded = False
        """Something was written at once in this turn of the event loop."""
        self._wake = trio.Event()
        driver.durable = self._durable

    @property
    def waiting(self) -> int:
        """Entries that wait for their commit."""
        return self._count

    async def record(self, entries: Sequence[Prepared], boxes: Sequence[bytes]) -> list[bool]:
        """All of them are durable on return; tells of each whether it was there already.

        `boxes` open them. What `ChainMachine.admit` and `Writer` raise.
        """
        self._writer.check()
        request = _Request(entries, boxes)
        if not self._crowded and not self._waiting and self._writer.fast and self._writer.take_turn():
            self._at_once(request)
            self._crowded = True
            await trio.lowlevel.cancel_shielded_checkpoint()  # others get their turn though nothing was waited for
            self._crowded = False
        else:
            await self._join(request).done.wait()
        if request.error is not None:
            raise request.error
        return request.duplicates

    async def run(self) -> None:
        """Writes what waits, again and again, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                async with self._writer.turn:
                    with trio.CancelScope(shield=True):
                        if self._waiting:
                            await self._write(self._next())

    def close(self) -> None:
        """Writes what was handed over, though its callers may have been cancelled."""
        while self._waiting:
            self._append(self._next())

    # -- Groups

    def _join(self, request: _Request) -> _Group:
        """The group that gathers, with this request in it. MempoolFull."""
        config, count = self._config, len(request.entries)
        size = sum([prepared.item.size for prepared in request.entries]) + sum(map(len, request.boxes))
        if self._count + count > config.mempool_items or self._size + size > config.mempool_bytes:
            raise MempoolFull(f"{self._count} entries of {self._size} bytes wait for the disk already")
        group = self._waiting[-1] if self._waiting else None
        if group is None or group.count + count > config.group_entries or group.size + size > config.group_bytes:
            group = _Group()
            self._waiting.append(group)
        group.requests.append(request)
        group.count += count
        group.size += size
        self._count += count
        self._size += size
        self._wake.set()
        return group

    def _next(self) -> _Group:
        group = self._waiting.popleft()
        self._count -= group.count
        self._size -= group.size
        return group

    def _admit(self, group: _Group) -> None:
        """Takes the group's new entries in; each request by itself may be refused."""
        moment = now()
        known = self._store.known([prepared.key for one in group.requests for prepared in one.entries])
        for request in group.requests:
            try:
                request.duplicates = self._machine.admit_all(request.entries, known, moment)
            except (ChainError, LocalProtocolError) as error:
                request.error = error
                if isinstance(error, EntryConflict):
                    self._driver.keep(Evidence(conflicting(error.entry)))
                continue
            for prepared, box, duplicate in zip(request.entries, request.boxes, request.duplicates, strict=True):
                if not duplicate:
                    item = prepared.item
                    group.rows.append(Row(prepared.key, item.entry, item.sealed, box))

    def _settle(self, group: _Group, error: ChainError | None = None) -> None:
        """Tells all who wait for the group."""
        if error is not None:
            group.error = error
            lost = {row.key for row in group.rows}
            self._machine.withdraw(lost)
            for request in group.requests:
                if request.error is None and (not request.duplicates or any(p.key in lost for p in request.entries)):
                    request.error = error.__class__(*error.args)
                    request.error.__cause__ = error
        group.done.set()

    # -- Commits

    async def _write(self, group: _Group) -> None:
        if self._writer.fast and group.count <= FEW_ENTRIES:
            self._append(group)
        else:
            await self._commit(group)

    def _at_once(self, request: _Request) -> None:
        """A lone request, on the event loop; the turn is ours, and ends here."""
        try:
            self._append(_Group([request]))
        finally:
            self._writer.turn.release()

    def _append(self, group: _Group) -> None:
        first = not self._machine.waiting
        try:
            self._writer.check()
            self._admit(group)
            if group.rows:
                self._writer.append(group.rows)
        except ChainError as error:
            self._settle(group, error)
        else:
            self._kept(group.rows, first=first)
            self._settle(group)

    async def _commit(self, group: _Group) -> None:
        first, self._flying = not self._machine.waiting, group
        try:
            self._writer.check()
            self._admit(group)
            block = await self._driver.seal_group(len(group.rows))
            if block is not None:
                await self._commit_block(block, group.rows)
            elif group.rows:
                await self._writer.in_thread(self._writer.append, group.rows)
                self._kept(group.rows, first=first)
        except ChainError as error:
            self._settle(group, error)
        else:
            self._settle(group)
        finally:
            self._flying = None

    async def _commit_block(self, block: Checked, rows: Sequence[Row]) -> None:
        """The block, with the rows of what it has no room for."""
        inside = set(block.keys)
        boxes = {row.key: row.box for row in rows}
        boxes.update({key: self._boxes[key] for key in block.keys if key in self._boxes})
        rest = [row for row in rows if row.key not in inside]
        await self._driver.persist_group(block, boxes, rest)
        self._kept(rest, first=True)

    def _kept(self, rows: Iterable[Row], *, first: bool) -> None:
        """They are durable and wait for a block; whoever seals is told when that changes something."""
        for row in rows:
            self._boxes[row.key] = row.box
        if first or self._machine.full:
            self._driver.kick()

    async def _durable(self, keys: Iterable[bytes]) -> None:
        """Waits until these own entries are on the disk: no block comes before them. AuditError when they cannot be."""
        group = self._flying
        if group is None or {row.key for row in group.rows}.isdisjoint(keys):
            await trio.lowlevel.checkpoint()
            return
        await group.done.wait()
        if group.error is not None:
            raise AuditError("what the block was made of could not be written") from group.error
