"""The receiver's side of a stream: asks for what is missing, checks it, keeps it.

A chunk goes through four hands, each with its own batch: read from the stream, opened and written in one thread,
added to the hash of its file in another, made durable in a third.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import trio

from talos.errors import RemoteProtocolError, TransferFailed
from talos.messaging.files.chunk import TAG_BYTES, ChunkCipher
from talos.messaging.files.code import FileCode
from talos.messaging.files.frames import Chunk, Fault, Frame, Leaves, Want
from talos.messaging.files.machine import Pull
from talos.messaging.files.manifest import MANIFEST_CHUNK, Manifest, tree_root
from talos.messaging.files.mime import HEAD_BYTES
from talos.messaging.files.part import Part, disk_faults, split_leaves
from talos.messaging.files.rules import check_files, check_head, check_room

if TYPE_CHECKING:
    from talos.messaging.files.config import FileConfig
    from talos.messaging.files.part import PartsDirectory
    from talos.messaging.files.transfer import Transfer
    from talos.wire.message_stream import MessageStream

__all__ = ["Pulling", "check_list", "fetch_list"]

AHEAD = 32
"""Files that are open at once."""
BATCH_BYTES = 2 * 1024 * 1024


class _Opened(NamedTuple):
    """A file that was begun; `part` is None while its leaves are not known."""

    file: int
    part: Part | None
    missing: list[int]


class _Kept(NamedTuple):
    """A chunk that was looked at; `data` is None when it was not what its leaf promises."""

    part: Part
    chunk: int
    data: memoryview | None


class _Step(NamedTuple):
    """For the hash of a file: a chunk, or that it is whole."""

    part: Part
    chunk: int = -1
    data: memoryview = memoryview(b"")


async def fetch_list(transfer: Transfer, frames: MessageStream[Frame, Frame], config: FileConfig) -> Manifest:
    """The list of files that did not fit the offer; TransferFailed when it is not what was offered, or not taken."""
    offer = transfer.offer
    chunks = -(-offer.manifest_size // MANIFEST_CHUNK)
    cipher = ChunkCipher(offer.key, offer.stream_id, 0)
    await frames.send(Want(0, 0, chunks))
    found: list[bytes] = []
    with trio.fail_after(config.block_seconds):
        while len(found) < chunks:
            frame = await frames.receive()
            if isinstance(frame, Fault):
                raise TransferFailed("the sender gave up", code=frame.code)
            if not isinstance(frame, Chunk) or (frame.file, frame.index) != (0, len(found)):
                raise RemoteProtocolError("something else than the list of files came")
            found.append(cipher.open(frame.index, frame.sealed, last=frame.last))
    return check_list(transfer, b"".join(found), config)


def check_list(transfer: Transfer, data: bytes, config: FileConfig) -> Manifest:
    """The list in `data`, if it is the one that was offered and all in it is taken; else TransferFailed."""
    offer = transfer.offer
    if len(data) != offer.manifest_size or sha256(data).digest() != offer.manifest_hash:
        raise TransferFailed("another list of files than was offered", code=FileCode.HASH_MISMATCH)
    manifest = Manifest.decode(data)
    if (manifest.total_size, len(manifest.files)) != (offer.total_size, offer.files):
        raise TransferFailed("a list of files that is not as big as was offered", code=FileCode.HASH_MISMATCH)
    check_files(manifest, config, directory=transfer.directory)
    return manifest


class Pulling:
    """One stream of one transfer whose list is known; `run` is its life."""

    def __init__(
        self,
        transfer: Transfer,
        frames: MessageStream[Frame, Frame],
        config: FileConfig,
        *,
        downloads: int,
        parts: PartsDirectory,
    ) -> None:
        assert transfer.manifest is not None, "the list was fetched"
        self._transfer = transfer
        self._frames = frames
        self._config = config
        self._downloads = downloads
        self._directory = parts
        self._files = transfer.manifest.files
        self._pull = Pull(self._files, window_bytes=config.window_bytes, ahead=AHEAD)
        self._ciphers: dict[int, ChunkCipher] = {}
        self._parts: dict[int, Part] = {}
        self._buffers: list[bytearray] = []
        """Of chunks that were hashed; those of the next are opened into them."""
        self._synced: dict[int, float] = {}
        """When each part was made durable last."""
        self._syncing: set[int] = set()
        self._leaves: deque[Leaves] = deque()
        self._leaves_asked: set[int] = set()
        self._whole = 0
        """Files that are verified and durable."""
        self._done = 0
        self._news = trio.Event()
        self._came, self._to_keep = trio.open_memory_channel[Chunk](math.inf)  # the window bounds it
        self._kept, self._to_hash = trio.open_memory_channel[list[_Step]](2)

    async def run(self) -> None:
        """Returns when all files are here, verified and durable.

        TransferFailed when that cannot be; EOFError, trio.TooSlowError and what streams raise when the stream ends
        first. What was written stays for the next one.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._keep, nursery)
                nursery.start_soon(self._hash)
                await self._ask()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._close)

    # ------------------------------------------------------------------------------- asking

    async def _ask(self) -> None:
        while self._whole < len(self._files):
            news = self._news
            await self._begin()
            for want in self._pull.wants():
                await self._frames.send(want)
            await news.wait()

    async def _begin(self) -> None:
        """Opens the files whose turn it is, those that were begun before with what is there of them."""
        jobs: list[tuple[int, tuple[bytes, ...] | None]] = [(file, None) for file in self._pull.begin()]
        jobs += [(leaves.file, split_leaves(leaves.hashes)) for leaves in self._leaves]
        self._leaves.clear()
        if not jobs:
            return
        steps = []
        for opened in await trio.to_thread.run_sync(self._open, jobs):
            if opened.part is None:
                self._leaves_asked.add(opened.file)
                await self._frames.send(Want(opened.file, 0, 0))
                continue
            entry = opened.part.entry
            self._moved(opened.file, entry.size - sum(map(entry.chunk_bytes, opened.missing)))
            if self._pull.ready(opened.file, opened.missing):
                steps.append(_Step(opened.part))
        await self._kept.send(steps)

    def _open(self, jobs: list[tuple[int, tuple[bytes, ...] | None]]) -> list[_Opened]:
        """In a thread."""
        found = []
        with disk_faults():
            for file, given in jobs:
                entry = self._pull.entry(file)
                if given is not None and tree_root(given) != entry.root:
                    raise TransferFailed("leaves that do not give the root", code=FileCode.HASH_MISMATCH)
                leaves = given if given is not None else self._directory.leaves(file, entry)
                if leaves is None:
                    found.append(_Opened(file, None, []))
                    continue
                part = Part(self._directory, file, entry, leaves)
                self._parts[file] = part
                self._ciphers[file] = ChunkCipher(self._transfer.offer.key, self._transfer.id, file)
                found.append(_Opened(file, part, part.missing()))
        return found

    # ------------------------------------------------------------------------------- reading

    async def _read(self) -> None:
        while True:
            match await self._receive():
                case Chunk() as chunk:
                    self._pull.came(chunk)
                    self._came.send_nowait(chunk)
                case Leaves() as leaves if leaves.file in self._leaves_asked:
                    self._leaves_asked.discard(leaves.file)
                    self._leaves.append(leaves)
                    self._tell()
                case Fault() as fault:
                    raise TransferFailed("the sender gave up", code=fault.code)
                case _:
                    raise RemoteProtocolError("a frame that was not asked for")

    async def _receive(self) -> Frame:
        """The next frame; trio.TooSlowError when something was asked for and nothing comes."""
        waited = 0.0
        while waited < self._config.idle_seconds:
            with trio.move_on_after(self._config.block_seconds):
                return await self._frames.receive()
            waited += self._config.block_seconds
            if self._pull.awaits or self._leaves_asked:
                break
        raise trio.TooSlowError

    # ------------------------------------------------------------------------------- keeping

    async def _keep(self, nursery: trio.Nursery) -> None:
        while True:
            batch = [await self._to_keep.receive()]
            size = len(batch[0].sealed)
            with contextlib.suppress(trio.WouldBlock):
                while size < BATCH_BYTES:
                    batch.append(self._to_keep.receive_nowait())
                    size += len(batch[-1].sealed)
            steps = []
            for part, index, data in await trio.to_thread.run_sync(self._write, batch):
                if data is None:
                    self._pull.bad(part.number, index)
                    continue
                steps.append(_Step(part, index, data))
                self._moved(part.number, len(data))
                if self._pull.kept(part.number, index):
                    steps.append(_Step(part))
            self._tell()
            for part in {step.part for step in steps}:
                self._sync_soon(nursery, part)
            await self._kept.send(steps)

    def _write(self, batch: list[Chunk]) -> list[_Kept]:
        """In a thread: nothing is written that is not what the leaf promises."""
        found = []
        with disk_faults():
            for chunk in batch:
                part, data = self._parts[chunk.file], self._opened(chunk)
                if data is not None:
                    if chunk.index == 0:
                        check_head(part.entry, bytes(data[:HEAD_BYTES]), self._config)
                    if not part.write(chunk.index, data):
                        data = None
                found.append(_Kept(part, chunk.index, data))
        return found

    def _opened(self, chunk: Chunk) -> memoryview | None:
        """The content; None when it was not sealed for its place."""
        size = len(chunk.sealed) - TAG_BYTES
        buffer = self._buffers.pop() if self._buffers else bytearray(size)
        if len(buffer) < size:
            buffer = bytearray(size)
        try:
            return self._ciphers[chunk.file].open_into(chunk.index, chunk.sealed, buffer, last=chunk.last)
        except TransferFailed:
            self._buffers.append(buffer)
            return None

    def _sync_soon(self, nursery: trio.Nursery, part: Part) -> None:
        now = trio.current_time()
        late = now - self._synced.setdefault(part.number, now) >= self._config.sync_seconds
        if part.number in self._syncing or not (late or part.unsynced >= self._config.sync_bytes):
            return
        self._syncing.add(part.number)
        self._synced[part.number] = now
        nursery.start_soon(self._sync, part)

    async def _sync(self, part: Part) -> None:
        def sync() -> None:
            with disk_faults():
                part.sync()
                check_room(self._downloads, 0, self._config)

        await trio.to_thread.run_sync(sync)
        self._syncing.discard(part.number)

    # ------------------------------------------------------------------------------- the whole

    async def _hash(self) -> None:
        async for steps in self._to_hash:
            for part in await trio.to_thread.run_sync(self._advance, steps):
                del self._parts[part.number], self._ciphers[part.number]
                self._synced.pop(part.number, None)
                self._whole += 1
            self._tell()

    def _advance(self, steps: list[_Step]) -> list[Part]:
        """In a thread; returns the parts that are whole, verified, durable and closed."""
        whole = []
        with disk_faults():
            for part, index, data in steps:
                if index >= 0:
                    part.hash(index, data)
                    self._give_back(data)
                else:
                    part.finish()
                    part.close()
                    whole.append(part)
        return whole

    def _give_back(self, data: memoryview) -> None:
        buffer = data.obj
        assert isinstance(buffer, bytearray), "where chunks are opened into"
        self._buffers.append(buffer)

    def _close(self) -> None:
        # The journal is worth having; that the disk fails here too tells nothing new.
        for part in self._parts.values():
            with contextlib.suppress(OSError):
                part.sync()
            part.close()

    def _moved(self, file: int, size: int) -> None:
        self._done += size
        self._transfer.moved(file, self._done)

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()
