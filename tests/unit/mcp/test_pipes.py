"""Pipes with fewer turns of the scheduler."""

from __future__ import annotations

import os

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from talos.mcp.pipes import PipeReader, PipeWriter


def pipe() -> tuple[PipeReader, PipeWriter]:
    reading, writing = os.pipe()
    return PipeReader(trio.lowlevel.FdStream(reading)), PipeWriter(trio.lowlevel.FdStream(writing))


async def test_every_byte_passes_and_then_the_end() -> None:
    reader, writer = pipe()
    data = os.urandom(3 << 20)
    got = bytearray()

    async def read() -> None:
        while piece := await reader.receive_some():
            got.extend(piece)

    async with reader, trio.open_nursery() as nursery:
        nursery.start_soon(read)
        async with writer:
            await writer.send_all(data[:1000])
            await writer.send_all(memoryview(data)[1000:])
            await writer.wait_send_all_might_not_block()
    assert got == data


async def test_small_reads_leave_the_rest() -> None:
    reader, writer = pipe()
    async with reader, writer:
        assert writer.send_nowait(b"abcdef") == 6
        assert await reader.receive_some(2) == b"ab"
        assert await reader.receive_some(2) == b"cd"
        assert await reader.receive_some(2) == b"ef"
        with trio.move_on_after(0.01) as waited:
            await reader.receive_some(2)
        assert waited.cancelled_caught


async def test_a_full_pipe_takes_nothing_at_once() -> None:
    reader, writer = pipe()
    async with reader, writer:
        while writer.send_nowait(bytes(4096)):
            pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.send_all, b"more")
            await wait_all_tasks_blocked()
            assert writer.send_nowait(b"x") == 0
            with pytest.raises(trio.BusyResourceError):
                await writer.send_all(b"y")
            nursery.cancel_scope.cancel()


async def test_only_one_task_reads() -> None:
    reader, writer = pipe()
    async with reader, writer, trio.open_nursery() as nursery:
        nursery.start_soon(reader.receive_some)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await reader.receive_some()
        nursery.cancel_scope.cancel()


async def test_closed_and_broken_are_trios_own() -> None:
    reader, writer = pipe()
    await reader.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await writer.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError):
        writer.send_nowait(b"x")
    await writer.aclose()
    for action in (reader.receive_some(), writer.send_all(b"x"), writer.wait_send_all_might_not_block()):
        with pytest.raises(trio.ClosedResourceError):
            await action
    with pytest.raises(trio.ClosedResourceError):
        writer.send_nowait(b"x")


async def test_closing_wakes_a_reader() -> None:
    reader, writer = pipe()
    async with writer, trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await reader.receive_some()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await reader.aclose()
