"""What a crash leaves is repaired and said; what a hand changed is found and named."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import trio

from talos.abc import AuditEntry
from talos.chain import log_disk
from talos.chain.file_log import LogKeys, open_file_log
from talos.chain.reader import LogReader, read_log, verify_log
from talos.chain.record import HEADER_BYTES, LINK_BYTES
from talos.errors import AuditError, ProofInvalid

if TYPE_CHECKING:
    from pathlib import Path

MakeEntry = Callable[..., AuditEntry]
RECORDS = 4


@pytest.fixture
def log_path(tmp_path: Path, keys: LogKeys, make_entry: MakeEntry) -> Path:
    """A log of four records in order."""

    async def write() -> None:
        async with open_file_log(tmp_path / "audit", keys=keys) as log:
            for number in range(1, RECORDS + 1):
                await log.record(make_entry(number, bytes((96 + number,)) * number))

    trio.run(write)
    return tmp_path / "audit"


def records_of(data: bytes) -> list[bytes]:
    """The records of a log's bytes, as they lie."""
    records, position = [], HEADER_BYTES
    while position < len(data):
        end = position + 4 + int.from_bytes(data[position : position + 4], "big") + LINK_BYTES
        records.append(data[position:end])
        position = end
    return records


def rewrite(directory: Path, records: list[bytes]) -> None:
    path = directory / "log"
    path.write_bytes(path.read_bytes()[:HEADER_BYTES] + b"".join(records))


def test_any_flipped_byte_is_found_and_its_record_named(log_path: Path, keys: LogKeys) -> None:
    whole = (log_path / "log").read_bytes()
    records = records_of(whole)
    ends, position = [], HEADER_BYTES
    for record in records:
        position += len(record)
        ends.append(position)
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0x01
        (log_path / "log").write_bytes(changed)
        expected = "header|version" if position < HEADER_BYTES else "record"
        with pytest.raises(ProofInvalid, match=expected) as caught:
            verify_log(log_path, keys.k_priv)
        if position >= HEADER_BYTES:
            number = next(index for index, end in enumerate(ends, 1) if position < end)
            assert f"record {number} " in str(caught.value), position


@pytest.mark.parametrize("index", range(RECORDS))
def test_a_removed_record_is_found(index: int, log_path: Path, keys: LogKeys) -> None:
    records = records_of((log_path / "log").read_bytes())
    rewrite(log_path, records[:index] + records[index + 1 :])
    with pytest.raises(ProofInvalid, match=f"record {index + 1} "):
        verify_log(log_path, keys.k_priv)


@pytest.mark.parametrize("index", range(RECORDS - 1))
def test_two_records_in_the_other_order_are_found(index: int, log_path: Path, keys: LogKeys) -> None:
    records = records_of((log_path / "log").read_bytes())
    records[index], records[index + 1] = records[index + 1], records[index]
    rewrite(log_path, records)
    with pytest.raises(ProofInvalid, match=f"record {index + 1} "):
        verify_log(log_path, keys.k_priv)


def test_a_record_added_again_is_found(log_path: Path, keys: LogKeys) -> None:
    records = records_of((log_path / "log").read_bytes())
    rewrite(log_path, [records[0], *records])
    with pytest.raises(ProofInvalid, match="record 2 "):
        verify_log(log_path, keys.k_priv)


def test_a_log_that_was_cut_is_found_wherever_it_was_cut(log_path: Path, keys: LogKeys) -> None:
    whole = (log_path / "log").read_bytes()
    for length in range(HEADER_BYTES, len(whole)):
        (log_path / "log").write_bytes(whole[:length])
        with pytest.raises(ProofInvalid, match=r"record \d \(byte .*the head counts 4 records"):
            verify_log(log_path, keys.k_priv)


async def test_the_writer_refuses_a_log_that_was_cut_or_changed(log_path: Path, keys: LogKeys) -> None:
    whole = (log_path / "log").read_bytes()
    records = records_of(whole)
    changed = bytearray(whole)
    changed[-LINK_BYTES - 1] ^= 1
    swapped = whole[:HEADER_BYTES] + b"".join([records[0], records[2], records[1], records[3]])
    for data in (whole[:-1], whole[: -len(records[-1])], bytes(changed), swapped, b"x" + whole[1:], whole[:10]):
        (log_path / "log").write_bytes(data)
        with pytest.raises(AuditError, match="is damaged"):
            async with open_file_log(log_path, keys=keys):
                pass
    (log_path / "log").write_bytes(whole)
    async with open_file_log(log_path, keys=keys) as log:
        assert log.count == RECORDS


@pytest.mark.parametrize("change", ["missing", "flipped", "short", "long"])
async def test_a_head_that_was_touched_is_found(change: str, log_path: Path, keys: LogKeys) -> None:
    head = log_path / "head"
    data = head.read_bytes()
    if change == "missing":
        head.unlink()
    else:
        head.write_bytes(
            {"flipped": data[:-1] + bytes((data[-1] ^ 1,)), "short": data[:-1], "long": data + b"x"}[change]
        )
    with pytest.raises(ProofInvalid, match="head"):
        verify_log(log_path, keys.k_priv)
    with pytest.raises(AuditError, match="head"):
        async with open_file_log(log_path, keys=keys):
            pass


