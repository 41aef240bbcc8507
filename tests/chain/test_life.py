"""A chain's ordinary life: proofs, mining beside other work, pruning, recovery, and the log of before."""

from __future__ import annotations

import hmac
import sqlite3
import struct
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
import trio
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from talos.chain import ChainConfig, ChainReader, Retention, open_chain, open_slot, verify_reader
from talos.chain.archive import read_segment, verify_segment
from talos.chain.checkpoint import verifiers_of
from talos.chain.entry import Kind, commit, leaf_hash
from talos.chain.export import verify_export, write_export
from talos.chain.mining import mine
from talos.chain.pow import meets
from talos.chain.proving import block_proof, log_proof
from talos.chain.prune import prune_chain
from talos.chain.recover import recover_home
from talos.errors import EntryConflict, ProofInvalid, RollbackSuspected
from talos.identity.wallet import Wallet
from tests.chain.conftest import call, keys_of, peer_of

if TYPE_CHECKING:
    from pathlib import Path

    from talos.abc import AuditEntry

KEYS = keys_of(b"Alice")


async def fill(directory: Path, blocks: int, entries: int = 4) -> None:
    async with open_chain(None, ChainConfig(), KEYS, directory=directory) as chain:
        start = chain.count
        for number in range(start, start + blocks * entries, entries):
            await chain.record_many([call(one) for one in range(number, number + entries)])
            await chain.seal()


async def test_entries_are_sealed_by_time_alone(tmp_path: Path) -> None:
    async with (
        open_chain(None, ChainConfig(seal_seconds=0.02), KEYS, directory=tmp_path / "chain") as chain,
        await chain.events() as events,
    ):
        await chain.record(call(1))
        with trio.fail_after(10):
            await events.receive()
        assert chain.find((1).to_bytes(16, "big")) == [1]


async def test_proofs_hold_for_whoever_has_the_key(tmp_path: Path) -> None:
    async with open_chain(None, ChainConfig(), KEYS, directory=tmp_path / "chain") as chain:
        receipts = await chain.record_many([call(number) for number in range(9)])
        proof = await chain.prove((4).to_bytes(16, "big"))
        with pytest.raises(ProofInvalid, match="not in this chain"):
            await chain.prove(bytes(16 * [7]))
    with ChainReader(tmp_path / "chain") as stranger:
        checkpoint = proof.verify(verifiers_of(stranger.params))
        assert (checkpoint.origin, checkpoint.size) == (stranger.params.origin, 10)
        assert proof.entry is not None
        assert leaf_hash(proof.entry) == receipts[4].leaf
        again = block_proof(stranger.reading, stranger.params, proof.index)
        assert again.entry == proof.entry


@pytest.mark.parametrize("bits", [8, 17])
async def test_mining_lets_others_run(tmp_path: Path, bits: int) -> None:
    """In slices on the loop, or in a process of its own."""
    async with open_chain(None, ChainConfig(), KEYS, directory=tmp_path / "chain") as chain:
        stored = chain.header(0)
        assert stored is not None
        header = replace(stored.header, pow_bits=bits, nonce=0)
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            nonce = await mine(header)
            nursery.cancel_scope.cancel()
        assert meets(replace(header, nonce=nonce).block_id, bits)
        assert turns >= nonce // 4096 or bits > 16


async def test_pruning_archives_first(tmp_path: Path) -> None:
    directory = tmp_path / "chain"
    await fill(directory, 8, 100)
    async with open_chain(None, ChainConfig(), KEYS, directory=directory) as chain:
        retention = Retention(age_seconds=0, keep_blocks=2)
        dry = await prune_chain(chain, retention, dry_run=True)
        assert (dry.first_height, dry.archive) == (0, None)
        report = await prune_chain(chain, retention)
        assert report.archive is not None
        assert report.last_height == dry.last_height
        with pytest.raises(EntryConflict, match="pruned"):
            await chain.record(call(5))
    with ChainReader(directory, KEYS) as reader:
        assert verify_reader(reader, full=True).ok
        last = report.last_height
        assert last is not None
        with pytest.raises(ProofInvalid, match="pruned"):
            log_proof(reader.reading, reader.params, 5, key=reader.key)
        newest = reader.reading.log_size() - 2
        log_proof(reader.reading, reader.params, newest, key=reader.key).verify(verifiers_of(reader.params))
        kinds = [record.entry.kind for record in reader.records()]
        assert Kind.PRUNE_NOTICE in kinds
    segments = list((directory / "archive").iterdir())
    assert [verify_segment(path).last_height for path in segments] == [last]
    assert sum(len(block.items) for _, block in read_segment(segments[0])) == verify_segment(segments[0]).entries


async def test_a_damaged_archive_is_found(tmp_path: Path) -> None:
    await fill(tmp_path / "chain", 4, 30)
    async with open_chain(None, ChainConfig(), KEYS, directory=tmp_path / "chain") as chain:
        await prune_chain(chain, Retention(age_seconds=0, keep_blocks=1))
    path = next((tmp_path / "chain" / "archive").iterdir())
    data = path.read_bytes()
    for place in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:place] + bytes((data[place] ^ 4,)) + data[place + 1 :])
        with pytest.raises(ProofInvalid):
            verify_segment(path)
    for place in (0, 40, len(data) - 1):
        path.write_bytes(data[:place])
        with pytest.raises(ProofInvalid):
            verify_segment(path)


