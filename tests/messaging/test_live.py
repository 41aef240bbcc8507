"""Live streams between two nodes: whole, lossy, declined, given up; and texts that overtake files."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.errors import ConfigError, LocalProtocolError, NotSupported, TransferFailed
from talos.messaging.code import AckState, Code, MessageType
from talos.messaging.config import MessagingConfig, StrangerLimits
from talos.messaging.content import StreamEnd, StreamKind, StreamStart
from talos.messaging.files.code import FileCode
from talos.messaging.files.config import FileConfig
from talos.messaging.files.service import open_files
from talos.messaging.files.transfer import TransferState
from talos.messaging.lane import Express, Lane
from talos.messaging.live import Codec, CodecRegistry, LiveLimits
from talos.messaging.live.tree import leaf_hash
from talos.messaging.payload import ChunkInfo
from talos.messaging.people import WalletKeys
from talos.messaging.schedule import Priority
from talos.messaging.store import MessageState
from tests.messaging.harness import Person, texts, until
from tests.messaging.hostile import Mallory, mallory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from talos.identity.wallet import Wallet
    from talos.messaging.live.receiving import IncomingStream
    from talos.messaging.live.sending import LiveStream
    from talos.messaging.service import Messaging
    from tests.conftest import MakeConfig

SECONDS = 60.0
OPEN = MessagingConfig(stranger=StrangerLimits(messages_burst=100_000))
"""Live streams of strangers are as slow as their letters."""


@pytest.fixture
def alice(memory_config: MakeConfig, tmp_path: Path) -> Person:
    return Person("Alice", tmp_path / "a", memory_config())


@pytest.fixture
def bob(memory_config: MakeConfig, tmp_path: Path) -> Person:
    return Person("Bob", tmp_path / "b", memory_config())


@asynccontextmanager
async def both(
    alice: Person, bob: Person, config: MessagingConfig = OPEN
) -> AsyncIterator[tuple[Messaging, Messaging]]:
    with trio.fail_after(SECONDS):
        async with alice.open(config) as from_alice, bob.open(config) as to_bob:
            alice.knows(bob)
            yield from_alice, to_bob


async def talk_on(stream: LiveStream) -> None:
    """Until it is over."""
    while True:
        await stream.send(b"anybody?")


async def test_what_is_said_comes_in_order_and_whole(alice: Person, bob: Person) -> None:
    async with both(alice, bob) as (from_alice, to_bob):
        heard: list[str] = []
        offers = to_bob.streams()

        async def read() -> None:
            stream = await offers.receive()
            assert (stream.peer, stream.codec.name, stream.media_type) == (alice.peer, "utf-8", "text/plain")
            heard.extend([line async for line in stream])
            assert stream.over
            assert stream.held_bytes == stream.missing == stream.dropped == 0

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            async with await from_alice.open_live(bob.peer, codec="utf-8", media_type="text/plain") as stream:
                for number in range(100):
                    await stream.send(f"line {number}")
            assert stream.chunks == 100
        assert heard == [f"line {number}" for number in range(100)]
        kept = [message.payload.type for message in to_bob.history()][::-1]
        assert kept == [MessageType.STREAM_START, MessageType.STREAM_END], "chunks are kept by nobody"
        with pytest.raises(trio.ClosedResourceError):
            await stream.send("too late")
        await stream.aclose()


async def test_the_sender_waits_for_a_reader_that_takes_nothing(alice: Person, bob: Person) -> None:
    """Back-pressure by answers: 16 unanswered, 32 waiting there; texts pass meanwhile."""
    limits = LiveLimits(ahead_chunks=32, unanswered=16)
    async with both(alice, bob, replace(OPEN, live=limits)) as (from_alice, to_bob):
        offers = to_bob.streams()
        stream = await from_alice.open_live(bob.peer)
        incoming = await offers.receive()

        async def talk() -> None:
            for number in range(100):
                await stream.send(bytes([number]) * 1000)
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            await until(lambda: incoming.held_bytes == 32_000 and stream.chunks == 48, SECONDS)
            await (await from_alice.send(bob.peer, "meanwhile")).wait()
            assert await texts(to_bob, 1) == ["meanwhile"]
            assert incoming.held_bytes == 32_000
            heard = [data async for data in incoming]
        assert heard == [bytes([number]) * 1000 for number in range(100)]


async def test_of_a_lossy_stream_the_newest_counts(alice: Person, bob: Person) -> None:
    limits = LiveLimits(ahead_chunks=16, unanswered=16)
    async with both(alice, bob, replace(OPEN, live=limits)) as (from_alice, to_bob):
        offers = to_bob.streams()
        async with await from_alice.open_live(
            bob.peer, codec="json", media_type="text/json", deadline_seconds=5
        ) as stream:
            incoming = await offers.receive()
            assert incoming.lossy
            for number in range(40):
                await stream.send({"frame": number})
                await until(lambda: not stream._waiting, SECONDS)
        heard = [value["frame"] async for value in incoming]
        assert heard == list(range(24, 40))
        assert (incoming.dropped, incoming.missing, stream.late) == (24, 0, 0)


async def test_what_is_late_is_not_sent(alice: Person, bob: Person) -> None:
    async with both(alice, bob) as (from_alice, to_bob):
        offers = to_bob.streams()
        stream = await from_alice.open_live(bob.peer, deadline_seconds=0.001)
        incoming = await offers.receive()
        for number in range(3):
            stream._deadline = 0.0  # it is late at once
            await stream.send(bytes([number]))
        await until(lambda: stream.late == 3, SECONDS)
        stream._deadline = 5.0
        await stream.send(b"in time")
        await stream.aclose()
        assert [data async for data in incoming] == [b"in time"]
        assert incoming.missing == 3


async def test_offers_that_are_declined(alice: Person, bob: Person) -> None:
    async with both(alice, bob) as (from_alice, to_bob):
        with pytest.raises(TransferFailed) as caught:
            await from_alice.open_live(bob.peer)
        assert caught.value.code == FileCode.POLICY, "nobody reads"
        with pytest.raises(NotSupported):
            await from_alice.open_live(bob.peer, codec="opus", media_type="audio/ogg")
        with pytest.raises(ConfigError):
            await from_alice.open_live(bob.peer, codec="mp3")
        with pytest.raises(ConfigError, match="carry"):
            await from_alice.open_live(bob.peer, codec="utf-8")
        with pytest.raises(LocalProtocolError):
            await from_alice.open_live(bob.peer, deadline_seconds=61)
        offers = to_bob.streams()
        assert to_bob.streams() is offers
        stream = await from_alice.open_live(bob.peer)
        with pytest.raises(LocalProtocolError, match="65537"):
            await stream.send(bytes(65_537))
        with pytest.raises(LocalProtocolError, match="does not take"):
            await stream.send("text")
        await stream.aclose()
        offers.close()
        with pytest.raises(TransferFailed):
            await from_alice.open_live(bob.peer)
        assert to_bob.streams() is not offers


async def test_a_codec_that_only_one_has(alice: Person, bob: Person) -> None:
    mine = Codec(name="mine", media_types=("x/y",), encode=lambda value: value[::-1], decode=lambda data: data[::-1])
    config = replace(OPEN, codecs=CodecRegistry((mine,)))
    with trio.fail_after(SECONDS):
        async with alice.open(config) as from_alice:
            for theirs, works in ((OPEN, False), (config, True)):
                async with bob.open(theirs) as to_bob:
                    alice.knows(bob)
                    offers = to_bob.streams()
                    if not works:
                        with pytest.raises(TransferFailed) as caught:
                            await from_alice.open_live(bob.peer, codec="mine", media_type="x/y")
                        assert caught.value.code == FileCode.CODEC
                        continue
                    async with await from_alice.open_live(bob.peer, codec="mine", media_type="x/y") as stream:
                        await stream.send(b"abc")
                    assert [data async for data in await offers.receive()] == [b"abc"]


async def test_a_stream_that_is_given_up(alice: Person, bob: Person) -> None:
    async with both(alice, bob) as (from_alice, to_bob):
        offers = to_bob.streams()
        stream = await from_alice.open_live(bob.peer)
        incoming = await offers.receive()

        async def talk() -> None:
            async with stream:
                await stream.send(b"one")
                assert await anext(incoming) == b"one"
                raise RuntimeError("enough")

        with pytest.raises(RuntimeError, match="enough"):
            await talk()
        with pytest.raises(TransferFailed) as caught:
            await anext(incoming)
        assert caught.value.code == FileCode.CANCELLED
        with pytest.raises(TransferFailed):
            await stream.send(b"two")
        with pytest.raises(TransferFailed):
            await stream.aclose()


async def test_a_reader_that_leaves(alice: Person, bob: Person) -> None:
    async with both(alice, bob) as (from_alice, to_bob):
        offers = to_bob.streams()
        stream = await from_alice.open_live(bob.peer)
        incoming = await offers.receive()
        incoming.close()
        with pytest.raises(TransferFailed) as caught:
            await talk_on(stream)
        assert caught.value.code == FileCode.CANCELLED


async def test_chunks_that_the_codec_does_not_understand(alice: Person, bob: Person) -> None:
    async with both(alice, bob) as (from_alice, to_bob):
        offers = to_bob.streams()
        stream = await from_alice.open_live(bob.peer, codec="utf-8", media_type="text/plain")
        stream.codec = CodecRegistry().get("identity")
        await stream.send(b"\xff")
        incoming = await offers.receive()
        with pytest.raises(TransferFailed) as caught:
            await anext(incoming)
        assert caught.value.code == FileCode.CODEC


async def test_a_stream_outlives_a_connection(alice: Person, bob: Person) -> None:
    """What was not answered is sent again on the next one, and comes once."""
    async with both(alice, bob) as (from_alice, to_bob):
        offers = to_bob.streams()
        stream = await from_alice.open_live(bob.peer)
        incoming = await offers.receive()
        heard: list[bytes] = []

        async def read() -> None:
            heard.extend([data async for data in incoming])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for number in range(60):
                if number in (20, 40):
                    for connection in alice.node.connections:
                        await connection.aclose()
                await stream.send(bytes([number]))
            await stream.aclose()
        assert heard == [bytes([number]) for number in range(60)]


async def test_a_peer_that_is_gone_ends_the_patience(alice: Person, bob: Person) -> None:
    limits = LiveLimits(patience_seconds=0.5)
    with trio.fail_after(SECONDS):
        async with alice.open(replace(OPEN, live=limits)) as from_alice:
            async with bob.open(OPEN) as to_bob:
                alice.knows(bob)
                offers = to_bob.streams()
                stream = await from_alice.open_live(bob.peer)
                incoming = await offers.receive()
            with pytest.raises(TransferFailed):
                await anext(incoming)
            with pytest.raises(TransferFailed) as caught:
                await talk_on(stream)
            assert caught.value.code == FileCode.EXPIRED
        with pytest.raises(TransferFailed):
            await stream.send(b"closed")


async def test_nobody_comes_for_an_offer(alice: Person, bob: Person) -> None:
    async with alice.open() as from_alice:
        with trio.move_on_after(0.2):
            await from_alice.open_live(bob.peer)
        (message,) = from_alice.history()
        assert message.state is MessageState.EXPIRED


# ----------------------------------------------------------------------------------- hostile


ID = bytes(range(16))


def offered(attacker: Mallory, seq: int, **changes: Any) -> bytes:
    start = StreamStart(stream_id=ID, kind=StreamKind.LIVE, codec="identity", media_type="x/y", priority=3)
    content = replace(start, **changes).encode()
    return attacker.seal(content, type=MessageType.STREAM_START, seq=seq).envelope


def chunk(attacker: Mallory, index: int, data: bytes, **changes: Any) -> bytes:
    place = ChunkInfo(stream_id=ID, index=index, offset=index * len(data), size=len(data), hash=leaf_hash(data))
    info = replace(place, **changes)
    return attacker.seal(data, type=MessageType.STREAM_CHUNK, seq=0, epoch=0, chunk_info=info).envelope


async def accepted(attacker: Mallory, envelope: bytes) -> tuple[AckState, int]:
    """What the victim's acknowledgement says."""
    from talos.messaging.content import Ack
    from talos.messaging.envelope import open_inner, open_outer, verify
    from talos.messaging.payload import Payload

    answer = await attacker.ask_until_done(envelope)
    assert answer.code == Code.OK
    secrets = WalletKeys(attacker.wallet).secrets()
    outer = open_outer(answer.ack_envelope, attacker.wallet.identity.public_key.data, secrets)
    payload = Payload.decode(outer.payload)
    (item,) = Ack.decode(open_inner(payload, verify(payload)[0], secrets).content).items
    return item.state, item.code


