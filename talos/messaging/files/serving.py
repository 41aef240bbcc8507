"""The sender's side of a stream: answers what the receiver asks for, until it has everything."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import trio

from talos.errors import LocalProtocolError, RemoteProtocolError, TransferFailed
from talos.messaging.files.chunk import ChunkCipher
from talos.messaging.files.frames import (
    MAX_FRAME_BYTES,
    Chunk,
    Fault,
    FileDone,
    Frame,
    Leaves,
    Want,
    chunk_head,
    encode,
)
from talos.messaging.files.manifest import MANIFEST_CHUNK
from talos.messaging.files.source import Found, Source, changed, hash_file
from talos.wire import varint
from talos.wire.length_prefix import frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from talos.messaging.files.config import FileConfig
    from talos.messaging.files.manifest import Manifest
    from talos.messaging.files.source import Hashed
    from talos.messaging.files.transfer import Transfer
    from talos.wire.message_stream import MessageStream

__all__ = ["Serving"]

BATCH_BYTES = 2 * 1024 * 1024
"""Sealed in one go, while the batch before it is sent."""
SLICE_BYTES = 64 * 1024
MAX_WANTS = 4096
HASH_BYTES = 32


class _Made(NamedTuple):
    """Frames that may leave, in pieces, and how far the transfer is when they have."""

    pieces: list[bytes | memoryview]
    size: int
    file: int
    done: int


class Serving:
    """One stream of one transfer; `run` is its life."""

    def __init__(
        self,
        transfer: Transfer,
        frames: MessageStream[Frame, Frame],
        config: FileConfig,
        pace: Callable[[int], Awaitable[None]],
    ) -> None:
        assert transfer.manifest is not None, "what is sent has a list"
        self._transfer = transfer
        self._frames = frames
        self._config = config
        self._pace = pace
        self._manifest: Manifest = transfer.manifest
        self._list = transfer.manifest.encode()
        self._before = [0, *accumulate(entry.size for entry in self._manifest.files)]
        self._wanted: deque[Want] = deque()
        self._open_bytes = 0
        self._news = trio.Event()
        self._done: set[int] = set()
        self._source: tuple[int, Source] | None = None
        self._failure: TransferFailed | None = None

    async def run(self) -> None:
        """Returns when the receiver has all files.

        TransferFailed when it gives up, or when a file is not what was offered, of which it is told; EOFError,
        trio.TooSlowError and what streams raise when the stream ends first.
        """
        made_in, made_out = trio.open_memory_channel[_Made](1)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._seal, made_in)
                nursery.start_soon(self._send, made_out)
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            if self._source is not None:
                self._source[1].close()

    # ------------------------------------------------------------------------------- what is asked

    async def _read(self) -> None:
        while len(self._done) < len(self._manifest.files):
            with trio.fail_after(self._config.idle_seconds):
                message = await self._frames.receive()
            match message:
                case Want():
                    self._take(message)
                case FileDone() if 1 <= message.file <= len(self._manifest.files):
                    self._done.add(message.file)
                case Fault():
                    raise TransferFailed("the receiver gave up", code=message.code)
                case _:
                    raise RemoteProtocolError("a frame that no receiver sends")

    def _take(self, want: Want) -> None:
        self._open_bytes += self._size(want)
        self._wanted.append(want)
        if self._open_bytes > self._config.serve_bytes or len(self._wanted) > MAX_WANTS:
            raise RemoteProtocolError("more is asked for at once than is served")
        self._news.set()
        self._news = trio.Event()

    def _size(self, want: Want) -> int:
        """Bytes that the answer has; RemoteProtocolError when there is no such thing."""
        if want.file > len(self._manifest.files):
            raise RemoteProtocolError(f"file {want.file} is wanted of {len(self._manifest.files)}")
        chunks = self._list_chunks if want.file == 0 else self._manifest.files[want.file - 1].chunks
        if want.count == 0:
            if want.file == 0:
                raise RemoteProtocolError("the list of files has no leaves")
            return chunks * HASH_BYTES
        if want.first + want.count > chunks:
            raise RemoteProtocolError(f"chunks of file {want.file} are wanted that it does not have")
        if want.file == 0:
            return want.count * MANIFEST_CHUNK
        entry = self._manifest.files[want.file - 1]
        return min((want.first + want.count) * entry.chunk_size, entry.size) - want.first * entry.chunk_size

    @property
    def _list_chunks(self) -> int:
        return -(-len(self._list) // MANIFEST_CHUNK)

    # ------------------------------------------------------------------------------- answers

    async def _seal(self, made: trio.MemorySendChannel[_Made]) -> None:
        try:
            while True:
                news = self._news
                if not self._wanted:
                    await news.wait()
                    continue
                await made.send(await trio.to_thread.run_sync(self._make, self._batch()))
        except TransferFailed as error:
            self._failure = error
            await made.send(_Made([_framed(Fault(error.code))], 0, 0, 0))

    def _batch(self) -> list[Want]:
        """The next wants, cut so that they are about one batch."""
        found, room = [], BATCH_BYTES
        while self._wanted and room > 0:
            want = self._wanted.popleft()
            if want.count > 1:
                count = max(1, min(want.count, room // self._size(Want(want.file, want.first, 1))))
                if count < want.count:
                    self._wanted.appendleft(Want(want.file, want.first + count, want.count - count))
                    want = Want(want.file, want.first, count)
            room -= self._size(want)
            found.append(want)
        return found

    async def _send(self, made: trio.MemoryReceiveChannel[_Made]) -> None:
        transfer, furthest = self._transfer, self._transfer.progress.done
        async for batch in made:
            for data in batch.pieces:
                await self._send_slices(data)
            if self._failure is not None and not batch.size:
                raise self._failure
            self._open_bytes -= batch.size
            if batch.done > furthest:
                furthest = batch.done
                transfer.moved(batch.file, furthest)

    async def _send_slices(self, data: bytes | memoryview) -> None:
        """In parts, between which messages to the same peer have their turn."""
        whole = memoryview(data)
        for start in range(0, len(data), SLICE_BYTES):
            part = whole[start : start + SLICE_BYTES]
            await self._pace(len(part))
            await self._frames.stream.send_all(part)

    # ------------------------------------------------------------------------------- in a thread

    def _make(self, wants: list[Want]) -> _Made:
        pieces: list[bytes | memoryview] = []
        size = file = done = 0
        for want in wants:
            size += self._size(want)
            file = want.file
            if file == 0:
                for index in range(want.first, want.first + want.count):
                    pieces += _chunk_pieces(self._list_chunk(index))
            elif want.count == 0:
                pieces.append(_framed(Leaves(file, b"".join(self._hashed(file).leaves))))
            else:
                pieces += self._chunks(want)
                entry = self._manifest.files[file - 1]
                behind = min((want.first + want.count) * entry.chunk_size, entry.size)
                done = max(done, self._before[file - 1] + behind)
        return _Made(pieces, size, file, done)

    def _chunks(self, want: Want) -> list[bytes | memoryview]:
        file = self._manifest.files[want.file - 1]
        try:
            source = self._opened(want.file)
            chunks = [source.chunk(index) for index in range(want.first, want.first + want.count)]
        except (OSError, LocalProtocolError) as error:
            raise changed(file.path) from error
        return [piece for chunk in chunks for piece in _chunk_pieces(chunk)]

    def _opened(self, number: int) -> Source:
        if self._source is not None:
            if self._source[0] == number:
                return self._source[1]
            self._source[1].close()
            self._source = None
        offer, where = self._transfer.offer, self._transfer.sources[number - 1]
        source = Source(where, number, self._hashed(number), offer.key, offer.stream_id)
        self._source = (number, source)
        return source

    def _hashed(self, number: int) -> Hashed:
        """The leaves of a file: known since it was offered, or worked out again after a restart."""
        known = self._transfer.hashed.get(number)
        if known is None:
            entry = self._manifest.files[number - 1]
            try:
                with ThreadPoolExecutor(1) as helper:
                    known = hash_file(Found(self._transfer.sources[number - 1], entry.path), helper)
            except (OSError, LocalProtocolError) as error:
                raise changed(entry.path) from error
            if known.entry != entry:
                raise changed(entry.path)
            self._transfer.hashed[number] = known
        return known

    def _list_chunk(self, index: int) -> Chunk:
        offer, last = self._transfer.offer, index == self._list_chunks - 1
        cipher = ChunkCipher(offer.key, offer.stream_id, 0)
        data = self._list[index * MANIFEST_CHUNK : (index + 1) * MANIFEST_CHUNK]
        return Chunk(0, index, last, cipher.seal(index, data, last=last))


def _chunk_pieces(chunk: Chunk) -> tuple[bytes, bytes | memoryview]:
    """Its frame, whose sealed bytes are not copied for it."""
    head = chunk_head(chunk)
    return varint.encode(len(head) + len(chunk.sealed)) + head, chunk.sealed


def _framed(message: Frame) -> bytes:
    return frame(encode(message), MAX_FRAME_BYTES)
