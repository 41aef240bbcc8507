"""What is kept of conflicts and of authors' checkpoints, and what a chain notes of others."""

from __future__ import annotations

import shutil
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
import trio

from talos.chain import ChainConfig, ChainReader, open_chain, verify_reader
from talos.chain.entry import Kind
from talos.chain.evidence import CONFLICT_MAGIC, Evidence
from talos.chain.opening import open_replica
from talos.errors import EntryConflict, RollbackSuspected
from tests.chain.conftest import call, keys_of
from tests.chain.raw_peer import RawPeer
from tests.chain.test_hostile import FEED, LONG, staged

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("sealed", [False, True])
async def test_the_second_content_of_a_message_is_kept(tmp_path: Path, sealed: bool) -> None:
    keys = keys_of(b"Alice")
    async with open_chain(None, ChainConfig(), keys, directory=tmp_path / "chain") as chain:
        await chain.record(call(1))
        if sealed:
            await chain.seal()
        for _again in range(2):
            with pytest.raises(EntryConflict) as raised:
                await chain.record_many([call(5), call(1, b"write_file")])
        await chain.record(call(2))
        await chain.seal()
    with ChainReader(tmp_path / "chain", keys) as reader:
        assert [file for _, file in reader.reading.evidence()] == [CONFLICT_MAGIC + raised.value.entry]
        assert verify_reader(reader, full=True).ok
        assert Kind.EVIDENCE not in [record.entry.kind for record in reader.records()], "it accuses nobody"


async def test_evidence_against_others_is_noted(tmp_path: Path) -> None:
    """An author shows another block for a height that was copied: the copy freezes, and the own chain says so."""
    async with staged(tmp_path) as scene:
        raw = RawPeer(LONG)
        peer = await scene.attacker(raw)
        await scene.bob.sync(peer)
        other = RawPeer(LONG.fork(18).grow(4, 500))
        async with await scene.bob.events() as events:
            raw.builder, raw.claim = other.builder, other.claim
            with trio.fail_after(5):
                while not notes(scene.path / "bob"):
                    await events.receive()
    with ChainReader(tmp_path / "bob" / "replicas" / FEED.chain_id.hex()[:16]) as copy:
        ((digest, file),) = copy.reading.evidence()
        assert "signed two blocks at height" in Evidence.decode(file).verify(FEED)
    assert notes(tmp_path / "bob") == [(sha256(file).digest(),)] == [(digest,)]


def notes(directory: Path) -> list[tuple[bytes, ...]]:
    with ChainReader(directory) as reader:
        return [record.entry.fields for record in reader.records() if record.entry.kind is Kind.EVIDENCE]


async def test_a_copy_is_never_taken_back_behind_its_authors_checkpoint(tmp_path: Path) -> None:
    async with staged(tmp_path) as scene:
        (directory,) = (tmp_path / "bob" / "replicas").iterdir()
        with trio.fail_after(60):
            while not kept(directory) or not (directory / "HEAD").exists():
                await scene.unaffected()
            shutil.copytree(directory, tmp_path / "older")
            with ChainReader(tmp_path / "older") as reader:
                size = reader.reading.log_size()
            while kept(directory) <= size:  # there is a checkpoint a second
                await scene.unaffected()
    with ChainReader(directory) as reader:
        assert verify_reader(reader, full=True).ok
    for name in ("chain.db", "chain.db-wal", "LOCK"):
        if (tmp_path / "older" / name).exists():
            shutil.copy(tmp_path / "older" / name, directory / name)
    with pytest.raises(RollbackSuspected, match="and once had"):
        open_replica(directory, None)


def kept(directory: Path) -> int:
    """The size of which the copy has its author's checkpoint."""
    with ChainReader(directory) as reader:
        note = reader.reading.checkpoint()
    return int(note.splitlines()[1]) if note else 0