@pytest.fixture
def stranger(alice: Person) -> Wallet:
    return alice.wallet


async def test_hostile_chunks(bob: Person, stranger: Wallet) -> None:
    """Gaps, repeats, wrong hashes, after the end, of streams that nobody offered: each ends that stream at most."""
    with trio.fail_after(SECONDS):
        async with bob.open(OPEN) as to_bob, mallory(stranger, bob) as attacker:
            offers = to_bob.streams()
            nobodys = chunk(attacker, 0, b"x")
            assert (await attacker.ask(nobodys)).code == Code.UNSUPPORTED
            assert await accepted(attacker, offered(attacker, 1)) == (AckState.ACCEPTED, 0)
            incoming = await offers.receive()
            for _ in range(3):
                assert (await attacker.ask(chunk(attacker, 0, b"a"))).code == Code.OK
            assert (await attacker.ask(chunk(attacker, 2, b"c"))).code == Code.OK
            assert (await attacker.ask(chunk(attacker, 1, b"b"))).code == Code.OK
            assert [await anext(incoming) for _ in range(3)] == [b"a", b"b", b"c"]
            assert (await attacker.ask(chunk(attacker, 3, b"d", hash=bytes(32)))).code == Code.BAD_PAYLOAD
            with pytest.raises(TransferFailed) as caught:
                await anext(incoming)
            assert caught.value.code == FileCode.HASH_MISMATCH
            assert (await attacker.ask(chunk(attacker, 3, b"d"))).code == Code.UNSUPPORTED
            end = StreamEnd(stream_id=ID, bytes_total=3, chunks=3).encode()
            ending = attacker.seal(end, type=MessageType.STREAM_END, seq=2).envelope
            assert await accepted(attacker, ending) == (AckState.DECLINED, FileCode.HASH_MISMATCH)
            again = attacker.seal(end, type=MessageType.STREAM_END, seq=3).envelope
            assert await accepted(attacker, again) == (AckState.UNSUPPORTED, 0)
            oversize = chunk(attacker, 0, bytes(65_537))
            assert (await attacker.ask(oversize)).code == Code.UNSUPPORTED
            letter = attacker.seal(seq=4)
            assert (await attacker.ask_until_done(letter.envelope)).code == Code.OK


