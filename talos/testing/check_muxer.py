"""Conformance of muxers: what `talos.abc.Muxer` promises, run over channels in memory.

`await check_muxer(MyMuxer())` runs everything; `CHECKS` holds the single checks, one test each:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_my_muxer(check): await check(MyMuxer())
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

import trio
import trio.testing

from talos.abc import Budget, MuxedConnection, MuxedStream, Muxer, Resource, Role, StreamReset
from talos.errors import LimitExceeded, LocalProtocolError
from talos.testing.check_stream import check_muxed_stream, raised, receive_exactly, receive_rest, receive_until_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.identity.peer_id import PeerId

__all__ = ["CHECKS", "CountingBudget", "MuxerCheck", "check_muxer", "muxed_pair", "stream_pair"]

MuxerCheck: TypeAlias = Callable[[Muxer], Awaitable[None]]
PATTERN = bytes(range(256)) * 4096  # 1 MiB


class CountingBudget:
    """A budget that keeps count, and refuses what is over `limits`."""

    def __init__(self, limits: dict[Resource, int] | None = None) -> None:
        self.limits = dict(limits or {})
        self.used: Counter[Resource] = Counter()
        self.peak: Counter[Resource] = Counter()

    def reserve(self, kind: Resource, amount: int = 1) -> None:
        limit = self.limits.get(kind)
        if limit is not None and self.used[kind] + amount > limit:
            raise LimitExceeded(f"over the limit of {limit} {kind.value}", limit=limit, kind=kind.value)
        self.used[kind] += amount
        self.peak[kind] = max(self.peak[kind], self.used[kind])

    def release(self, kind: Resource, amount: int = 1) -> None:
        if amount > self.used[kind]:
            raise LocalProtocolError(f"{amount} {kind.value} released, {self.used[kind]} are reserved")
        self.used[kind] -= amount

    def authenticated(self, peer: PeerId) -> None:
        """Nothing is charged differently."""

    def is_zero(self) -> bool:
        """Whether everything was given back."""
        return not any(self.used.values())


@asynccontextmanager
async def muxed_pair(
    muxer: Muxer,
    *,
    dialer_budget: Budget | None = None,
    listener_budget: Budget | None = None,
    channels: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
) -> AsyncIterator[tuple[MuxedConnection, MuxedConnection]]:
    """Two connected sides, the dialer's first, over `channels` or a pair in memory."""
    left, right = channels or trio.testing.memory_stream_pair()
    async with (
        muxer.open(left, Role.DIALER, budget=dialer_budget) as dialer,
        muxer.open(right, Role.LISTENER, budget=listener_budget) as listener,
    ):
        yield dialer, listener


async def stream_pair(opener: MuxedConnection, acceptor: MuxedConnection) -> tuple[MuxedStream, MuxedStream]:
    """The two ends of a new stream."""
    stream = await opener.open_stream()
    return stream, await acceptor.accept_stream()


async def echo(stream: MuxedStream) -> None:
    """Sends back what comes, then ends its direction."""
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.aclose()


async def serve_echo(connection: MuxedConnection) -> None:
    """Echoes on every stream until none will come."""
    async with trio.open_nursery() as nursery:
        with suppress(trio.EndOfChannel):
            while True:
                nursery.start_soon(echo, await connection.accept_stream())


async def check_echo(stream: MuxedStream, data: bytes) -> None:
    """Sends `data`, receives it back while sending, and closes."""

    async def send() -> None:
        await stream.send_all(data)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        received = await receive_rest(stream)
    assert received == data, f"{len(received)} bytes came back of {len(data)}, or other ones"
    await stream.aclose()


# ------------------------------------------------------------------------------------ the checks


async def streams_conform(muxer: Muxer) -> None:
    """Streams of either side pass the suite for streams."""
    async with muxed_pair(muxer) as (dialer, listener):
        await check_muxed_stream(lambda: stream_pair(dialer, listener))
        await check_muxed_stream(lambda: stream_pair(listener, dialer))


async def half_close(muxer: Muxer) -> None:
    """After `send_eof` the other direction goes on."""
    async with muxed_pair(muxer) as (dialer, listener):
        a, b = await stream_pair(dialer, listener)
        await a.send_all(b"question")
        await a.send_eof()
        await a.send_eof()
        assert await receive_rest(b) == b"question"
        assert await b.receive_some() == b"", "the end is not repeated"
        await b.send_all(PATTERN[:100_000])
        await b.aclose()
        assert await receive_rest(a) == PATTERN[:100_000]
        await a.aclose()