async def test_a_log_that_was_taken_away_is_not_begun_again(log_path: Path, keys: LogKeys) -> None:
    (log_path / "log").unlink()
    with pytest.raises(AuditError, match="head without its log"):
        async with open_file_log(log_path, keys=keys):
            pass
    with pytest.raises(AuditError, match="cannot read"):
        verify_log(log_path, keys.k_priv)


async def test_the_head_of_another_log_is_refused(
    log_path: Path, tmp_path: Path, keys: LogKeys, make_entry: MakeEntry
) -> None:
    async with open_file_log(tmp_path / "other", keys=keys) as log:
        await log.record(make_entry(1))
    shutil.copy(tmp_path / "other" / "head", log_path / "head")
    with pytest.raises(ProofInvalid, match="head was changed"):
        verify_log(log_path, keys.k_priv)


def test_another_wallet_reads_nothing(log_path: Path) -> None:
    with pytest.raises(ProofInvalid, match="another wallet"):
        list(read_log(log_path, lambda random: bytes(32)))


async def test_a_torn_tail_is_cut_back_and_said(log_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    """A commit that a crash interrupted was acknowledged to nobody."""
    head, whole = (log_path / "head").read_bytes(), (log_path / "log").read_bytes()
    async with open_file_log(log_path, keys=keys) as log:
        await log.record(make_entry(9))
    longer = (log_path / "log").read_bytes()
    for length in range(len(whole) + 1, len(longer)):
        (log_path / "head").write_bytes(head)
        (log_path / "log").write_bytes(longer[:length])
        summary = verify_log(log_path, keys.k_priv)
        assert (summary.records, summary.torn) == (RECORDS, length - len(whole))
        async with open_file_log(log_path, keys=keys) as log:
            assert (log.count, log.torn) == (RECORDS, length - len(whole))
        assert (log_path / "log").read_bytes() == whole
        assert verify_log(log_path, keys.k_priv).torn == 0


async def test_whole_records_behind_the_head_are_kept(log_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    """After a power cut the head may be older than what was synced."""
    head = (log_path / "head").read_bytes()
    async with open_file_log(log_path, keys=keys) as log:
        await log.record_many([make_entry(9), make_entry(10)])
    (log_path / "head").write_bytes(head)
    assert verify_log(log_path, keys.k_priv).records == RECORDS + 2
    async with open_file_log(log_path, keys=keys) as log:
        assert (log.count, log.torn) == (RECORDS + 2, 0)
        assert (await log.record(make_entry(10))).duplicate


async def test_a_maker_that_died_before_the_head_leaves_an_empty_log(tmp_path: Path, keys: LogKeys) -> None:
    async with open_file_log(tmp_path, keys=keys):
        pass
    (tmp_path / "head").unlink()
    (tmp_path / ".log").write_bytes(b"half a header")
    async with open_file_log(tmp_path, keys=keys) as log:
        assert log.count == 0


async def test_opening_reads_a_bounded_part(
    tmp_path: Path, keys: LogKeys, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_disk, "MARK_BYTES", 2000)
    monkeypatch.setattr(log_disk, "_sync", lambda descriptor: None)
    async with open_file_log(tmp_path, keys=keys) as log:
        for number in range(200):
            await log.record(make_entry(number))
    async with open_file_log(tmp_path, keys=keys) as log:
        assert log.count == 200
        assert 5 <= len(log._disk.recent) <= 20
        assert (await log.record(make_entry(199))).duplicate
    assert verify_log(tmp_path, keys.k_priv).records == 200


async def test_a_reader_goes_on_with_what_came_since(tmp_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    async with open_file_log(tmp_path, keys=keys) as log:
        with LogReader(tmp_path, keys.k_priv) as reader:
            assert list(reader) == []
            await log.record(make_entry(1))
            assert [record.index for record in reader] == [1]
            await log.record_many([make_entry(2), make_entry(3)])
            assert [record.index for record in reader] == [2, 3]


async def test_a_link_to_elsewhere_is_not_followed(tmp_path: Path, keys: LogKeys) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    for name in ("lock", "log"):
        directory = tmp_path / f"with-{name}"
        directory.mkdir()
        (directory / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(AuditError):
            async with open_file_log(directory, keys=keys):
                pass
    assert (tmp_path / "elsewhere").read_text() == "precious"


WRITER = """
import sys, trio
from pathlib import Path
from hashlib import sha256
from talos.abc import AuditEntry, Direction, EntryKind
from talos.chain import LogKeys, open_file_log
from talos.identity.keys import PrivateKey

async def main():
    keys = LogKeys(lambda random: sha256(b"a wallet" + random).digest(), PrivateKey.from_seed(bytes(32)))
    async with open_file_log(Path(sys.argv[1]), keys=keys) as log:
        number = log.count
        while True:
            number += 1
            await log.record(AuditEntry(kind=EntryKind.MCP_CALL, msg_id=number.to_bytes(16, "big"),
                direction=Direction.IN, counterparty=b"peer", time_ms=1, session_commit=bytes(32), sealed_hash=bytes(32)))
            print(log.count, flush=True)

trio.run(main)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, keys: LogKeys) -> None:
    acknowledged = 0
    for lines in (1, 7, 40):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        with writer.stdout as output:
            for _ in range(lines):
                acknowledged = int(output.readline())
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
            rest = output.read().split("\n")
            acknowledged = max([acknowledged, *(int(line) for line in rest[:-1])])
        summary = verify_log(tmp_path, keys.k_priv)
        assert acknowledged <= summary.records <= acknowledged + 1
