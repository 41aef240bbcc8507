"""MX01–MX13: an authenticated peer that misuses its muxer."""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.errors import ConnectionCode, StreamCode
from talos.muxer.yamux.frame import INITIAL_WINDOW_BYTES, MAX_FRAME_BYTES
from talos.perf.service import PERF
from talos.ping.service import PING as PING_PROTOCOL
from talos.testing.check_muxer import cancelled_at
from tests.attacks.harness import SOON_SECONDS, Victim, attacked
from tests.attacks.nodes import ECHO, HOLD, SIP, attacker_node, echo_once, exchange, ignoring_the_end, open_echo
from tests.attacks.raw_yamux import (
    DATA,
    FIN,
    PING,
    RST,
    SYN,
    WINDOW,
    RawYamux,
    frame,
    hello,
    raw_yamux,
    yamux_over,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from talos.abc import Stream

    Attack = Callable[[RawYamux], Awaitable[None]]

MIB = 1 << 20
EXEMPT = {"ip": {"exempt_loopback": True}}
PATTERN = bytes(range(251)) * 5000
MAX_UNACCEPTED = 256
MANY = {"streams_in": 4000, "streams": 4000}
"""Limits of a scope that are not what stops anybody."""
UNKNOWN = 0x8001
"""An odd id that no test opens."""
PING_ANSWERS = 32


@asynccontextmanager
async def flowing(peer: RawYamux, stream_id: int) -> AsyncIterator[None]:
    """An honest stream of the attacker's own connection, which echoes within a second all the while."""
    stop = trio.Event()

    async def keep_echoing() -> None:
        while not stop.is_set():
            await peer.echo(stream_id, b"still here")
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_echoing)
        yield
        stop.set()


def streams_in(status: dict[str, dict[str, int]]) -> int:
    return status["limits"]["system: streams in"]


# ------------------------------------------------------------------------------------------ MX01, MX02: too many


async def test_mx01_a_hundred_thousand_streams() -> None:
    """All of them at line rate, the first 20,000 in one piece: those beyond the backlog are reset, others flow."""
    async with attacked(limits=EXEMPT) as node, raw_yamux(node) as peer:
        echo = await peer.open(ECHO)
        opened: list[int] = []
        async with flowing(peer, echo):
            for count in (20_000, *[5_000] * 16):
                ids = peer.new_ids(count)
                opened += ids
                await peer.send(*(frame(WINDOW, SYN, stream_id) for stream_id in ids))
            await peer.until(lambda: len(peer.resets) >= len(opened) - MAX_UNACCEPTED, 20)
            await peer.until(lambda: peer.resets.keys() | peer.acknowledged >= set(opened), 20)
        assert set(peer.resets.values()) == {StreamCode.RESOURCE_LIMIT}
        assert streams_in(await node.status()) <= MAX_UNACCEPTED + 3  # echo, and those of the bystander
        assert not peer.closed


async def test_mx01_the_backlog_is_bounded_where_no_other_limit_is_met() -> None:
    limits = {**EXEMPT, "connection": MANY, "peer": MANY, "transient": MANY}
    async with attacked(limits=limits) as node, raw_yamux(node) as peer:
        ids = list(peer.new_ids(MAX_UNACCEPTED + 100))
        await peer.send(*(frame(WINDOW, SYN, stream_id) for stream_id in ids))  # one record of noise: one read
        await peer.until(lambda: len(peer.resets) >= 100 and len(peer.acknowledged) >= MAX_UNACCEPTED)
        assert peer.resets == dict.fromkeys(ids[MAX_UNACCEPTED:], StreamCode.RESOURCE_LIMIT)
        assert peer.acknowledged == set(ids[:MAX_UNACCEPTED])


