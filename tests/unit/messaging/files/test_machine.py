"""The receiver's plan: order, window, second tries, states."""

from __future__ import annotations

import itertools

import pytest

from talos.errors import LocalProtocolError, RemoteProtocolError, TransferFailed
from talos.messaging.files.chunk import TAG_BYTES
from talos.messaging.files.code import FileCode
from talos.messaging.files.frames import Chunk, Want
from talos.messaging.files.machine import Pull, TransferState, check_step
from talos.messaging.files.manifest import FileEntry

KIB, MIB = 1024, 1024 * 1024
SIZE = 256 * KIB


def entry(size: int) -> FileEntry:
    return FileEntry(path="x", size=size, mime="", root=bytes(32), sha256=bytes(32), chunk_size=SIZE)


def pull(*sizes: int, window: int = MIB, ahead: int = 8) -> Pull:
    return Pull([entry(size) for size in sizes], window_bytes=window, ahead=ahead)


def chunk(plan: Pull, file: int, index: int) -> Chunk:
    one = plan.entry(file)
    return Chunk(file, index, index == one.chunks - 1, bytes(one.chunk_bytes(index) + TAG_BYTES))


def deliver(plan: Pull, file: int, index: int) -> bool:
    plan.came(chunk(plan, file, index))
    return plan.kept(file, index)


def test_a_window_of_chunks_is_open_at_once() -> None:
    plan = pull(10 * SIZE + 1)
    assert plan.begin() == [1]
    assert not plan.ready(1, range(11))
    assert plan.wants() == [Want(1, 0, 4)]
    assert (plan.open_bytes, plan.awaits) == (MIB, True)
    assert plan.wants() == []
    assert not deliver(plan, 1, 0)
    assert plan.wants() == [Want(1, 4, 1)]
    for index in range(1, 5):
        deliver(plan, 1, index)
    assert plan.wants() == [Want(1, 5, 4)]
    for index in range(5, 9):
        deliver(plan, 1, index)
    assert plan.wants() == [Want(1, 9, 2)]
    assert [deliver(plan, 1, index) for index in (10, 9)] == [False, True]
    assert plan.finished
    assert (plan.open_bytes, plan.awaits) == (0, False)


def test_a_chunk_over_the_window_travels_alone() -> None:
    plan = pull(3 * SIZE, window=SIZE // 2)
    plan.begin()
    plan.ready(1, range(3))
    for index in range(3):
        assert plan.wants() == [Want(1, index, 1)]
        assert plan.wants() == []
        deliver(plan, 1, index)
    assert plan.finished


def test_a_chunk_that_does_not_fit_waits() -> None:
    big = FileEntry(path="x", size=512 * KIB, mime="", root=bytes(32), sha256=bytes(32), chunk_size=512 * KIB)
    plan = Pull([entry(3 * SIZE), big], window_bytes=MIB, ahead=2)
    assert plan.count == 2
    plan.begin()
    plan.ready(1, range(3))
    plan.ready(2, [0])
    assert plan.wants() == [Want(1, 0, 3)]
    assert plan.wants() == []
    deliver(plan, 1, 0)
    assert plan.wants() == [Want(2, 0, 1)]


def test_only_what_is_missing_is_asked_for_across_files() -> None:
    plan = pull(4 * SIZE, 0, 5, ahead=2)
    assert plan.begin() == [1, 2]
    assert plan.begin() == []
    assert plan.ready(2, [])
    assert plan.begin() == [3]
    assert not plan.ready(1, [0, 2, 3])
    assert not plan.ready(3, [0])
    assert plan.wants() == [Want(1, 0, 1), Want(1, 2, 2), Want(3, 0, 1)]
    for file, index in ((3, 0), (1, 3), (1, 0), (1, 2)):
        deliver(plan, file, index)
    assert plan.finished


def test_a_bad_chunk_is_asked_for_once_more() -> None:
    plan = pull(2 * SIZE)
    plan.begin()
    plan.ready(1, range(2))
    plan.wants()
    plan.came(chunk(plan, 1, 0))
    plan.bad(1, 0)
    assert plan.wants() == [Want(1, 0, 1)]
    plan.came(chunk(plan, 1, 0))
    with pytest.raises(TransferFailed) as caught:
        plan.bad(1, 0)
    assert caught.value.code == FileCode.HASH_MISMATCH


def test_what_was_not_asked_for_is_refused() -> None:
    plan = pull(2 * SIZE)
    plan.begin()
    plan.ready(1, range(2))
    with pytest.raises(RemoteProtocolError, match="unasked"):
        plan.came(chunk(plan, 1, 0))
    plan.wants()
    plan.came(chunk(plan, 1, 0))
    wrong = (
        chunk(plan, 1, 0),
        Chunk(1, 1, False, bytes(SIZE + TAG_BYTES)),
        Chunk(1, 1, True, bytes(SIZE)),
        Chunk(2, 0, True, b""),
        Chunk(1, 1 << 31, True, b""),
    )
    for one in wrong:
        with pytest.raises(RemoteProtocolError):
            plan.came(one)
    assert deliver(plan, 1, 1) is False
    assert plan.kept(1, 0) is True
    with pytest.raises(LocalProtocolError, match="not begun"):
        plan.ready(1, [])


def test_steps_of_a_transfer() -> None:
    allowed = {
        (before.value, after.value)
        for before, after in itertools.product(TransferState, TransferState)
        if _goes(before, after)
    }
    ends = {(state, end) for state in GOING for end in ("cancelled", "failed")}
    begun = ("transferring", "paused", "verifying")
    assert allowed == ends | {("offered", "accepted"), ("offered", "declined"), ("verifying", "complete")} | set(
        itertools.product(("accepted", *begun), begun)
    )


GOING = ("offered", "accepted", "transferring", "paused", "verifying")


def _goes(before: TransferState, after: TransferState) -> bool:
    try:
        check_step(before, after)
    except LocalProtocolError:
        return False
    return True
