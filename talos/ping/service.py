"""Ping (libp2p ping): answering it, and measuring round trips."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import trio

from talos.errors import ConfigError, ConnectionCode, RemoteProtocolError, StreamCode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.abc import Connection, Host, Stream
    from talos.identity.peer_id import PeerId

__all__ = ["PING", "PingConfig", "Pings", "WrongEcho", "open_ping", "ping", "pinging"]

PING = "/ipfs/ping/1.0.0"
PING_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PingConfig:
    """How long either side waits, and how often a peer may ask at the same time."""

    reply_seconds: float = 10.0
    """From sending to the whole echo."""
    idle_seconds: float = 30.0
    """From one whole ping of the peer to the next."""
    streams_per_peer: int = 2

    def __post_init__(self) -> None:
        for seconds in (self.reply_seconds, self.idle_seconds):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ConfigError("ping needs positive times")
        if self.streams_per_peer < 1:
            raise ConfigError("ping answers at least one stream of a peer")


class WrongEcho(RemoteProtocolError):
    """Other bytes came back than were sent; the connection is closed."""


@asynccontextmanager
async def open_ping(host: Host, config: PingConfig | None = None) -> AsyncIterator[None]:
    """Answers pings for the length of the block."""
    server = _Server(config or PingConfig())
    with host.mounted(PING, server.answer, limited=True):
        yield


async def ping(host: Host, to: PeerId | Connection, config: PingConfig | None = None) -> float:
    """One round trip on a stream of its own, in seconds; see `pinging`."""
    async with pinging(host, to, config) as pings:
        return await pings.ping()


@asynccontextmanager
async def pinging(host: Host, to: PeerId | Connection, config: PingConfig | None = None) -> AsyncIterator[Pings]:
    """A stream for many pings, one after the other: `await pings.ping()`, or `async for seconds in pings`.

    Use one at a time for each peer, which answers two at most.
    """
    stream = await host.open_stream(to, PING, limited_ok=True)
    async with stream:
        yield Pings(stream, config or PingConfig())


class Pings:
    """Measures round trips on one stream. Not for several tasks at once."""

    def __init__(self, stream: Stream, config: PingConfig) -> None:
        self._stream = stream
        self._config = config

    async def ping(self) -> float:
        """One round trip in seconds.

        TooSlowError after `reply_seconds`, WrongEcho, RemoteProtocolError when the peer ends the stream, or
        StreamReset. A cancelled or failed one leaves the stream reset.
        """
        try:
            return await self._round_trip(secrets.token_bytes(PING_BYTES))
        except BaseException:
            self._stream.reset()
            raise

    async def _round_trip(self, sent: bytes) -> float:
        stream = self._stream
        with trio.fail_after(self._config.reply_seconds):
            started = perf_counter()
            await stream.send_all(sent)
            echo = await _receive_exactly(stream)
            seconds = perf_counter() - started
        if echo is None:
            raise RemoteProtocolError(f"peer {stream.connection.remote_peer} ended the ping stream")
        if echo != sent:
            await stream.connection.aclose(ConnectionCode.PROTOCOL_VIOLATION)
            raise WrongEcho(f"peer {stream.connection.remote_peer} echoed other bytes than it was sent")
        return seconds

    def __aiter__(self) -> Pings:
        return self

    async def __anext__(self) -> float:
        return await self.ping()


class _Server:
    def __init__(self, config: PingConfig) -> None:
        self._config = config
        self._streams: Counter[PeerId] = Counter()

    async def answer(self, stream: Stream) -> None:
        """Echoes until the peer ends its side, is silent for too long, or has too many streams."""
        peer = stream.connection.remote_peer
        if self._streams[peer] >= self._config.streams_per_peer:
            stream.reset(StreamCode.RESOURCE_LIMIT)
            return
        self._streams[peer] += 1
        try:
            while (data := await self._next(stream)) is not None:
                await stream.send_all(data)
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]

    async def _next(self, stream: Stream) -> bytes | bytearray | None:
        with trio.move_on_after(self._config.idle_seconds):
            return await _receive_exactly(stream)
        stream.reset()
        return None


async def _receive_exactly(stream: Stream) -> bytes | bytearray | None:
    """The next 32 bytes, or None at the end of the stream; RemoteProtocolError when it ends within them."""
    data: bytes | bytearray = await stream.receive_some(PING_BYTES)
    while 0 < len(data) < PING_BYTES:
        more = await stream.receive_some(PING_BYTES - len(data))
        if not more:
            raise RemoteProtocolError("ping stream ended inside a message")
        data += more
    return data or None
