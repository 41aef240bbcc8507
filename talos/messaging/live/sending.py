"""A live stream that we have opened to a peer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from talos.errors import LimitExceeded, LocalProtocolError, TransferFailed
from talos.messaging.code import AckState, Code, MessageType
from talos.messaging.content import StreamEnd
from talos.messaging.files.code import FileCode
from talos.messaging.live.config import MAX_CHUNK_BYTES
from talos.messaging.live.machine import Numbering
from talos.messaging.retry import RETRYABLE
from talos.messaging.schedule import Priority
from talos.messaging.store import MessageState

if TYPE_CHECKING:
    from types import TracebackType

    from talos.identity.peer_id import PeerId
    from talos.messaging.letters import Outgoing
    from talos.messaging.live.codec import Codec
    from talos.messaging.live.config import LiveLimits
    from talos.messaging.payload import ChunkInfo
    from talos.messaging.service import Messaging

__all__ = ["LiveStream"]

FIRST_SECONDS = 0.2
LONGEST_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class _Chunk:
    """One that the peer has not answered."""

    info: ChunkInfo
    data: bytes
    since: float
    attempt: int = 0


class LiveStream:
    """Made by `Messaging.open_live`. Leaving the block ends it; with an exception it is given up."""

    def __init__(
        self,
        messaging: Messaging,
        peer: PeerId,
        stream_id: bytes,
        codec: Codec,
        limits: LiveLimits,
        *,
        deadline_seconds: float | None,
    ) -> None:
        self.peer = peer
        self.id = stream_id
        self.codec = codec
        self.late = 0
        """Chunks of a lossy stream that were not sent, or nobody knows whether they arrived."""
        self._messaging = messaging
        self._limits = limits
        self._deadline = deadline_seconds
        self._numbering = Numbering(stream_id)
        self._waiting: dict[int, _Chunk] = {}
        self._again: list[_Chunk] = []
        self._news = trio.Event()
        self._failure: TransferFailed | None = None
        self._over = False

    async def __aenter__(self) -> LiveStream:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.aclose()
        else:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LONGEST_SECONDS):
                await self.abort()

    @property
    def chunks(self) -> int:
        """How many were sent."""
        return self._numbering.chunks

    async def send(self, value: Any) -> None:
        """One chunk, encoded by the codec: at most 64 KiB.

        Where none may be missing it waits while the peer has not answered so and so many; of a lossy stream the oldest
        one that waits is dropped instead. LocalProtocolError for what the codec does not take or is too long,
        TransferFailed once the stream is over.
        """
        self._check()
        try:
            data = self.codec.encode(value)
        except ValueError as error:
            raise LocalProtocolError(f"codec {self.codec.name} does not take it: {error}") from error
        if len(data) > MAX_CHUNK_BYTES:
            raise LocalProtocolError(f"a chunk of {len(data)} bytes; {MAX_CHUNK_BYTES} fit")
        if self._deadline is None:
            await self._room()
        chunk = _Chunk(self._numbering.next(data), data, trio.current_time())
        self._waiting[chunk.info.index] = chunk
        await self._hand_over(chunk)

    async def aclose(self) -> None:
        """Ends it, and waits until the peer has all of it and says so. TransferFailed when it does not.

        Cancelled, the stream is given up.
        """
        if self._over:
            if self._failure is not None:
                raise self._failure
            return
        try:
            await self._drained()
            self._check()
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LONGEST_SECONDS):
                await self.abort()
            raise
        self._over = True
        answered = await (await self._post_end(0)).wait()
        if answered.state not in (MessageState.DELIVERED, MessageState.READ):
            raise TransferFailed("nobody knows whether it arrived", code=FileCode.EXPIRED)
        if answered.ack_state != AckState.DELIVERED:
            raise TransferFailed("the peer has not got all of it", code=answered.code or FileCode.CANCELLED)

    async def abort(self, code: FileCode = FileCode.CANCELLED) -> None:
        """Gives it up; the peer is told. Nothing when it is over."""
        if not self._over:
            self.fail("it was given up", code)
            await self._post_end(code)

    def fail(self, why: str, code: int) -> None:
        """Whatever is sent or waited for raises TransferFailed from now on; nothing when it is over."""
        if not self._over:
            self._over = True
            self._failure = TransferFailed(f"the stream to {self.peer}: {why}", code=code)
            self._waiting.clear()
            self._wake()

    async def repeat(self) -> None:
        """Sends again what was not answered, until the stream is over; the service's task."""
        while not self._over:
            news = self._news
            if not self._again:
                await news.wait()
                continue
            chunks, self._again = self._again, []
            attempt = max(chunk.attempt for chunk in chunks)
            await trio.sleep(min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(attempt, 8)))
            for chunk in chunks:
                if trio.current_time() - chunk.since > self._limits.patience_seconds:
                    await self.abort(FileCode.EXPIRED)
                elif not self._over:
                    chunk.attempt += 1
                    await self._hand_over(chunk)

    # ------------------------------------------------------------------------------- chunks

    async def _hand_over(self, chunk: _Chunk) -> None:
        lossy = self._deadline is not None
        try:
            await self._messaging.post_now(
                self.peer,
                MessageType.STREAM_CHUNK,
                chunk.data,
                chunk_info=chunk.info,
                priority=Priority.REALTIME if lossy else Priority.BULK,
                deadline=float("inf") if self._deadline is None else chunk.since + self._deadline,
                answered=partial(self._answered, chunk),
            )
        except LimitExceeded:
            self._answered(chunk, None)

    def _answered(self, chunk: _Chunk, code: int | None) -> None:
        if self._over or chunk.info.index not in self._waiting:
            return
        if code is not None and code != Code.OK and code not in RETRYABLE:
            refused = FileCode.CANCELLED if code == Code.UNSUPPORTED else FileCode.POLICY
            self.fail(f"the peer takes no more of it (code {code})", refused)
        elif code == Code.OK or self._deadline is not None:
            self.late += code != Code.OK
            del self._waiting[chunk.info.index]
        else:
            if code is not None:
                chunk.since = trio.current_time()  # its reader takes its time
            self._again.append(chunk)
        self._wake()

    async def _room(self) -> None:
        """Until the next chunk is not too far from the oldest one that was not answered."""
        while self._waiting and self._numbering.chunks - min(self._waiting) >= self._limits.unanswered:
            await self._news.wait()
            self._check()

    async def _drained(self) -> None:
        """Until nothing waits; of a lossy stream as long as it is worth something."""
        with trio.move_on_after(float("inf") if self._deadline is None else self._deadline + FIRST_SECONDS):
            while self._waiting and not self._over:
                await self._news.wait()

    async def _post_end(self, code: int) -> Outgoing:
        numbering = self._numbering
        end = StreamEnd(
            stream_id=self.id,
            status=code,
            bytes_total=numbering.bytes_total,
            chunks=numbering.chunks,
            root=numbering.root(),
        )
        return await self._messaging.post(self.peer, MessageType.STREAM_END, end.encode())

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._over:
            raise trio.ClosedResourceError("the stream is closed")

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()
