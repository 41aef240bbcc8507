"""Conformance of muxed streams: trio's own suite, and what `talos.abc.MuxedStream` promises beyond it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

import trio
import trio.testing

from talos.abc import MuxedStream, StreamReset

__all__ = ["StreamMaker", "check_muxed_stream", "raised", "receive_exactly", "receive_rest", "receive_until_error"]

StreamMaker: TypeAlias = Callable[[], Awaitable[tuple[MuxedStream, MuxedStream]]]
T = TypeVar("T", bound=BaseException)


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """The next `size` bytes; AssertionError when the stream ends before."""
    received = bytearray()
    while len(received) < size:
        chunk = await stream.receive_some(size - len(received))
        assert chunk, f"the stream ended after {len(received)} of {size} bytes"
        received += chunk
    return bytes(received)


async def receive_rest(stream: trio.abc.ReceiveStream) -> bytes:
    """Everything up to the end of the stream."""
    received = bytearray()
    while chunk := await stream.receive_some():
        received += chunk
    return bytes(received)


async def check_muxed_stream(stream_maker: StreamMaker, clogged_stream_maker: StreamMaker | None = None) -> None:
    """Everything in this module. AssertionError when a promise is broken.

    `stream_maker` returns the two ends of a new stream, the opener's first; `clogged_stream_maker` the same with
    both directions so full that sending waits until the other side receives (None where nothing ever fills).
    """
    await trio.testing.check_half_closeable_stream(stream_maker, clogged_stream_maker)
    await check_resets(stream_maker)
    await check_cancelling(stream_maker)
    if clogged_stream_maker is not None:
        await check_clogged(clogged_stream_maker)


async def check_resets(stream_maker: StreamMaker) -> None:
    """A reset ends both directions for both sides, at once and for good."""
    a, b = await stream_maker()
    await a.send_all(b"lost or not")
    a.reset(0x1004)
    a.reset(0x1005)  # idempotent: the first reason stays
    for operation in (a.receive_some, lambda: a.send_all(b"x"), lambda: a.send_all(b""), a.send_eof):
        error = await raised(StreamReset, operation)
        assert error.code == 0x1004, f"our own reset has code {error.code:#x}"
        assert not error.remote, "our own reset counts as the peer's"
    error = await raised(StreamReset, lambda: receive_until_error(b))
    assert error.remote, "the peer's reset counts as ours"
    assert error.code in {0, 0x1004}, f"the peer's reset has code {error.code:#x}"
    await raised(StreamReset, lambda: b.send_all(b"x"))
    await raised(StreamReset, b.wait_send_all_might_not_block)
    b.reset()  # after the peer's: nothing
    for stream in (a, b):
        await stream.aclose()
        await raised(trio.ClosedResourceError, stream.receive_some)
        stream.reset()  # after closing: nothing

    # a reset wakes whoever waits, here and there
    a, b = await stream_maker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raised, StreamReset, a.receive_some)
        nursery.start_soon(raised, StreamReset, b.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        b.reset()


async def check_cancelling(stream_maker: StreamMaker) -> None:
    """A cancelled receive loses nothing; one that is cancelled before it starts neither."""
    a, b = await stream_maker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(b.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await a.send_all(b"abc")
    await trio.testing.wait_all_tasks_blocked()
    with trio.CancelScope() as scope:
        scope.cancel()
        await b.receive_some(2)
    assert scope.cancelled_caught, "receive_some is no checkpoint"
    assert await receive_exactly(b, 3) == b"abc"
    # a write that was cancelled before anything was sent harms nothing
    with trio.CancelScope() as scope:
        scope.cancel()
        await a.send_all(b"never")
    assert scope.cancelled_caught, "send_all is no checkpoint"
    await a.send_all(b"d")
    await a.aclose()
    assert await receive_rest(b) == b"d"
    await b.aclose()


async def check_clogged(clogged_stream_maker: StreamMaker) -> None:
    """A writer that waits: cancelled, it resets its stream; reset or closed, it wakes."""
    a, b = await clogged_stream_maker()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.send_all, b"x")
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    await raised(StreamReset, lambda: a.send_all(b"y"))
    await raised(StreamReset, lambda: receive_until_error(b))
    await a.aclose()
    await b.aclose()

    a, b = await clogged_stream_maker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raised, StreamReset, lambda: a.send_all(b"x"))
        await trio.testing.wait_all_tasks_blocked()
        b.reset()
    await a.aclose()
    await b.aclose()

    # closing under a writer cuts what it sends, so the other side must not see a clean end
    a, b = await clogged_stream_maker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raised, trio.ClosedResourceError, lambda: a.send_all(b"x"))
        await trio.testing.wait_all_tasks_blocked()
        await a.aclose()
    await raised(StreamReset, lambda: receive_until_error(b))
    await b.aclose()


async def receive_until_error(stream: trio.abc.ReceiveStream) -> None:
    """Reads on for ever, so ends by an exception; AssertionError at a clean end."""
    while await stream.receive_some():
        pass
    raise AssertionError("the stream ended cleanly")


async def raised(kind: type[T], operation: Callable[[], Awaitable[object]]) -> T:
    """The exception that `operation` raises, which must be of that kind."""
    try:
        await operation()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")
