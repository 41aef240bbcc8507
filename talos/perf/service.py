"""Perf (libp2p perf): a server that nobody has without asking for it, and its client."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import trio

from talos.errors import ConfigError, RemoteProtocolError, StreamCode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.abc import Connection, Host, Stream
    from talos.identity.peer_id import PeerId

__all__ = ["PERF", "PerfConfig", "PerfResult", "open_perf", "perf"]

PERF = "/perf/1.0.0"
CHUNK_BYTES = 64 * 1024
RECEIVE_BYTES = 256 * 1024
HEADER_BYTES = 8
MAX_DOWNLOAD = (1 << 64) - 1
_PATTERN = bytes(range(256)) * (CHUNK_BYTES // 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfConfig:
    """Whom the server works for."""

    allowed_peers: frozenset[PeerId] | None = None
    """None: everybody."""
    stalled_seconds: float = 30.0
    """A peer that moves no byte for so long loses the stream."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.stalled_seconds) and self.stalled_seconds > 0):
            raise ConfigError("perf needs a positive time")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfResult:
    """How long it took, from the opening of the stream to its close."""

    upload: int
    download: int
    upload_seconds: float
    """Until our side was sent and ended."""
    seconds: float


@asynccontextmanager
async def open_perf(host: Host, config: PerfConfig | None = None) -> AsyncIterator[None]:
    """Serves perf for the length of the block: whoever may ask costs what traffic they like."""
    server = _Server(config or PerfConfig())
    with host.mounted(PERF, server.answer):
        yield


async def perf(
    host: Host, to: PeerId | Connection, *, upload: int = 0, download: int = 0, write_size: int = CHUNK_BYTES
) -> PerfResult:
    """Sends `upload` bytes in writes of `write_size`, then receives `download` bytes.

    No deadline. RemoteProtocolError when the peer sends another number of bytes, StreamReset when it refuses.
    """
    if not 0 <= download <= MAX_DOWNLOAD or upload < 0 or write_size < 1:
        raise ValueError("perf moves 0 to 2^64-1 bytes, in writes of at least one")
    started = perf_counter()
    async with await host.open_stream(to, PERF) as stream:
        await stream.send_all(download.to_bytes(HEADER_BYTES, "big"))
        await _send(stream, upload, write_size)
        await stream.send_eof()
        uploaded = perf_counter()
        received = 0
        while received <= download and (data := await stream.receive_some(RECEIVE_BYTES)):
            received += len(data)
        if received != download:
            stream.reset(StreamCode.PROTOCOL_VIOLATION)
            raise RemoteProtocolError(f"perf asked for {download} bytes and got {received}")
    ended = perf_counter()
    return PerfResult(upload=upload, download=download, upload_seconds=uploaded - started, seconds=ended - started)


class _Server:
    def __init__(self, config: PerfConfig) -> None:
        self._config = config

    async def answer(self, stream: Stream) -> None:
        """Reads the number of bytes wanted, then the upload to its end, then sends that many."""
        allowed = self._config.allowed_peers
        if allowed is not None and stream.connection.remote_peer not in allowed:
            stream.reset(StreamCode.GATED)
            return
        patience = self._config.stalled_seconds
        with trio.CancelScope() as stalled:
            header = bytearray()
            while True:
                stalled.deadline = trio.current_time() + patience
                data = await stream.receive_some(RECEIVE_BYTES)
                if not data:
                    break
                if len(header) < HEADER_BYTES:
                    header += data[: HEADER_BYTES - len(header)]
            if len(header) < HEADER_BYTES:
                raise RemoteProtocolError("perf stream ended inside the number of bytes")
            await _send(stream, int.from_bytes(header, "big"), CHUNK_BYTES, stalled=stalled, patience=patience)
        if stalled.cancelled_caught:
            stream.reset()


async def _send(
    stream: Stream,
    size: int,
    write_size: int,
    *,
    stalled: trio.CancelScope | None = None,
    patience: float = math.inf,
) -> None:
    """`size` bytes of a fixed pattern; each write renews the deadline of `stalled`."""
    # `bytes`, the same each time: a stream need not copy what cannot change.
    piece = _PATTERN[:write_size] if write_size <= CHUNK_BYTES else bytes(write_size)
    while size > 0:
        if stalled is not None:
            stalled.deadline = trio.current_time() + patience
        await stream.send_all(piece if size >= write_size else piece[:size])
        size -= write_size