async def test_hostile_offers(bob: Person, stranger: Wallet) -> None:
    limits = LiveLimits(streams_per_peer=2, streams=3, offers=3)
    with trio.fail_after(SECONDS):
        async with bob.open(replace(OPEN, live=limits)) as to_bob, mallory(stranger, bob) as attacker:
            offers = to_bob.streams()
            cases = {
                FileCode.CODEC: [offered(attacker, 1, codec="opus"), offered(attacker, 2, codec="x" * 64)],
                FileCode.EXPIRED: [
                    attacker.seal(
                        StreamStart(stream_id=ID, kind=StreamKind.LIVE, codec="identity").encode(),
                        type=MessageType.STREAM_START,
                        seq=3,
                        timestamp_ms=bob.clock() - 121_000,
                    ).envelope
                ],
            }
            for code, envelopes in cases.items():
                for envelope in envelopes:
                    assert await accepted(attacker, envelope) == (AckState.DECLINED, code)
            for number in range(2):
                envelope = offered(attacker, 4 + number, stream_id=bytes([number]) * 16)
                assert await accepted(attacker, envelope) == (AckState.ACCEPTED, 0)
            assert await accepted(attacker, offered(attacker, 6, stream_id=bytes(16))) == (AckState.ACCEPTED, 0)
            assert await accepted(attacker, offered(attacker, 7)) == (AckState.DECLINED, FileCode.POLICY)
            first: IncomingStream = await offers.receive()
            first.close()
            assert await accepted(attacker, offered(attacker, 8)) == (AckState.ACCEPTED, 0), "room is there again"


