"""Hostile senders of files and of live streams: rows DA05 to DA08."""

from __future__ import annotations

import os
import stat
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial, partialmethod
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.errors import TransferFailed
from talos.host.config import NodeConfig
from talos.identity.wallet import Wallet
from talos.messaging.code import Code, MessageType
from talos.messaging.content import StreamKind, StreamStart
from talos.messaging.files.code import FileCode
from talos.messaging.files.manifest import Manifest
from talos.messaging.files.service import open_files
from talos.messaging.files.source import Source
from talos.messaging.live.tree import leaf_hash
from talos.messaging.payload import ChunkInfo
from talos.messaging.people import WalletKeys
from talos.messaging.service import open_messaging
from tests.attacks.harness import Victim, attacked
from tests.attacks.nodes import attacker_node
from tests.attacks.test_messages import LIMITS, stranger, writer_to
from tests.messaging.file_harness import MIB, leftovers, noise, tree
from tests.messaging.harness import ReceiptLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from talos.messaging.files.frames import Chunk
    from talos.messaging.files.service import Files
    from talos.messaging.files.transfer import Transfer

SECONDS = 30.0
PATIENCE_SECONDS = 0.5


@dataclass
class Sender:
    """Our own program, of which a test replaces what it wants to lie about."""

    files: Files
    node: Victim

    async def outcome(self, path: Path, *, name: str | None = None) -> int:
        """0 when the victim has taken it, else its code."""
        sent = await self.files.send(self.node.peer, path, name=name)
        with trio.fail_after(SECONDS):
            try:
                await sent.wait()
            except TransferFailed as error:
                return error.code
        return 0

    async def is_never_taken(self, path: Path) -> None:
        """What it offers fails, or stands still; it is given up then."""
        sent = await self.files.send(self.node.peer, path)
        with trio.move_on_after(PATIENCE_SECONDS), suppress(TransferFailed):
            await sent.wait()
        states = {ident: state for ident, state, _ in (await self.node.status())["transfers"]}
        assert states.get(sent.id.hex()) != "COMPLETE"
        await self.files.cancel(sent.id)
        await self.node.until(lambda status: status["transfers"][-1][1] in {"FAILED", "CANCELLED"}, SECONDS)


def make(directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)


