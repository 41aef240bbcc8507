"""Files between two nodes: offered, pulled, verified, placed and recorded."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest
import trio

from talos.abc import Direction, EntryKind
from talos.errors import LimitExceeded, LocalProtocolError, TransferFailed
from talos.identity.wallet import Wallet
from talos.messaging.files.code import FileCode
from talos.messaging.files.config import Accept, FileConfig
from talos.messaging.files.mime import TypeLimits
from talos.messaging.files.transfer import TransferState
from tests.carriers import over_carriers
from tests.messaging.file_harness import KIB, MIB, Sender, leftovers, noise, tree

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeConfig


@pytest.fixture
def alice(memory_config: MakeConfig, tmp_path: Path) -> Sender:
    return Sender("Alice", tmp_path / "a", memory_config())


@pytest.fixture
def bob(memory_config: MakeConfig, tmp_path: Path) -> Sender:
    return Sender("Bob", tmp_path / "b", memory_config())


async def gone(person: Sender) -> None:
    """Returns when nothing unfinished is left."""
    with trio.fail_after(10):
        while leftovers(person.downloads):  # noqa: ASYNC110 - a folder tells nobody
            await trio.sleep(0.01)


@over_carriers
async def test_a_file_arrives(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    data = noise(3 * MIB + 17)
    (tmp_path / "data.bin").write_bytes(data)
    async with alice.files_open() as from_alice, bob.files_open() as to_bob:
        alice.knows(bob)
        sent = await from_alice.send(bob.peer, tmp_path / "data.bin")
        with trio.fail_after(20):
            done = await sent.wait()
            (got,) = to_bob.transfers()
            await got.wait()
        assert (done.done, done.total, done.state) == (len(data), len(data), TransferState.COMPLETE)
        assert got.path == bob.downloads / "data.bin"
        assert stat.S_IMODE(got.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(bob.downloads.stat().st_mode) == 0o700
    assert tree(bob.downloads) == {"data.bin": data}
    assert leftovers(bob.downloads) == []
    assert sent.files is not None
    root = sent.files[0].root
    for log, direction in ((alice.log, Direction.OUT), (bob.log, Direction.IN)):
        entry = log.entries[EntryKind.FILE, sent.id]
        assert (entry.direction, entry.size, entry.file_root) == (direction, len(data), root)


async def test_a_directory_arrives_with_empty_files_and_without_links(
    alice: Sender, bob: Sender, tmp_path: Path
) -> None:
    source = tmp_path / "album"
    (source / "deep" / "er").mkdir(parents=True)
    contents = {"a.txt": b"hello\n", "deep/empty": b"", "deep/er/b.bin": noise(700 * KIB), "x*.txt": b"star\n"}
    for name, data in contents.items():
        (source / name).write_bytes(data)
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "deep" / "pipe")
    async with alice.files_open() as from_alice, bob.files_open() as to_bob:
        alice.knows(bob)
        sent = await from_alice.send(bob.peer, source)
        assert sent.skipped == ("deep/pipe", "link")
        with trio.fail_after(20):
            await sent.wait()
        (got,) = to_bob.transfers()
        assert got.path == bob.downloads / "album"
        again = await from_alice.send(bob.peer, source)
        with trio.fail_after(20):
            await again.wait()
    contents["x_.txt"] = contents.pop("x*.txt")
    found = tree(bob.downloads)
    assert {name.removeprefix("album/"): data for name, data in found.items() if name.startswith("album/")} == contents
    assert {name.removeprefix("album (1)/") for name in found if name.startswith("album (1)/")} == set(contents)
    assert bob.log.entries[EntryKind.FILE, sent.id].file_root == sent.offer.manifest_hash
    assert leftovers(bob.downloads) == []


async def test_several_files_and_a_list_that_does_not_fit_the_offer(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(700):
        (source / f"{number}.txt").write_text(f"file {number}\n")
    (tmp_path / "one.txt").write_text("one\n")
    async with alice.files_open() as from_alice, bob.files_open() as to_bob:
        alice.knows(bob)
        sent = await from_alice.send(bob.peer, [source, tmp_path / "one.txt"], name="mixed")
        assert sent.offer.manifest_size > 32 * KIB
        with trio.fail_after(30):
            await sent.wait()
        (got,) = to_bob.transfers()
        assert (got.file_count, got.directory) == (701, True)
    found = tree(bob.downloads)
    assert len(found) == 701
    assert found["mixed/many/699.txt"] == b"file 699\n"
    assert found["mixed/one.txt"] == b"one\n"


async def test_progress_rises_and_ends(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(noise(4 * MIB))
    async with alice.files_open() as from_alice, bob.files_open() as to_bob:
        alice.knows(bob)
        with to_bob.watching() as changes, from_alice.watching() as ours:
            sent = await from_alice.send(bob.peer, tmp_path / "data.bin")
            seen = [update async for update in sent.updates()]
            states = [await changes.receive()]
            done = [update.done for update in seen]
            assert done == sorted(done)
            assert (seen[-1].state, seen[-1].done, seen[-1].eta) == (TransferState.COMPLETE, 4 * MIB, None)
            assert states[0].incoming
            assert (await ours.receive()) is sent


async def test_the_policy_declines(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    for config in (FileConfig(accept=Accept.NOBODY), FileConfig(accept=Accept.CONTACTS)):
        async with alice.files_open() as from_alice, bob.files_open(config) as to_bob:
            alice.knows(bob)
            sent = await from_alice.send(bob.peer, tmp_path / "a.txt")
            with pytest.raises(TransferFailed, match="declined: POLICY") as caught, trio.fail_after(10):
                await sent.wait()
            assert (caught.value.code, sent.state) == (FileCode.POLICY, TransferState.DECLINED)
            assert to_bob.transfers() == []
    assert tree(bob.downloads) == {}


async def test_an_offer_waits_for_its_recipient(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    ask = FileConfig(accept=Accept.NOBODY, ask=True)
    async with alice.files_open() as from_alice:
        async with bob.files_open(ask) as to_bob:
            alice.knows(bob)
            bob.knows(alice)
            with to_bob.watching() as changes, trio.fail_after(10):
                yes = await from_alice.send(bob.peer, tmp_path / "a.txt")
                await changes.receive()
                no = await from_alice.send(bob.peer, tmp_path / "a.txt")
                await changes.receive()
                assert [offer.id for offer in to_bob.offers()] == [yes.id, no.id]
                await to_bob.decline(no.id)
                with pytest.raises(TransferFailed):
                    await no.wait()
            assert (no.state, no.code) == (TransferState.DECLINED, FileCode.POLICY)
            with pytest.raises(LocalProtocolError, match="no such offer"):
                await to_bob.accept(no.id)
        async with bob.files_open(ask) as to_bob:
            bob.knows(alice)
            assert [offer.id for offer in to_bob.offers()] == [yes.id]
            await to_bob.accept(yes.id)
            with trio.fail_after(10):
                await yes.wait()
    assert tree(bob.downloads) == {"a.txt": b"a\n"}


async def test_either_side_gives_up(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(noise(6 * MIB))
    async with alice.files_open() as from_alice, bob.files_open() as to_bob:
        alice.knows(bob)
        bob.knows(alice)
        for mine in (True, False):
            with to_bob.watching() as changes, trio.fail_after(10):
                sent = await from_alice.send(bob.peer, tmp_path / "data.bin")
                got = await changes.receive()
                await (from_alice.cancel(sent.id) if mine else to_bob.cancel(got.id))
                for transfer in (sent, got):
                    with pytest.raises(TransferFailed) as caught:
                        await transfer.wait()
                    assert caught.value.code == FileCode.CANCELLED
            await gone(bob)
        await to_bob.cancel(got.id)
        with pytest.raises(LocalProtocolError, match="no such transfer"):
            await to_bob.cancel(bytes(16))
    assert tree(bob.downloads) == {}


LIMITS = TypeLimits(image=6000, audio=7000, video=8000, document=5000, other=4000)
HEADS = {
    "p.jpg": b"\xff\xd8\xff\xe0",
    "p.png": b"\x89PNG\r\n\x1a\n",
    "s.flac": b"fLaC",
    "v.mp4": b"\0\0\0\x18ftypisom",
    "d.pdf": b"%PDF-1.7\n",
    "t.txt": b"text\n",
    "o.bin": b"\0\1\2\3",
}
SIZES = {"jpg": 6000, "png": 6000, "flac": 7000, "mp4": 8000, "pdf": 5000, "txt": 5000, "bin": 4000}


@pytest.mark.parametrize("name", HEADS)
async def test_each_type_at_its_limit_and_one_byte_over(alice: Sender, bob: Sender, tmp_path: Path, name: str) -> None:
    limit = SIZES[name.rpartition(".")[2]]
    filler = b"x" if name == "t.txt" else b"\0"
    async with alice.files_open() as from_alice, bob.files_open(FileConfig(limits=LIMITS)):
        alice.knows(bob)
        for extra in (0, 1):
            (tmp_path / name).write_bytes(HEADS[name].ljust(limit + extra, filler))
            sent = await from_alice.send(bob.peer, tmp_path / name)
            if not extra:
                await sent.wait()
                continue
            with pytest.raises(TransferFailed, match="declined: TOO_LARGE"), trio.fail_after(10):
                await sent.wait()
    assert [len(data) for data in tree(bob.downloads).values()] == [limit]


async def test_types_that_are_not_known_are_refused_where_that_is_wanted(
    alice: Sender, bob: Sender, tmp_path: Path
) -> None:
    (tmp_path / "o.bin").write_bytes(noise(100))
    async with alice.files_open() as from_alice, bob.files_open(FileConfig(known_types_only=True)):
        alice.knows(bob)
        with pytest.raises(TransferFailed, match="declined: TYPE_REFUSED"), trio.fail_after(10):
            await (await from_alice.send(bob.peer, tmp_path / "o.bin")).wait()


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (FileConfig(stranger_bytes_per_day=1500), FileCode.POLICY),
        (FileConfig(folder_bytes=1500), FileCode.NO_SPACE),
        (FileConfig(total_bytes=999), FileCode.TOO_LARGE),
    ],
)
async def test_quotas(alice: Sender, bob: Sender, tmp_path: Path, config: FileConfig, code: FileCode) -> None:
    (tmp_path / "o.bin").write_bytes(noise(1000))
    async with alice.files_open() as from_alice, bob.files_open(config):
        alice.knows(bob)
        with trio.fail_after(10):
            if code is not FileCode.TOO_LARGE:
                await (await from_alice.send(bob.peer, tmp_path / "o.bin")).wait()
            with pytest.raises(TransferFailed) as caught:
                await (await from_alice.send(bob.peer, tmp_path / "o.bin")).wait()
    assert caught.value.code == code


async def test_only_so_many_at_once(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "o.bin").write_bytes(noise(10))
    ask = FileConfig(accept=Accept.NOBODY, ask=True, transfers_per_peer=2)
    carol = Wallet.new("Carol", now_ms=0).peer_id
    async with alice.files_open() as from_alice, bob.files_open(ask) as to_bob:
        alice.knows(bob)
        sent = [await from_alice.send(bob.peer, tmp_path / "o.bin") for _ in range(3)]
        with pytest.raises(TransferFailed, match="declined: POLICY"), trio.fail_after(10):
            await sent[2].wait()
        assert len(to_bob.offers()) == 2
    limits = FileConfig(transfers_per_peer=3, transfers=4)
    async with alice.files_open(limits) as from_alice:
        await from_alice.send(bob.peer, tmp_path / "o.bin")
        with pytest.raises(LimitExceeded):
            await from_alice.send(bob.peer, tmp_path / "o.bin")
        await from_alice.send(carol, tmp_path / "o.bin")
        with pytest.raises(LimitExceeded):
            await from_alice.send(carol, tmp_path / "o.bin")


async def test_what_cannot_be_sent(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "big.bin").write_bytes(noise(3000))
    async with alice.files_open(FileConfig(limits=LIMITS, total_bytes=2000)) as from_alice:
        with pytest.raises(LocalProtocolError, match="no files"):
            await from_alice.send(bob.peer, tmp_path / "empty")
        with pytest.raises(LocalProtocolError, match="no paths"):
            await from_alice.send(bob.peer, [])
        with pytest.raises(FileNotFoundError):
            await from_alice.send(bob.peer, tmp_path / "none")
        with pytest.raises(TransferFailed, match="more than 2000 bytes"):
            await from_alice.send(bob.peer, tmp_path / "big.bin")
        alice.log.refuse = True
        assert from_alice.transfers() == []


async def test_a_source_that_changes_ends_it(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(noise(2 * MIB))
    async with alice.files_open() as from_alice:
        sent = await from_alice.send(bob.peer, path)
        with path.open("r+b") as file:
            file.seek(MIB)
            file.write(b"changed")
        async with bob.files_open() as to_bob:
            alice.knows(bob)
            await alice.node.connect(bob.peer)
            with pytest.raises(TransferFailed) as caught, trio.fail_after(10):
                await sent.wait()
            assert (caught.value.code, sent.state) == (FileCode.SOURCE_CHANGED, TransferState.FAILED)
            (got,) = to_bob.transfers()
            with pytest.raises(TransferFailed) as caught, trio.fail_after(10):
                await got.wait()
            assert caught.value.code == FileCode.SOURCE_CHANGED
            await gone(bob)
    assert tree(bob.downloads) == {}


async def test_nothing_is_overwritten_and_no_link_followed(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    source = tmp_path / "docs"
    source.mkdir()
    (source / "in.txt").write_text("sent\n")
    bob.downloads.mkdir(mode=0o700)
    (bob.downloads / "docs").symlink_to(outside)
    (bob.downloads / "in.txt").symlink_to(outside / "in.txt")
    async with alice.files_open() as from_alice, bob.files_open():
        alice.knows(bob)
        with trio.fail_after(10):
            await (await from_alice.send(bob.peer, source)).wait()
            await (await from_alice.send(bob.peer, source / "in.txt")).wait()
    assert list(outside.iterdir()) == []
    assert tree(bob.downloads) == {"docs (1)/in.txt": b"sent\n", "in (1).txt": b"sent\n"}


async def test_nothing_is_complete_unrecorded(alice: Sender, bob: Sender, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    async with alice.files_open() as from_alice, bob.files_open() as to_bob:
        alice.knows(bob)
        with to_bob.watching() as changes, trio.fail_after(20):
            sent = await from_alice.send(bob.peer, tmp_path / "a.txt")
            got = await changes.receive()
            bob.log.refuse = True
            while got.state is not TransferState.PAUSED:
                await changes.receive()
            assert sent.state is not TransferState.COMPLETE
            bob.log.refuse = False
            await sent.wait()
    assert tree(bob.downloads) == {"a.txt": b"a\n"}
