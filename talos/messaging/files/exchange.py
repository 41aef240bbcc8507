"""Finds a stream for each transfer, again and again, until it is over.

Either side opens a stream when it can reach the other one. The receiver works on the newest stream alone, as an older
one may be of a connection that is gone; the sender only answers, so that it may have two for a moment.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from talos.abc import PeerConnected
from talos.errors import AuditError, MessagingError, RemoteProtocolError, StoreFull, TransferFailed
from talos.host.contain import Owner, contain
from talos.messaging.files.code import FileCode
from talos.messaging.files.finish import Finisher
from talos.messaging.files.frames import (
    MAX_FRAME_BYTES,
    PROTOCOL_ID,
    Fault,
    FileDone,
    Frame,
    Hello,
    Side,
    decode,
    encode,
)
from talos.messaging.files.part import PartsDirectory, disk_faults, remove_parts
from talos.messaging.files.pulling import Pulling, fetch_list
from talos.messaging.files.rules import check_room
from talos.messaging.files.serving import Serving
from talos.messaging.files.transfer import TransferState
from talos.messaging.guests import Guests
from talos.messaging.retry import UNREACHABLE, delay
from talos.wire.message_stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.abc import Event, Stream
    from talos.messaging.files.finish import Setting
    from talos.messaging.files.transfer import Transfer

__all__ = ["Exchange"]

_log = logging.getLogger(__name__)

GRACE_SECONDS = 1.0
"""The receiver opens the stream; the sender does when it has not by then."""
FAULT_SECONDS = 2.0
MAX_SERVINGS = 2
_INTERRUPTED = (*UNREACHABLE, AuditError, MessagingError, StoreFull, RemoteProtocolError)
"""What ends a stream, but not the transfer."""


@dataclass(slots=True, eq=False)
class _Live:
    """A transfer that goes on, and the streams that it has."""

    transfer: Transfer
    scopes: list[trio.CancelScope] = field(default_factory=list)
    turn: trio.Lock = field(default_factory=trio.Lock)
    """Of the one stream that writes parts."""
    idle: trio.Event = field(default_factory=trio.Event)
    """Set while there is no stream."""

    def __post_init__(self) -> None:
        self.idle.set()

    def cancel(self, scopes: list[trio.CancelScope]) -> None:
        for scope in scopes:
            scope.cancel()


class Exchange:
    """Runs transfers, each in a task of its own; `known` has those that peers may ask for."""

    def __init__(self, setting: Setting, known: Mapping[bytes, Transfer], nursery: trio.Nursery) -> None:
        self._setting = setting
        self._known = known
        self._nursery = nursery
        self._finisher = Finisher(setting)
        self._live: dict[bytes, _Live] = {}
        self.guests = Guests("files")

    def start(self, transfer: Transfer) -> None:
        """Works on it until it is over."""
        if transfer.id not in self._live:
            live = self._live[transfer.id] = _Live(transfer)
            owner = Owner("files", self._setting.host.emit)
            self._nursery.start_soon(contain, owner, self._drive, live)

    async def accepted(self, transfer: Transfer) -> None:
        """The receiver takes it, so it begins."""
        transfer.step(TransferState.ACCEPTED)
        transfer.changed_ms = self._setting.now_ms()
        await self._setting.store.save(transfer)
        self.start(transfer)

    async def end(self, transfer: Transfer, state: TransferState, code: int, *, tell: bool = True) -> None:
        """It is over, for whatever reason but success, and no part of it stays; nothing when it is over already."""
        live = self._live.get(transfer.id)
        if live is not None and transfer.state is TransferState.VERIFYING:
            await live.idle.wait()
        if transfer.state.final:
            return
        await self._finisher.ended(transfer, state, code, tell=tell)
        if live is not None:
            transfer.wake.set()
            live.cancel(live.scopes)
            await live.idle.wait()
        if transfer.incoming:
            await trio.to_thread.run_sync(self._clear, transfer)

    def observe(self, event: Event) -> None:
        """Whoever connects is tried at once."""
        if isinstance(event, PeerConnected):
            for live in self._live.values():
                if live.transfer.peer == event.peer:
                    live.transfer.wake.set()

    # ------------------------------------------------------------------------------- streams

    async def serve(self, stream: Stream) -> None:
        """A stream that the peer has opened."""
        await self.guests.inside(self._serve, stream)

    async def _serve(self, stream: Stream) -> None:
        frames = _framed(stream)
        with trio.fail_after(self._setting.config.hello_seconds):
            hello = await frames.receive()
        if not isinstance(hello, Hello):
            raise RemoteProtocolError("a stream of files begins with a greeting")
        transfer = self._known.get(hello.stream_id)
        if transfer is None or transfer.peer != stream.connection.remote_peer or _is_other_side(transfer, hello):
            await frames.send(Fault(FileCode.EXPIRED))
        elif transfer.state.final:
            await self._say_again(transfer, frames)
        elif transfer.state is not TransferState.OFFERED or not transfer.incoming:
            if transfer.state is TransferState.OFFERED:
                await self.accepted(transfer)
            self.start(transfer)
            await self._session(self._live[transfer.id], frames)

    async def _say_again(self, transfer: Transfer, frames: MessageStream[Frame, Frame]) -> None:
        if transfer.state is TransferState.COMPLETE and transfer.incoming:
            await self._say_done(transfer, frames)
        else:
            await frames.send(Fault(transfer.code or FileCode.EXPIRED))

    async def _drive(self, live: _Live) -> None:
        transfer, attempt = live.transfer, 0
        try:
            if not transfer.incoming:
                with trio.move_on_after(GRACE_SECONDS):
                    await transfer.wake.wait()
            while not transfer.state.final:
                transfer.wake = trio.Event()
                if not live.idle.is_set() or await self._open(live):
                    await live.idle.wait()
                    await self._setting.store.save(transfer)
                    attempt = 0
                if not transfer.state.final:
                    with trio.move_on_after(delay(attempt, self._setting.random)):
                        await transfer.wake.wait()
                    attempt += 1
        finally:
            del self._live[transfer.id]

    async def _open(self, live: _Live) -> bool:
        """Opens a stream and uses it; False when there is none."""
        transfer = live.transfer
        try:
            stream = await self._setting.host.open_stream(transfer.peer, PROTOCOL_ID)
            async with stream:
                frames = _framed(stream)
                await frames.send(Hello(transfer.id, Side.RECEIVES if transfer.incoming else Side.SENDS))
                await self._session(live, frames)
        except UNREACHABLE as error:
            _log.debug("no stream for files to %s: %r", transfer.peer, error)
            return False
        return True

    async def _session(self, live: _Live, frames: MessageStream[Frame, Frame]) -> None:
        """One stream to its end; what ends only the stream ends here."""
        transfer, failure = live.transfer, None
        with trio.CancelScope() as scope:
            live.cancel(live.scopes if transfer.incoming else live.scopes[: 1 - MAX_SERVINGS])
            live.scopes.append(scope)
            if live.idle.is_set():
                live.idle = trio.Event()
            try:
                failure = await self._work(live, frames)
            finally:
                live.scopes.remove(scope)
                if not live.scopes:
                    transfer.changed_ms = self._setting.now_ms()
                    if not transfer.state.final:
                        transfer.step(TransferState.PAUSED)
                    live.idle.set()
        if failure is not None:
            await self._fail(transfer, frames, failure.code)

    async def _work(self, live: _Live, frames: MessageStream[Frame, Frame]) -> TransferFailed | None:
        """What is final about how it ended."""
        transfer = live.transfer
        failures: list[TransferFailed] = []
        try:
            if transfer.incoming:
                async with live.turn:
                    await self._receive(transfer, frames)
            else:
                transfer.step(TransferState.TRANSFERRING)
                pace = partial(self._setting.messaging.pace, transfer.peer)
                await Serving(transfer, frames, self._setting.config, pace).run()
                await self._finisher.sent(transfer)
        except* TransferFailed as group:
            failures.append(_first(group))
        except* _INTERRUPTED as group:
            _log.debug("a stream of files to %s ended: %r", transfer.peer, group.exceptions[0])
        return failures[0] if failures else None

    async def _fail(self, transfer: Transfer, frames: MessageStream[Frame, Frame], code: int) -> None:
        _log.info("transfer %s failed: code %d", transfer.id.hex(), code)
        state = TransferState.CANCELLED if code == FileCode.CANCELLED else TransferState.FAILED
        await self.end(transfer, state, code)
        with trio.move_on_after(FAULT_SECONDS):
            try:
                await frames.send(Fault(code))
            except UNREACHABLE as error:
                _log.debug("the peer is not there to be told: %r", error)

    # ------------------------------------------------------------------------------- receiving

    async def _receive(self, transfer: Transfer, frames: MessageStream[Frame, Frame]) -> None:
        setting = self._setting
        if transfer.state.final:
            return
        transfer.step(TransferState.TRANSFERRING)
        if transfer.manifest is None:
            transfer.manifest = await fetch_list(transfer, frames, setting.config)
            await setting.store.save_list(transfer)
        with disk_faults():
            check_room(setting.folder, 0, setting.config)
            parts = PartsDirectory(setting.folder, transfer.id)
        try:
            await Pulling(transfer, frames, setting.config, downloads=setting.folder, parts=parts).run()
            # Cancelling does not stop half way what ends in a file and an entry of the log.
            with trio.CancelScope(shield=True):
                await self._finisher.received(transfer, parts)
        finally:
            parts.close()
        await trio.to_thread.run_sync(self._clear, transfer)
        await self._say_done(transfer, frames)

    async def _say_done(self, transfer: Transfer, frames: MessageStream[Frame, Frame]) -> None:
        """And waits until the sender leaves, so that closing loses nothing."""
        for number in range(1, transfer.file_count + 1):
            await frames.send(FileDone(number))
        with trio.move_on_after(self._setting.config.hello_seconds):
            try:
                await frames.receive()
            except (*UNREACHABLE, RemoteProtocolError) as error:
                _log.debug("the sender has left: %r", error)

    def _clear(self, transfer: Transfer) -> None:
        """In a thread: the parts of a transfer that is over go."""
        remove_parts(self._setting.folder, transfer.id.hex())


def _is_other_side(transfer: Transfer, hello: Hello) -> bool:
    """Whether the peer says that it does what we do."""
    return transfer.incoming != (hello.side is Side.SENDS)


def _framed(stream: Stream) -> MessageStream[Frame, Frame]:
    return MessageStream[Frame, Frame](stream, decode=decode, encode=encode, max_size=MAX_FRAME_BYTES)


def _first(group: BaseExceptionGroup[TransferFailed]) -> TransferFailed:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, TransferFailed), "the group was split by it"
    return error