def entries(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@asynccontextmanager
async def sender_to(node: Victim, directory: Path) -> AsyncIterator[Sender]:
    wallet = Wallet.new("Mallory", now_ms=time.time_ns() // 1_000_000)
    make(directory)
    log, keys = ReceiptLog(wallet), WalletKeys(wallet)
    async with (
        attacker_node(NodeConfig(key=wallet.identity)) as host,
        open_messaging(host, keys, directory=directory, audit=log) as messaging,
        open_files(messaging, host, keys, directory=directory, downloads=directory / "downloads", audit=log) as files,
    ):
        await host.connect(None, [node.addr])
        yield Sender(files, node)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "victim"
    made.mkdir(mode=0o700)
    return made


NAMES = [
    "../x",
    "/etc/x",
    "C:\\x",
    "a/../../b",
    "nul\0name",
    "CON",
    ".bashrc",
    "invoice\u202excod.exe",
    "\x1b[2J\x1b]0;owned\x07",
    "x. .",
]


async def test_da05_hostile_names_become_one_safe_component(tmp_path: Path, home: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello\n")
    async with (
        attacked(limits=LIMITS, messages=str(home), files={}) as node,
        sender_to(node, tmp_path / "m") as sender,
    ):
        for name in NAMES:
            assert await sender.outcome(tmp_path / "x", name=name) == 0
        assert await sender.outcome(tmp_path / "x", name="n" * 4096) != 0
        made = sender.files._made
        for path in ("a/../../b", "/etc/x", "C:/x", "..", "a//b", "n\0"):
            sender.files._made = lying_about(made, path)  # type: ignore[method-assign]
            assert await sender.outcome(tmp_path / "x", name="folder") == FileCode.NAME_REFUSED
    taken = tree(home / "downloads")
    assert len(taken) == len(NAMES), "none took the place of another one"
    for name in taken:
        assert "/" not in name
        assert name.isprintable()
        assert not name.startswith(".")
        assert not name.endswith((".", " "))
        assert name.upper().partition(".")[0] != "CON"
    assert entries(tmp_path) == {"m", "victim", "x"}, "nothing was written elsewhere"


def lying_about(made: Callable[..., Transfer], path: str) -> Any:
    """An offer of a directory whose one file has this path."""

    def lie(*args: Any) -> Transfer:
        transfer = made(*args)
        assert transfer.manifest is not None
        entries = (replace(transfer.manifest.files[0], path=path), replace(transfer.manifest.files[0], path="b"))
        transfer.manifest = Manifest(entries)
        data = transfer.manifest.encode()
        transfer.offer = replace(
            transfer.offer,
            media_type="inode/directory",
            files=2,
            total_size=transfer.manifest.total_size,
            manifest_hash=sha256(data).digest(),
            manifest_size=len(data),
        )
        return transfer

    return lie


async def test_da06_planted_links_and_a_folder_that_is_swapped(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads, secret = home / "downloads", tmp_path / "secret"
    secret.write_bytes(b"mine\n")
    (tmp_path / "x.txt").write_bytes(b"hello\n")
    (tmp_path / "large.bin").write_bytes(noise(2 * MIB))
    downloads.mkdir(mode=0o700)
    async with (
        attacked(limits=LIMITS, messages=str(home), files={}) as node,
        sender_to(node, tmp_path / "m") as sender,
    ):
        (downloads / "a.txt").symlink_to(secret)
        (downloads / "b.txt").hardlink_to(secret)
        os.mkfifo(downloads / "c.txt")
        for name in ("a.txt", "b.txt", "c.txt"):
            assert await sender.outcome(tmp_path / "x.txt", name=name) == 0
        assert secret.read_bytes() == b"mine\n"
        assert (downloads / "a.txt").is_symlink()
        assert stat.S_ISFIFO((downloads / "c.txt").lstat().st_mode)
        assert {name for name, data in tree(downloads).items() if data == b"hello\n"} == {
            f"{letter} (1).txt" for letter in "abc"
        }
        chunk_of = Source.chunk

        def swapping(source: Source, index: int) -> Chunk:
            if index == 4 and not (home / "moved").exists():
                downloads.rename(home / "moved")
                (home / "trap").mkdir()
                downloads.symlink_to(home / "trap")
            return chunk_of(source, index)

        monkeypatch.setattr(Source, "chunk", swapping)
        await sender.outcome(tmp_path / "large.bin", name="large.bin")
    assert list((home / "trap").iterdir()) == [], "what was put in its place is not followed"


async def test_da07_more_than_was_announced_and_more_than_there_is_room(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.bin").write_bytes(noise(1000))
    (tmp_path / "room.bin").write_bytes(noise(3 * MIB))
    async with (
        attacked(limits=LIMITS, messages=str(home), files={"folder_bytes": 2 * MIB}) as node,
        sender_to(node, tmp_path / "m") as sender,
    ):
        with monkeypatch.context() as patched:

            def endless(source: Source, index: int) -> Chunk:
                chunk = chunk_of(source, index)
                return replace(chunk, sealed=source._cipher.seal(index, bytes(MIB), last=chunk.last))

            chunk_of = Source.chunk
            patched.setattr(Source, "chunk", endless)
            await sender.is_never_taken(tmp_path / "small.bin")
        made = sender.files._made

        def huge(*args: Any) -> Transfer:
            transfer = made(*args)
            assert transfer.manifest is not None
            entry = replace(transfer.manifest.files[0], size=10 * 1024 * MIB, chunk_size=MIB)
            transfer.manifest = Manifest((entry,))
            data = transfer.manifest.encode()
            transfer.offer = replace(
                transfer.offer, total_size=entry.size, manifest_hash=sha256(data).digest(), manifest_size=len(data)
            )
            return transfer

        sender.files._made = huge  # type: ignore[assignment,method-assign]
        assert await sender.outcome(tmp_path / "small.bin") == FileCode.TOO_LARGE
        sender.files._made = made  # type: ignore[method-assign]
        assert await sender.outcome(tmp_path / "room.bin") == FileCode.NO_SPACE
        assert await sender.outcome(tmp_path / "small.bin") == 0
    assert list(tree(home / "downloads")) == ["small.bin"]
    assert leftovers(home / "downloads") == []


BLOCK = 256 * 1024


def block_of_another_place(source: Source, index: int, fault: str, chunk_of: Callable[[Source, int], Chunk]) -> Chunk:
    """What is sent in the place of block 3."""
    chunk = chunk_of(source, index)
    if index != 3:
        return chunk
    match fault:
        case "doubled":
            return chunk_of(source, 2)
        case "reordered":
            return replace(chunk_of(source, 4), index=3)
        case "altered":
            sealed = bytearray(chunk.sealed)
            sealed[-1] ^= 1
            return replace(chunk, sealed=bytes(sealed))
        case "index":
            return replace(chunk, index=2**32)
        case _:
            other = noise(2 * MIB, seed=2)[3 * BLOCK : 4 * BLOCK]
            return replace(chunk, sealed=source._cipher.seal(3, other, last=False))


async def test_da08_blocks_that_are_not_the_files(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block in another's place or of another file opens under no key, and is not written."""
    (tmp_path / "data.bin").write_bytes(noise(2 * MIB))
    chunk_of = Source.chunk
    async with (
        attacked(limits=LIMITS, messages=str(home), files={}) as node,
        sender_to(node, tmp_path / "m") as sender,
    ):
        for fault in ("doubled", "reordered", "altered", "index", "another file"):
            lying = partial(block_of_another_place, fault=fault, chunk_of=chunk_of)
            monkeypatch.setattr(Source, "chunk", partialmethod(lying))
            await sender.is_never_taken(tmp_path / "data.bin")
            assert tree(home / "downloads") == {}
        monkeypatch.setattr(Source, "chunk", chunk_of)
        assert await sender.outcome(tmp_path / "data.bin") == 0, "the honest one is taken"
    assert list(tree(home / "downloads")) == ["data.bin"]
    assert leftovers(home / "downloads") == []


async def test_da08_chunks_of_live_streams_that_break_the_rules(home: Path) -> None:
    ident = bytes(range(16))

    async with (
        attacked(limits=LIMITS, messages=str(home), live=True) as node,
        writer_to(node, stranger()) as attacker,
    ):

        def chunk(stream: bytes, number: int, data: bytes, **changes: Any) -> bytes:
            place = ChunkInfo(
                stream_id=stream, index=number, offset=number * len(data), size=len(data), hash=leaf_hash(data)
            )
            info = replace(place, **changes)
            return attacker.seal(data, type=MessageType.STREAM_CHUNK, seq=0, epoch=0, chunk_info=info).envelope

        start = StreamStart(stream_id=ident, kind=StreamKind.LIVE, codec="identity", media_type="x/y", priority=3)
        faults: list[dict[str, Any]] = [
            {"hash": bytes(32)},
            {"size": 9},
            {"index": 2**40, "offset": 0},
            {"offset": 5},
            {"last": True, "total": 9},
        ]
        for number, fault in enumerate(faults):
            stream = bytes([number]) * 16
            offer = replace(start, stream_id=stream).encode()
            opening = attacker.seal(offer, type=MessageType.STREAM_START, seq=number + 1)
            assert (await attacker.ask_until_done(opening.envelope)).code == Code.OK
            assert (await attacker.ask(chunk(stream, 0, b"abc"))).code == Code.OK
            assert (await attacker.ask(chunk(stream, 0, b"abc"))).code == Code.OK, "a repeat is dropped"
            last = chunk(stream, 1, b"abc", **fault)
            assert (await attacker.ask(last)).code == Code.BAD_PAYLOAD
            after = await attacker.ask(chunk(stream, 1, b"abc"))
            assert after.code == Code.UNSUPPORTED
        for _ in range(200):
            assert (await attacker.ask(chunk(ident, 0, bytes(60_000)))).code == Code.UNSUPPORTED
