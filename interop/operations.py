"""What Talos's adapter does when it dials: each operation gives the JSON object of its answer.

All go through the host as a program would; connecting, pinging, identifying and perf are Talos's own services.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from talos.abc import PeerIdentified
from talos.errors import TalosError
from talos.perf import perf as measure
from talos.ping import ping, pinging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from multiaddr import Multiaddr

    from talos.abc import Connection, Event, Host, Stream
    from talos.identity.peer_id import PeerId

__all__ = ["ECHO", "OPERATIONS", "OperationFailed", "Task", "serve_echo"]

ECHO = "/echo/1.0.0"
ECHO_CHUNK = 65_536
PATTERN_SIZE = 65_521
"""Prime, so that the pattern never lines up with a frame and a lost piece shows."""
RECEIVE_BYTES = 256 * 1024
IDENTIFY_SECONDS = 5.0
POLL_SECONDS = 0.01


class OperationFailed(TalosError):
    """The peer answered, but not what was right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Whom to dial from where, and the numbers of the command line."""

    host: Host
    peer: PeerId | None
    addr: Multiaddr
    count: int
    bytes: int
    write: int
    concurrency: int
    up: int
    down: int

    async def connect(self) -> Connection:
        return await self.host.connect(self.peer, [self.addr])


async def ping_in_turn(task: Task) -> dict[str, Any]:
    """Pings over one stream that stays open: a peer answers two streams at most, and over QUIC an end may come late."""
    connection = await task.connect()
    async with pinging(task.host, connection) as pings:
        return {"rtt_ms": [await pings.ping() * 1000 for _ in range(task.count)]}


async def identify(task: Task) -> dict[str, Any]:
    """What identify learned, and whether the peer asked us in turn."""
    heard: list[PeerIdentified] = []
    identified = trio.Event()

    def observe(event: Event) -> None:
        if isinstance(event, PeerIdentified):
            heard.append(event)
            identified.set()

    with task.host.observe(observe):
        connection = await task.connect()
        with trio.move_on_after(IDENTIFY_SECONDS):
            await identified.wait()
    if not heard:
        raise OperationFailed(f"not identified within {IDENTIFY_SECONDS:.0f} s")
    found = heard[0]
    return {
        "peer_id": str(found.peer),
        "agent": found.agent_version,
        "protocol_version": found.protocol_version,
        "protocols": list(found.protocols),
        "listen_addrs": list(map(str, found.listen_addrs)),
        "observed_addr": str(found.observed_addr or ""),
        "signed_record": task.host.peerstore.signed_record(found.peer) is not None,
        "asked_by_peer": await _asked(connection),
    }


async def _asked(connection: Connection) -> bool:
    """Whether the peer opened a stream to us; identify is the first that any of them opens."""
    with trio.move_on_after(IDENTIFY_SECONDS):
        while not connection.stats.streams_in:  # noqa: ASYNC110 - a plain counter, nobody tells of its change
            await trio.sleep(POLL_SECONDS)
    return connection.stats.streams_in > 0


async def echo(task: Task) -> dict[str, Any]:
    connection = await task.connect()
    start = time.perf_counter()
    await _echoed(await task.host.open_stream(connection, ECHO, limited_ok=True), task.bytes)
    return {"bytes": task.bytes, "ok": True, "seconds": time.perf_counter() - start}


def serve_echo(host: Host) -> None:
    """Mounts the echo of the contract."""

    @host.handle(ECHO, limited=True)
    async def echo(stream: Stream) -> None:
        while data := await stream.receive_some(RECEIVE_BYTES):
            await stream.send_all(data)


async def _echoed(stream: Stream, size: int) -> None:
    """Sends `size` patterned bytes and checks every byte that comes back, up to the end of the stream.

    Ours ends once something has come back: js 3.3.11 resets a stream that has ended before its protocol is agreed on.
    """
    pattern = memoryview(secrets.token_bytes(PATTERN_SIZE) * 3)
    answered = trio.Event()

    async def send() -> None:
        for sent in range(0, size, ECHO_CHUNK):
            offset = sent % PATTERN_SIZE
            await stream.send_all(pattern[offset : offset + min(ECHO_CHUNK, size - sent)])
        if size:
            await answered.wait()
        await stream.send_eof()

    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        have = 0
        while data := await stream.receive_some(ECHO_CHUNK):
            answered.set()
            offset = have % PATTERN_SIZE
            if bytes(pattern[offset : offset + len(data)]) != data:
                raise OperationFailed(f"echo differs within {len(data)} bytes after {have}")
            have += len(data)
    if have != size:
        raise OperationFailed(f"echo gave {have} of {size} bytes")


async def _touch(stream: Stream) -> None:
    """Echoes one byte; nothing runs beside it, so it costs what the stream costs."""
    async with stream:
        await stream.send_all(b"t")
        await stream.send_eof()
        back = await stream.receive_some(1)
        if back != b"t" or await stream.receive_some(1):
            raise OperationFailed("one byte was not echoed as it was")


async def perf(task: Task) -> dict[str, Any]:
    connection = await task.connect()
    took = await measure(task.host, connection, upload=task.up, download=task.down)
    return {
        "up": task.up,
        "down": task.down,
        "seconds": took.seconds,
        "upload_seconds": took.upload_seconds,
        "download_seconds": took.seconds - took.upload_seconds,
    }


async def bulk(task: Task) -> dict[str, Any]:
    connection = await task.connect()
    took = await measure(task.host, connection, upload=task.bytes, write_size=task.write)
    return {"bytes": task.bytes, "seconds": took.seconds}


async def reconnect(task: Task) -> dict[str, Any]:
    start = time.perf_counter()
    for _ in range(task.count):
        connection = await task.connect()
        await ping(task.host, connection)
        await connection.aclose()
    return {"count": task.count, "seconds": time.perf_counter() - start}


async def handshakes(task: Task) -> dict[str, Any]:
    """Dial, security, muxer, a stream that echoes one byte, close: one after the other."""
    latencies = []
    start = time.perf_counter()
    for _ in range(task.count):
        dialed = time.perf_counter()
        connection = await task.connect()
        latencies.append((time.perf_counter() - dialed) * 1000)
        await _touch(await task.host.open_stream(connection, ECHO))
        await connection.aclose()
    return {"count": task.count, "seconds": time.perf_counter() - start, "latency_ms": latencies}


async def streams(task: Task) -> dict[str, Any]:
    """Open, negotiate, one byte there and back, close; `concurrency` at once."""
    connection = await task.connect()
    turns = iter(range(task.count))

    async def worker() -> None:
        for _ in turns:
            await _touch(await task.host.open_stream(connection, ECHO))

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(task.concurrency):
            nursery.start_soon(worker)
    return {"count": task.count, "seconds": time.perf_counter() - start}


OPERATIONS: Mapping[str, Callable[[Task], Awaitable[dict[str, Any]]]] = {
    "ping": ping_in_turn,
    "identify": identify,
    "echo": echo,
    "perf": perf,
    "bulk": bulk,
    "reconnect": reconnect,
    "handshakes": handshakes,
    "streams": streams,
    "rtt": ping_in_turn,
}
