"""One transfer as its user sees it, and as it is kept."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from talos.errors import StoreCorrupt, TransferFailed
from talos.identity.peer_id import PeerId
from talos.messaging.content import StreamStart
from talos.messaging.files.code import FileCode
from talos.messaging.files.machine import TransferState, check_step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from talos.messaging.files.manifest import FileEntry, Manifest
    from talos.messaging.files.source import Hashed

__all__ = ["DIRECTORY_TYPE", "Transfer", "TransferProgress", "TransferState"]

DIRECTORY_TYPE = "inode/directory"
"""The media type of an offer whose files belong into a directory."""
UPDATE_SECONDS = 0.1
RATE_SECONDS = 3.0


class TransferProgress(NamedTuple):
    """How far a transfer is; bytes, bytes a second, seconds."""

    stream_id: bytes
    file: int
    """The number of the file that moves, from 1; 0 before any does."""
    done: int
    total: int
    rate: float
    eta: float | None
    state: TransferState


class _Pace:
    """Bytes a second over the last seconds."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def note(self, now: float, done: int) -> None:
        if self._points and now - self._points[-1][0] < UPDATE_SECONDS:
            return
        self._points.append((now, done))
        while now - self._points[0][0] > RATE_SECONDS:
            self._points.popleft()

    def rate(self, now: float, done: int) -> float:
        if not self._points or now <= self._points[0][0]:
            return 0.0
        then, before = self._points[0]
        return max(0.0, (done - before) / (now - then))

    def reset(self) -> None:
        self._points.clear()


@dataclass(slots=True, kw_only=True, eq=False)
class Transfer:
    """Files on their way from one peer to another. Changed by the service alone; read it whenever you like."""

    peer: PeerId
    incoming: bool
    offer: StreamStart
    created_ms: int
    manifest: Manifest | None = None
    sources: tuple[str, ...] = ()
    """Of an outgoing one: where each file lies."""
    skipped: tuple[str, ...] = ()
    """Links, devices, sockets and pipes that are not sent."""
    message_id: bytes = b""
    """Of the offer that went out."""
    state: TransferState = TransferState.OFFERED
    code: int = 0
    """A `FileCode` where it failed or was declined."""
    target: str = ""
    """The name in the downloads folder, from when it was chosen."""
    changed_ms: int = 0
    settled_ms: int = 0
    """When its files were found to be whole: the time of its entry in the log."""
    path: Path | None = None
    """Of an incoming one that is complete."""
    on_state: Callable[[Transfer], None] = field(default=lambda _: None, repr=False)
    hashed: dict[int, Hashed] = field(default_factory=dict, repr=False)
    """By file: leaves that are known; others are worked out when they are asked for."""
    wake: trio.Event = field(default_factory=trio.Event, repr=False)
    """Set when it is worth trying to connect."""
    _file: int = 0
    _done: int = 0
    _pace: _Pace = field(default_factory=_Pace, repr=False)
    _news: trio.Event = field(default_factory=trio.Event, repr=False)

    @property
    def id(self) -> bytes:
        return self.offer.stream_id

    @property
    def name(self) -> str:
        """What its sender calls it: foreign text when it is incoming."""
        return self.offer.name

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return self.offer.total_size

    @property
    def file_count(self) -> int:
        return self.offer.files

    @property
    def files(self) -> Sequence[FileEntry] | None:
        """The list, once it is known."""
        return None if self.manifest is None else self.manifest.files

    @property
    def directory(self) -> bool:
        return self.offer.media_type == DIRECTORY_TYPE

    @property
    def progress(self) -> TransferProgress:
        """As it is now."""
        done = self.total if self.state is TransferState.COMPLETE else self._done
        rate = 0.0 if self.state.final else self._pace.rate(trio.current_time(), done)
        eta = (self.total - done) / rate if rate > 0 else None
        return TransferProgress(self.id, self._file, done, self.total, rate, eta, self.state)

    async def updates(self) -> AsyncIterator[TransferProgress]:
        """The newest progress, at most ten times a second; ends after the final one."""
        while True:
            news, current = self._news, self.progress
            yield current
            if current.state.final:
                return
            await news.wait()
            if not self.state.final:
                await trio.sleep(UPDATE_SECONDS)

    async def wait(self) -> TransferProgress:
        """Returns when all files are at the recipient; TransferFailed when that will not be. Cancel it freely."""
        while not self.state.final:
            await self._news.wait()
        await trio.lowlevel.checkpoint()
        if self.state is not TransferState.COMPLETE:
            raise TransferFailed(f"the transfer was {self.state.value}: {code_name(self.code)}", code=self.code)
        return self.progress

    # ------------------------------------------------------------------------------- for the service

    def step(self, state: TransferState, *, code: int = 0) -> None:
        """Goes on to `state`; LocalProtocolError when it cannot."""
        if state is self.state:
            return
        check_step(self.state, state)
        self.state, self.code = state, code
        if state is TransferState.PAUSED:
            self._pace.reset()
        self._tell()
        self.on_state(self)

    def moved(self, file: int, done: int) -> None:
        """So many bytes are there by now."""
        self._file, self._done = file, min(done, self.total)
        self._pace.note(trio.current_time(), done)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    # ------------------------------------------------------------------------------- as it is kept

    def encode(self) -> bytes:
        """All but the list and the sources, which do not change."""
        kept = {
            "peer": str(self.peer),
            "incoming": self.incoming,
            "offer": self.offer.encode().hex(),
            "created_ms": self.created_ms,
            "changed_ms": self.changed_ms,
            "settled_ms": self.settled_ms,
            "message_id": self.message_id.hex(),
            "state": self.state.value,
            "code": self.code,
            "target": self.target,
            "path": None if self.path is None else str(self.path),
            "skipped": self.skipped,
        }
        return json.dumps(kept).encode()

    @classmethod
    def decode(cls, data: bytes) -> Transfer:
        """What `encode` made; StoreCorrupt when it is not."""
        try:
            kept = json.loads(data)
            return cls(
                peer=PeerId.parse(kept["peer"]),
                incoming=kept["incoming"],
                offer=StreamStart.decode(bytes.fromhex(kept["offer"])),
                created_ms=kept["created_ms"],
                changed_ms=kept["changed_ms"],
                settled_ms=kept["settled_ms"],
                message_id=bytes.fromhex(kept["message_id"]),
                state=TransferState(kept["state"]),
                code=kept["code"],
                target=kept["target"],
                path=None if kept["path"] is None else Path(kept["path"]),
                skipped=tuple(kept["skipped"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise StoreCorrupt("a row of transfers is not what was written") from error


def code_name(code: int) -> str:
    """For people; a number of a later version as it is."""
    return FileCode(code).name if code in frozenset(FileCode) else f"code {code}"
