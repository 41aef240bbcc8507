"""Live streams of a node: those that it offers, and those that it is offered."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

import trio

from talos.errors import ConfigError, LocalProtocolError, TransferFailed
from talos.messaging.code import AckState, Code, MessageType
from talos.messaging.content import StreamEnd, StreamKind, StreamStart
from talos.messaging.files.code import FileCode
from talos.messaging.handling import Verdict
from talos.messaging.live.receiving import IncomingStream
from talos.messaging.live.sending import LiveStream
from talos.messaging.schedule import Priority
from talos.messaging.store import MessageState

if TYPE_CHECKING:
    from contextlib import ExitStack

    from talos.identity.peer_id import PeerId
    from talos.messaging.handling import Received
    from talos.messaging.letters import Outgoing
    from talos.messaging.service import Messaging
    from talos.messaging.state import State

__all__ = ["Live"]

_log = logging.getLogger(__name__)

CHECK_SECONDS = 30.0
StreamKey = tuple["PeerId", bytes]


class Live:
    """Both directions; made by `Messaging`."""

    _nursery: trio.Nursery

    def __init__(self, messaging: Messaging, state: State) -> None:
        self._messaging = messaging
        self._state = state
        self._limits = state.config.live
        self._incoming: dict[StreamKey, IncomingStream] = {}
        self._outgoing: set[LiveStream] = set()
        self._offers: trio.MemorySendChannel[IncomingStream] | None = None
        self._taken: trio.MemoryReceiveChannel[IncomingStream] | None = None

    def mount(self, stack: ExitStack) -> None:
        """Answers peers for the length of the stack."""
        handling = self._messaging.handling
        stack.enter_context(handling(MessageType.STREAM_START, self._offered))
        stack.enter_context(handling(MessageType.STREAM_CHUNK, self._chunk))
        stack.enter_context(handling(MessageType.STREAM_END, self._ended))

    def start(self, nursery: trio.Nursery) -> None:
        """Begins what runs in the background."""
        self._nursery = nursery
        nursery.start_soon(self._watch)

    def leave(self) -> None:
        """Ends all of them."""
        for stream in self._incoming.values():
            stream.fail("messages are closed", FileCode.CANCELLED)
        for ours in tuple(self._outgoing):
            ours.fail("messages are closed", FileCode.CANCELLED)

    # ------------------------------------------------------------------------------- ours

    async def open(
        self, to: PeerId, *, codec: str, media_type: str, deadline_seconds: float | None, name: str
    ) -> LiveStream:
        """As `Messaging.open_live`."""
        found = self._state.config.codecs.get(codec)
        if not found.carries(media_type):
            raise ConfigError(f"codec {codec} does not carry {media_type}")
        if deadline_seconds is not None and not 0 < deadline_seconds <= self._limits.patience_seconds:
            raise LocalProtocolError(f"a deadline of {deadline_seconds} s")
        lossy = deadline_seconds is not None
        start = StreamStart(
            stream_id=secrets.token_bytes(16),
            kind=StreamKind.LIVE,
            codec=codec,
            media_type=media_type,
            priority=Priority.REALTIME if lossy else Priority.BULK,
            name=name,
        )
        outgoing = await self._messaging.post(to, MessageType.STREAM_START, start.encode())
        await self._accepted(outgoing)
        stream = LiveStream(
            self._messaging, to, start.stream_id, found, self._limits, deadline_seconds=deadline_seconds
        )
        self._outgoing.add(stream)
        self._nursery.start_soon(self._repeat, stream)
        return stream

    async def _accepted(self, outgoing: Outgoing) -> None:
        try:
            answered = await outgoing.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await self._messaging.cancel(outgoing.id)
            raise
        if answered.state not in (MessageState.DELIVERED, MessageState.READ):
            raise TransferFailed("the offer did not arrive", code=FileCode.EXPIRED)
        if answered.ack_state != AckState.ACCEPTED:
            raise TransferFailed("the stream was declined", code=answered.code or FileCode.POLICY)

    async def _repeat(self, stream: LiveStream) -> None:
        try:
            await stream.repeat()
        finally:
            self._outgoing.discard(stream)

    # ------------------------------------------------------------------------------- theirs

    def streams(self) -> trio.MemoryReceiveChannel[IncomingStream]:
        """As `Messaging.streams`."""
        if self._taken is None or self._taken.statistics().open_receive_channels == 0:
            self._offers, self._taken = trio.open_memory_channel[IncomingStream](self._limits.offers)
        return self._taken

    async def _offered(self, received: Received) -> Verdict | None:
        """An offer came, perhaps again; None when it is not of a live stream."""
        await trio.lowlevel.checkpoint()
        offer = StreamStart.decode(received.content)
        if offer.kind != StreamKind.LIVE:
            return None
        if (received.sender, offer.stream_id) in self._incoming:
            return Verdict(AckState.ACCEPTED)
        refused = self._refusal(received, offer)
        if refused is not None:
            _log.info("a live stream of %s is declined: %s", received.sender, refused.name)
            return Verdict(AckState.DECLINED, refused)
        return Verdict(AckState.ACCEPTED)

    def _refusal(self, received: Received, offer: StreamStart) -> FileCode | None:
        """None when it was taken."""
        limits, codecs = self._limits, self._state.config.codecs
        self._forget_ended()
        if self._state.now_ms() - received.payload.timestamp_ms > limits.offer_seconds * 1000:
            return FileCode.EXPIRED
        if not codecs.knows(offer.codec, offer.media_type):
            return FileCode.CODEC
        of_peer = sum(peer == received.sender for peer, _ in self._incoming)
        if of_peer >= limits.streams_per_peer or len(self._incoming) >= limits.streams or self._offers is None:
            return FileCode.POLICY
        stream = IncomingStream(
            received.sender,
            offer.stream_id,
            codecs.get(offer.codec),
            offer.media_type,
            limits,
            lossy=offer.priority == Priority.REALTIME,
        )
        try:
            self._offers.send_nowait(stream)
        except (trio.WouldBlock, trio.BrokenResourceError):
            return FileCode.POLICY
        self._incoming[received.sender, offer.stream_id] = stream
        return None

    async def _chunk(self, received: Received) -> Verdict | None:
        await trio.lowlevel.checkpoint()
        info = received.payload.chunk_info
        assert info is not None, "the payload was checked"
        stream = self._incoming.get((received.sender, info.stream_id))
        if stream is None:
            return None
        held = sum(one.held_bytes for one in self._incoming.values())
        code = stream.take(info, received.content, self._limits.held_bytes - held)
        return Verdict(AckState.DELIVERED if code == Code.OK else AckState.DECLINED, code)

    async def _ended(self, received: Received) -> Verdict | None:
        await trio.lowlevel.checkpoint()
        end = StreamEnd.decode(received.content)
        stream = self._incoming.pop((received.sender, end.stream_id), None)
        if stream is None:
            return None
        if end.status:
            stream.fail("its sender has given it up", end.status)
            return Verdict(AckState.DELIVERED)
        if stream.over or not stream.finish(end):
            return Verdict(AckState.DECLINED, FileCode.HASH_MISMATCH)
        return Verdict(AckState.DELIVERED)

    # ------------------------------------------------------------------------------- upkeep

    def _forget_ended(self) -> None:
        for key in [key for key, stream in self._incoming.items() if stream.over]:
            del self._incoming[key]

    async def _watch(self) -> None:
        """Ends streams that nothing comes in, for ever."""
        while True:
            await trio.sleep(CHECK_SECONDS)
            self.tidy()

    def tidy(self) -> None:
        """What is done twice a minute."""
        self._forget_ended()
        before = trio.current_time() - self._limits.idle_seconds
        for stream in self._incoming.values():
            if stream.last_seen < before:
                stream.fail("nothing came for too long", FileCode.EXPIRED)
