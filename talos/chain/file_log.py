"""An audit log in a file: append-only, hash-linked, durable before `record` returns.

One writer per directory, held by a lock for the process's life. Everything that waits goes in one write and one sync
(group commit), without artificial delay: while one commit is on its way to the disk, the next gathers.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from talos.abc import AuditReceipt, EntryKind
from talos.chain.entry import commit
from talos.chain.log_disk import LogDisk, LogInUse, LogStopped
from talos.chain.receipt import Receipt, check_receipt, sign_receipt
from talos.errors import AuditError, ConfigError
from talos.host.block import background
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from talos.abc import AuditEntry, SignedReceipt
    from talos.chain.entry import Committed
    from talos.identity.keys import PrivateKey

__all__ = ["FileLog", "FileLogConfig", "LogKeys", "open_file_log", "open_slot"]

FAST_SECONDS = 0.001
"""A lone entry is written without a thread while the disk is faster than this; the hop alone costs 0.15 ms."""
SAMPLES = 64
SAMPLES_NEEDED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLogConfig:
    """Limits of one log."""

    queue_entries: int = 4096
    """Entries that may wait for the disk; more make `record` wait."""
    queue_bytes: int = 4 * 1024 * 1024
    remembered: int = 65_536
    """How many of the newest entries are known when they come again; ids of lines and messages are unique anyway."""
    max_bytes: int = 64 * 1024**3
    """Of the file; a log that has reached it refuses."""
    slots: int = 256
    """Processes of one home that may each have a log of their own at once."""

    def __post_init__(self) -> None:
        for name in ("queue_entries", "queue_bytes", "remembered", "max_bytes", "slots"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1")


@dataclass(frozen=True, slots=True)
class LogKeys:
    """Where a log's secret comes from, and who signs its promises."""

    k_priv: Callable[[bytes], bytes]
    """From the 16 random bytes in the log's header, the 32 secret ones of this log."""
    identity: PrivateKey


@dataclass(slots=True, eq=False)
class _Group:
    """Entries that are to become durable together."""

    bodies: list[bytes] = field(default_factory=list)
    leaves: dict[bytes, bytes] = field(default_factory=dict)
    size: int = 0
    done: trio.Event = field(default_factory=trio.Event)
    error: AuditError | None = None


