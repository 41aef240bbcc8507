"""Own entries and blocks: admission, the mempool's limits, sealing, time, and what is shown when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from talos.chain.block import Item, Prepared
from talos.chain.entry import leaf_hash, sealed_hash
from talos.chain.genesis import Mode
from talos.chain.machine import (
    Alarm,
    AlarmKind,
    Announce,
    ChainMachine,
    MachineConfig,
    Mine,
    Now,
    Persist,
)
from talos.chain.mempool import Mempool
from talos.chain.pow import solve
from talos.errors import ChainFrozen, EntryConflict, LocalProtocolError, MempoolFull, ProofInvalid
from tests.unit.chain.memory_chain import CREATED_MS, KEYS, MemoryChain, genesis, make_entry, make_params

if TYPE_CHECKING:
    from talos.chain.block import Checked
    from talos.chain.effects import Effect

PARAMS = make_params()


def at(seconds: float, unix_ms: int = CREATED_MS + 5000) -> Now:
    return Now(seconds, unix_ms)


class Alone:
    """A machine without peers, whose effects a test looks at one by one."""

    def __init__(self, key: int | None = 0, params: Any = PARAMS, pending: Any = (), **changes: Any) -> None:
        self.chain = MemoryChain(genesis(params))
        config = MachineConfig(**changes)
        self.machine = ChainMachine(params, self.chain, config, None if key is None else KEYS[key], pending=pending)

    def admit(self, number: int, seconds: float = 0.0, **changes: Any) -> bool:
        return self.machine.admit(make_entry(number, **changes), b"", at(seconds)).duplicate

    def mine(self, effects: list[Effect], now: Now) -> Checked:
        """From Mine to Persist."""
        mine = effects[0]
        assert isinstance(mine, Mine)
        (persist,) = self.machine.mined(mine.ticket, solve(mine.draft.header.encode()), now)
        assert isinstance(persist, Persist)
        assert persist.own
        return persist.blocks[0]

    def seal(self, now: Now, *, force: bool = True) -> Checked:
        block = self.mine(self.machine.seal(now, force=force), now)
        self.chain.append([block])
        (announce,) = self.machine.persisted(now)
        assert isinstance(announce, Announce)
        assert announce.tip.block_id == block.block_id == self.machine.tip.block_id
        return block


def test_an_entry_waits_and_is_sealed_after_a_second() -> None:
    node = Alone()
    admitted = node.machine.admit(make_entry(1), b"", at(10))
    assert (admitted.leaf, admitted.duplicate) == (leaf_hash(make_entry(1)), False)
    assert node.machine.waiting == 1
    assert node.machine.next_deadline() == 11
    assert node.machine.seal(at(10.9)) == []
    effects = node.machine.deadline_passed(at(11))
    block = node.mine(effects, at(11))
    assert block.items == (Item(make_entry(1)),)
    assert node.machine.waiting == 1, "not durable yet"
    node.chain.append([block])
    node.machine.persisted(at(11))
    assert node.machine.waiting == 0
    assert node.machine.next_deadline() is None
    assert node.machine.status(at(11)).log_size == 2


def test_many_entries_or_bytes_are_sealed_at_once() -> None:
    node = Alone(seal_items=3)
    for number in range(2):
        node.admit(number)
    assert node.machine.seal(at(0)) == []
    node.admit(2)
    assert node.machine.seal(at(0)) != []
    node = Alone(seal_bytes=300)
    node.admit(1)
    assert node.machine.seal(at(0)) == []
    node.admit(2)
    assert node.machine.seal(at(0)) != []


def test_a_block_takes_what_it_may_hold_and_the_rest_waits() -> None:
    node = Alone(params=make_params(max_items=3))
    for number in range(5):
        node.admit(number)
    assert len(node.seal(at(0)).items) == 3
    assert node.machine.waiting == 2
    assert len(node.seal(at(0)).items) == 2
    sealed = make_entry(9, sealed_hash=sealed_hash(bytes(900)))
    node = Alone(params=make_params(max_block=2000))
    node.machine.admit(sealed, bytes(900), at(0))
    node.admit(1)
    node.admit(2)
    node.admit(3)
    node.admit(4)
    node.admit(5)
    assert [len(node.seal(at(0)).items) for _ in range(2)] == [5, 1]


def test_one_draft_at_a_time_and_none_while_writing() -> None:
    node = Alone()
    node.admit(1)
    effects = node.machine.seal(at(1))
    assert node.machine.seal(at(2), force=True) == []
    block = node.mine(effects, at(2))
    node.admit(2, 2)
    assert node.machine.seal(at(9), force=True) == []
    assert node.machine.next_deadline() is None
    node.chain.append([block])
    node.machine.persisted(at(9))
    assert node.machine.next_deadline() == 3


def test_a_stale_nonce_is_passed_over() -> None:
    node = Alone()
    node.admit(1)
    (mine,) = node.machine.seal(at(1))
    assert isinstance(mine, Mine)
    assert node.machine.mined(mine.ticket + 1, 0, at(1)) == []
    node.mine([mine], at(1))
    assert node.machine.mined(mine.ticket, 0, at(1)) == []


def test_an_entry_is_recorded_once() -> None:
    node = Alone()
    assert not node.admit(1)
    assert node.admit(1)
    with pytest.raises(EntryConflict, match="waits"):
        node.admit(1, time_ms=7)
    node.seal(at(1))
    assert node.admit(1)
    with pytest.raises(EntryConflict, match="other content"):
        node.admit(1, time_ms=7)
    assert node.machine.seal(at(9), force=True) == []


def test_the_key_of_a_pruned_entry_stays_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Alone()
    node.admit(1)
    node.seal(at(1))

    def pruned(_: bytes) -> bytes:
        raise ProofInvalid("block 1 was pruned")

    monkeypatch.setattr(node.chain, "entry_of", pruned)
    with pytest.raises(EntryConflict, match="pruned"):
        node.admit(1)


@pytest.mark.parametrize("limits", [{"mempool_items": 3}, {"mempool_bytes": 3 * (148 + 6)}])
def test_a_full_mempool_refuses_and_recovers_after_sealing(limits: dict[str, int]) -> None:
    node = Alone(**limits)
    for number in range(3):
        node.admit(number)
    with pytest.raises(MempoolFull):
        node.admit(3)
    assert node.admit(2), "what waits already is no new entry"
    node.seal(at(1))
    assert not node.admit(3)


def waiting(key: bytes, entry: bytes) -> Prepared:
    return Prepared(key, Item(entry), b"leaf", None)


def test_what_lost_its_block_is_put_back_once_and_past_the_limits() -> None:
    pool = Mempool(max_items=1, max_bytes=1000)
    pool.add(waiting(b"k", b"entry"), 1.0)
    pool.put_back(waiting(b"k", b"entry"), 2.0)
    pool.put_back(waiting(b"l", b"other"), 2.0)
    assert (len(pool), pool.size, pool.since) == (2, 22, 1.0)
    with pytest.raises(MempoolFull):
        pool.add(waiting(b"m", b"third"), 3.0)


def test_what_was_not_written_is_withdrawn() -> None:
    node = Alone()
    admitted = node.machine.admit(make_entry(1), b"", at(0))
    node.machine.withdraw([admitted.key, b"unknown"])
    assert node.machine.waiting == 0
    assert not node.admit(1)


def test_what_waited_when_the_chain_was_closed_is_sealed_at_once() -> None:
    node = Alone(pending=[(make_entry(1), b""), (make_entry(2), b"")])
    assert node.machine.waiting == 2
    assert len(node.mine(node.machine.deadline_passed(at(1.5)), at(1.5)).items) == 2


def test_a_failed_write_leaves_the_entries_waiting() -> None:
    node = Alone()
    node.admit(1)
    node.mine(node.machine.seal(at(1)), at(1))
    assert node.machine.persist_failed() == []
    assert node.machine.waiting == 1
    node.seal(at(2))
    assert node.machine.waiting == 0
    with pytest.raises(LocalProtocolError, match="nothing was handed over"):
        node.machine.persisted(at(3))


@pytest.mark.parametrize(
    ("entry", "sealed", "message"),
    [
        (b"", b"", "no entry"),
        (make_entry(1)[:-1], b"", "no entry"),
        (make_entry(1), bytes(100_000), "over 100000"),
    ],
)
def test_what_no_block_may_hold_is_refused(entry: bytes, sealed: bytes, message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        Alone().machine.admit(entry, sealed, at(0))


def test_long_entries_are_refused() -> None:
    with pytest.raises(LocalProtocolError, match="over 100"):
        Alone(params=make_params(max_entry=100)).admit(1)


def test_only_authors_write() -> None:
    with pytest.raises(LocalProtocolError, match="only its authors"):
        Alone(key=None).admit(1)
    with pytest.raises(LocalProtocolError, match="not that of an author"):
        Alone(key=5)
    with pytest.raises(LocalProtocolError, match="bits"):
        Alone(bits=7)
    empty = MemoryChain(genesis(PARAMS))
    empty.blocks.clear()
    with pytest.raises(LocalProtocolError, match="genesis"):
        ChainMachine(PARAMS, empty, MachineConfig())


def test_a_frozen_chain_takes_nothing_but_answers_for_what_it_has() -> None:
    node = Alone()
    node.admit(1)
    node.seal(at(1))
    frozen = ChainMachine(PARAMS, node.chain, MachineConfig(), KEYS[0], frozen_at=1)
    assert frozen.frozen
    assert frozen.admit(make_entry(1), b"", at(2)).duplicate
    with pytest.raises(ChainFrozen):
        frozen.admit(make_entry(2), b"", at(2))
    assert frozen.seal(at(3), force=True) == []


def test_own_times_grow_whatever_the_clock_says() -> None:
    node = Alone()
    node.admit(1)
    ahead = node.seal(at(1, CREATED_MS + 10**10))
    node.admit(2)
    mine, alarm = node.machine.seal(at(2, CREATED_MS), force=True)
    assert isinstance(mine, Mine)
    assert isinstance(alarm, Alarm)
    assert alarm.kind is AlarmKind.CLOCK
    assert mine.draft.header.time_ms == ahead.header.time_ms + 1


def test_own_times_are_above_the_median() -> None:
    from tests.unit.chain.memory_chain import Builder

    builder = Builder(PARAMS)
    for number in range(1, 12):
        builder.make(number, time_ms=CREATED_MS + 1000 * number)
    low = builder.make(12, time_ms=CREATED_MS + 6001)
    node = Alone()
    node.chain.append(builder.blocks[1:])
    machine = ChainMachine(PARAMS, node.chain, MachineConfig(), KEYS[0])
    machine.admit(make_entry(99), b"", at(0))
    (mine, *_) = machine.seal(at(1, CREATED_MS), force=True)
    assert isinstance(mine, Mine)
    assert mine.draft.header.time_ms == builder.trail.median_ms + 1 > low.header.time_ms


def test_authors_of_a_shared_chain_take_turns() -> None:
    params = make_params(Mode.SHARED, 3)
    due = []
    for key in range(3):
        node = Alone(key=key, params=params)
        node.admit(1)
        due.append(node.machine.next_deadline())
    assert due == [2.0, 1.0, 1.5], "the author of number 1 writes block 1"


def test_numbers_for_status() -> None:
    node = Alone()
    node.machine.min_height, node.machine.min_index, node.machine.checkpoint = 3, 256, b"note"
    status = node.machine.status(at(1))
    assert (status.min_height, status.min_index, status.checkpoint) == (3, 256, b"note")
    assert (node.machine.min_height, node.machine.min_index) == (3, 256)
    assert node.machine.final_height == 0