async def test_an_export_is_checked_by_itself(tmp_path: Path) -> None:
    await fill(tmp_path / "chain", 4, 100)
    with ChainReader(tmp_path / "chain", KEYS) as reader:
        write_export(reader, tmp_path / "export")
        with pytest.raises(FileExistsError):
            write_export(reader, tmp_path / "export")
    assert verify_export(tmp_path / "export").ok
    for name in ("headers.bin", "checkpoint", "tile/entries/000", "tile/entries/001.p/145", "manifest.json"):
        path = tmp_path / "export" / name
        data = path.read_bytes()
        path.write_bytes(data[:-40] + bytes((data[-40] ^ 1,)) + data[-39:])
        assert not verify_export(tmp_path / "export").ok, name
        path.write_bytes(data)


async def test_recovery_from_an_export(tmp_path: Path) -> None:
    """What is whole of the database, then what the export has; the old files stay."""
    directory = tmp_path / "chain"
    await fill(directory, 6, 10)
    with ChainReader(directory, KEYS) as reader:
        write_export(reader, tmp_path / "export")
    with closing(sqlite3.connect(directory / "chain.db", isolation_level=None)) as db:
        db.execute("UPDATE body SET items=x'00' WHERE height=3")
    wallet = Wallet.new("Alice", now_ms=1)
    lost = recover_home(directory, wallet, None, new_chain=False)
    assert (lost.reached, lost.height, lost.missing) == (False, 2, [21, 60])
    with pytest.raises(RollbackSuspected):
        await fill(directory, 1)
    found = recover_home(directory, wallet, tmp_path / "export", new_chain=False)
    assert (found.reached, found.log_size) == (True, 61)
    await fill(directory, 1)
    with ChainReader(directory, KEYS) as reader:
        assert verify_reader(reader, full=True).ok
    assert len(list(directory.glob("damaged-*/chain.db"))) == 2


async def test_slots_are_taken_in_turn(tmp_path: Path) -> None:
    async with (
        open_slot(tmp_path, "calc", config=ChainConfig(), keys=KEYS) as first,
        open_slot(tmp_path, "calc", config=ChainConfig(), keys=KEYS) as second,
    ):
        assert (first.directory.name, second.directory.name) == ("calc-1", "calc-2")
        assert first.chain_id != second.chain_id


def old_log(directory: Path, facts: list[AuditEntry]) -> None:
    """A file log as the version before wrote it."""
    header = struct.pack(">8sHQ16s", b"TALOSLOG", 1, 1, b"\x05" * 16)
    secret = KEYS.k_priv(b"\x05" * 16)
    links = hmac.digest(secret, b"talos/log-link/v1\n", "sha256")
    box = ChaCha20Poly1305(hmac.digest(secret, b"talos/log-box/v1\n", "sha256"))
    link = hmac.digest(links, header, "sha256")
    data = header + link
    for index, entry in enumerate(facts, 1):
        made = commit(entry, secret)
        nonce = sha256(b"talos/log-nonce/v1\n" + made.leaf + b"\x00").digest()[:12]
        sealed = box.encrypt(nonce, len(made.meta).to_bytes(4, "big") + made.meta, made.entry)
        body = b"\x00" + len(made.entry).to_bytes(2, "big") + made.entry + sealed
        link = hmac.digest(links, link + index.to_bytes(8, "big") + body, "sha256")
        data += len(body).to_bytes(4, "big") + body + link
    plain = struct.pack(">8sQQQQ32s", b"TALOSTIP", len(facts), len(data), 0, 0, link)
    directory.mkdir(parents=True)
    (directory / "log").write_bytes(data)
    (directory / "head").write_bytes(plain + hmac.digest(links, plain, "sha256"))


async def test_the_log_of_before_is_taken_over(tmp_path: Path) -> None:
    """Once, whole, and put away; a damaged one stops the opening."""
    other = peer_of(keys_of(b"Bob")).to_bytes()
    facts = [call(number, counterparty=other) for number in range(300)]
    old_log(tmp_path / "audit", facts)
    for _round in range(2):
        async with open_chain(None, ChainConfig(), KEYS, directory=tmp_path / "chain", old_log=tmp_path / "audit"):
            pass
    with ChainReader(tmp_path / "chain", KEYS) as reader:
        records = [record for record in reader.records() if record.meta is not None]
    assert [(r.entry.time_ms, r.meta.sender, r.meta.detail) for r in records if r.meta is not None] == [
        (fact.time_ms, other, fact.detail) for fact in facts
    ]
    assert sorted(path.name for path in (tmp_path / "audit").iterdir()) == ["head.taken", "log.taken"]
    old_log(tmp_path / "bad", facts)
    data = (tmp_path / "bad" / "log").read_bytes()
    (tmp_path / "bad" / "log").write_bytes(data[:-1])
    with pytest.raises(ProofInvalid, match="is damaged"):
        async with open_chain(None, ChainConfig(), KEYS, directory=tmp_path / "other", old_log=tmp_path / "bad"):
            pass