async def listener_speaks_first(muxer: Muxer) -> None:
    """A stream exists for the peer although its opener has sent nothing."""
    async with muxed_pair(muxer) as (dialer, listener):
        a, b = await stream_pair(dialer, listener)
        await b.send_all(b"welcome")
        assert await receive_exactly(a, 7) == b"welcome"


async def empty_stream(muxer: Muxer) -> None:
    """Opened and closed at once: the peer sees a stream without bytes."""
    async with muxed_pair(muxer) as (dialer, listener):
        await (await dialer.open_stream()).aclose()
        stream = await listener.accept_stream()
        assert await stream.receive_some() == b""
        await stream.aclose()


async def close_implies_flush(muxer: Muxer) -> None:
    """What was sent before `aclose` arrives, in whatever order the peer gets to it."""
    async with muxed_pair(muxer) as (dialer, listener):
        a = await dialer.open_stream()
        await a.send_all(PATTERN[:200_000])
        await a.aclose()
        b = await listener.accept_stream()
        await trio.testing.wait_all_tasks_blocked()
        for start in range(0, 200_000, 1000):  # in small reads, so that window is given back behind the end
            assert await receive_exactly(b, 1000) == PATTERN[start : start + 1000]
            await trio.testing.wait_all_tasks_blocked()
        assert await b.receive_some() == b""
        await b.aclose()


async def read_after_close(muxer: Muxer) -> None:
    """What arrived before the peer closed stays readable, also when we have written since."""
    async with muxed_pair(muxer) as (dialer, listener):
        a, b = await stream_pair(dialer, listener)
        await a.send_all(b"last words")
        await a.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        await b.send_all(b"too late")
        await b.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert await receive_rest(b) == b"last words"
        assert await receive_rest(a) == b"too late"


async def reset_leaves_others_alone(muxer: Muxer) -> None:
    """A reset on one stream, in the middle of a message, disturbs no other."""
    async with muxed_pair(muxer) as (dialer, listener):
        doomed_a, doomed_b = await stream_pair(dialer, listener)
        a, b = await stream_pair(dialer, listener)
        await a.send_all(b"before ")
        await doomed_a.send_all(PATTERN[:150_000])
        await receive_exactly(doomed_b, 1000)
        doomed_b.reset(0x1003)
        error = await raised(StreamReset, lambda: receive_until_error(doomed_a))
        assert error.remote
        assert error.code in {0, 0x1003}
        await a.send_all(b"after")
        await a.aclose()
        assert await receive_rest(b) == b"before after"
        await check_echo_once(dialer, listener)


async def check_echo_once(opener: MuxedConnection, acceptor: MuxedConnection) -> None:
    """A new stream works."""
    a, b = await stream_pair(opener, acceptor)
    await a.send_all(b"?")
    assert await receive_exactly(b, 1) == b"?"
    await b.send_all(b"!")
    assert await receive_exactly(a, 1) == b"!"
    await a.aclose()
    await b.aclose()


async def unread_stream_blocks_nobody(muxer: Muxer) -> None:
    """An application that reads nothing loses its own stream at most."""
    async with muxed_pair(muxer) as (dialer, listener), trio.open_nursery() as nursery:
        stuck, _unread = await stream_pair(dialer, listener)

        async def flood() -> None:
            with suppress(StreamReset):
                while True:
                    await stuck.send_all(PATTERN)

        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            await check_echo_once(dialer, listener)
            await check_echo_once(listener, dialer)
        nursery.start_soon(serve_echo, listener)
        await check_echo(await dialer.open_stream(), PATTERN[:300_000])
        nursery.cancel_scope.cancel()


async def echo_both_ways(muxer: Muxer) -> None:
    """1 MiB is echoed in both directions at once."""
    async with muxed_pair(muxer) as (dialer, listener), trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, dialer)
        nursery.start_soon(serve_echo, listener)
        async with trio.open_nursery() as echoes:
            echoes.start_soon(check_echo, await dialer.open_stream(), PATTERN)
            echoes.start_soon(check_echo, await listener.open_stream(), PATTERN[::-1])
        nursery.cancel_scope.cancel()