class FileLog:
    """An `AuditLog`; made by `open_file_log`. Tasks may call it at the same time.

    A cancelled `record` may still become durable. Disk full fails what was waiting, later entries may work again; a
    failed sync is final, for nobody knows any more what is on the disk.
    """

    def __init__(self, disk: LogDisk, keys: LogKeys, config: FileLogConfig) -> None:
        self._disk = disk
        self._keys = keys
        self._config = config
        self._me = PeerId.from_key(keys.identity.public_key)
        self._recent = OrderedDict(disk.recent)
        self._waiting = _Group()
        self._writing: _Group | None = None
        self._wake = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._thread = trio.CapacityLimiter(1)
        self._seconds: deque[float] = deque(maxlen=SAMPLES)
        self._stopped: AuditError | None = None

    @property
    def directory(self) -> Path:
        return self._disk.directory

    @property
    def count(self) -> int:
        """Durable records."""
        return self._disk.count

    @property
    def torn(self) -> int:
        """Bytes of an unfinished record that opening cut away: what a crash had left, never acknowledged."""
        return self._disk.torn

    @property
    def queued(self) -> int:
        """Entries that wait for the disk."""
        return len(self._waiting.bodies) + (len(self._writing.bodies) if self._writing is not None else 0)

    async def record(self, entry: AuditEntry) -> AuditReceipt:
        return (await self.record_many((entry,)))[0]

    async def record_many(self, entries: Sequence[AuditEntry]) -> Sequence[AuditReceipt]:
        await trio.lowlevel.checkpoint_if_cancelled()
        made = [commit(entry, self._disk.secrets.k_priv) for entry in entries]
        bodies = [
            self._disk.secrets.seal(committed, _blob(entry)) for committed, entry in zip(made, entries, strict=True)
        ]
        while self._full():
            await self._room.park()
        self._refuse_if_stopped()
        new, duplicates, groups = self._sort(made, bodies)
        if new and not groups and self._idle() and self._disk_is_fast():
            group = _Group(bodies=[body for _, body in new], leaves={item.key: item.leaf for item, _ in new})
            self._finish(group, self._commit(group))
            groups.append(group)
            await trio.lowlevel.cancel_shielded_checkpoint()  # others get their turn though nothing was waited for
        else:
            if new:
                groups.append(self._enqueue(new))
            for group in groups:
                await group.done.wait()
        for group in groups:
            if group.error is not None:
                raise group.error.__class__(*group.error.args) from group.error
        return [
            AuditReceipt(item.leaf, duplicate, self._promise(entry, item))
            for item, entry, duplicate in zip(made, entries, duplicates, strict=True)
        ]

    def check_receipt(
        self, receipt: SignedReceipt, *, msg_id: bytes, sealed_hash: bytes, sender: PeerId, receiver: PeerId
    ) -> None:
        check_receipt(receipt, msg_id=msg_id, sealed_hash=sealed_hash, sender=sender, receiver=receiver)

    def _full(self) -> bool:
        """The group that gathers is bounded; the one on its way to the disk was."""
        if self._stopped is not None:
            return False
        waiting = self._waiting
        return len(waiting.bodies) >= self._config.queue_entries or waiting.size >= self._config.queue_bytes

    def _idle(self) -> bool:
        return self._writing is None and not self._waiting.bodies

    def _refuse_if_stopped(self) -> None:
        if self._stopped is not None:
            raise self._stopped.__class__(*self._stopped.args) from self._stopped

    def _sort(
        self, made: Sequence[Committed], bodies: Sequence[bytes]
    ) -> tuple[list[tuple[Committed, bytes]], list[bool], list[_Group]]:
        """What is new, which are repeated, and the groups whose end repeated ones have to wait for."""
        new: dict[bytes, tuple[Committed, bytes]] = {}
        duplicates, groups = [], []
        for item, body in zip(made, bodies, strict=True):
            known, group = self._known(item.key)
            if known is None and item.key in new:
                known = new[item.key][0].leaf
            if known is not None and known != item.leaf:
                raise AuditError(f"message {item.key[:16].hex()} is in the log already, with other content")
            duplicates.append(known is not None)
            if known is None:
                new[item.key] = (item, body)
            elif group is not None and group not in groups:
                groups.append(group)
        return list(new.values()), duplicates, groups

    def _known(self, key: bytes) -> tuple[bytes | None, _Group | None]:
        for group in (self._waiting, self._writing):
            if group is not None and key in group.leaves:
                return group.leaves[key], group
        return self._recent.get(key), None

    def _enqueue(self, new: Sequence[tuple[Committed, bytes]]) -> _Group:
        group = self._waiting
        for item, body in new:
            group.bodies.append(body)
            group.leaves[item.key] = item.leaf
            group.size += len(body)
        self._wake.set()
        return group

    async def _write_groups(self) -> None:
        """The one writer: takes everything that waits, again and again."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            await self._write_waiting()

    async def _write_waiting(self) -> None:
        group, self._waiting = self._waiting, _Group()
        self._writing = group
        self._room.unpark_all()
        # A thread cannot be cancelled; unshielded, a group could be dropped before its thread begins.
        with trio.CancelScope(shield=True):
            error = self._stopped or await trio.to_thread.run_sync(self._commit, group, limiter=self._thread)
        self._writing = None
        self._finish(group, error)

    def _commit(self, group: _Group) -> AuditError | None:
        started = time.perf_counter()
        try:
            self._disk.append(group.bodies)
        except AuditError as error:
            return error
        self._seconds.append(time.perf_counter() - started)
        return None

    def _finish(self, group: _Group, error: AuditError | None) -> None:
        if error is None:
            self._recent.update(group.leaves)
            while len(self._recent) > self._config.remembered:
                self._recent.popitem(last=False)
        elif isinstance(error, LogStopped):
            self._stopped = error
            self._room.unpark_all()
        group.error = error
        group.done.set()

    def _disk_is_fast(self) -> bool:
        """Measured, not assumed: the 95th percentile of the last commits."""
        if len(self._seconds) < SAMPLES_NEEDED:
            return False
        ordered = sorted(self._seconds)
        return ordered[math.ceil(0.95 * len(ordered)) - 1] < FAST_SECONDS

    def _promise(self, entry: AuditEntry, item: Committed) -> SignedReceipt | None:
        if entry.kind is not EntryKind.RECEIVED:
            return None
        receipt = Receipt(
            msg_id=entry.msg_id,
            sealed_hash=item.sealed_hash,
            sender=entry.sender,
            receiver=self._me.to_bytes(),
            origin=f"talos.invalid/log/{self._me}".encode(),
            log_size_hint=self._disk.count,
            received_ms=entry.time_ms,
        )
        return sign_receipt(receipt, self._keys.identity)

    def _close(self) -> None:
        """Nothing that was handed over is left behind, though its caller may have been cancelled."""
        group, self._waiting = self._waiting, _Group()
        if group.bodies:
            self._finish(group, self._stopped or self._commit(group))
        self._disk.close()
        self._stopped = AuditError(f"the log in {self.directory} is closed")


@asynccontextmanager
async def open_file_log(
    directory: Path, *, keys: LogKeys, config: FileLogConfig | None = None
) -> AsyncIterator[FileLog]:
    """The log in `directory`, which is made where it is missing: 0700, its files 0600.

    AuditError: another process has it, it is damaged where records were acknowledged, or it cannot be written.
    """
    config = config or FileLogConfig()
    disk = await trio.to_thread.run_sync(LogDisk, directory, keys.k_priv, config.max_bytes)
    async with _running(FileLog(disk, keys, config)) as log:
        yield log


@asynccontextmanager
async def open_slot(
    base: Path, server: str, *, keys: LogKeys, config: FileLogConfig | None = None
) -> AsyncIterator[FileLog]:
    """The lowest log `<base>/<server>-<n>` that no other process has: several clients share one identity.

    `default` stands for no server's name. Errors as of `open_file_log`.
    """
    config = config or FileLogConfig()
    name = server or "default"
    for number in range(1, config.slots + 1):
        directory = base / f"{name}-{number}"
        try:
            disk = await trio.to_thread.run_sync(LogDisk, directory, keys.k_priv, config.max_bytes)
        except LogInUse:
            continue
        async with _running(FileLog(disk, keys, config)) as log:
            yield log
        return
    raise LogInUse(f"all {config.slots} logs of {name!r} in {base} are in use by other processes")


@asynccontextmanager
async def _running(log: FileLog) -> AsyncIterator[FileLog]:
    try:
        async with background() as nursery:
            nursery.start_soon(log._write_groups)  # noqa: SLF001 - the block is the other half of the class
            yield log
    finally:
        log._close()  # noqa: SLF001 - the same


def _blob(entry: AuditEntry) -> bytes:
    """What is kept beside the entry: the blob, or the receipt that it names."""
    return entry.sealed if entry.receipt is None else entry.receipt.body + entry.receipt.sig
