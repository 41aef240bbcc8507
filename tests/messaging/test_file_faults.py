"""Transfers that are interrupted, corrupted, or asked for by those who should not."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from talos.errors import AuditError, ConfigError, TransferFailed
from talos.messaging.code import AckState, MessageType
from talos.messaging.content import StreamEnd, StreamKind
from talos.messaging.files import exchange, serving
from talos.messaging.files.code import FileCode
from talos.messaging.files.config import Accept, FileConfig
from talos.messaging.files.frames import (
    MAX_FRAME_BYTES,
    PROTOCOL_ID,
    Chunk,
    Fault,
    FileDone,
    Frame,
    Hello,
    Leaves,
    Side,
    Want,
    decode,
    encode,
)
from talos.messaging.files.mime import TypeLimits
from talos.messaging.files.part import Part
from talos.messaging.files.source import Source
from talos.messaging.files.transfer import TransferState
from talos.messaging.store import MessageState
from talos.wire.message_stream import MessageStream
from tests.messaging.file_harness import KIB, MIB, Sender, leftovers, noise, tree

if TYPE_CHECKING:
    from pathlib import Path

    from talos.messaging.files.service import Files
    from talos.messaging.files.transfer import Transfer
    from tests.conftest import MakeConfig

SMALL = FileConfig(window_bytes=MIB, serve_bytes=4 * MIB, sync_bytes=MIB)


@pytest.fixture
def alice(memory_config: MakeConfig, tmp_path: Path) -> Sender:
    return Sender("Alice", tmp_path / "a", memory_config())


@pytest.fixture
def bob(memory_config: MakeConfig, tmp_path: Path) -> Sender:
    return Sender("Bob", tmp_path / "b", memory_config())


async def arrived(files: Files) -> Transfer:
    """The first transfer, when there is one."""
    while not files.transfers():  # noqa: ASYNC110 - whatever brings it
        await trio.sleep(0.005)
    return files.transfers()[0]


async def stuck(*_: object) -> None:
    await trio.sleep_forever()


async def until(transfer: Transfer, size: int) -> None:
    """Returns when so many bytes are there, or it is over."""
    while not transfer.state.final and transfer.progress.done < size:
        await trio.lowlevel.checkpoint()


async def test_resumes_after_either_side_was_away(
    alice: Sender, bob: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each comes back at another address; what was kept is not fetched again."""
    data, random, written = noise(20 * MIB + 5), Random(5), []
    (tmp_path / "data.bin").write_bytes(data)
    write = Part.write

    def counted(part: Part, index: int, chunk: bytes) -> bool:
        written.append(index)
        return write(part, index, chunk)

    monkeypatch.setattr(Part, "write", counted)
    rounds = 0
    async with alice.files_open() as from_alice:
        sent = await from_alice.send(bob.peer, tmp_path / "data.bin")
    while not sent.state.final:
        async with AsyncExitStack() as stack:
            sides = [alice, bob]
            random.shuffle(sides)  # the second is the first to go
            opened = {person.name: await stack.enter_async_context(person.files_open(SMALL)) for person in sides}
            bob.knows(alice)
            alice.knows(bob)
            await alice.node.connect(bob.peer)
            (sent,) = opened["Alice"].transfers()
            with trio.fail_after(20):
                got = await arrived(opened["Bob"])
                rounds += 1
                await until(got, rounds * 3 * MIB + random.randrange(MIB))
                if rounds > 6:
                    await sent.wait()
    assert rounds > 3
    assert tree(bob.downloads) == {"data.bin": data}
    assert leftovers(bob.downloads) == []
    chunks = -(-len(data) // (256 * KIB))
    assert len(written) < chunks + rounds * (SMALL.window_bytes // (256 * KIB) + 1)


async def test_a_receiver_that_completed_unheard_says_so_again(
    alice: Sender, bob: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    heard = trio.Event()

    async def silent(*_: object) -> None:
        heard.set()
        await trio.sleep_forever()

    async with alice.files_open() as from_alice:
        with monkeypatch.context() as patched:
            patched.setattr(exchange.Exchange, "_say_done", silent)
            async with bob.files_open():
                alice.knows(bob)
                sent = await from_alice.send(bob.peer, tmp_path / "a.txt")
                with trio.fail_after(10):
                    await heard.wait()
        assert sent.state is not TransferState.COMPLETE
        async with bob.files_open() as to_bob:
            alice.knows(bob)
            await alice.node.connect(bob.peer)
            with trio.fail_after(10):
                await sent.wait()
            assert [one.state for one in to_bob.transfers()] == [TransferState.COMPLETE]
    assert tree(bob.downloads) == {"a.txt": b"a\n"}


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("times", [1, 2])
async def test_flipped_bits_are_caught_before_they_are_written(
    alice: Sender, bob: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sealed: bool, times: int
) -> None:
    data = noise(3 * MIB)
    (tmp_path / "data.bin").write_bytes(data)
    chunk_of, left = Source.chunk, [times]

    def flipped(source: Source, index: int) -> Chunk:
        chunk = chunk_of(source, index)
        if index != 2 or not left[0]:
            return chunk
        left[0] -= 1
        if sealed:
            plain = bytearray(data[index * 256 * KIB : (index + 1) * 256 * KIB])
            plain[77] ^= 1
            return replace(chunk, sealed=source._cipher.seal(index, bytes(plain), last=False))
        return replace(chunk, sealed=bytes((chunk.sealed[0] ^ 0x80,)) + chunk.sealed[1:])

    monkeypatch.setattr(Source, "chunk", flipped)
    async with alice.files_open() as from_alice, bob.files_open() as to_bob:
        alice.knows(bob)
        sent = await from_alice.send(bob.peer, tmp_path / "data.bin")
        with trio.fail_after(10):
            if times == 1:
                await sent.wait()
            else:
                with pytest.raises(TransferFailed) as caught:
                    await sent.wait()
                assert caught.value.code == FileCode.HASH_MISMATCH
                (got,) = to_bob.transfers()
                assert (got.state, got.code) == (TransferState.FAILED, FileCode.HASH_MISMATCH)
    assert left == [0]
    assert tree(bob.downloads) == ({"data.bin": data} if times == 1 else {})


async def test_a_type_that_only_the_content_shows(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    """The list says video; the first chunk is none."""
    (tmp_path / "x.bin").write_bytes(noise(300 * KIB))
    limits = FileConfig(limits=TypeLimits(other=100 * KIB))
    async with alice.files_open() as from_alice, bob.files_open(limits):
        alice.knows(bob)
        made = from_alice._made

        def lying(*args: object) -> Transfer:
            transfer = made(*args)  # type: ignore[arg-type]
            assert transfer.manifest is not None
            entry = replace(transfer.manifest.files[0], mime="video/mp4", path="x.mp4")
            transfer.manifest = replace(transfer.manifest, files=(entry,))
            data = transfer.manifest.encode()
            digest = sha256(data).digest()
            transfer.offer = replace(transfer.offer, manifest_hash=digest, manifest_size=len(data))
            return transfer

        from_alice._made = lying  # type: ignore[method-assign,assignment]
        sent = await from_alice.send(bob.peer, tmp_path / "x.bin")
        with pytest.raises(TransferFailed) as caught, trio.fail_after(10):
            await sent.wait()
        assert (sent.state, caught.value.code) == (TransferState.FAILED, FileCode.TOO_LARGE)
    assert tree(bob.downloads) == {}


async def test_a_sender_that_changed_its_mind_about_the_list(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    async with alice.files_open() as from_alice, bob.files_open():
        alice.knows(bob)
        made = from_alice._made

        def lying(*args: object) -> Transfer:
            transfer = made(*args)  # type: ignore[arg-type]
            transfer.offer = replace(transfer.offer, total_size=1)
            return transfer

        from_alice._made = lying  # type: ignore[method-assign,assignment]
        sent = await from_alice.send(bob.peer, tmp_path / "a.txt")
        with pytest.raises(TransferFailed, match="declined: HASH_MISMATCH"), trio.fail_after(10):
            await sent.wait()


async def test_what_stands_still_for_a_week_is_over(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(noise(10 * MIB))
    async with bob.files_open(SMALL) as to_bob:
        async with alice.files_open() as from_alice:
            alice.knows(bob)
            await from_alice.send(bob.peer, tmp_path / "data.bin")
            with trio.fail_after(10):
                got = await arrived(to_bob)
                await until(got, MIB)
        with trio.fail_after(10):
            while got.state is not TransferState.PAUSED:  # noqa: ASYNC110 - whatever stops it
                await trio.sleep(0.005)
        assert leftovers(bob.downloads)
        bob.clock.offset_ms += 8 * 86_400_000
        await to_bob.tidy()
        assert (got.state, got.code) == (TransferState.FAILED, FileCode.EXPIRED)
        assert leftovers(bob.downloads) == []


async def test_only_so_many_are_remembered(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    async with alice.files_open(FileConfig(remembered=2)) as from_alice, bob.files_open():
        alice.knows(bob)
        for _ in range(3):
            sent = await from_alice.send(bob.peer, tmp_path / "a.txt")
            await sent.wait()
        await from_alice.tidy()
        assert len(from_alice.transfers()) == 2
    async with alice.files_open() as from_alice:
        assert from_alice.transfer(sent.id) is not None
        assert len(from_alice.transfers()) == 2


async def test_a_letter_does_not_wait_for_a_file(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    with (tmp_path / "zeros.bin").open("wb") as file:
        file.truncate(96 * MIB)
    async with alice.files_open() as from_alice, bob.files_open() as to_bob:
        alice.knows(bob)
        sent = await from_alice.send(bob.peer, tmp_path / "zeros.bin")
        with trio.fail_after(30):
            got = await arrived(to_bob)
            await until(got, MIB)
            letter = await (await alice.messaging.send(bob.peer, "quick")).wait()
            assert letter.state is MessageState.DELIVERED
            assert not sent.state.final
            await sent.wait()


# --------------------------------------------------------------------------------- those who should not


async def hostile(mallory: Sender, bob: Sender, *frames: Frame) -> Frame | None:
    """What is said to these frames; None when the stream is cut."""
    stream = await mallory.node.open_stream(bob.peer, PROTOCOL_ID)
    async with stream:
        spoken = MessageStream[Frame, Frame](stream, decode=decode, encode=encode, max_size=MAX_FRAME_BYTES)
        try:
            with trio.fail_after(5):
                for frame in frames:
                    await spoken.send(frame)
                return await spoken.receive()
        except (EOFError, trio.BrokenResourceError):
            return None


async def test_strangers_to_a_transfer(alice: Sender, bob: Sender, tmp_path: Path, memory_config: MakeConfig) -> None:
    mallory = Sender("Mallory", tmp_path / "m", memory_config())
    (tmp_path / "a.txt").write_text("a\n")
    async with alice.files_open() as from_alice, bob.files_open(), mallory.files_open():
        sent = await from_alice.send(bob.peer, tmp_path / "a.txt")
        mallory.knows(alice)
        for side in Side:
            assert await hostile(mallory, alice, Hello(sent.id, side)) == Fault(FileCode.EXPIRED)
        assert await hostile(mallory, alice, Want(1, 0, 1)) is None
        assert await hostile(mallory, alice, Hello(bytes(16), Side.SENDS)) == Fault(FileCode.EXPIRED)
        assert sent.state is TransferState.OFFERED


@pytest.mark.parametrize(
    "asked",
    [Want(2, 0, 1), Want(1, 0, 13), Want(1, 12, 1), Want(0, 0, 0), Want(0, 1, 1), FileDone(2), Leaves(1, b"")],
    ids=str,
)
async def test_a_receiver_that_asks_for_what_is_not_there(
    alice: Sender, bob: Sender, tmp_path: Path, asked: Frame
) -> None:
    (tmp_path / "data.bin").write_bytes(noise(3 * MIB))
    async with alice.files_open() as from_alice, bob.open():
        sent = await from_alice.send(bob.peer, tmp_path / "data.bin")
        bob.knows(alice)
        assert await hostile(bob, alice, Hello(sent.id, Side.RECEIVES), asked) is None
        assert not sent.state.final
        assert await hostile(bob, alice, Hello(sent.id, Side.SENDS)) == Fault(FileCode.EXPIRED)


async def test_a_receiver_that_asks_for_too_much(
    alice: Sender, bob: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.Serving, "_seal", stuck)
    (tmp_path / "data.bin").write_bytes(noise(3 * MIB))
    async with alice.files_open(SMALL) as from_alice, bob.open():
        sent = await from_alice.send(bob.peer, tmp_path / "data.bin")
        bob.knows(alice)
        ask = [Want(1, 0, 8), Want(1, 0, 8), Want(1, 0, 1)]
        assert await hostile(bob, alice, Hello(sent.id, Side.RECEIVES), *ask) is None
        leaves = [Want(1, 0, 0)] * (serving.MAX_WANTS + 1)
        assert await hostile(bob, alice, Hello(sent.id, Side.RECEIVES), *leaves) is None


@pytest.mark.parametrize(
    "sent",
    [Leaves(1, bytes(32)), Chunk(1, 0, False, b"x"), Want(1, 0, 1), FileDone(1)],
    ids=lambda one: type(one).__name__,
)
async def test_a_sender_that_sends_what_was_not_asked_for(
    alice: Sender, bob: Sender, tmp_path: Path, sent: Frame
) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    async with AsyncExitStack() as stack:
        from_alice = await stack.enter_async_context(alice.files_open())
        to_bob = await stack.enter_async_context(bob.files_open())
        alice.knows(bob)
        from_alice._exchange._serve = stuck  # type: ignore[method-assign,assignment]
        offered = await from_alice.send(bob.peer, tmp_path / "a.txt")
        with trio.fail_after(10):
            await arrived(to_bob)
        assert await hostile(alice, bob, Hello(offered.id, Side.SENDS), sent, sent) != Fault(FileCode.EXPIRED)
        assert not to_bob.transfers()[0].state.final
    assert tree(bob.downloads) == {}


def test_limits_that_make_no_sense() -> None:
    for wrong in ({"window_bytes": MIB - 1}, {"serve_bytes": MIB}, {"entries": 10_001}, {"transfers": 0}):
        with pytest.raises(ConfigError):
            FileConfig(**wrong)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------- the rest of life


async def test_the_last_message_of_a_transfer(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    """It is judged by the receiver's state, and by nobody who does not know the transfer."""
    (tmp_path / "a.txt").write_text("a\n")
    ask = FileConfig(accept=Accept.NOBODY, ask=True)
    async with alice.files_open() as from_alice, bob.files_open(ask) as to_bob:
        alice.knows(bob)
        bob.knows(alice)
        sent = await from_alice.send(bob.peer, tmp_path / "a.txt")
        with trio.fail_after(10):
            await arrived(to_bob)
            root = sent.offer.manifest_hash
            for end, verdict, code in (
                (StreamEnd(stream_id=bytes(16)), AckState.UNSUPPORTED, 0),
                (StreamEnd(stream_id=sent.id, root=bytes(32)), AckState.DECLINED, FileCode.HASH_MISMATCH),
                (StreamEnd(stream_id=sent.id, root=root), AckState.DECLINED, FileCode.HASH_MISMATCH),
            ):
                posted = await alice.messaging.post(bob.peer, MessageType.STREAM_END, end.encode())
                done = await posted.wait()
                assert (done.ack_state, done.code) == (verdict, code)
            back = StreamEnd(stream_id=sent.id, root=root).encode()
            answered = await (await bob.messaging.post(alice.peer, MessageType.STREAM_END, back)).wait()
            assert answered.ack_state == AckState.DECLINED
            assert sent.state is TransferState.OFFERED


async def test_an_offer_again_and_one_under_a_name_that_is_taken(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    async with alice.files_open() as from_alice, bob.files_open() as to_bob:
        alice.knows(bob)
        bob.knows(alice)
        sent = await from_alice.send(bob.peer, tmp_path / "a.txt")
        assert sent.manifest is not None
        with trio.fail_after(10):
            await sent.wait()
            offer = replace(sent.offer, manifest=sent.manifest.encode())
            for content, verdict, code in (
                (offer, AckState.ACCEPTED, 0),
                (replace(offer, stream_id=bytes(16), codec="zip"), AckState.DECLINED, FileCode.CODEC),
                (replace(offer, stream_id=bytes(16), kind=StreamKind.LIVE), AckState.DECLINED, FileCode.CODEC),
            ):
                posted = await alice.messaging.post(bob.peer, MessageType.STREAM_START, content.encode())
                done = await posted.wait()
                assert (done.ack_state, done.code) == (verdict, code)
            back = await bob.messaging.post(alice.peer, MessageType.STREAM_START, offer.encode())
            done = await back.wait()
            assert (done.ack_state, done.code) == (AckState.DECLINED, FileCode.POLICY)
        assert len(to_bob.transfers()) == 1


async def test_an_offer_that_cannot_be_recorded_is_none(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    async with alice.files_open() as from_alice, bob.files_open():
        alice.knows(bob)
        await (await from_alice.send(bob.peer, tmp_path / "a.txt")).wait()
        alice.log.refuse = True
        with pytest.raises(AuditError):
            await from_alice.send(bob.peer, tmp_path / "a.txt")
        assert len(from_alice.transfers()) == 1


async def test_an_offer_that_is_taken_back_or_expires(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    async with alice.files_open() as from_alice:
        late = await from_alice.send(bob.peer, tmp_path / "a.txt")
        back = await from_alice.send(bob.peer, tmp_path / "a.txt")
        await alice.messaging.cancel(late.message_id)
        with pytest.raises(TransferFailed) as caught, trio.fail_after(10):
            await late.wait()
        assert (late.state, caught.value.code) == (TransferState.FAILED, FileCode.EXPIRED)
        await from_alice.cancel(back.id)
        assert back.state is TransferState.CANCELLED
        assert alice.messaging.outbox() == []


async def test_no_room_by_the_time_the_owner_says_yes(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(noise(1000))
    ask = FileConfig(accept=Accept.NOBODY, ask=True, folder_bytes=1500)
    async with alice.files_open() as from_alice, bob.files_open(ask) as to_bob:
        alice.knows(bob)
        bob.knows(alice)
        sent = await from_alice.send(bob.peer, tmp_path / "a.bin")
        with trio.fail_after(10):
            got = await arrived(to_bob)
            (bob.downloads / "mine").write_bytes(bytes(600))
            with pytest.raises(TransferFailed):
                await to_bob.accept(got.id)
            with pytest.raises(TransferFailed):
                await sent.wait()
        assert (sent.state, sent.code, got.state) == (TransferState.DECLINED, FileCode.NO_SPACE, TransferState.DECLINED)


@pytest.mark.parametrize("gone", [True, False])
async def test_a_source_that_changed_while_the_sender_was_away(
    alice: Sender, bob: Sender, tmp_path: Path, *, gone: bool
) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(noise(MIB))
    async with alice.files_open() as from_alice:
        await from_alice.send(bob.peer, path)
    if gone:
        path.unlink()
    else:
        path.write_bytes(noise(MIB, seed=2))
    async with alice.files_open() as from_alice, bob.files_open():
        alice.knows(bob)
        await alice.node.connect(bob.peer)
        (sent,) = from_alice.transfers()
        with pytest.raises(TransferFailed) as caught, trio.fail_after(10):
            await sent.wait()
        assert caught.value.code == FileCode.SOURCE_CHANGED


async def test_a_sender_that_says_nothing_is_left(
    alice: Sender, bob: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.bin").write_bytes(noise(MIB))
    impatient = FileConfig(block_seconds=0.05)
    async with alice.files_open() as from_alice, bob.files_open(impatient) as to_bob:
        alice.knows(bob)
        with monkeypatch.context() as patched, trio.fail_after(10):
            patched.setattr(serving.Serving, "_seal", stuck)
            sent = await from_alice.send(bob.peer, tmp_path / "data.bin")
            got = await arrived(to_bob)
            while got.state is not TransferState.PAUSED:  # noqa: ASYNC110 - whatever stops it
                await trio.sleep(0.005)
        with trio.fail_after(20):
            await sent.wait()


@pytest.mark.parametrize("said", [Fault(FileCode.CANCELLED), FileDone(1), Chunk(0, 0, False, bytes(16))], ids=str)
async def test_a_long_list_that_does_not_come(alice: Sender, bob: Sender, tmp_path: Path, said: Frame) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(600):
        (source / f"{number}.txt").touch()
    async with alice.files_open() as from_alice, bob.files_open() as to_bob:
        alice.knows(bob)
        from_alice._exchange._serve = stuck  # type: ignore[method-assign,assignment]
        offered = await from_alice.send(bob.peer, source)
        with trio.fail_after(10):
            got = await arrived(to_bob)
            await hostile(alice, bob, Hello(offered.id, Side.SENDS), said)
            while isinstance(said, Fault) and not got.state.final:  # a stream that Bob opens ends this one unread
                await hostile(alice, bob, Hello(offered.id, Side.SENDS), said)
            assert (got.state is TransferState.CANCELLED) == isinstance(said, Fault)
    assert tree(bob.downloads) == {}


async def test_a_list_over_its_limit(
    alice: Sender, bob: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("talos.messaging.files.service.MAX_MANIFEST_BYTES", 50)
    (tmp_path / "a.txt").touch()
    async with alice.files_open() as from_alice:
        with pytest.raises(TransferFailed, match="4 MiB"):
            await from_alice.send(bob.peer, tmp_path / "a.txt")