async def test_streams_that_nothing_comes_in_end(alice: Person, bob: Person) -> None:
    async with both(alice, bob) as (from_alice, to_bob):
        offers = to_bob.streams()
        await from_alice.open_live(bob.peer)
        incoming = await offers.receive()
        incoming.last_seen -= 601
        to_bob._live.tidy()
        with pytest.raises(TransferFailed) as caught:
            await anext(incoming)
        assert caught.value.code == FileCode.EXPIRED


async def test_all_streams_together_hold_so_much(alice: Person, bob: Person) -> None:
    limits = LiveLimits(held_bytes=65_536)
    async with both(alice, bob, replace(OPEN, live=limits)) as (from_alice, to_bob):
        offers = to_bob.streams()
        one, other = [await from_alice.open_live(bob.peer) for _ in range(2)]
        first, second = await offers.receive(), await offers.receive()
        await one.send(bytes(60_000))
        await until(lambda: first.held_bytes == 60_000, SECONDS)
        await other.send(bytes(10_000))
        await (await from_alice.send(bob.peer, "behind it")).wait()
        assert second.held_bytes == 0
        await anext(first)
        assert await anext(second) == bytes(10_000)


# ----------------------------------------------------------------------------------- priorities


async def test_a_text_overtakes_chunks_that_wait(alice: Person, bob: Person) -> None:
    """A hundred chunks are queued before it, and once it waits itself it is sent behind two of them."""
    async with both(alice, bob) as (from_alice, to_bob):
        await (await from_alice.send(bob.peer, "first")).wait()
        order: list[str] = []
        courier = from_alice._courier
        express, rows = courier._send_express, courier._send_some

        async def send_express(current: Any, item: Express) -> None:
            order.append("chunk")
            await express(current, item)

        async def send_some(current: Any, numbers: Any) -> None:
            order.append("text")
            await rows(current, numbers)

        courier._send_express, courier._send_some = send_express, send_some  # type: ignore[assignment,method-assign]
        lane = courier._lanes[bob.peer]
        for _ in range(100):
            lane.schedule.add(Priority.BULK, Express(bytes(64 * 1024)), 64 * 1024)
        sent = await from_alice.send(bob.peer, "urgent")
        earlier = len(order)  # while it was written to the disk
        await sent.wait()
        assert order.index("text") <= earlier + 2
        await until(lambda: order.count("chunk") == 100, SECONDS)
        assert await texts(to_bob, 2) == ["first", "urgent"]


