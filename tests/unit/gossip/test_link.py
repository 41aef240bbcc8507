"""The writer of a link: what comes within a few turns of the scheduler goes out together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.gossip.link import GATHER_TURNS, Link
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from talos.abc import Stream

PEER = PeerId.from_key(PrivateKey.from_seed(b"\1" * 32).public_key)


class Sink:
    """A stream that keeps what is written to it."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.writes.append(data)


async def written(turns: int) -> list[bytes]:
    """What a writer makes of one byte in each of so many turns."""
    link, sink, waiting = Link(PEER), Sink(), bytearray()

    def take(peer: PeerId) -> bytes:
        assert peer == PEER
        data = bytes(waiting)
        waiting.clear()
        return data

    stream: Stream = sink  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.write, stream, take)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(turns):
            waiting += b"x"
            link.wake()
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return sink.writes


async def test_a_lone_message_goes_at_once() -> None:
    assert await written(1) == [b"x"]


async def test_messages_of_a_few_turns_share_a_write() -> None:
    writes = await written(4)
    assert b"".join(writes) == b"xxxx"
    assert len(writes) <= 2


async def test_an_endless_stream_of_them_is_written_all_the_same() -> None:
    writes = await written(GATHER_TURNS * 10)
    assert sum(map(len, writes)) == GATHER_TURNS * 10
    assert len(writes) >= 8
