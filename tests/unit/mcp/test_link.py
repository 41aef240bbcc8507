"""The link: liveness with a virtual clock, protocol errors, streams that break."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from talos.errors import RemoteProtocolError
from talos.host.block import background
from talos.mcp import link as links
from talos.mcp.event import OpenArrived, Opened
from talos.mcp.limits import McpLimits
from talos.mcp.link import Link
from talos.mcp.machine import SessionMachine, State, cost
from talos.mcp.wire import PROTOCOL_ID, Accept, CloseCode, Open, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.abc import Stream
    from tests.conftest import MakeConfig, OpenNodes

LIMITS = McpLimits(window=65_536)


@asynccontextmanager
async def streams(open_nodes: OpenNodes, memory_config: MakeConfig) -> AsyncIterator[tuple[Stream, Stream]]:
    """Both ends of one stream between two nodes in memory."""
    async with open_nodes(memory_config(), memory_config()) as (server, client):
        there, back = trio.open_memory_channel[Any](1)
        over = trio.Event()

        async def handler(stream: Stream) -> None:
            await there.send(stream)
            await over.wait()

        server.handle(PROTOCOL_ID)(handler)
        connection = await client.connect(server.peer_id, server.addrs)
        async with await client.open_stream(connection, PROTOCOL_ID) as stream:
            await stream.send_all(b"")
            yield stream, await back.receive()
            over.set()


def connecting(stream: Stream) -> Link:
    message = Open(nonce=bytes(32), max_line=LIMITS.max_line, window=LIMITS.window)
    return Link(stream, lambda now: SessionMachine.connect(message, LIMITS, now=now))


def serving(stream: Stream) -> Link:
    return Link(stream, lambda now: SessionMachine.serve(LIMITS, now=now))


def accept(link: Link) -> None:
    link.machine.accept(
        Accept(
            status=Status.OK,
            session=bytes(16),
            resume_token=bytes(32),
            max_line=LIMITS.max_line,
            window=LIMITS.window,
            nonce=bytes(32),
            server="s",
        ),
        link.now(),
    )
    link.wake()


@asynccontextmanager
async def session(open_nodes: OpenNodes, memory_config: MakeConfig) -> AsyncIterator[tuple[Link, Link, trio.Nursery]]:
    """Two links with an open session between them, both running."""
    async with streams(open_nodes, memory_config) as (ours, theirs), background() as nursery:
        connect, serve = connecting(ours), serving(theirs)
        nursery.start_soon(connect.run)
        nursery.start_soon(serve.run)
        await serve.answered.wait()
        assert isinstance(serve.opening, OpenArrived)
        accept(serve)
        await connect.answered.wait()
        assert isinstance(connect.opening, Opened)
        yield connect, serve, nursery


async def test_an_idle_session_lives_on(
    open_nodes: OpenNodes, memory_config: MakeConfig, autojump_clock: trio.testing.MockClock
) -> None:
    async with session(open_nodes, memory_config) as (connect, serve, _):
        await trio.sleep(3600)
        assert connect.machine.state is serve.machine.state is State.OPEN


async def test_lines_arrive_and_are_acknowledged(
    open_nodes: OpenNodes, memory_config: MakeConfig, autojump_clock: trio.testing.MockClock
) -> None:
    async with session(open_nodes, memory_config) as (connect, serve, nursery):
        line = b"x" * 20_000
        for number in range(20):
            await connect.room_for(cost(line))
            connect.machine.submit(line)
            connect.wake()
            if number == 2:  # the window is full: the next one waits until these are consumed
                await wait_all_tasks_blocked()
                assert not connect.machine.can_submit(cost(line))
                nursery.start_soon(partial(consume_all, serve, 20))
        connect.machine.source_ended()
        connect.wake()
        while not serve.peer_ended:
            await serve.arrival.wait()
        connect.machine.close(CloseCode.DONE)
        connect.wake()
        await serve.over.wait()
        assert serve.closed is not None
        assert serve.closed.code is CloseCode.DONE


async def consume_all(link: Link, count: int) -> None:
    done = 0
    while done < count:
        while link.inbox:
            done += 1
            link.machine.consumed(link.inbox.popleft().seq, link.now())
            link.wake()
        await trio.sleep(0.001)


async def test_connect_takes_a_silent_serve_for_dead(
    open_nodes: OpenNodes, memory_config: MakeConfig, autojump_clock: trio.testing.MockClock
) -> None:
    async with streams(open_nodes, memory_config) as (ours, theirs), background() as nursery:
        connect, serve = connecting(ours), serving(theirs)
        nursery.start_soon(connect.run)
        hearing = trio.CancelScope()
        nursery.start_soon(run_within, serve, hearing)
        await serve.answered.wait()
        accept(serve)
        await connect.answered.wait()
        start = trio.current_time()
        hearing.cancel()
        await connect.over.wait()
        assert connect.closed is not None
        assert connect.closed.code is None
        assert 19.9 <= trio.current_time() - start <= 20.2


async def test_serve_takes_a_silent_connect_for_dead(
    open_nodes: OpenNodes, memory_config: MakeConfig, autojump_clock: trio.testing.MockClock
) -> None:
    async with streams(open_nodes, memory_config) as (ours, theirs), background() as nursery:
        connect, serve = connecting(ours), serving(theirs)
        nursery.start_soon(serve.run)
        hearing = trio.CancelScope()
        nursery.start_soon(run_within, connect, hearing)
        await serve.answered.wait()
        accept(serve)
        await connect.answered.wait()
        start = trio.current_time()
        hearing.cancel()
        await serve.over.wait()
        assert 29.9 <= trio.current_time() - start <= 30.2


async def run_within(link: Link, scope: trio.CancelScope) -> None:
    with scope:
        await link.run()


async def test_an_opening_that_does_not_come_is_not_waited_for(
    open_nodes: OpenNodes, memory_config: MakeConfig, autojump_clock: trio.testing.MockClock
) -> None:
    async with streams(open_nodes, memory_config) as (_, theirs), background() as nursery:
        serve = serving(theirs)
        start = trio.current_time()
        nursery.start_soon(serve.run)
        await serve.answered.wait()
        assert serve.opening is None
        assert serve.over.is_set()
        assert trio.current_time() - start == pytest.approx(10, abs=0.1)


async def test_sleep_of_the_computer_is_noticed(
    open_nodes: OpenNodes,
    memory_config: MakeConfig,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with session(open_nodes, memory_config) as (connect, serve, _):
        serve._suspended_before += 10_000  # only the computer of connect sleeps
        await trio.sleep(5)
        monkeypatch.setattr(links, "_suspended", lambda: 10_000 + connect._suspended_before)
        before = connect.now()
        await trio.sleep(11)
        assert connect.now() - before > 9_000
        # It was asked, and answered: the session goes on.
        await trio.sleep(60)
        assert connect.machine.state is State.OPEN


@pytest.mark.parametrize("opened", [False, True])
async def test_a_protocol_error_ends_it(open_nodes: OpenNodes, memory_config: MakeConfig, *, opened: bool) -> None:
    async with streams(open_nodes, memory_config) as (ours, theirs), background() as nursery:
        serve = serving(theirs)
        nursery.start_soon(serve.run)
        if opened:
            connect = connecting(ours)
            scope = trio.CancelScope()
            nursery.start_soon(run_within, connect, scope)
            await serve.answered.wait()
            accept(serve)
            await connect.answered.wait()
            scope.cancel()
            await wait_all_tasks_blocked()
            await ours.send_all(b"\x01\x77")
        else:
            await ours.send_all(b"\x01\xff")
        await serve.over.wait()
        assert isinstance(serve.error, RemoteProtocolError)
        if opened:
            data = b""
            while chunk := await ours.receive_some():
                data += chunk
            assert b"\x07\x03" in data  # CLOSE 3
        else:
            with pytest.raises(trio.BrokenResourceError):
                await ours.receive_some()


async def test_a_reset_is_the_end_and_told_as_an_error(open_nodes: OpenNodes, memory_config: MakeConfig) -> None:
    async with session(open_nodes, memory_config) as (connect, serve, _):
        serve.stream.reset(7)
        await connect.over.wait()
        await serve.over.wait()
        assert connect.error is not None
        assert connect.closed is not None
        assert connect.closed.code is None
