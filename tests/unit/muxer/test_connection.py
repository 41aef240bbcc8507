"""The trio half: its tasks, deadlines and ends, with frames written by hand on the other side."""

from __future__ import annotations

import math
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from talos.abc import MuxedStream, Resource, Role, StreamReset
from talos.errors import LimitExceeded, RemoteProtocolError
from talos.muxer.mplex import Mplex
from talos.muxer.yamux import Yamux, YamuxConfig
from talos.muxer.yamux.frame import HEADER
from talos.testing.check_muxer import CountingBudget, muxed_pair, stream_pair
from talos.testing.check_stream import raised, receive_exactly, receive_rest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.muxer.connection import MachineConnection

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8

RawPeer = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


@asynccontextmanager
async def against_raw(config: YamuxConfig | None = None) -> AsyncIterator[tuple[MachineConnection, RawPeer]]:
    """A listener and the bytes of its peer."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with Yamux(config).open(ours, Role.LISTENER) as connection:
        yield connection, theirs


async def next_frame(raw: RawPeer) -> tuple[int, int, int, int]:
    kind, flags, stream_id, length = HEADER.unpack(await receive_exactly(raw, 12))
    return kind, flags, stream_id, length


# ------------------------------------------------------------------------------------ ends


async def test_a_fault_leaves_the_block_and_the_peer_hears_why() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(HEADER.pack(1 << 8, 0, 1, 0))

    async def accept() -> None:
        async with Yamux().open(ours, Role.LISTENER) as connection:
            await connection.accept_stream()

    assert "version 1" in str(await raised(RemoteProtocolError, accept))
    assert await next_frame(theirs) == (GO_AWAY, 0, 0, 1)
    assert await theirs.receive_some() == b""


async def test_end_of_file_in_a_frame_leaves_the_block_quietly() -> None:
    async with against_raw() as (_connection, theirs):
        await theirs.send_all(b"\x00\x00\x00")
        await theirs.aclose()
        await trio.Event().wait()


async def test_a_normal_end_says_good_bye() -> None:
    async with against_raw() as (_connection, theirs):
        pass
    assert await next_frame(theirs) == (GO_AWAY, 0, 0, 0)
    assert await theirs.receive_some() == b""


async def test_the_reason_of_closing_is_told() -> None:
    async with against_raw() as (connection, theirs):
        await theirs.send_all(HEADER.pack(WINDOW, SYN, 1, 0))
        stream = await connection.accept_stream()
        assert await next_frame(theirs) == (WINDOW, ACK, 1, 0)
        with trio.CancelScope(shield=True):
            await connection.aclose(0x1004)
            await connection.aclose(0x1005)
    assert await next_frame(theirs) == (WINDOW, RST, 1, 0x1007)
    assert await next_frame(theirs) == (GO_AWAY, 0, 0, 0x1004)
    assert (await raised(StreamReset, stream.receive_some)).code == 0x1007


async def test_after_the_peers_go_away_open_streams_finish() -> None:
    async with against_raw() as (connection, theirs):
        await theirs.send_all(HEADER.pack(WINDOW, SYN, 1, 0) + HEADER.pack(GO_AWAY, 0, 0, 0))
        stream = await connection.accept_stream()
        await raised(trio.EndOfChannel, connection.accept_stream)
        await raised(trio.BrokenResourceError, connection.open_stream)
        await theirs.send_all(HEADER.pack(DATA, FIN, 1, 3) + b"end")
        assert await receive_rest(stream) == b"end"


async def test_waiting_for_streams_ends_with_the_peers_go_away() -> None:
    async with against_raw() as (connection, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(raised, trio.EndOfChannel, connection.accept_stream)
        await trio.testing.wait_all_tasks_blocked()
        await theirs.send_all(HEADER.pack(GO_AWAY, 0, 0, 0))


async def test_cancelling_around_the_block_still_says_good_bye() -> None:
    with trio.CancelScope() as scope:
        async with against_raw() as (connection, theirs):
            stream = await connection.open_stream()
            await stream.send_all(b"x")
            await stream.aclose()
            scope.cancel()
            await trio.Event().wait()
    assert scope.cancelled_caught
    assert await next_frame(theirs) == (DATA, SYN, 2, 1)
    assert await receive_exactly(theirs, 1) == b"x"
    assert await next_frame(theirs) == (WINDOW, FIN, 2, 0)
    assert await next_frame(theirs) == (GO_AWAY, 0, 0, 0)


async def test_a_failing_block_keeps_its_cause() -> None:
    with pytest.raises(KeyError) as caught:
        async with against_raw():
            raise KeyError("outer") from ValueError("inner")
    assert isinstance(caught.value.__cause__, ValueError)


# ------------------------------------------------------------------------------------ deadlines


class Stuck(trio.abc.Stream):
    """A channel that takes no byte, and that closes only by force."""

    def __init__(self) -> None:
        self.closed = trio.Event()

    async def send_all(self, data: object) -> None:
        await trio.Event().wait()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.Event().wait()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self.closed.wait()
        raise trio.ClosedResourceError

    async def aclose(self) -> None:
        try:
            await trio.Event().wait()
        finally:
            self.closed.set()


async def test_a_channel_that_takes_nothing_is_left_after_10_s(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()
    async with Yamux().open(Stuck(), Role.DIALER) as connection:
        await trio.sleep(3)
        stream = await connection.open_stream()
        await stream.send_all(b"x")
        await trio.Event().wait()
    assert 13 <= trio.current_time() - started <= 16


async def test_a_stall_is_noticed_however_long_the_connection_was_busy(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_pings, theirs)
        async with Yamux().open(ours, Role.DIALER) as connection:
            stream = await connection.open_stream()
            for _ in range(100):
                await trio.sleep(0.7)
                await stream.send_all(b"x")

            async def stall() -> None:
                await trio.Event().wait()

            ours.send_stream.send_all_hook = stall
            stalled = trio.current_time()
            await stream.send_all(b"x")
            await trio.Event().wait()
        assert 10 <= trio.current_time() - stalled <= 13
        nursery.cancel_scope.cancel()


async def answer_pings(raw: RawPeer) -> None:
    with trio.move_on_after(1000):
        while True:
            kind, flags, _, length = await next_frame(raw)
            if kind == PING and flags == SYN:
                await raw.send_all(HEADER.pack(PING, ACK, 0, length))
            elif kind == DATA:
                await receive_exactly(raw, length)


async def test_closing_is_bounded_although_the_peer_takes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()
    async with Yamux().open(Stuck(), Role.DIALER):
        pass
    assert trio.current_time() - started == pytest.approx(4)


async def test_a_peer_that_answers_no_ping_is_left_within_40_s(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()
    async with against_raw() as (_connection, _theirs):
        await trio.Event().wait()
    assert trio.current_time() - started == pytest.approx(40)


async def test_keep_alive_measures_the_round_trip(autojump_clock: trio.testing.MockClock) -> None:
    async with against_raw() as (connection, theirs):
        kind, flags, _, value = await next_frame(theirs)
        assert (kind, flags) == (PING, SYN)
        await trio.sleep(0.25)
        await theirs.send_all(HEADER.pack(PING, ACK, 0, value))
        await trio.testing.wait_all_tasks_blocked()
        assert connection.stats.rtt_seconds == pytest.approx(0.25)


async def test_an_idle_pair_lives_on(autojump_clock: trio.testing.MockClock) -> None:
    async with muxed_pair(Yamux()) as (dialer, listener):
        a, b = await stream_pair(dialer, listener)
        await trio.sleep(600)
        await a.send_all(b"still there")
        assert await receive_exactly(b, 11) == b"still there"


async def test_a_writer_without_window_waits_for_as_long_as_it_takes(autojump_clock: trio.testing.MockClock) -> None:
    payload = bytes(range(256)) * 4096
    async with muxed_pair(Yamux()) as (dialer, listener), trio.open_nursery() as nursery:
        a, b = await stream_pair(dialer, listener)

        async def write() -> None:
            await a.send_all(payload)
            await a.aclose()

        nursery.start_soon(write)
        await trio.sleep(60)
        assert await receive_rest(b) == payload


# ------------------------------------------------------------------------------------ queues


async def test_the_257th_open_waits_for_an_acknowledgement() -> None:
    async with muxed_pair(Yamux()) as (dialer, listener), trio.open_nursery() as nursery:
        opened: list[MuxedStream] = []

        async def open_more() -> None:
            while len(opened) < 300:
                opened.append(await dialer.open_stream())

        nursery.start_soon(open_more)
        await trio.testing.wait_all_tasks_blocked()
        assert len(opened) == 256
        await listener.accept_stream()
        await trio.testing.wait_all_tasks_blocked()
        assert len(opened) == 257
        opened[5].reset()
        await trio.testing.wait_all_tasks_blocked()
        assert len(opened) == 258
        nursery.cancel_scope.cancel()


async def test_a_waiting_open_ends_with_the_connection() -> None:
    async with trio.open_nursery() as nursery, against_raw() as (connection, theirs):
        for _ in range(256):
            await connection.open_stream()
        nursery.start_soon(raised, trio.BrokenResourceError, connection.open_stream)
        await trio.testing.wait_all_tasks_blocked()
        await theirs.aclose()
        await trio.Event().wait()


async def test_streams_past_our_own_limit() -> None:
    async with muxed_pair(Yamux(YamuxConfig(max_streams=2))) as (dialer, _listener):
        for _ in range(2):
            await dialer.open_stream()
        await raised(LimitExceeded, dialer.open_stream)


async def test_small_writes_gather_and_tiny_ones_give_way() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with Yamux().open(ours, Role.DIALER) as connection:
        stream = await connection.open_stream()
        for _ in range(200):
            await stream.send_all(bytes(1024))
        await stream.send_eof()
        received = b""
        while len(received) < 200 * 1024:
            kind, _, _, length = await next_frame(theirs)
            assert kind == DATA
            received += await receive_exactly(theirs, length)
        assert connection.stats.frames_out < 20, "each write left in a frame of its own"
        with trio.testing.assert_checkpoints():
            await (await connection.open_stream()).send_all(b"tiny")


async def test_many_writers_share_the_queue() -> None:
    config = YamuxConfig(max_queued_bytes=64 * 1024, max_queued_stream_bytes=64 * 1024)
    async with muxed_pair(Yamux(config)) as (dialer, listener), trio.open_nursery() as nursery:
        for _ in range(50):
            a, b = await stream_pair(dialer, listener)
            nursery.start_soon(a.send_all, bytes(200_000))
            nursery.start_soon(receive_exactly, b, 200_000)


async def test_a_waiting_writer_that_is_cancelled_holds_nobody_up() -> None:
    """Also when those that were woken use no room."""
    gate = trio.Event()
    ours, theirs = trio.testing.memory_stream_pair()
    pump = ours.send_stream.send_all_hook
    assert pump is not None

    async def wait_and_pump() -> None:
        await gate.wait()
        await pump()

    ours.send_stream.send_all_hook = wait_and_pump
    config = YamuxConfig(max_queued_bytes=1000, max_queued_stream_bytes=1000)
    async with Yamux(config).open(ours, Role.DIALER) as connection, trio.open_nursery() as nursery:
        await (await connection.open_stream()).send_all(bytes(1000))
        await trio.testing.wait_all_tasks_blocked()
        await (await connection.open_stream()).send_all(bytes(1000))
        async with trio.open_nursery() as doomed:
            for _ in range(20):
                doomed.start_soon((await connection.open_stream()).send_all, bytes(10))
            await trio.testing.wait_all_tasks_blocked()
            last = await connection.open_stream()
            nursery.start_soon(last.send_all, b"last")
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
            doomed.cancel_scope.cancel()
        with trio.fail_after(20):
            while b"last" not in await theirs.receive_some():
                pass
        assert not connection.waiting_for_room


async def test_bytes_that_come_one_by_one_are_gathered() -> None:
    async with against_raw() as (connection, theirs):
        await theirs.send_all(HEADER.pack(WINDOW, SYN, 1, 0))
        stream = await connection.accept_stream()
        await theirs.send_all((HEADER.pack(DATA, 0, 1, 2) + b"ab") * 50_000)
        await trio.testing.wait_all_tasks_blocked()
        assert len(stream._chunks) < 20
        assert await stream.receive_some(1) == b"a"
        await theirs.send_all(HEADER.pack(DATA, 0, 1, 2) + b"cd")
        await trio.testing.wait_all_tasks_blocked()
        assert await receive_exactly(stream, 100_001) == b"b" + b"ab" * 49_999 + b"cd"


async def test_single_byte_reads_of_a_large_chunk() -> None:
    async with muxed_pair(Yamux()) as (dialer, listener):
        a, b = await stream_pair(dialer, listener)
        payload = bytes(range(256)) * 80
        await a.send_all(payload)
        assert b"".join([await b.receive_some(1) for _ in range(len(payload))]) == payload


async def test_small_reads_of_a_large_chunk_give_way() -> None:
    async with against_raw() as (connection, theirs):
        await theirs.send_all(HEADER.pack(DATA, SYN, 1, 200_000) + bytes(200_000))
        stream = await connection.accept_stream()
        await trio.testing.wait_all_tasks_blocked()
        assert len(stream._chunks[0]) > 100_000
        for size in (1, 1000):
            with trio.testing.assert_checkpoints():
                await stream.receive_some(size)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            for _ in range(100):
                await stream.receive_some(1)
            assert turns >= 90
            nursery.cancel_scope.cancel()


async def test_what_may_change_is_copied() -> None:
    async with muxed_pair(Yamux()) as (dialer, listener):
        a, b = await stream_pair(dialer, listener)
        buffer = bytearray(b"before" * 200)
        await a.send_all(memoryview(buffer))
        buffer[:] = bytes(len(buffer))
        await a.aclose()
        assert await receive_rest(b) == b"before" * 200


async def test_memory_of_a_large_window_is_charged() -> None:
    budget = CountingBudget()
    async with muxed_pair(Yamux(), listener_budget=budget) as (dialer, listener), trio.open_nursery() as nursery:
        a, b = await stream_pair(dialer, listener)
        nursery.start_soon(a.send_all, bytes(8 << 20))
        await receive_exactly(b, 8 << 20)
        machine = listener.machine  # type: ignore[attr-defined]
        window = machine._streams[b.stream_id].window  # type: ignore[attr-defined]
        assert budget.used[Resource.MEMORY] == window - 256 * 1024


async def test_statistics() -> None:
    async with muxed_pair(Mplex()) as (dialer, listener):
        a, b = await stream_pair(dialer, listener)
        await a.send_all(b"12345")
        await receive_exactly(b, 5)
        b.reset()
        await trio.testing.wait_all_tasks_blocked()
        ours, theirs = dialer.stats, listener.stats
        assert (ours.streams_out, theirs.streams_in) == (1, 1)
        assert ours.bytes_out == theirs.bytes_in > 5
        assert (ours.resets_in, theirs.resets_out) == (1, 1)
        assert theirs.frames_in == ours.frames_out == 2


async def test_streams_can_be_told_apart() -> None:
    async with muxed_pair(Yamux()) as (dialer, listener):
        a, b = await stream_pair(dialer, listener)
        assert repr(a) == repr(b) == "<MachineStream 1>"


def test_keep_alive_may_be_off() -> None:
    assert Yamux(YamuxConfig(keep_alive_seconds=math.inf)).config.keep_alive_seconds == math.inf


def loaded_by(statement: str) -> list[str]:
    """The modules that an interpreter has after `statement`."""
    script = f"import sys; {statement}; print(*sorted(sys.modules), sep='\\n')"
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()


def test_importing_a_muxer_loads_no_other_protocol() -> None:
    loaded = [name for name in loaded_by("from talos.muxer.yamux import Yamux") if name.startswith("talos.")]
    assert all(
        name.startswith(("talos.abc", "talos.errors", "talos.lazy", "talos.muxed", "talos.muxer")) for name in loaded
    ), loaded
    assert not any("mplex" in name for name in loaded)
    assert len(loaded) < 25


def test_importing_a_machine_loads_no_event_loop() -> None:
    for machine in ("yamux", "mplex"):
        loaded = loaded_by(f"import talos.muxer.{machine}.machine")
        assert "trio" not in loaded
        assert "socket" not in loaded
