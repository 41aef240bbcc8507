"""Streams of a node's connection, with a peer that plays by other rules."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.abc import HandlerFailed, StreamReset
from talos.addr import parse, split_peer
from talos.errors import ConnectionCode, LimitExceeded, NegotiationError, StreamCode
from talos.host.config import NodeConfig, Stack
from talos.host.limits import LimitsConfig, ScopeLimits
from talos.host.node import Node, open_node
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.multistream import NegotiatedStream, answer, negotiate_outbound
from talos.muxer.yamux import Yamux
from talos.security.noise import Noise
from talos.transport import Memory
from talos.upgrade import Upgrade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.abc import Connection, Stream
    from talos.host.connection import HostConnection

ECHO = "/talos/echo/1.0.0"


async def echo(stream: Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


@dataclass
class Scene:
    """A node, and a peer that has a bare connection to it."""

    node: Node
    seen: HostConnection
    peer: Connection

    async def open_raw(self) -> Any:
        return await self.peer.open_stream()

    async def open(self, protocol: str = ECHO) -> NegotiatedStream:
        return await negotiate_outbound(await self.peer.open_stream(), self.peer, [protocol])


@asynccontextmanager
async def scene(**changes: Any) -> AsyncIterator[Scene]:
    key = PrivateKey.generate()
    bare = Upgrade(Memory(), security=[Noise(key)], muxers=[Yamux()], local_peer=PeerId.from_key(key.public_key))
    config = NodeConfig(stack=Stack(transports=(Memory(),)), listen=(parse("/memory/0"),), **changes)
    async with open_node(config) as node:
        node.handle(ECHO)(echo)
        async with bare.dial(split_peer(node.addrs[0])[0], node.peer_id) as peer:
            await trio.testing.wait_all_tasks_blocked()
            (seen,) = node.connections
            yield Scene(node, seen, peer)
    assert not any(node.limits.snapshot().values())
    assert node.limits.leaked == 0


async def test_a_stream_that_never_names_its_protocol_is_reset_after_ten_seconds(autojump_clock: Any) -> None:
    async with scene() as on:
        stream = await on.open_raw()
        await stream.send_all(b"\x13")
        start = trio.current_time()
        with pytest.raises(StreamReset) as reset:  # noqa: PT012 - the other side may have said its header
            while True:
                await stream.receive_some()
        assert trio.current_time() - start == pytest.approx(10)
        assert reset.value.code == StreamCode.NEGOTIATION_FAILED
        async with await on.open() as healthy:
            await healthy.send_all(b"x")
            assert await healthy.receive_some() == b"x"


@pytest.mark.parametrize("garbage", [b"\x05nope\n", b"\xff\xff\xff\xff\x7f", b"\x00"])
async def test_garbage_in_place_of_a_protocol_ends_the_stream_alone(autojump_clock: Any, garbage: bytes) -> None:
    seen: list[object] = []
    async with scene() as on:
        with on.node.observe(seen.append):
            stream = await on.open_raw()
            await stream.send_all(garbage)
            with pytest.raises(StreamReset):
                await stream.receive_some()
            assert on.node.connections == [on.seen]
    assert not [event for event in seen if isinstance(event, HandlerFailed)]


async def test_a_peer_that_never_answers_a_choice_is_given_up(autojump_clock: Any) -> None:
    async with scene() as on:
        start = trio.current_time()
        with pytest.raises(NegotiationError, match="in time"):
            await on.node.open_stream(on.seen, "/a", "/b")
        assert trio.current_time() - start == pytest.approx(10)
        assert on.node.connections == [on.seen]


async def test_an_optimistic_stream_without_an_answer_is_given_up_at_its_first_receive(autojump_clock: Any) -> None:
    async with scene() as on:
        stream = await on.node.open_stream(on.seen, "/a")
        await stream.send_all(b"x")
        start = trio.current_time()
        with pytest.raises(NegotiationError, match="in time"):
            await stream.receive_some()
        assert trio.current_time() - start == pytest.approx(10)


async def test_an_answered_stream_waits_for_its_application_as_long_as_that_takes(autojump_clock: Any) -> None:
    async with scene() as on, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def slow_peer() -> None:
            muxed = await on.peer.accept_stream()
            await answer(muxed, {"/a"})
            await trio.sleep(60)
            await muxed.send_all(b"late")

        async with await on.node.open_stream(on.seen, "/a") as stream:
            assert await stream.receive_some() == b"late"


async def test_streams_that_an_application_forgets_are_given_back_with_the_connection(autojump_clock: Any) -> None:
    async with scene() as on:
        forgotten = await on.node.open_stream(on.seen, "/a")
        assert on.node.limits.snapshot()["system: streams out"] == 1
        assert on.seen.in_use
        await on.peer.aclose()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises((StreamReset, trio.ClosedResourceError)):
            await forgotten.receive_some()


async def test_every_way_to_end_a_stream_gives_its_charges_back(autojump_clock: Any) -> None:
    async with scene() as on:
        for end in ("aclose", "reset", "eof"):
            stream = await on.node.open_stream(on.seen, "/a")
            assert on.seen.in_use
            if end == "reset":
                stream.reset(5)
                stream.reset(6)
            elif end == "aclose":
                await stream.aclose()
                await stream.aclose()
            else:
                await stream.wait_send_all_might_not_block()
                await stream.send_eof()
                stream.reset()
            assert not on.seen.in_use


async def test_inbound_streams_of_a_protocol_past_the_limit_are_reset(autojump_clock: Any) -> None:
    limits = LimitsConfig(protocol=ScopeLimits(streams_in=2))
    async with scene(limits=limits) as on:
        streams = [await on.open() for _ in range(2)]
        for stream in streams:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        third = await on.open()
        with pytest.raises(StreamReset) as reset:
            await third.receive_some()
        assert reset.value.code == StreamCode.RESOURCE_LIMIT
        await streams[0].aclose()
        await trio.testing.wait_all_tasks_blocked()
        async with await on.open() as again:
            await again.send_all(b"x")
            assert await again.receive_some() == b"x"
        await streams[1].aclose()


async def test_own_streams_of_a_protocol_past_the_limit_raise(autojump_clock: Any) -> None:
    limits = LimitsConfig(protocol=ScopeLimits(streams_out=1))
    async with scene(limits=limits) as on:
        async with await on.node.open_stream(on.seen, "/a"):
            with pytest.raises(LimitExceeded):
                await on.node.open_stream(on.seen, "/a")
        (await on.node.open_stream(on.seen, "/a")).reset()


async def test_a_connection_that_ended_opens_no_stream(autojump_clock: Any) -> None:
    async with scene() as on:
        await on.seen.aclose(ConnectionCode.SHUTDOWN)
        with pytest.raises(StreamReset) as reset:
            await on.node.open_stream(on.seen, "/a")
        assert not reset.value.remote
        with pytest.raises(trio.EndOfChannel):
            await on.seen.accept_stream()
        with pytest.raises(trio.ClosedResourceError):
            await on.seen.open_stream()


async def test_a_peer_that_goes_away_is_not_chosen_for_what_is_new(autojump_clock: Any) -> None:
    async with scene() as on:
        muxer: Any = on.peer
        muxer._muxed.machine.go_away(0)  # a peer that says good-bye and stays
        muxer._muxed.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert on.seen.draining
        with pytest.raises(StreamReset) as reset:
            await on.node.open_stream(on.seen, "/a")
        assert reset.value.remote


async def test_a_handler_ends_with_its_connection(autojump_clock: Any) -> None:
    ended = trio.Event()
    async with scene() as on:

        @on.node.handle("/forever")
        async def forever(stream: Stream) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

        stream = await on.open("/forever")
        await stream.send_all(b"x")
        await trio.testing.wait_all_tasks_blocked()
        await on.peer.aclose()
        await ended.wait()


async def test_a_handler_that_returns_closes_its_stream(autojump_clock: Any) -> None:
    async with scene() as on:

        @on.node.handle("/hello")
        async def hello(stream: Stream) -> None:
            await stream.send_all(b"hello")

        async with await on.open("/hello") as stream:
            assert await stream.receive_some() == b"hello"
            assert await stream.receive_some() == b""


async def test_counters_belong_to_the_muxer(autojump_clock: Any) -> None:
    async with scene() as on:
        async with await on.open() as stream:
            await stream.send_all(b"x")
            await stream.receive_some()
        assert on.seen.stats.streams_in == 1
        assert repr(on.seen).startswith("<HostConnection listener 12D3Koo")


async def test_a_protocol_unmounted_since_it_was_agreed_resets_the_stream(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from talos.host import connection

    agree = vars(connection)["negotiate_inbound"]
    faults: list[Any] = []
    async with scene() as on:
        passing = on.node.mounted("/talos/passing/1.0.0", echo)
        passing.__enter__()

        async def agree_and_unmount(*args: Any) -> Any:
            agreed = await agree(*args)
            passing.__exit__(None, None, None)
            return agreed

        monkeypatch.setattr(connection, "negotiate_inbound", agree_and_unmount)
        with on.node.observe(faults.append):
            stream = await on.open("/talos/passing/1.0.0")
            with pytest.raises((StreamReset, NegotiationError)):  # the reset may overtake the answer
                await stream.receive_some()
    assert not [event for event in faults if isinstance(event, HandlerFailed)]