async def test_mx02_opened_and_reset_at_once() -> None:
    async with attacked(limits=EXEMPT) as node:
        async with raw_yamux(node) as peer:  # as many as nobody minds
            echo = await peer.open(ECHO)
            async with flowing(peer, echo):
                for stream_id in peer.new_ids(900):
                    await peer.send(frame(DATA, SYN, stream_id, hello(ECHO)), frame(WINDOW, RST, stream_id))
            await node.until(lambda status: streams_in(status) <= 3)
            await peer.echo(echo, b"and still here")
        cpu = (await node.status())["cpu"]
        async with raw_yamux(node) as peer:
            await ignoring_the_end(open_and_reset, peer, 100_000)
            await peer.until_refused(ConnectionCode.RATE_LIMITED)
        status = await node.until(lambda status: streams_in(status) <= 2)
        assert status["cpu"] - cpu < 2


async def open_and_reset(peer: RawYamux, count: int) -> None:
    for _ in range(count // 1000):
        ids = peer.new_ids(1000)
        await peer.send(*(frame(WINDOW, SYN, each) + frame(WINDOW, RST, each) for each in ids))


# ------------------------------------------------------------------------------------------ MX03–MX05: broken rules


async def overrun_by_one(peer: RawYamux) -> None:
    """Exactly the window is taken, and disturbs nobody; one byte more is the first excess."""
    echo, held = await peer.open(ECHO), await peer.open(HOLD)
    left = INITIAL_WINDOW_BYTES - len(hello(HOLD))
    while left:
        size = min(left, MAX_FRAME_BYTES)
        await peer.send(frame(DATA, 0, held, bytes(size)))
        left -= size
    await peer.echo(echo, b"nothing happened")
    assert peer.went_away is None
    await peer.send(frame(DATA, 0, held, b"!"))


async def open_with_more_than_the_window(peer: RawYamux) -> None:
    """The header is enough: the payload is not waited for."""
    await peer.send(frame(DATA, SYN, 1, 262_145))


async def announce_four_gibibytes(peer: RawYamux) -> None:
    await peer.send(frame(DATA, 0, await peer.open(HOLD), 2**32 - 1))


async def announce_four_gibibytes_for_nobody(peer: RawYamux) -> None:
    await peer.send(frame(DATA, 0, UNKNOWN, 2**32 - 1))


async def send_254_mib_unread(peer: RawYamux) -> None:
    held = await peer.open(HOLD)
    piece = frame(DATA, 0, held, bytes(MAX_FRAME_BYTES))
    sent = 0
    try:
        for _ in range(254 * MIB // MAX_FRAME_BYTES):
            await peer.send(piece)
            sent += MAX_FRAME_BYTES
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    assert sent < 32 * MIB, "was taken, as it seems"  # what the socket buffers of both ends hold, at most


async def enlarge_at_once(peer: RawYamux) -> None:
    await peer.send(frame(WINDOW, 0, await peer.open(ECHO), 2**32 - 1))


async def enlarge_by_and_by(peer: RawYamux) -> None:
    """Up to 2^32 − 1 it is legal, and the stream goes on."""
    echo = await peer.open(ECHO)
    await peer.send(frame(WINDOW, 0, echo, 2**31 - INITIAL_WINDOW_BYTES))
    await peer.send(frame(WINDOW, 0, echo, 2**31 - 1))
    await peer.echo(echo, b"as much as you like")
    await peer.send(frame(WINDOW, 0, echo, len(hello(ECHO)) + 19 + 1))


async def open_with_a_window_too_large(peer: RawYamux) -> None:
    await peer.send(frame(WINDOW, SYN, 1, 2**32 - 1))


async def open_twice(peer: RawYamux) -> None:
    await peer.send(frame(WINDOW, SYN, await peer.open(ECHO)))


def sends(*frames: bytes) -> Attack:
    async def send(peer: RawYamux) -> None:
        await peer.send(*frames)

    return send


async def refuses_each(node: Victim, attacks: dict[str, Attack]) -> None:
    """Each of them, on a connection of its own, is answered with go away 1 and the end."""
    for name, attack in attacks.items():
        async with raw_yamux(node) as peer:
            print(name)
            await attack(peer)
            await peer.until_refused(1)


async def test_mx03_data_beyond_the_window() -> None:
    attacks: dict[str, Attack] = {
        "a byte beyond the window": overrun_by_one,
        "SYN with 262,145 bytes": open_with_more_than_the_window,
        "2^32 - 1 bytes": announce_four_gibibytes,
        "2^32 - 1 bytes for an unknown stream": announce_four_gibibytes_for_nobody,
        "254 MiB": send_254_mib_unread,
    }
    async with attacked(limits=EXEMPT) as node:
        await refuses_each(node, attacks)


async def test_mx04_windows_beyond_four_gibibytes() -> None:
    attacks: dict[str, Attack] = {
        "at once": enlarge_at_once,
        "by and by": enlarge_by_and_by,
        "with SYN": open_with_a_window_too_large,
    }
    async with attacked(limits=EXEMPT) as node:
        await refuses_each(node, attacks)


async def test_mx05_frames_that_break_the_rules() -> None:
    attacks: dict[str, Attack] = {
        "wrong parity": sends(frame(WINDOW, SYN, 2)),
        "wrong parity, with data": sends(frame(DATA, SYN, 2, b"x")),
        "id 0 opened": sends(frame(WINDOW, SYN, 0)),
        "id 0 with data": sends(frame(DATA, 0, 0, b"x")),
        "id 0 with window": sends(frame(WINDOW, 0, 0, 1)),
        "open already": open_twice,
        "type 4": sends(frame(4, 0, 0)),
        "type 255": sends(frame(255, 0, 1)),
        "version 1": sends(struct.pack(">BBHII", 1, 0, SYN, 1, 0)),
    }
    async with attacked(limits=EXEMPT) as node:
        await refuses_each(node, attacks)
        async with raw_yamux(node) as peer:
            await use_ids_that_mean_nothing(peer)


async def use_ids_that_mean_nothing(peer: RawYamux) -> None:
    """None of it ends the connection; what asks for an answer gets a reset."""
    echo = await peer.open(ECHO)

    async def reset_by(*frames: bytes, stream_id: int) -> bool:
        await peer.send(*frames)
        await peer.echo(echo, b"in between")  # by then it would have been answered
        return peer.resets.pop(stream_id, None) is not None

    assert await reset_by(frame(DATA, 0, UNKNOWN, b"x" * 1000), stream_id=UNKNOWN)
    assert await reset_by(frame(WINDOW, 0, UNKNOWN, 1000), stream_id=UNKNOWN)
    assert not await reset_by(frame(WINDOW, FIN, UNKNOWN), stream_id=UNKNOWN)
    assert not await reset_by(frame(WINDOW, RST, UNKNOWN), stream_id=UNKNOWN)

    done = await peer.open(ECHO)  # and both sides end it
    await peer.send(frame(WINDOW, FIN, done))
    await peer.until(lambda: done in peer.ended)
    assert not await reset_by(frame(WINDOW, 0, done, 1000), stream_id=done)
    assert await reset_by(frame(DATA, 0, done, b"x" * 1000), stream_id=done)

    gone = await peer.open(ECHO)
    assert not await reset_by(frame(WINDOW, RST, gone), stream_id=gone)
    assert await reset_by(frame(DATA, 0, gone, b"x" * 1000), stream_id=gone)

    finished = await peer.open(HOLD)
    await peer.send(frame(WINDOW, FIN, finished), frame(DATA, 0, finished, b"afterthought"))
    await peer.until(lambda: finished in peer.resets)
    assert peer.resets[finished] == StreamCode.PROTOCOL_VIOLATION

    await peer.send(frame(DATA, 0x80, echo, b"flag 0x80"))  # flags that nobody has defined are ignored
    await peer.until(lambda: bytes(peer.data[echo]) == b"flag 0x80")
    assert not peer.closed


# ------------------------------------------------------------------------------------------ MX06: pings


async def test_mx06_a_million_pings() -> None:
    async with attacked(limits=EXEMPT) as node:
        async with raw_yamux(node) as peer:
            echo = await peer.open(ECHO)
            await peer.send(*(frame(PING, SYN, 0, value) for value in range(1000)))  # one record of noise: one read
            await peer.echo(echo, b"and then?")
            assert peer.answers == list(range(PING_ANSWERS))
        async with raw_yamux(node) as peer:
            await ignoring_the_end(flood_with_pings, peer, 1_000_000)
            await peer.until_refused(ConnectionCode.RATE_LIMITED, 20)


async def flood_with_pings(peer: RawYamux, count: int) -> None:
    piece = frame(PING, SYN, 0, 7) * 5000
    for _ in range(count // 5000):
        await peer.send(piece)


async def leave_pings_unanswered(seconds: float, **settings: Any) -> None:
    async with attacked(limits=EXEMPT, **settings) as node, raw_yamux(node, answers_pings=False) as peer:
        started = trio.current_time()
        await peer.until(lambda: peer.closed, seconds + SOON_SECONDS)
        assert len(peer.asked) == 1
        assert trio.current_time() - started > seconds / 2


async def test_mx06_pings_that_are_never_answered() -> None:
    await leave_pings_unanswered(2.5, yamux={"keep_alive_seconds": 1, "answer_seconds": 1.5})


@pytest.mark.long
async def test_mx06_pings_that_are_never_answered_are_noticed_after_forty_seconds() -> None:
    await leave_pings_unanswered(40)


# ------------------------------------------------------------------------------------------ MX07, MX08, MX10: streams


async def test_mx07_a_reader_that_stalls() -> None:
    """On stream 1; stream 2 flows, and no more than the window is kept."""
    async with attacked(limits=EXEMPT) as node, raw_yamux(node) as peer:
        held, echo = await peer.open(HOLD), await peer.open(ECHO)
        payload = bytes(INITIAL_WINDOW_BYTES - len(hello(HOLD)))
        async with flowing(peer, echo):
            for start in range(0, len(payload), MAX_FRAME_BYTES):
                await peer.send(frame(DATA, 0, held, payload[start : start + MAX_FRAME_BYTES]))
            status = await node.until(lambda status: status["limits"]["system: memory"] >= len(payload) - 16_384)
            assert status["limits"]["system: memory"] <= INITIAL_WINDOW_BYTES
            await trio.sleep(0.5)
            assert not peer.granted[held]
        await node.child.ask("release")
        await peer.until(lambda: peer.granted[held] >= INITIAL_WINDOW_BYTES // 2)
        assert not peer.resets


async def test_mx08_half_closed_reset_and_cancelled() -> None:
    async with attacked(limits=EXEMPT) as node:
        async with raw_yamux(node) as peer:
            await close_halves(peer)
            await reset_within_messages(peer)
            assert not peer.closed
        async with raw_yamux(node) as peer:  # leaves within a frame
            await peer.send(frame(DATA, 0, await peer.open(ECHO), 1000) + bytes(500))
        await node.until(lambda status: streams_in(status) <= 2)
        await cancel_everywhere(node)


async def close_halves(peer: RawYamux) -> None:
    """The end with the first frame, with data, and alone: what was sent before it comes back, and then the end."""
    greeting = hello(ECHO)
    at_once, with_data, alone, empty = peer.new_ids(4)
    await peer.send(
        frame(DATA, SYN | FIN, at_once, greeting + b"abc"),
        frame(DATA, SYN, with_data, greeting),
        frame(DATA, FIN, with_data, b"abc"),
        frame(DATA, SYN, alone, greeting + b"abc"),
        frame(WINDOW, FIN, alone),
        frame(WINDOW, SYN | FIN, empty),
    )
    await peer.until(lambda: peer.ended >= {at_once, with_data, alone})
    for stream_id in (at_once, with_data, alone):
        assert peer.data[stream_id] == greeting + b"abc"
    await peer.until(lambda: empty in peer.resets)
    assert list(peer.resets) == [empty]  # it ended before a protocol was agreed
    peer.resets.clear()


async def reset_within_messages(peer: RawYamux) -> None:
    ids = list(peer.new_ids(2))
    await peer.send(
        frame(DATA, SYN, ids[0], hello(ECHO)[:-5]),
        frame(WINDOW, RST, ids[0]),
        frame(DATA, SYN, ids[1], hello(PING_PROTOCOL) + b"half a message."),
    )
    await peer.until(lambda: len(peer.data[ids[1]]) == len(hello(PING_PROTOCOL)))
    await peer.send(frame(WINDOW, RST, ids[1]))
    await peer.echo(await peer.open(ECHO), b"as before")


async def cancel_everywhere(node: Victim) -> None:
    """An honest peer's tasks are cancelled wherever they wait: on a stream, and from the dial on."""
    async with attacker_node() as host:
        first = await open_echo(host, node.addr)
        connection = first.connection

        async def use_a_stream() -> None:
            async with await host.open_stream(connection, ECHO) as stream:
                assert await exchange(stream, PATTERN[:300_000]) == PATTERN[:300_000]

        await cancel_each(use_a_stream, 1)
        await echo_once(first, b"as before")

    async def connect_and_echo() -> None:
        async with attacker_node() as other, await open_echo(other, node.addr) as stream:
            await echo_once(stream, b"hello")

    await cancel_each(connect_and_echo, 3)


async def cancel_each(operation: Callable[[], Awaitable[None]], every: int) -> None:
    step = 1
    with trio.fail_after(20):
        while await cancelled_at(step, operation):
            step += every
    assert step > 5, "nothing was cancelled"


async def let_writers_wait(seconds: float) -> None:
    """Twenty echoes have used up the windows that the attacker gave, who then sleeps, and reads on."""
    size = 300_000
    async with attacked(limits=EXEMPT, newcomers=False) as node, raw_yamux(node) as peer:
        streams = [await peer.open(ECHO) for _ in range(20)]
        for part in (PATTERN[:200_000], PATTERN[200_000:size]):
            for stream_id in streams:
                for start in range(0, len(part), MAX_FRAME_BYTES):
                    await peer.send(frame(DATA, 0, stream_id, part[start : start + MAX_FRAME_BYTES]))
            await peer.until(lambda: all(peer.granted[stream_id] >= 131_072 for stream_id in streams))
        full = INITIAL_WINDOW_BYTES - len(hello(ECHO))
        await peer.until(lambda: all(len(peer.data[stream_id]) == full for stream_id in streams))

        cpu = (await node.status())["cpu"]
        await trio.sleep(seconds)
        assert (await node.status())["cpu"] - cpu < 0.3 * seconds  # the bystander's echoes; 20 that poll take more
        assert all(len(peer.data[stream_id]) == full for stream_id in streams)

        await peer.send(*(frame(WINDOW, 0, stream_id, size) for stream_id in streams))
        await peer.send(*(frame(WINDOW, FIN, stream_id) for stream_id in streams))
        await peer.until(lambda: peer.ended >= set(streams))
        assert all(peer.data[stream_id] == PATTERN[:size] for stream_id in streams)
        assert not peer.resets


async def test_mx10_a_reader_that_sleeps() -> None:
    await let_writers_wait(6)


@pytest.mark.long
async def test_mx10_a_reader_that_sleeps_a_minute() -> None:
    await let_writers_wait(60)


# ------------------------------------------------------------------------------------------ MX09: a full socket


async def take_nothing(seconds: float, **settings: Any) -> None:
    async with attacked(limits=EXEMPT, newcomers=False, **settings) as node, raw_yamux(node, reads=False) as peer:
        await node.until(lambda status: status["connections"] == 2)  # the other one is the bystander's
        started = trio.current_time()
        download = hello(PERF) + (1 << 30).to_bytes(8, "big")
        await peer.send(frame(DATA, SYN | FIN, 1, download), frame(WINDOW, 0, 1, 1 << 31))
        await node.until(lambda status: status["connections"] == 1, seconds + SOON_SECONDS)
        assert trio.current_time() - started > seconds * 0.9
        await node.until(lambda status: not status["limits"].get("service perf: streams"))


async def test_mx09_a_socket_that_takes_nothing() -> None:
    await take_nothing(1.5, yamux={"stall_seconds": 1.5})


@pytest.mark.long
async def test_mx09_a_socket_that_takes_nothing_for_ten_seconds() -> None:
    await take_nothing(10)


# ------------------------------------------------------------------------------------------ MX11, MX12: small pieces


async def test_mx11_tiny_reads_do_not_inflate_the_window() -> None:
    """Once half of it was taken, byte by byte, just that half is given back; the round trip was known before."""
    async with attacked(limits=EXEMPT, yamux={"keep_alive_seconds": 0.2}) as node, raw_yamux(node) as peer:
        sip = await peer.open(SIP)
        assert not peer.granted[sip]  # after 32 bytes of negotiation
        await trio.sleep(0.5)
        payload = bytes(INITIAL_WINDOW_BYTES - len(hello(SIP)))
        for start in range(0, len(payload), MAX_FRAME_BYTES):
            await peer.send(frame(DATA, 0, sip, payload[start : start + MAX_FRAME_BYTES]))
        await peer.until(lambda: peer.granted[sip] > 0, 30)
        # A larger window would have come with its first half; later than that both halves may be seen.
        assert peer.granted[sip] in (INITIAL_WINDOW_BYTES // 2, INITIAL_WINDOW_BYTES)


class OneByteSegments(trio.abc.Stream):
    """Sends byte by byte, each in a segment of its own, and counts them."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.sent = 0
        self._stream = stream
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for byte in bytes(data):
            await self._stream.send_all(bytes([byte]))
            self.sent += 1

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_mx12_one_byte_segments_and_the_end_after_each_prefix() -> None:
    async with attacked(limits=EXEMPT) as node:
        cpu = (await node.status())["cpu"]
        async with node.raw() as socket_stream:
            segments = OneByteSegments(socket_stream)
            async with yamux_over(segments, node) as peer:
                echo = await peer.open(ECHO)
                while segments.sent < 10_000:
                    await peer.echo(echo, PATTERN[:500])
        async with raw_yamux(node) as peer:
            echo = await peer.open(ECHO)
            await peer.send(*(frame(DATA, 0, echo, PATTERN[at : at + 1]) for at in range(10_000)))
            await peer.send(frame(WINDOW, FIN, echo))
            await peer.until(lambda: echo in peer.ended)
            assert peer.data[echo] == PATTERN[:10_000]
            assert not peer.closed
        assert (await node.status())["cpu"] - cpu < 10
        await end_after_each_prefix(node)


async def end_after_each_prefix(node: Victim) -> None:
    """Of what opens an echo, asks it something, pings, grants and ends: the node closes as well, at once."""
    greeting = hello(ECHO)
    session = b"".join(
        (
            frame(DATA, SYN, 1, greeting + b"abc"),
            frame(PING, SYN, 0, 7),
            frame(WINDOW, 0, 1, 1000),
            frame(DATA, FIN, 1, b"def"),
            frame(WINDOW, RST, 1),
        )
    )
    slots = trio.CapacityLimiter(8)

    async def end_after(prefix: bytes) -> None:
        async with slots, node.raw() as stream, yamux_over(stream, node) as peer:
            if prefix:
                await peer.send(prefix)
            await stream.send_eof()
            await peer.until(lambda: peer.closed)

    async with trio.open_nursery() as nursery:
        for length in range(len(session) + 1):
            nursery.start_soon(end_after, session[:length])


# ------------------------------------------------------------------------------------------ MX13: mplex


async def test_mx13_a_mebibyte_over_mplex_both_ways_at_once() -> None:
    """The attacker's is not hostile here: each side echoes what the other sends, both at the same time."""
    data = PATTERN[:MIB]
    async with attacked(stack="tcp/noise/mplex") as node, attacker_node(stack="tcp/noise/mplex") as host:

        async def echo_here(stream: Stream) -> None:
            async for chunk in stream:
                await stream.send_all(chunk)

        async def exchange_there() -> None:
            async with await open_echo(host, node.addr) as stream:
                assert await exchange(stream, data) == data

        host.handle(ECHO)(echo_here)
        async with await open_echo(host, node.addr) as stream:
            await echo_once(stream, b"connected")
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange_there)
                assert await node.child.ask("visit", peer=str(host.peer_id), size=MIB) == {"echoed": MIB}