async def test_texts_overtake_a_running_file(alice: Person, bob: Person, tmp_path: Path) -> None:
    """Each of ten texts, sent while 96 MiB are under way, is there before the file is."""
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(96 * 1024 * 1024)
    async with both(alice, bob) as (from_alice, to_bob):
        config = FileConfig()
        a = open_files(
            from_alice,
            alice.node,
            WalletKeys(alice.wallet),
            config,
            directory=alice.directory,
            downloads=tmp_path / "da",
            audit=alice.log,
        )
        b = open_files(
            to_bob,
            bob.node,
            WalletKeys(bob.wallet),
            config,
            directory=bob.directory,
            downloads=tmp_path / "db",
            audit=bob.log,
        )
        slices = 0
        async with a as from_files, b:
            pace = from_alice._courier.pace

            async def counted(peer: Any, size: int) -> None:
                nonlocal slices
                assert size <= 64 * 1024
                slices += 1
                await pace(peer, size)

            from_alice._courier.pace = counted  # type: ignore[method-assign]
            transfer = await from_files.send(bob.peer, tmp_path / "large.bin")
            await until(lambda: transfer.progress.done > 0, SECONDS)
            overtook = 0
            for number in range(10):
                await (await from_alice.send(bob.peer, f"text {number}")).wait()
                overtook += not transfer.state.final
                if transfer.state.final:
                    break
            assert overtook >= 1, "a text was delivered while the file was under way"
            await until(lambda: transfer.state.final, SECONDS)
            assert transfer.state is TransferState.COMPLETE
            assert slices >= 96 * 16


async def test_slices_wait_their_turn_but_not_for_ever(alice: Person, bob: Person) -> None:
    async with both(alice, bob) as (from_alice, _):
        courier = from_alice._courier
        await courier.pace(bob.peer, 1)  # nothing is to be sent: at once
        await (await from_alice.send(bob.peer, "hello")).wait()
        lane = courier._lanes[bob.peer]
        await until(lambda: lane.sending, SECONDS)
        lane.schedule.add(Priority.INTERACTIVE, Express(b""), 1)
        await courier.pace(bob.peer, 64 * 1024)
        courier._lanes[alice.peer] = stuck = Lane(alice.peer, sending=True, running=True)
        stuck.schedule.add(Priority.INTERACTIVE, Express(b""), 1)
        for _ in range(127):
            stuck.schedule.add(Priority.BULK, Express(b""), 1)
        await courier.pace(alice.peer, 64 * 1024)
        assert stuck.schedule.waiting(Priority.BULK) == 128
        await courier.pace(alice.peer, 64 * 1024)
        stuck.drop()