async def many_streams(muxer: Muxer) -> None:
    """200 streams at once, each with its own bytes."""
    async with muxed_pair(muxer) as (dialer, listener), trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, listener)
        async with trio.open_nursery() as echoes:
            for number in range(200):
                echoes.start_soon(check_echo, await dialer.open_stream(), PATTERN[number : number + 3000])
        nursery.cancel_scope.cancel()


async def unaccepted_streams_are_bounded(muxer: Muxer) -> None:
    """Nobody accepts: opening waits or the surplus is reset, and those that were there first still work."""
    async with muxed_pair(muxer) as (dialer, listener), trio.open_nursery() as nursery:
        opened: list[MuxedStream] = []

        async def open_all() -> None:
            while len(opened) < 400:
                opened.append(await dialer.open_stream())

        nursery.start_soon(open_all)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(serve_echo, listener)
        for stream in opened[:50]:
            await check_echo(stream, b"hello")
        for stream in opened[50:]:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def peer_vanishes(muxer: Muxer) -> None:
    """The channel breaks: the block is cancelled and left quietly, streams say so to tasks elsewhere."""
    left, right = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        left_block = False
        async with muxer.open(left, Role.DIALER) as dialer:
            stream = await dialer.open_stream()
            nursery.start_soon(raised, StreamReset, stream.receive_some)
            nursery.start_soon(raised, trio.EndOfChannel, dialer.accept_stream)
            await trio.testing.wait_all_tasks_blocked()
            await trio.aclose_forcefully(right)
            await trio.Event().wait()
            left_block = True
        assert not left_block, "the block was not cancelled"
    await raised(StreamReset, lambda: stream.send_all(b"x"))
    await raised(trio.EndOfChannel, dialer.accept_stream)
    await raised(trio.BrokenResourceError, dialer.open_stream)
    await stream.aclose()


async def leaving_resets_what_is_open(muxer: Muxer) -> None:
    """Leaving the block ends open streams on both sides; closed ones still arrive."""
    left, right = trio.testing.memory_stream_pair()
    async with muxer.open(right, Role.LISTENER) as listener:
        async with muxer.open(left, Role.DIALER) as dialer:
            open_a, open_b = await stream_pair(dialer, listener)
            closed_a, closed_b = await stream_pair(dialer, listener)
            await closed_a.send_all(b"good-bye")
            await closed_a.aclose()
        error = await raised(StreamReset, open_a.receive_some)
        assert not error.remote
        await raised(trio.EndOfChannel, dialer.accept_stream)
        await raised(trio.ClosedResourceError, dialer.open_stream)
        # The listener's block is cancelled as soon as the end of the channel is read; this task is inside it.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await trio.testing.wait_all_tasks_blocked()
            await raised(StreamReset, open_b.receive_some)
            await raised(trio.EndOfChannel, listener.accept_stream)
    await closed_b.aclose()


