"""The log in a file: durable, grouped, bounded, and refusing as soon as it cannot tell what is on the disk."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from talos.abc import AuditEntry, AuditLog, Direction, EntryKind, SignedReceipt
from talos.chain import log_disk
from talos.chain.entry import Committed, Kind, commit
from talos.chain.file_log import FileLog, FileLogConfig, LogKeys, open_file_log, open_slot
from talos.chain.log_disk import LogInUse, LogStopped
from talos.chain.reader import logs_of, read_log, verify_log
from talos.errors import AuditError, ConfigError, LocalProtocolError, ProofInvalid
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from pathlib import Path

MakeEntry = Callable[..., AuditEntry]


class SlowDisk:
    """Counts commits, and holds each in its thread until told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[int] = []
        self.entered = trio.Event()
        self.go_on = trio.Event()
        self.error: OSError | None = None
        monkeypatch.setattr(log_disk, "_sync", self._sync)

    def _sync(self, descriptor: int) -> None:
        trio.from_thread.run_sync(self.entered.set)
        trio.from_thread.run(self.go_on.wait)
        if self.error is not None:
            raise self.error


async def test_what_was_recorded_is_read_back(tmp_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    async with open_file_log(tmp_path / "audit", keys=keys) as log:
        seam: AuditLog = log
        receipt = await seam.record(make_entry(1, b"first"))
        await seam.record_many([make_entry(2, b"second"), make_entry(3, b"third", sealed=b"the line")])
        assert (receipt.duplicate, receipt.promise, log.count, log.torn) == (False, None, 3, 0)
    records = list(read_log(tmp_path / "audit", keys.k_priv))
    assert [record.index for record in records] == [1, 2, 3]
    assert [record.meta.detail for record in records if record.meta] == [b"first", b"second", b"third"]
    assert [record.blob for record in records] == [b"", b"", b"the line"]
    assert records[0].leaf == receipt.leaf
    assert records[0].entry.kind is Kind.MCP_CALL


async def test_it_is_readable_beside_its_writer(tmp_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    async with open_file_log(tmp_path / "audit", keys=keys) as log:
        for number in range(1, 4):
            await log.record(make_entry(number))
            assert verify_log(tmp_path / "audit", keys.k_priv).records == number


async def test_files_are_their_owners_alone(tmp_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    previous = os.umask(0)
    try:
        async with open_file_log(tmp_path / "audit", keys=keys) as log:
            await log.record(make_entry(1))
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "audit").iterdir()}
    assert modes == {"log": 0o600, "head": 0o600, "lock": 0o600}


async def test_wider_modes_are_narrowed(tmp_path: Path, keys: LogKeys) -> None:
    async with open_file_log(tmp_path, keys=keys):
        pass
    (tmp_path / "log").chmod(0o644)
    async with open_file_log(tmp_path, keys=keys):
        assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


async def test_nothing_readable_is_in_the_files(tmp_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    async with open_file_log(tmp_path, keys=keys) as log:
        await log.record(make_entry(1, b"tool_name_in_detail", sealed=b"content of the line"))
    data = (tmp_path / "log").read_bytes() + (tmp_path / "head").read_bytes()
    for secret in (b"tool_name_in_detail", b"content of the line", b"the other peer"):
        assert secret not in data


async def test_one_writer_at_a_time(tmp_path: Path, keys: LogKeys) -> None:
    async with open_file_log(tmp_path, keys=keys):
        with pytest.raises(LogInUse, match="in use by another process"):
            async with open_file_log(tmp_path, keys=keys):
                pass
    async with open_file_log(tmp_path, keys=keys):
        pass


async def test_a_second_opening_goes_on_where_the_first_ended(
    tmp_path: Path, keys: LogKeys, make_entry: MakeEntry
) -> None:
    for number in range(1, 6):
        async with open_file_log(tmp_path, keys=keys) as log:
            assert log.count == number - 1
            await log.record(make_entry(number))
    assert verify_log(tmp_path, keys.k_priv).records == 5


async def test_the_same_again_is_a_duplicate(tmp_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    async with open_file_log(tmp_path, keys=keys) as log:
        first = await log.record(make_entry(1))
        again = await log.record(make_entry(1))
        twice = await log.record_many([make_entry(2), make_entry(2)])
        assert (first.duplicate, again.duplicate, again.leaf == first.leaf) == (False, True, True)
        assert [receipt.duplicate for receipt in twice] == [False, True]
        assert log.count == 2
    async with open_file_log(tmp_path, keys=keys) as log:
        assert (await log.record(make_entry(1))).duplicate
        assert log.count == 2


async def test_other_content_under_a_known_id_is_refused(tmp_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    async with open_file_log(tmp_path, keys=keys) as log:
        await log.record(make_entry(1, b"one"))
        with pytest.raises(AuditError, match="with other content"):
            await log.record_many([make_entry(2), make_entry(1, b"another")])
        with pytest.raises(AuditError, match="with other content"):
            await log.record_many([make_entry(3, b"one"), make_entry(3, b"another")])
        with pytest.raises(AuditError, match="with other content"):
            await log.record(replace(make_entry(1, b"one"), time_ms=1))
        assert log.count == 1, "all of record_many or none"


async def test_only_the_newest_entries_are_remembered(tmp_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    async with open_file_log(tmp_path, keys=keys, config=FileLogConfig(remembered=2)) as log:
        await log.record_many([make_entry(number) for number in range(4)])
        assert (await log.record(make_entry(3))).duplicate
        assert not (await log.record(make_entry(0))).duplicate


async def test_what_waits_together_is_synced_together(
    tmp_path: Path, keys: LogKeys, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    append = log_disk.LogDisk.append

    def counted(self: log_disk.LogDisk, bodies: list[bytes]) -> None:
        sizes.append(len(bodies))
        append(self, bodies)

    monkeypatch.setattr(log_disk.LogDisk, "append", counted)
    async with open_file_log(tmp_path, keys=keys) as log:
        disk = SlowDisk(monkeypatch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.record, make_entry(0))
            await disk.entered.wait()
            for number in range(1, 101):
                nursery.start_soon(log.record, make_entry(number))
            nursery.start_soon(log.record, make_entry(0))  # again, while the first is on its way
            nursery.start_soon(log.record, make_entry(50))
            await trio.testing.wait_all_tasks_blocked()
            assert (log.queued, log.count) == (101, 0)
            disk.go_on.set()
        assert (log.queued, log.count) == (0, 101)
    assert sizes == [1, 100]


@pytest.mark.parametrize("config", [FileLogConfig(queue_entries=3), FileLogConfig(queue_bytes=700)])
async def test_a_full_queue_makes_recorders_wait(
    config: FileLogConfig, tmp_path: Path, keys: LogKeys, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_file_log(tmp_path, keys=keys, config=config) as log:
        disk = SlowDisk(monkeypatch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.record, make_entry(0))
            await disk.entered.wait()
            for number in range(1, 30):
                nursery.start_soon(log.record, make_entry(number))
            await trio.testing.wait_all_tasks_blocked()
            assert log.queued == 4, "one on its way, three that wait"
            disk.go_on.set()
        assert log.count == 30


async def test_a_lone_entry_needs_no_thread_while_the_disk_is_fast(
    tmp_path: Path, keys: LogKeys, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_disk, "_sync", lambda descriptor: None)
    async with open_file_log(tmp_path, keys=keys) as log:
        log._seconds.extend([0.0001] * 64)
        monkeypatch.setattr(trio.to_thread, "run_sync", None)
        await log.record(make_entry(1))
        assert log.count == 1
        log._seconds.extend([0.002] * 4)
        assert not log._disk_is_fast()
        log._seconds.extend([0.0001] * 63)
        assert log._disk_is_fast()


@pytest.mark.parametrize("fast", [False, True])
async def test_a_full_disk_fails_what_waited_and_nothing_later(
    fast: bool, tmp_path: Path, keys: LogKeys, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_file_log(tmp_path, keys=keys) as log:
        await log.record(make_entry(1))
        if fast:
            log._seconds.extend([0.0001] * 64)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", disk_that_takes(150))
            with pytest.raises(AuditError, match="No space left on device") as caught:
                await log.record_many([make_entry(2), make_entry(3)])
            assert not isinstance(caught.value, LogStopped)
        await log.record(make_entry(4))
        await log.record(make_entry(2))
    assert [record.entry.msg_id for record in read_log(tmp_path, keys.k_priv)] == [
        number.to_bytes(16, "big") for number in (1, 4, 2)
    ]


def disk_that_takes(room: int) -> Callable[[int, memoryview], int]:
    """A write that stops in the middle of a record, as a full disk does."""
    real, left = os.write, [room]

    def write(descriptor: int, data: memoryview) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = real(descriptor, data[: left[0]])
        left[0] -= taken
        return taken

    return write


async def test_a_failed_sync_is_final(
    tmp_path: Path, keys: LogKeys, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_file_log(tmp_path, keys=keys, config=FileLogConfig(queue_entries=1)) as log:
        with monkeypatch.context() as patch:
            disk = SlowDisk(patch)
            disk.error = OSError(errno.EIO, os.strerror(errno.EIO))
            failed: list[str] = []

            async def attempt(number: int) -> None:
                try:
                    await log.record(make_entry(number))
                except LogStopped as error:
                    failed.append(str(error))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(attempt, 0)
                await disk.entered.wait()
                for number in range(1, 4):  # one in the queue, two before it
                    nursery.start_soon(attempt, number)
                await trio.testing.wait_all_tasks_blocked()
                disk.go_on.set()
            assert len(failed) == 4
        with pytest.raises(LogStopped, match="Input/output error"):
            await log.record(make_entry(9))  # the disk would take it again; nobody knows what it holds


@pytest.mark.parametrize("call", ["ftruncate", "pwrite"])
async def test_a_log_that_cannot_be_put_right_stops(
    call: str, tmp_path: Path, keys: LogKeys, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with open_file_log(tmp_path, keys=keys) as log:
        monkeypatch.setattr(os, call, fail)
        if call == "ftruncate":
            monkeypatch.setattr(os, "write", disk_that_takes(10))
        with pytest.raises(LogStopped):
            await log.record(make_entry(1))
        monkeypatch.undo()
        with pytest.raises(LogStopped):
            await log.record(make_entry(2))


async def test_a_log_at_its_size_refuses(tmp_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    async with open_file_log(tmp_path, keys=keys, config=FileLogConfig(max_bytes=750)) as log:
        await log.record(make_entry(1))
        await log.record(make_entry(2))
        with pytest.raises(AuditError, match="is full: 750 bytes"):
            await log.record(make_entry(3))
        assert log.count == 2
    assert verify_log(tmp_path, keys.k_priv).records == 2


async def test_what_a_cancelled_caller_had_handed_over_is_kept(
    tmp_path: Path, keys: LogKeys, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_file_log(tmp_path, keys=keys) as log:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(log.record, make_entry(1))
                await trio.testing.wait_all_tasks_blocked()  # in its thread, or done
                nursery.start_soon(log.record, make_entry(2))
                scope.cancel()
    assert verify_log(tmp_path, keys.k_priv).records in {1, 2}


async def test_leaving_writes_what_waits(tmp_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    opening = open_file_log(tmp_path, keys=keys)
    log = await opening.__aenter__()
    with trio.move_on_after(0):
        await log.record(make_entry(1))
    new, _, _ = log._sort([log_entry(log, make_entry(2))], [log._disk.secrets.seal(log_entry(log, make_entry(2)), b"")])
    group = log._enqueue(new)
    await opening.__aexit__(None, None, None)
    assert group.done.is_set()
    assert verify_log(tmp_path, keys.k_priv).records == 1
    with pytest.raises(AuditError, match="is closed"):
        await log.record(make_entry(3))


def log_entry(log: FileLog, facts: AuditEntry) -> Committed:
    return commit(facts, log._disk.secrets.k_priv)


async def test_nothing_to_record_is_nothing(tmp_path: Path, keys: LogKeys) -> None:
    async with open_file_log(tmp_path, keys=keys) as log:
        assert await log.record_many([]) == []


async def test_facts_that_make_no_entry_are_the_callers_fault(
    tmp_path: Path, keys: LogKeys, make_entry: MakeEntry
) -> None:
    async with open_file_log(tmp_path, keys=keys) as log:
        with pytest.raises(LocalProtocolError):
            await log.record_many([make_entry(1), replace(make_entry(2), msg_id=b"short")])
        with pytest.raises(LocalProtocolError, match="100000"):
            await log.record(make_entry(1, sealed=bytes(100_001)))
        assert log.count == 0


async def test_a_received_message_is_promised(tmp_path: Path, keys: LogKeys) -> None:
    me, peer = PeerId.from_key(keys.identity.public_key), PeerId.from_key(PrivateKey.generate().public_key)
    received = AuditEntry(
        kind=EntryKind.RECEIVED,
        msg_id=b"\x01" * 16,
        direction=Direction.IN,
        counterparty=peer.to_bytes(),
        time_ms=5,
        sender=peer.to_bytes(),
        recipient=me.to_bytes(),
        sealed_hash=b"\x09" * 32,
    )
    async with open_file_log(tmp_path, keys=keys) as log:
        promise = (await log.record(received)).promise
        assert promise is not None
        log.check_receipt(promise, msg_id=b"\x01" * 16, sealed_hash=b"\x09" * 32, sender=peer, receiver=me)
        with pytest.raises(ProofInvalid):
            log.check_receipt(promise, msg_id=b"\x02" * 16, sealed_hash=b"\x09" * 32, sender=peer, receiver=me)


async def test_a_receipt_is_kept_with_its_entry(tmp_path: Path, keys: LogKeys) -> None:
    got = AuditEntry(
        kind=EntryKind.RECEIPT_GOT,
        msg_id=b"\x01" * 16,
        direction=Direction.OUT,
        counterparty=b"peer",
        time_ms=5,
        receipt=SignedReceipt(b"body", b"s" * 64),
    )
    async with open_file_log(tmp_path, keys=keys) as log:
        await log.record(got)
    (record,) = read_log(tmp_path, keys.k_priv)
    assert (record.meta, record.blob) == (None, b"body" + b"s" * 64)


async def test_slots_are_taken_from_the_lowest(tmp_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    base = tmp_path / "connect"
    async with open_slot(base, "", keys=keys) as first, open_slot(base, "", keys=keys) as second:
        assert [first.directory.name, second.directory.name] == ["default-1", "default-2"]
        async with open_slot(base, "files", keys=keys) as other:
            assert other.directory.name == "files-1"
            await other.record(make_entry(1))
        with pytest.raises(LogInUse, match="all 2 logs"):
            async with open_slot(base, "", keys=keys, config=FileLogConfig(slots=2)):
                pass
    async with open_slot(base, "", keys=keys) as again:
        assert again.directory.name == "default-1"
    assert [path.name for path in logs_of(tmp_path / "audit", base)] == ["default-1", "default-2", "files-1"]
    async with open_file_log(tmp_path / "audit", keys=keys):
        assert next(path.name for path in logs_of(tmp_path / "audit", base)) == "audit"
    assert logs_of(tmp_path / "nowhere", tmp_path / "nothing") == []


async def test_no_two_logs_share_a_secret(tmp_path: Path, keys: LogKeys, make_entry: MakeEntry) -> None:
    leaves = []
    for name in ("a", "b"):
        async with open_file_log(tmp_path / name, keys=keys) as log:
            leaves.append((await log.record(make_entry(1))).leaf)
    assert leaves[0] != leaves[1]


async def test_a_directory_that_cannot_be_made_is_an_audit_error(tmp_path: Path, keys: LogKeys) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="cannot open the log"):
        async with open_file_log(tmp_path / "file" / "audit", keys=keys):
            pass


async def test_a_lock_that_fails_for_another_reason_says_so(
    tmp_path: Path, keys: LogKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(AuditError, match="No locks available"):
        async with open_file_log(tmp_path, keys=keys):
            pass


def test_limits_are_checked() -> None:
    for name in ("queue_entries", "queue_bytes", "remembered", "max_bytes", "slots"):
        with pytest.raises(ConfigError, match=name):
            FileLogConfig(**{name: 0})
