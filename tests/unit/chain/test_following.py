"""Following peers: what is fetched, what is believed, who is blamed. Scripted peers, and whole networks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from talos.chain.block import Block, Item, sign_block
from talos.chain.checkpoint import Checkpoint
from talos.chain.evidence import Evidence
from talos.chain.genesis import Mode
from talos.chain.machine import AlarmKind, ChainMachine, MachineConfig, Now, Send, Serve, ServeBlocks, SyncLimits
from talos.chain.messages import Code, ProofReq, Range, Request, Response, Status
from talos.chain.pow import solve
from talos.chain.validation import MAX_AHEAD_MS
from talos.errors import ChainFrozen, LocalProtocolError, RollbackSuspected
from tests.unit.chain.memory_chain import (
    CREATED_MS,
    KEYS,
    Builder,
    Network,
    Node,
    make_entry,
    make_params,
)

if TYPE_CHECKING:
    from talos.chain.block import Checked
    from talos.chain.genesis import Params

FEED = make_params()
SHARED = make_params(Mode.SHARED, 2)
NOW = Now(1000.0, CREATED_MS + 10_000_000)


class Script:
    """One node, and peers that a test plays."""

    def __init__(self, node: Node, *peers: str, now: Now = NOW) -> None:
        self.node, self.now = node, now
        for peer in peers:
            node.do(node.machine.peer_joined(peer, now, reader=True), now)
        node.sent.clear()

    def say(self, peer: str, message: Any) -> None:
        self.node.do(self.node.machine.receive(peer, message, self.now), self.now)
        self.node.work(self.now)

    def claim(self, peer: str, builder: Builder, **changes: Any) -> Status:
        status = replace(status_of(builder), **changes)
        self.say(peer, status)
        return status

    def asked(self, peer: str | None = None) -> Request:
        """The oldest request that was not looked at yet."""
        for place, (to, message) in enumerate(self.node.sent):
            if isinstance(message, Request) and peer in {None, to}:
                del self.node.sent[place]
                return message
        raise AssertionError("nothing was asked")

    @property
    def silent(self) -> bool:
        return not any(isinstance(message, Request) for _, message in self.node.sent)

    def headers(self, peer: str, builder: Builder) -> Request:
        """Answers a request for headers by what the branch has."""
        request = self.asked(peer)
        assert request.headers is not None
        start, end = request.headers
        if request.locator:
            ids = [block.block_id for block in builder.blocks]
            first = next((ids.index(one) + 1 for one in request.locator if one in ids), 0)
            start, end = first, first + end - start
        self.say(peer, Response(id=request.id, headers=signed(*builder.blocks[start : end + 1])))
        return request

    def blocks(self, peer: str, builder: Builder, count: int = 16) -> Request:
        request = self.asked(peer)
        assert request.blocks is not None
        start, end = request.blocks
        found = builder.blocks[start : min(end + 1, start + count)]
        self.say(peer, Response(id=request.id, blocks=tuple(block.block for block in found)))
        return request

    def serve(self, builder: Builder) -> None:
        """Answers all that is asked of anybody, honestly."""
        while not self.silent:
            peer, request = next((to, one) for to, one in self.node.sent if isinstance(one, Request))
            (self.headers if request.headers else self.blocks)(str(peer), builder)

    @property
    def faults(self) -> list[str]:
        return [fault.reason for fault in self.node.faults]


def signed(*blocks: Checked) -> tuple[bytes, ...]:
    return tuple(block.raw + block.sig for block in blocks)


def status_of(builder: Builder) -> Status:
    tip = builder.blocks[-1]
    return Status(
        chain_id=builder.params.chain_id,
        height=tip.height,
        total_work=tip.total_work,
        tip_id=tip.block_id,
        log_size=tip.header.log_size,
        log_root=tip.header.log_root,
        now_ms=NOW.unix_ms,
    )


def script(
    params: Params = FEED, *, ours: int = 5, peers: tuple[str, ...] = ("p",), **node: Any
) -> tuple[Script, Builder]:
    """A node with so many blocks, and a builder that goes on behind them."""
    builder = Builder(params).grow(ours, 1)
    return Script(Node("n", params, list(builder.blocks), **node), *peers), builder


# -- The exchange of the sync diagram -------------------------------------------------------------------


def test_a_small_gap_is_asked_for_as_blocks() -> None:
    run, theirs = script()
    theirs.grow(5, 100)
    run.claim("p", theirs)
    request = run.blocks("p", theirs)
    assert request.blocks == Range(6, 10)
    assert run.node.tip == theirs.blocks[-1].block_id
    assert run.node.log.count("Persist") == 1
    assert run.faults == []


def test_a_large_gap_is_asked_for_headers_first() -> None:
    run, theirs = script(ours=3)
    theirs.grow(100, 100)
    run.claim("p", theirs)
    assert run.headers("p", theirs).headers == Range(4, 103)
    asked = [run.blocks("p", theirs).blocks for _ in range(7)]
    assert asked[:2] == [Range(4, 19), Range(20, 35)]
    assert run.node.tip == theirs.blocks[-1].block_id
    assert run.faults == []


def test_bodies_are_asked_of_all_who_have_them() -> None:
    run, theirs = script(ours=3, peers=("p", "q"))
    theirs.grow(40, 100)
    run.claim("p", theirs)
    run.claim("q", theirs)
    run.headers("p", theirs)
    spans = {peer: [m.blocks for to, m in run.node.sent if to == peer and isinstance(m, Request)] for peer in "pq"}
    assert spans == {"p": [Range(4, 19), Range(36, 43)], "q": [Range(20, 35)]}
    run.blocks("q", theirs)
    assert run.node.machine.tip.header.height == 3, "the first ones are missing"
    run.blocks("p", theirs, count=5)
    run.serve(theirs)
    assert run.node.tip == theirs.blocks[-1].block_id


def test_a_busy_peer_is_asked_again_later() -> None:
    run, theirs = script()
    theirs.grow(2, 100)
    run.claim("p", theirs)
    run.say("p", Response(id=run.asked().id, code=Code.BUSY))
    assert run.silent
    run.now = Now(1006.0, NOW.unix_ms)
    run.claim("p", theirs)
    run.blocks("p", theirs)
    assert run.node.tip == theirs.blocks[-1].block_id


@pytest.mark.parametrize("code", [Code.NOT_FOUND, Code.PRUNED, Code.FROZEN])
def test_a_peer_that_cannot_give_is_not_asked_until_it_has_news(code: Code) -> None:
    run, theirs = script()
    theirs.grow(2, 100)
    run.claim("p", theirs)
    run.say("p", Response(id=run.asked().id, code=code))
    run.claim("p", theirs)
    assert run.silent
    assert run.faults == []
    theirs.grow(1, 200)
    run.claim("p", theirs)
    run.blocks("p", theirs)
    assert run.node.tip == theirs.blocks[-1].block_id


def test_what_is_known_or_worse_is_not_asked_for() -> None:
    run, theirs = script(SHARED)
    run.claim("p", theirs)
    run.claim("p", theirs.fork(2))
    run.claim("p", theirs.fork(2).grow(1, 100))
    assert run.silent


# -- Lies, floods, delays -------------------------------------------------------------------------------


def test_a_claim_without_blocks_is_a_fault() -> None:
    run, theirs = script()
    run.claim("p", theirs, height=1_000_000, total_work=2**60, tip_id=bytes(32))
    request = run.asked()
    run.say("p", Response(id=request.id))
    assert run.faults == ["EMPTY"]


def test_a_claim_of_more_work_than_there_is_is_a_fault() -> None:
    run, theirs = script(SHARED)
    other = theirs.fork(3).grow(2, 100)
    run.claim("p", other, total_work=2**60)
    run.headers("p", other)
    assert run.faults == ["LIED"]
    assert run.node.log.count("Replace") == 0


def test_a_feed_of_another_tip_at_our_height_is_a_lie_or_a_fraud() -> None:
    run, theirs = script()
    run.claim("p", theirs, tip_id=bytes(32))
    request = run.asked()
    assert request.headers == Range(5, 5)
    run.say("p", Response(id=request.id, headers=signed(theirs.blocks[5])))
    assert run.faults == ["LIED"]
    assert not run.node.machine.frozen


@pytest.mark.parametrize("bad", [b"", bytes(296), "other height", "foreign"])
def test_a_header_that_proves_no_fraud(bad: Any) -> None:
    run, theirs = script()
    run.claim("p", theirs, tip_id=bytes(32))
    if bad == "other height":
        bad = signed(theirs.blocks[4])[0]
    elif bad == "foreign":
        block = theirs.fork(4).make(100)
        bad = block.raw + sign_block(KEYS[3], block.block_id)
    run.say("p", Response(id=run.asked().id, headers=(bad,)))
    assert run.faults == ["SIGNATURE"]
    assert not run.node.machine.frozen
    assert run.node.evidence == []


def test_low_work_headers_are_bounded_and_blamed() -> None:
    config = MachineConfig(sync=SyncLimits(staged_headers=30))
    ours = Builder(SHARED).grow(3, 1, bits=14)
    run = Script(Node("n", SHARED, ours.blocks, config=config), "p")
    flood = ours.fork(0).grow(60, 100, key=1)
    run.claim("p", flood, total_work=2**40, height=60)
    request = run.asked("p")
    run.say("p", Response(id=request.id, headers=signed(*flood.blocks[4:34])))
    request = run.asked("p")
    assert request.locator, "it did not link"
    run.say("p", Response(id=request.id, headers=signed(*flood.blocks[1:31])))
    assert run.faults == ["FLOOD"]


def test_headers_of_no_author_are_refused_before_any_body() -> None:
    run, theirs = script()
    foreign = theirs.fork(5)
    draft = foreign.draft([Item(make_entry(100))], key=3)
    block = draft.finish(solve(draft.header.encode()), KEYS[3])
    run.claim("p", theirs, height=6, total_work=7 * 256, tip_id=block.block_id)
    run.say("p", Response(id=run.asked().id, blocks=(block.block,)))
    assert run.faults == ["AUTHOR"]


@pytest.mark.parametrize("kind", ["headers", "blocks", "wrong kind"])
def test_more_than_was_asked_for_is_a_fault(kind: str) -> None:
    run, theirs = script()
    theirs.grow(20 if kind == "headers" else 2, 100)
    run.claim("p", theirs)
    request = run.asked()
    more = tuple(theirs.blocks[-1].block for _ in range(3))
    if kind == "headers":
        run.say("p", Response(id=request.id, headers=signed(*theirs.blocks[6:], theirs.blocks[-1])))
    elif kind == "blocks":
        run.say("p", Response(id=request.id, blocks=more))
    else:
        run.say("p", Response(id=request.id, headers=signed(theirs.blocks[-1])))
    assert run.faults == ["SIZE"]


def test_unasked_answers_and_foreign_status_are_faults() -> None:
    run, theirs = script(peers=("p", "q", "r"))
    run.say("p", Response(id=1))
    run.claim("q", theirs, chain_id=bytes(32))
    run.claim("r", theirs, checkpoint=b"no note")
    assert run.faults == ["UNASKED", "DECODE", "CHECKPOINT"]
    run.say("p", Response(id=1))
    assert run.faults == ["UNASKED", "DECODE", "CHECKPOINT"], "it has left"


def test_three_faults_within_ten_minutes_close_the_chain_for_an_hour() -> None:
    run, _ = script()
    for _ in range(2):
        run.say("p", Response(id=1))
        assert run.node.faults[-1].banned_until is None
        run.node.do(run.node.machine.peer_joined("p", run.now, reader=True), run.now)
    run.say("p", Response(id=1))
    assert run.node.faults[-1].banned_until == NOW.seconds + 3600
    run.now = Now(NOW.seconds + 601, NOW.unix_ms)
    run.node.do(run.node.machine.peer_joined("p", run.now, reader=True), run.now)
    run.say("p", Response(id=1))
    assert run.node.faults[-1].banned_until is None


def test_a_late_answer_is_a_fault_and_the_range_moves_to_another() -> None:
    run, theirs = script(ours=3, peers=("p", "q"))
    theirs.grow(40, 100)
    run.claim("p", theirs)
    run.claim("q", theirs)
    run.headers("p", theirs)
    run.blocks("q", theirs)
    run.now = Now(NOW.seconds + 29, NOW.unix_ms)
    run.claim("q", theirs)
    run.now = Now(NOW.seconds + 30, NOW.unix_ms)
    run.node.sent.clear()
    run.node.do(run.node.machine.deadline_passed(run.now), run.now)
    assert run.faults == ["DEADLINE"]
    assert run.node.faults[0].peer == "p"
    run.serve(theirs)
    assert run.node.tip == theirs.blocks[-1].block_id


def test_without_a_frame_the_stream_is_given_up() -> None:
    run, theirs = script()
    theirs.grow(1, 100)
    assert run.node.machine.next_deadline() == NOW.seconds + 30
    run.node.do(run.node.machine.deadline_passed(Now(NOW.seconds + 30, NOW.unix_ms)), run.now)
    assert isinstance(run.node.sent.pop()[1], Status)
    run.node.do(run.node.machine.deadline_passed(Now(NOW.seconds + 90, NOW.unix_ms)), run.now)
    assert run.faults == ["IDLE"]
    assert run.node.faults[0].banned_until is None
    assert run.node.machine.next_deadline() is None


def test_a_clock_two_hours_off_is_told_once() -> None:
    run, theirs = script()
    for _ in range(2):
        run.claim("p", theirs, now_ms=NOW.unix_ms + MAX_AHEAD_MS + 1)
    assert run.node.alarms == [AlarmKind.CLOCK]


def test_a_block_from_the_future_is_refused_and_nobody_blamed() -> None:
    run, theirs = script()
    theirs.make(100, time_ms=NOW.unix_ms + MAX_AHEAD_MS + 1)
    run.claim("p", theirs)
    run.blocks("p", theirs)
    assert run.faults == []
    assert run.node.machine.tip.header.height == 5
    assert run.silent
    run.now = Now(NOW.seconds + 61, NOW.unix_ms + 61_000)
    run.claim("p", theirs)
    run.blocks("p", theirs)
    assert run.node.machine.tip.header.height == 6


# -- Bodies ---------------------------------------------------------------------------------------------


def test_bodies_that_do_not_match_are_asked_elsewhere() -> None:
    run, theirs = script(ours=3, peers=("p", "q"))
    theirs.grow(20, 100)
    run.claim("p", theirs)
    run.claim("q", theirs)
    run.headers("p", theirs)
    request = run.asked("p")
    good = theirs.blocks[4].block
    bad = Block(good.raw, good.sig, (Item(make_entry(999)),))
    others = tuple(block.block for block in theirs.blocks[5:20])
    run.say("p", Response(id=request.id, blocks=(bad, *others)))
    assert run.faults == ["BODY"]
    assert run.node.machine.tip.header.height == 3
    run.serve(theirs)
    assert run.node.tip == theirs.blocks[-1].block_id


def test_blocks_of_other_headers_are_a_fault() -> None:
    run, theirs = script(ours=3, peers=("p", "q"))
    theirs.grow(20, 100)
    run.claim("p", theirs)
    run.claim("q", theirs)
    run.headers("p", theirs)
    request = run.asked("p")
    run.say("p", Response(id=request.id, blocks=tuple(block.block for block in theirs.blocks[5:9])))
    assert run.faults == ["BODY"]
    run.serve(theirs)
    assert run.node.tip == theirs.blocks[-1].block_id


def test_a_peer_on_another_branch_by_now_is_asked_no_more_and_not_blamed() -> None:
    base = Builder(SHARED).grow(3, 1)
    theirs, others = base.fork(3).grow(20, 100), base.fork(3).grow(20, 200, key=1)
    run = Script(Node("n", SHARED, base.blocks), "p", "q")
    run.claim("p", theirs)
    run.claim("q", others)
    run.headers("p", theirs)
    run.blocks("q", others)
    assert run.faults == []
    run.serve(theirs)
    assert run.node.machine.tip.header.height == 23
    assert run.faults == []


def test_withheld_bodies_leave_the_tip_where_it_was() -> None:
    run, theirs = script(ours=3)
    theirs.grow(20, 100)
    run.claim("p", theirs)
    run.headers("p", theirs)
    run.say("p", Response(id=run.asked().id))
    assert run.faults == ["EMPTY"]
    assert run.node.machine.tip.header.height == 3
    assert run.node.machine._following.candidate is None


def test_withheld_bodies_are_asked_of_others() -> None:
    run, theirs = script(ours=3, peers=("p", "q"))
    theirs.grow(20, 100)
    run.claim("p", theirs)
    run.claim("q", theirs)
    run.headers("p", theirs)
    run.say("p", Response(id=run.asked("p").id))
    assert run.faults == ["EMPTY"]
    run.serve(theirs)
    assert run.node.tip == theirs.blocks[-1].block_id


def test_a_block_that_breaks_a_rule_is_never_asked_for_again() -> None:
    run, theirs = script(ours=3, peers=("p", "q"))
    theirs.make(2)  # an entry that the chain has
    run.claim("p", theirs)
    run.blocks("p", theirs)
    assert run.faults == ["DUPLICATE"]
    run.claim("q", theirs)
    assert run.silent
    theirs.grow(1, 100)
    run.claim("q", theirs)
    run.blocks("q", theirs)
    assert run.faults == ["DUPLICATE", "LINK"]


def test_blocks_that_come_after_the_branch_was_dropped_are_passed_over() -> None:
    run, theirs = script(ours=3, peers=("p", "q"))
    theirs.grow(20, 100)
    run.claim("p", theirs)
    run.claim("q", theirs)
    run.headers("p", theirs)
    stale = run.asked("q")
    run.say("p", Response(id=run.asked("p").id, code=Code.NOT_FOUND))
    run.node.machine._following.drop()
    run.say("q", Response(id=stale.id, blocks=tuple(block.block for block in theirs.blocks[4:6])))
    assert run.faults == []
    assert run.node.machine.tip.header.height == 3


# -- Feeds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 8, 40])
def test_two_signed_blocks_of_one_height_freeze_a_feed(length: int) -> None:
    run, theirs = script()
    other = theirs.fork(3).grow(length, 100)
    before = [block.block_id for block in run.node.chain.blocks]
    run.claim("p", other)
    run.serve(other)
    assert run.node.machine.frozen
    assert run.node.alarms == [AlarmKind.FROZEN]
    assert "two blocks at height" in Evidence.decode(run.node.evidence[0]).verify(FEED)
    assert [block.block_id for block in run.node.chain.blocks] == before
    theirs.grow(3, 200)
    run.claim("p", theirs)
    assert run.silent, "it extends neither branch"


def test_an_unsigned_conflict_freezes_nothing() -> None:
    run, theirs = script()
    other = theirs.fork(3).grow(20, 100)
    run.claim("p", other)
    run.headers("p", other)  # does not link
    request = run.asked()
    forged = tuple(block.raw + bytes(64) for block in other.blocks[4:])
    run.say("p", Response(id=request.id, headers=forged))
    assert run.faults == ["SIGNATURE"]
    assert not run.node.machine.frozen
    assert run.node.evidence == []


def test_a_checkpoint_of_another_root_freezes_a_feed() -> None:
    run, theirs = script()
    good = Checkpoint(FEED.origin, 6, theirs.blocks[5].header.log_root).sign(KEYS[0])
    run.claim("p", theirs, checkpoint=good)
    run.claim("p", theirs, checkpoint=Checkpoint(FEED.origin, 999, bytes(32)).sign(KEYS[0]))
    assert run.node.alarms == []
    run.claim("p", theirs, checkpoint=Checkpoint(FEED.origin, 6, bytes(32)).sign(KEYS[0]))
    assert run.node.alarms == [AlarmKind.FROZEN]
    assert run.node.machine.frozen
    assert "two roots at size 6" in Evidence.decode(run.node.evidence[0]).verify(FEED)


def test_a_copy_keeps_no_older_checkpoint_than_the_one_it_was_opened_with() -> None:
    run, theirs = script()
    notes = {
        size: Checkpoint(FEED.origin, size, theirs.blocks[size - 1].header.log_root).sign(KEYS[0]) for size in (3, 4, 6)
    }
    run.node.machine.checkpoint = notes[4]
    for size, kept in ((3, 4), (6, 6), (4, 6)):
        run.claim("p", theirs, checkpoint=notes[size])
        assert run.node.machine.checkpoint == notes[kept]


def test_an_owner_that_meets_its_own_newer_block_appends_nothing() -> None:
    run, theirs = script(key=0)
    run.node.machine.admit(make_entry(50), b"", run.now)
    theirs.grow(2, 100)
    run.claim("p", theirs)
    run.blocks("p", theirs)
    assert run.node.alarms == [AlarmKind.ROLLBACK]
    assert run.node.machine.frozen_at is None
    assert run.node.machine.seal(run.now, force=True) == []
    with pytest.raises(RollbackSuspected):
        run.node.machine.admit(make_entry(51), b"", run.now)
    assert run.faults == []


def test_an_owner_that_signed_twice_appends_nothing() -> None:
    run, theirs = script(key=0)
    other = theirs.fork(4).grow(1, 100)
    run.claim("p", other)
    run.headers("p", other)
    with pytest.raises(ChainFrozen):
        run.node.machine.admit(make_entry(51), b"", run.now)


# -- Shared chains --------------------------------------------------------------------------------------


def test_a_heavier_branch_replaces_ours_and_own_entries_wait_again() -> None:
    base = Builder(SHARED).grow(5, 1)
    ours, theirs = base.fork(5).grow(3, 100), base.fork(5)
    theirs.make(200, key=1)
    theirs.make(101, 201, key=1)  # one of ours, that it has learnt elsewhere
    theirs.grow(4, 300, key=1)
    run = Script(Node("n", SHARED, ours.blocks, key=0), "p")
    run.node.machine.admit(make_entry(301), b"", run.now)
    run.claim("p", theirs)
    run.serve(theirs)
    assert run.node.tip == theirs.blocks[-1].block_id
    assert run.node.log.count("Replace") == 1
    assert run.node.machine.waiting == 2, "100 and 102; 101 is in the other branch, and 301 as well"
    assert run.node.machine.admit(make_entry(100), b"", run.now).duplicate
    block = run.node.machine.seal(Now(2000.0, NOW.unix_ms), force=True)
    assert len(block) == 1


def test_at_equal_work_the_smaller_id_wins_on_both_sides() -> None:
    base = Builder(SHARED).grow(5, 1)
    one, other = base.fork(5).grow(1, 100), base.fork(5).grow(1, 200, key=1)
    wins = min(one.blocks[-1].block_id, other.blocks[-1].block_id)
    for ours, theirs in ((one, other), (other, one)):
        run = Script(Node("n", SHARED, ours.blocks), "p")
        run.claim("p", theirs)
        run.serve(theirs)
        assert run.node.tip == wins
        assert run.faults == []


def test_a_claimed_smaller_id_that_is_none_is_looked_at_once() -> None:
    base = Builder(SHARED).grow(5, 1)
    one, other = base.fork(5).grow(1, 100), base.fork(5).grow(1, 200, key=1)
    ours, theirs = (one, other) if one.blocks[-1].block_id < other.blocks[-1].block_id else (other, one)
    run = Script(Node("n", SHARED, ours.blocks), "p")
    run.claim("p", theirs, tip_id=bytes(32))
    run.headers("p", theirs)
    assert run.silent
    run.claim("p", theirs, tip_id=bytes(32))
    assert run.silent


@pytest.mark.parametrize("depth", [12, 13])
def test_a_branch_below_the_final_block_is_refused(depth: int) -> None:
    base = Builder(SHARED).grow(2, 1)
    ours, theirs = base.fork(2).grow(depth, 100), base.fork(2).grow(depth + 5, 300, key=1)
    run = Script(Node("n", SHARED, ours.blocks), "p")
    run.claim("p", theirs)
    run.serve(theirs)
    if depth == 12:
        assert run.node.tip == theirs.blocks[-1].block_id
    else:
        assert run.faults == ["FINAL"]
        assert run.node.alarms == [AlarmKind.SPLIT]
        assert run.node.tip == ours.blocks[-1].block_id


def test_an_author_that_signs_twice_on_one_parent_is_shown_and_the_chain_goes_on() -> None:
    base = Builder(SHARED).grow(2, 1)
    ours, theirs = base.fork(2).grow(1, 100), base.fork(2).grow(2, 200)
    run = Script(Node("n", SHARED, ours.blocks), "p")
    run.claim("p", theirs)
    run.blocks("p", theirs)  # does not link
    run.headers("p", theirs)
    run.blocks("p", theirs)
    assert run.node.tip == theirs.blocks[-1].block_id
    assert run.node.alarms == [AlarmKind.EQUIVOCATION]
    assert "two blocks at height 3" in Evidence.decode(run.node.evidence[0]).verify(SHARED)


def test_a_branch_that_never_links_is_a_fault() -> None:
    run, theirs = script(SHARED)
    foreign = Builder(make_params(Mode.SHARED, 2, finality_depth=7)).grow(30, 100)
    run.claim("p", foreign, chain_id=SHARED.chain_id)
    run.headers("p", foreign)
    assert run.faults == ["DECODE"] or run.asked().locator
    if not run.faults:
        run.say("p", Response(id=2, headers=signed(*foreign.blocks[1:9])))
    assert run.faults == ["DECODE"]
    assert theirs.trail.height == 5


def test_nothing_is_sealed_while_a_better_branch_is_fetched() -> None:
    base = Builder(SHARED).grow(5, 1)
    theirs = base.fork(5).grow(30, 200, key=1)
    run = Script(Node("n", SHARED, base.blocks, key=0), "p")
    run.node.mines = False
    run.node.machine.admit(make_entry(100), b"", run.now)
    run.node.do(run.node.machine.seal(run.now, force=True), run.now)
    draft = run.node.drafts[0]
    run.claim("p", theirs)
    run.headers("p", theirs)
    assert run.node.drafts == [], "the draft has lost its place"
    assert run.node.machine.mined(draft.ticket, solve(draft.draft.header.encode()), run.now) == []
    assert run.node.machine.seal(run.now, force=True) == []
    run.serve(theirs)
    assert run.node.tip == theirs.blocks[-1].block_id
    assert len(run.node.machine.seal(run.now, force=True)) == 1


def test_an_own_block_that_was_on_its_way_is_not_written_over() -> None:
    base = Builder(SHARED).grow(5, 1)
    theirs = base.fork(5).grow(30, 200, key=1)
    run = Script(Node("n", SHARED, base.blocks, key=0), "p")
    machine = run.node.machine
    machine.admit(make_entry(100), b"", run.now)
    (mine,) = machine.seal(run.now, force=True)
    (persist,) = machine.mined(mine.ticket, solve(mine.draft.header.encode()), run.now)  # type: ignore[union-attr]
    run.claim("p", theirs)
    run.headers("p", theirs)
    run.node.sent.clear()
    run.node.do([persist], run.now)
    run.node.work(run.now)
    run.serve(theirs)
    assert run.node.tip == theirs.blocks[-1].block_id
    assert machine.waiting == 1


def test_a_store_that_refuses_lets_the_branch_go() -> None:
    base = Builder(SHARED).grow(5, 1)
    ours, theirs = base.fork(3).grow(2, 100), base
    theirs.grow(3, 200)
    run = Script(Node("n", SHARED, ours.blocks), "p")
    run.node.refuses = True
    run.claim("p", theirs)
    run.serve(theirs)
    assert run.node.log[-1] == "DropStage"
    assert "Replace" in run.node.log
    assert run.node.machine.tip.block_id == ours.blocks[-1].block_id


def test_a_long_light_branch_is_staged_in_runs() -> None:
    base = Builder(SHARED).grow(2, 1)
    ours, theirs = base.fork(2).grow(1, 100, bits=14), base.fork(2).grow(70, 200, key=1)
    run = Script(Node("n", SHARED, ours.blocks), "p")
    run.claim("p", theirs)
    run.serve(theirs)
    assert run.node.tip == theirs.blocks[-1].block_id
    assert run.node.log.count("Stage") > 1
    assert run.node.log.count("Replace") == 1


@pytest.mark.parametrize("fork", [True, False])
def test_headers_come_in_batches(fork: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talos.chain.following.MAX_HEADERS", 20)
    base = Builder(SHARED).grow(25, 1)
    ours = base.fork(25).grow(2, 100, bits=13) if fork else base
    theirs = base.fork(25).grow(70, 200, key=1)
    run = Script(Node("n", SHARED, ours.blocks), "p")
    run.claim("p", theirs)
    run.serve(theirs)
    assert run.node.tip == theirs.blocks[-1].block_id
    assert run.faults == []


def test_a_coarse_locator_may_bring_blocks_that_we_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talos.chain.following.MAX_HEADERS", 8)
    base = Builder(SHARED).grow(40, 1)
    ours, theirs = base.fork(40).grow(1, 100), base.fork(40).grow(3, 200, key=1)
    run = Script(Node("n", SHARED, ours.blocks), "p")
    run.claim("p", theirs)
    run.say("p", Response(id=run.asked().id, blocks=(theirs.blocks[42].block,)))
    located = run.asked()
    run.say("p", Response(id=located.id, headers=signed(*theirs.blocks[20:28])))
    assert run.asked().headers == Range(28, 35)


def test_blocks_that_we_have_are_passed_over() -> None:
    run, theirs = script()
    theirs.grow(5, 100)
    run.claim("p", theirs)
    run.say("p", Response(id=run.asked().id, blocks=tuple(block.block for block in theirs.blocks[5:10])))
    assert run.node.machine.tip.header.height == 9
    run.serve(theirs)
    assert run.node.machine.tip.header.height == 10


def test_all_of_it_known_is_not_looked_at_again() -> None:
    run, theirs = script(SHARED)
    run.claim("p", theirs, tip_id=bytes(32))
    request = run.asked()
    run.say("p", Response(id=request.id, headers=signed(*theirs.blocks[3:])))
    assert run.silent
    run.claim("p", theirs, tip_id=bytes(32))
    assert run.silent


def test_what_another_branch_was_asked_for_is_forgotten_with_it() -> None:
    run, theirs = script(ours=3, peers=("p", "q"))
    theirs.grow(20, 100)
    run.claim("p", theirs)
    run.node.machine._following.drop()
    run.claim("q", theirs)
    stale, fresh = run.asked("p"), run.asked("p" if run.node.sent[0][0] == "p" else "q")
    run.say("p", Response(id=stale.id, code=Code.NOT_FOUND))
    assert run.node.machine._following.candidate is not None
    assert fresh.headers == stale.headers


def test_a_source_that_goes_while_headers_come_takes_the_branch_with_it() -> None:
    run, theirs = script(ours=3, peers=("p", "q"))
    theirs.grow(20, 100)
    run.claim("p", theirs)
    run.claim("q", theirs)
    run.node.do(run.node.machine.peer_left("q", run.now), run.now)
    assert run.node.machine._following.candidate is not None
    run.node.do(run.node.machine.peer_left("p", run.now), run.now)
    assert run.node.machine._following.candidate is None


def test_tables_have_their_limits() -> None:
    run, _ = script()
    state = run.node.machine._state
    for number in range(1100):
        state.refuse(number.to_bytes(32, "big"), "WORK")
    assert state.refused(bytes(32)) is None
    assert state.refused((1099).to_bytes(32, "big")) == "WORK"
    sessions = run.node.machine._sessions
    for number in range(1100):
        sessions.fault(f"peer {number}", "UNASKED", "", run.now)
    assert len(sessions._faults) == 1024
    assert run.node.machine.work(run.now) == []


# -- Answering ------------------------------------------------------------------------------------------


def request(**what: Any) -> Request:
    values: dict[str, Any] = {"chain_id": FEED.chain_id, "id": 1}
    return Request(**(values | what))


def answers(run: Script, message: Request, peer: str = "p") -> list[Any]:
    return run.node.machine.receive(peer, message, run.now)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ({"headers": Range(2, 4)}, (2, 4)),
        ({"headers": Range(2, 90_000)}, (2, 50)),
        ({"headers": Range(60, 70)}, (60, 50)),
        ({"blocks": Range(2, 90_000)}, (2, 17)),
        ({"blocks": Range(48, 90)}, (48, 50)),
        ({"headers": Range(0, 9), "locator": (bytes(32),)}, (0, 9)),
    ],
)
def test_ranges_are_cut_to_what_is_there_and_allowed(what: dict[str, Any], expected: tuple[int, int]) -> None:
    run, _ = script(ours=50)
    (serve,) = answers(run, request(**what))
    assert isinstance(serve, Serve)
    assert (serve.what.start, serve.what.end) == expected  # type: ignore[union-attr]


def test_a_locator_is_answered_behind_the_last_common_id() -> None:
    run, theirs = script(ours=50)
    ids = (bytes(32), theirs.blocks[30].block_id, theirs.blocks[0].block_id)
    (serve,) = answers(run, request(headers=Range(0, 1999), locator=ids))
    assert (serve.what.start, serve.what.end) == (31, 50)


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"chain_id": bytes(32), "headers": Range(0, 1)},
        {"headers": Range(0, 1), "blocks": Range(0, 1)},
        {"headers": Range(3, 2)},
        {"headers": Range(0, 1), "locator": (b"short",)},
        {"headers": Range(0, 1), "locator": (bytes(32),) * 65},
    ],
)
def test_what_is_no_request_is_a_fault(what: dict[str, Any]) -> None:
    run, _ = script()
    run.say("p", request(**what))
    assert run.faults == ["DECODE"]


def code(effects: list[Any]) -> Code:
    (send,) = effects
    assert isinstance(send, Send)
    assert isinstance(send.message, Response)
    return send.message.code


def test_pruned_missing_and_frozen_ranges_say_so() -> None:
    run, theirs = script(ours=20)
    run.node.machine.min_height, run.node.machine.min_index = 5, 256
    (send,) = answers(run, request(blocks=Range(3, 9)))
    assert (send.message.code, send.message.min_height, send.message.min_index) == (Code.PRUNED, 5, 256)
    assert code(answers(run, request(blocks=Range(21, 22)))) is Code.NOT_FOUND
    (serve,) = answers(run, request(block_id=theirs.blocks[7].block_id))
    assert serve.what.block_id == theirs.blocks[7].block_id
    frozen = ChainMachine(FEED, run.node.chain, MachineConfig(), frozen_at=10)
    frozen.peer_joined("p", NOW, reader=True)
    assert code(frozen.receive("p", request(headers=Range(10, 12)), NOW)) is Code.FROZEN
    assert code(frozen.receive("p", request(blocks=Range(25, 26)), NOW)) is Code.FROZEN
    (serve,) = frozen.receive("p", request(blocks=Range(8, 12)), NOW)
    assert isinstance(serve, Serve)
    assert serve.what == ServeBlocks(8, 9)


def test_a_stranger_learns_nothing_but_of_its_own_messages() -> None:
    run, theirs = script()
    assert run.node.machine.peer_joined("s", NOW, reader=False) == []
    for what in (
        {"headers": Range(0, 3)},
        {"blocks": Range(0, 3)},
        {"block_id": theirs.blocks[1].block_id},
        {"proof": ProofReq(index=1)},
    ):
        assert code(answers(run, request(**what), "s")) is Code.NOT_FOUND
    (serve,) = answers(run, request(proof=ProofReq(msg_id=bytes(16))), "s")
    assert serve.what.counterparty_only
    (serve,) = answers(run, request(proof=ProofReq(index=1)), "p")
    assert not serve.what.counterparty_only
    run.claim("p", theirs.grow(1, 100))
    run.blocks("p", theirs)
    assert all(peer == "p" for peer, _ in run.node.sent), "its tip moved, and the stranger was not told"


def test_requests_are_counted_by_number_and_bytes() -> None:
    limits = SyncLimits(requests_burst=6, requests_per_second=1, bytes_per_minute=1000)
    run, _ = script(config=MachineConfig(sync=limits))
    for _ in range(4):
        assert isinstance(answers(run, request(headers=Range(0, 1)))[0], Serve)
    assert code(answers(run, request(headers=Range(0, 1)))) is Code.BUSY, "four are open"
    for _ in range(4):
        run.node.machine.served("p", 10)
    assert isinstance(answers(run, request(headers=Range(0, 1)))[0], Serve)
    assert code(answers(run, request(headers=Range(0, 1)))) is Code.BUSY, "six in a burst"
    run.now = Now(NOW.seconds + 2, NOW.unix_ms)
    run.node.machine.served("p", 10_000)
    assert code(answers(run, request(headers=Range(0, 1)))) is Code.BUSY, "too many bytes"
    run.now = Now(NOW.seconds + 61, NOW.unix_ms)
    assert isinstance(answers(run, request(headers=Range(0, 1)))[0], Serve)
    run.node.machine.served("nobody", 1)


def test_a_driver_may_ask_for_itself() -> None:
    run, theirs = script()
    machine = run.node.machine
    assert not machine.expects("p")
    run.node.do(machine.ask("p", run.now, block_id=theirs.blocks[2].block_id), run.now)
    assert machine.expects("p")
    answer = Response(id=run.asked().id, blocks=(theirs.blocks[2].block,))
    run.say("p", answer)
    assert run.node.answers == [answer]
    for _ in range(4):
        machine.ask("p", run.now, proof=ProofReq(index=1))
    for peer in ("p", "nobody"):
        with pytest.raises(LocalProtocolError):
            machine.ask(peer, run.now, proof=ProofReq(index=1))


# -- Networks -------------------------------------------------------------------------------------------


def test_replicas_follow_a_feed_as_it_grows() -> None:
    owner, replica, late = Node("owner", FEED, key=0), Node("replica", FEED), Node("late", FEED)
    network = Network(owner, replica, late)
    network.join("owner", "replica")
    for number in range(100):
        owner.record(number, network.now)
        network.pass_time(0.3)
    network.join("replica", "late")
    network.pass_time(40)
    assert owner.numbers == replica.numbers == late.numbers == set(range(100))
    assert owner.tip == late.tip
    assert owner.machine.waiting == 0
    assert not (owner.faults)
    assert not (replica.faults)
    assert not (late.faults)
    network.part("owner", "replica")
    assert owner.machine.peer_left("nobody", network.now) == []


def test_a_machine_that_loses_its_only_source_waits_for_another() -> None:
    owner, replica = Node("owner", FEED, Builder(FEED).grow(60, 1).blocks), Node("replica", FEED)
    network = Network(owner, replica)
    network.join("owner", "replica")
    for _ in range(5):
        network.step()
    network.part("owner", "replica")
    network.settle()
    assert not replica.machine.has_work
    network.join("owner", "replica")
    network.pass_time(1)
    assert replica.tip == owner.tip