async def closing_cancels_the_block(muxer: Muxer) -> None:
    """`aclose` of a connection, from another task, ends its block; again it does nothing."""
    async with trio.open_nursery() as nursery, muxed_pair(muxer) as (dialer, listener):
        stream, _other = await stream_pair(dialer, listener)
        nursery.start_soon(raised, StreamReset, stream.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(dialer.aclose)
        await trio.Event().wait()
    await dialer.aclose()
    await listener.aclose()


async def block_raises_its_own_errors(muxer: Muxer) -> None:
    """An exception of the application leaves the block as it is, not in a group."""

    async def fail() -> None:
        async with muxed_pair(muxer) as (dialer, _listener):
            await dialer.open_stream()
            raise KeyError("the application's")

    assert (await raised(KeyError, fail)).args == ("the application's",)


async def cancel_at_every_await(muxer: Muxer) -> None:
    """Whatever a task was doing when it was cancelled, the connection serves the next one."""
    async with muxed_pair(muxer) as (dialer, listener), trio.open_nursery() as nursery:
        nursery.start_soon(serve_forgiving, listener)

        async def use_a_stream() -> None:
            stream = await dialer.open_stream()
            try:
                await stream.send_all(PATTERN[:300_000])
                await stream.send_eof()
                assert await receive_rest(stream) == PATTERN[:300_000]
            finally:
                await stream.aclose()

        step = 0
        cancelled = True
        while cancelled:
            step += 1
            cancelled = await cancelled_at(step, use_a_stream)
            await check_echo(await dialer.open_stream(), b"still there")
        assert step > 5, "nothing was cancelled"
        nursery.cancel_scope.cancel()


async def serve_forgiving(connection: MuxedConnection) -> None:
    """As `serve_echo`, and a reset ends one stream only. The answer comes after the question."""

    async def answer(stream: MuxedStream) -> None:
        with suppress(StreamReset):
            await stream.send_all(await receive_rest(stream))
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        with suppress(trio.EndOfChannel):
            while True:
                nursery.start_soon(answer, await connection.accept_stream())


async def cancelled_at(step: int, operation: Callable[[], Awaitable[None]]) -> bool:
    """Runs `operation` and cancels it when its task runs for the `step`-th time; whether it came to that."""
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await operation()

    async with trio.open_nursery() as nursery:
        instrument = _CancelAtStep(step, scope)
        nursery.start_soon(run)
        (instrument.task,) = nursery.child_tasks
        trio.lowlevel.add_instrument(instrument)
        try:
            while nursery.child_tasks:
                await trio.lowlevel.checkpoint()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught


class _CancelAtStep(trio.abc.Instrument):
    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self.task: trio.lowlevel.Task | None = None
        self._left = step
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def budget_returns_to_zero(muxer: Muxer) -> None:
    """Streams and memory are charged while they are there, and not a moment longer."""
    ours, theirs = CountingBudget(), CountingBudget()
    async with muxed_pair(muxer, dialer_budget=ours, listener_budget=theirs) as (dialer, listener):
        a, b = await stream_pair(dialer, listener)
        await a.send_all(PATTERN[:200_000])
        await trio.testing.wait_all_tasks_blocked()
        assert ours.used[Resource.STREAM_OUT] == theirs.used[Resource.STREAM_IN] == 1
        assert 190_000 < theirs.used[Resource.MEMORY] <= 200_000, "unread bytes are not charged"
        await receive_exactly(b, 200_000)
        assert theirs.used[Resource.MEMORY] == 0, "bytes are charged after they were taken"
        await a.aclose()
        await b.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert ours.is_zero(), f"left over: {ours.used}"
        assert theirs.is_zero(), f"left over: {theirs.used}"
        # and what is open when the block is left
        a, b = await stream_pair(listener, dialer)
        await a.send_all(PATTERN[:100_000])
        await trio.testing.wait_all_tasks_blocked()
        assert not ours.is_zero()
    assert ours.is_zero(), f"left over: {ours.used}"
    assert theirs.is_zero(), f"left over: {theirs.used}"


async def budget_refuses(muxer: Muxer) -> None:
    """A refused stream of ours raises, one of the peer is reset; refused memory resets the stream that needs it."""
    ours = CountingBudget({Resource.STREAM_OUT: 2})
    theirs = CountingBudget({Resource.STREAM_IN: 1, Resource.MEMORY: 64 * 1024})
    async with muxed_pair(muxer, dialer_budget=ours, listener_budget=theirs) as (dialer, listener):
        a, b = await stream_pair(dialer, listener)
        refused = await dialer.open_stream()
        await raised(StreamReset, lambda: receive_until_error(refused))
        other = await dialer.open_stream()
        await raised(LimitExceeded, dialer.open_stream)
        await raised(StreamReset, lambda: receive_until_error(other))
        await a.send_all(PATTERN[:200_000])
        await trio.testing.wait_all_tasks_blocked()
        error = await raised(StreamReset, lambda: receive_until_error(b))
        assert not error.remote
        assert theirs.peak[Resource.MEMORY] <= 64 * 1024
        await raised(StreamReset, lambda: receive_until_error(a))
        await check_echo_once(dialer, listener)


CHECKS: tuple[MuxerCheck, ...] = (
    streams_conform,
    half_close,
    listener_speaks_first,
    empty_stream,
    close_implies_flush,
    read_after_close,
    reset_leaves_others_alone,
    unread_stream_blocks_nobody,
    echo_both_ways,
    many_streams,
    unaccepted_streams_are_bounded,
    peer_vanishes,
    leaving_resets_what_is_open,
    closing_cancels_the_block,
    block_raises_its_own_errors,
    cancel_at_every_await,
    budget_returns_to_zero,
    budget_refuses,
)


async def check_muxer(muxer: Muxer) -> None:
    """Every check. AssertionError, or the exception that should not have been, when a promise is broken."""
    for check in CHECKS:
        await check(muxer)
