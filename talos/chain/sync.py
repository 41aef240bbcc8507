"""Chains between nodes, `/talos/chain/1.0.0`: one stream for each peer and chain, and the machines that talk over them.

The first frame of a stream says which chain it is about; a STATUS with an empty chain id asks for the answerer's own.
Who may not read it is answered as if there were no such chain. Of two streams with one peer, that of the greater peer
id stays. Peers that are followed are asked again, with pauses, when their stream has ended.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import trio

from talos.chain import wire
from talos.chain.answering import answer
from talos.chain.driver import now
from talos.chain.effects import Answered, Fault, Send, Serve
from talos.chain.messages import Code, Message, Request, Response, Status
from talos.errors import ChainError, LocalProtocolError, RemoteProtocolError, StreamCode, TalosError
from talos.wire.length_prefix import LengthPrefixDecoder, frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.abc import Host, Stream
    from talos.chain.config import ChainConfig
    from talos.chain.core import Core
    from talos.chain.effects import Effect
    from talos.chain.sessions import SyncLimits
    from talos.identity.peer_id import PeerId

__all__ = ["CHAIN", "ChainService"]

CHAIN = "/talos/chain/1.0.0"
OUTBOX_FRAMES = 16
MIN_RATE = 4096
"""Bytes a second that a long frame has to bring."""
PAUSE_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

_log = logging.getLogger(__name__)
_ENDS = (TalosError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError, trio.TooSlowError)


@dataclass(eq=False)
class _Talk:
    """A stream about one chain."""

    stream: Stream
    outbound: bool
    send: trio.MemorySendChannel[Message]
    outbox: trio.MemoryReceiveChannel[Message]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    status: Status | None = None
    """What the peer said last."""
    denied: bool = False
    fault: str = ""


class _Side:
    """One chain, and who we talk with about it."""

    def __init__(self, service: ChainService, core: Core, may_read: Callable[[PeerId], bool]) -> None:
        self.core = core
        self.may_read = may_read
        self.talks: dict[PeerId, _Talk] = {}
        self.faults: dict[PeerId, str] = {}
        """Why the last stream with a peer ended, where that was the peer's doing."""
        self.changed = trio.Event()
        self._service = service
        core.driver.hears = self.hear

    def hear(self, effect: Effect) -> None:
        """What the machine wants of others."""
        match effect:
            case Send():
                self._send(cast("PeerId", effect.peer), effect.message)
            case Serve():
                self._service.nursery.start_soon(self._serve, effect)
            case Fault():
                self._blame(cast("PeerId", effect.peer), f"{effect.reason}: {effect.text}", effect.banned_until)
            case Answered():
                self.core.answered(effect.response)
        self.core.tell(effect)
        self._touch()

    def _blame(self, peer: PeerId, what: str, until: float | None) -> None:
        self._service.blame(peer, what, until)
        talk = self.talks.get(peer)
        if talk is not None:
            talk.fault = what
            talk.scope.cancel()

    def _send(self, peer: PeerId, message: Message) -> None:
        talk = self.talks.get(peer)
        if talk is None:
            return
        try:
            talk.send.send_nowait(message)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            talk.fault = "it does not read"
            talk.scope.cancel()

    async def _serve(self, effect: Serve) -> None:
        peer = cast("PeerId", effect.peer)
        core = self.core
        try:
            response = await trio.to_thread.run_sync(
                answer, core.serving, core.params, core.k_priv, effect, peer.to_bytes(), limiter=core.serving_limit
            )
        except ChainError as error:  # a damaged row is ours to mend, and none of the peer's
            _log.warning("%s", error)
            response = Response(id=effect.request_id, code=Code.BUSY)
        core.machine.served(peer, sum(block.size for block in response.blocks) + 296 * len(response.headers))
        self._send(peer, response)

    async def talk(self, talk: _Talk, first: Message | None, frames: _Frames) -> None:
        """Until the stream ends, however that is."""
        peer = talk.stream.connection.remote_peer
        machine = self.core.machine
        old = self.talks.get(peer)
        if old is not None:
            if old.outbound == talk.outbound or talk.outbound == (self._service.me > peer.to_bytes()):
                old.scope.cancel()
                machine.peer_left(peer, now())
            else:
                talk.stream.reset()
                return
        self.talks[peer] = talk
        self.faults.pop(peer, None)
        try:
            with talk.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, talk)
                    self.core.driver.do(machine.peer_joined(peer, now(), reader=self.may_read(peer)))
                    await self._read(talk, first, frames)
                    nursery.cancel_scope.cancel()
        finally:
            if self.talks.get(peer) is talk:
                del self.talks[peer]
                self.core.driver.do(machine.peer_left(peer, now()))
            if talk.fault:
                self.faults[peer] = talk.fault
                talk.stream.reset(StreamCode.PROTOCOL_VIOLATION)
            self._touch()

    async def _read(self, talk: _Talk, message: Message | None, frames: _Frames) -> None:
        peer = talk.stream.connection.remote_peer
        core = self.core
        while True:
            if message is not None:
                if isinstance(message, Status):
                    talk.status = message
                if isinstance(message, Response) and message.code is Code.NOT_FOUND:
                    talk.denied = True
                core.driver.do(core.machine.receive(peer, message, now()))
                self._touch()
                await trio.lowlevel.checkpoint()
            try:
                message = await frames.next()
            except RemoteProtocolError as error:
                self._service.blame(peer, str(error), None)
                talk.fault = str(error)
                return
            except _ENDS:
                return

    @staticmethod
    async def _write(talk: _Talk) -> None:
        try:
            async for message in talk.outbox:
                await talk.stream.send_all(frame(wire.encode(message), wire.MAX_FRAME))
        except _ENDS:
            talk.scope.cancel()

    def _touch(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class _Frames:
    """Reads a stream; long frames only while one is awaited, and none slower than a hostile one would be."""

    def __init__(self, stream: Stream, limits: SyncLimits, awaited: Callable[[], bool]) -> None:
        self._stream = stream
        self._patience = limits.frame_seconds
        self._awaited = awaited
        self._decoder = LengthPrefixDecoder(wire.MAX_STATUS)

    async def next(self) -> Message:
        """EOFError at the end of the stream; RemoteProtocolError, which is also a frame that comes too slowly."""
        began: float | None = None
        size = 0
        while True:
            self._decoder.max_size = wire.MAX_FRAME if self._awaited() else wire.MAX_STATUS
            found = self._decoder.next_message()
            if found is not None:
                return wire.decode(found)
            with trio.move_on_at(self._too_late(began, size)) as late:
                chunk = await self._stream.receive_some()
            if late.cancelled_caught:
                raise RemoteProtocolError(f"a frame brought {size} bytes in {trio.current_time() - (began or 0):.0f} s")
            if not chunk:
                self._decoder.end()
                raise EOFError("stream ended")
            began = trio.current_time() if began is None else began
            size += len(chunk)
            self._decoder.feed(chunk)

    def _too_late(self, began: float | None, size: int) -> float:
        """When a frame that has brought so much has been too slow."""
        return float("inf") if began is None else began + max(self._patience, size / MIN_RATE)


class ChainService:
    """Answers for the chains of a node, and follows those of others. Lives as long as its nursery."""

    def __init__(self, host: Host, config: ChainConfig, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.me = host.peer_id.to_bytes()
        self._host = host
        self._config = config
        self._limits = config.sync
        self._sides: dict[bytes, _Side] = {}
        self._own: _Side | None = None
        self._streams: Counter[PeerId] = Counter()
        self._banned: dict[PeerId, float] = {}

    def add(self, core: Core, may_read: Callable[[PeerId], bool], *, own: bool = False) -> None:
        """Takes part in one more chain."""
        side = _Side(self, core, may_read)
        self._sides[core.params.chain_id] = side
        if own:
            self._own = side

    def knows(self, chain_id: bytes) -> bool:
        return chain_id in self._sides

    def blame(self, peer: PeerId, what: str, until: float | None) -> None:
        _log.info("peer %s about a chain: %s", peer, what)
        if until is not None:
            self._banned[peer] = until

    async def answer(self, stream: Stream) -> None:
        """Handles a stream that a peer opened."""
        peer = stream.connection.remote_peer
        full = self._streams[peer] >= self._config.streams_per_peer or self._streams.total() >= self._config.streams
        if full or self._banned.get(peer, -1.0) > trio.current_time():
            stream.reset(StreamCode.RESOURCE_LIMIT)
            return
        self._streams[peer] += 1
        try:
            await self._converse(stream)
        except _ENDS as error:
            _log.debug("chain stream with %s ended: %s", peer, error)
        finally:
            self._streams[peer] -= 1

    async def _converse(self, stream: Stream) -> None:
        side: _Side | None = None
        frames = _Frames(
            stream, self._limits, lambda: side is not None and side.core.machine.expects(stream.connection.remote_peer)
        )
        with trio.fail_after(self._limits.first_seconds):
            first = await frames.next()
        side = self._about(first, stream.connection.remote_peer)
        if side is None:
            await self._refuse(stream, first, frames)
            return
        if isinstance(first, Status) and not first.chain_id:
            await stream.send_all(frame(wire.encode(side.core.machine.status(now())), wire.MAX_STATUS))
            return
        await side.talk(_new_talk(stream, outbound=False), first, frames)

    def _about(self, message: Message, peer: PeerId) -> _Side | None:
        """The chain that is meant, where the peer may know of it."""
        if isinstance(message, Response):
            raise RemoteProtocolError("a stream begins with an answer")
        side = self._sides.get(message.chain_id) if message.chain_id else self._own
        if side is None:
            return None
        may_ask = isinstance(message, Request) and message.proof is not None
        return side if side.may_read(peer) or may_ask else None

    async def _refuse(self, stream: Stream, first: Message, frames: _Frames) -> None:
        """As for a chain that nobody here knows: so it cannot be told whether there is one."""
        while True:
            number = first.id if isinstance(first, Request) else 0
            await stream.send_all(frame(wire.encode(Response(id=number, code=Code.NOT_FOUND)), wire.MAX_FRAME))
            if not isinstance(first, Request):
                return
            with trio.fail_after(self._limits.first_seconds):
                first = await frames.next()

    # -- Asking

    async def own_chain_of(self, peer: PeerId) -> Status | None:
        """What the peer says of its own chain; None when it has none for us."""
        stream = await self._host.open_stream(peer, CHAIN)
        async with stream:
            empty = Status(chain_id=b"", height=0, total_work=0, tip_id=b"", log_size=0, log_root=b"")
            await stream.send_all(frame(wire.encode(empty), wire.MAX_STATUS))
            with trio.fail_after(self._limits.first_seconds):
                found = await _Frames(stream, self._limits, lambda: False).next()
        return found if isinstance(found, Status) and found.chain_id else None

    async def genesis_of(self, peer: PeerId, chain_id: bytes) -> Response:
        """Block 0 of a chain, unchecked."""
        from talos.chain.messages import Range

        stream = await self._host.open_stream(peer, CHAIN)
        async with stream:
            request = Request(chain_id=chain_id, id=1, blocks=Range(0, 0))
            await stream.send_all(frame(wire.encode(request), wire.MAX_REQUEST))
            frames = _Frames(stream, self._limits, lambda: True)
            with trio.fail_after(self._limits.first_seconds):
                while not isinstance(found := await frames.next(), Response):
                    pass
        return found

    async def follow(self, peer: PeerId, chain_id: bytes) -> None:
        """Keeps a stream with the peer about the chain, until cancelled."""
        failures = 0
        while True:
            began = trio.current_time()
            await self.talk_with(peer, chain_id)
            failures = 0 if trio.current_time() - began > PAUSE_SECONDS[-1] else failures + 1
            await trio.sleep(PAUSE_SECONDS[min(failures, len(PAUSE_SECONDS)) - 1])

    async def talk_with(self, peer: PeerId, chain_id: bytes) -> None:
        """One stream with the peer, until it ends; one that is there already is waited for."""
        side = self._sides[chain_id]
        while peer in side.talks:
            await side.changed.wait()
        if self._banned.get(peer, -1.0) > trio.current_time():
            return
        try:
            stream = await self._host.open_stream(peer, CHAIN)
            async with stream:
                frames = _Frames(stream, self._limits, lambda: side.core.machine.expects(peer))
                status = side.core.machine.status(now())
                await stream.send_all(frame(wire.encode(status), wire.MAX_STATUS))
                await side.talk(_new_talk(stream, outbound=True), None, frames)
        except _ENDS as error:
            _log.debug("chain stream to %s ended: %s", peer, error)

    async def agree(self, peer: PeerId, chain_id: bytes) -> Status:
        """Waits until we hold all that the peer has shown. RemoteProtocolError where it shows nothing, or falsely."""
        side = self._sides[chain_id]
        side.faults.pop(peer, None)
        while True:
            if self._banned.get(peer, -1.0) > trio.current_time():
                raise RemoteProtocolError(f"peer {peer} broke the rules too often of late")
            talk = side.talks.get(peer)
            if talk is not None and talk.denied:
                raise LocalProtocolError(f"peer {peer} does not let us read the chain")
            if fault := side.faults.get(peer) if talk is None else talk.fault:
                raise RemoteProtocolError(f"peer {peer}: {fault}")
            machine = side.core.machine
            told = talk.status if talk is not None else None
            if told is not None and (machine.frozen or machine.tip.total_work >= told.total_work):
                return told
            await side.changed.wait()


def _new_talk(stream: Stream, *, outbound: bool) -> _Talk:
    send, outbox = trio.open_memory_channel[Message](OUTBOX_FRAMES)
    return _Talk(stream, outbound, send, outbox)
