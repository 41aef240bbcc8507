"""At its start a feed that others keep shows nothing new, and signs nothing for a while, until one of them was heard."""

from __future__ import annotations

from dataclasses import replace

import pytest

from talos.chain.machine import AlarmKind, Now
from talos.chain.messages import Code, ProofReq, Range, Request, Response, Status
from talos.errors import RollbackSuspected
from tests.unit.chain.memory_chain import Builder, make_entry
from tests.unit.chain.test_following import FEED, NOW, Script, script

LATER = Now(NOW.seconds + 3.0, NOW.unix_ms + 3000)


def guarded() -> tuple[Script, Builder]:
    run, known = script(key=0, peers=())
    run.node.machine.guard(frozenset({"keeper"}), NOW)
    for peer in ("keeper", "other"):
        run.node.do(run.node.machine.peer_joined(peer, NOW, reader=True), NOW)
    run.node.sent.clear()
    return run, known


def told(run: Script, peer: str) -> list[int]:
    return [message.height for to, message in run.node.sent if to == peer and isinstance(message, Status)]


def seal(run: Script) -> None:
    """An entry, and its block once the guard lets it be signed."""
    machine = run.node.machine
    machine.admit(make_entry(900), b"", NOW)
    assert machine.seal(NOW, force=True) == []
    assert machine.seal_group(4000, NOW) == []
    run.now = LATER
    run.node.do(machine.deadline_passed(LATER), LATER)
    assert machine.tip.header.height == 6


def test_who_is_offline_goes_on_and_is_not_heard() -> None:
    run, known = guarded()
    seal(run)
    assert told(run, "other") == []
    assert run.node.machine.status(LATER).height == 5
    chain_id = FEED.chain_id
    for request in (
        Request(chain_id=chain_id, id=1, blocks=Range(6, 6)),
        Request(chain_id=chain_id, id=2, block_id=run.node.tip),
        Request(chain_id=chain_id, id=3, proof=ProofReq(index=6)),
        Request(chain_id=chain_id, id=4, headers=Range(5, 9)),
    ):
        run.say("other", request)
    answers = [message for to, message in run.node.sent if to == "other" and isinstance(message, Response)]
    assert [answer.code for answer in answers] == [Code.NOT_FOUND, Code.BUSY, Code.BUSY, Code.OK]
    assert len(answers[-1].headers) == 1
    run.claim("other", known)
    assert run.node.machine.status(LATER).height == 5, "it does not keep our chain"
    run.claim("keeper", known)
    assert run.node.machine.status(LATER).height == 6
    assert told(run, "other")[-1:] == [6]


def test_a_keeper_who_knows_no_more_ends_it_at_once() -> None:
    run, known = guarded()
    run.claim("keeper", known.fork(3))
    run.node.machine.admit(make_entry(900), b"", NOW)
    run.node.do(run.node.machine.seal(NOW, force=True), NOW)
    assert run.node.machine.tip.header.height == 6


def test_a_keeper_who_knows_more_shows_that_this_copy_is_old() -> None:
    run, known = guarded()
    run.node.machine.admit(make_entry(900), b"", NOW)
    run.claim("keeper", known.grow(2, 500))
    run.serve(known)
    assert AlarmKind.ROLLBACK in run.node.alarms
    with pytest.raises(RollbackSuspected):
        run.node.machine.admit(make_entry(901), b"", NOW)
    assert run.node.machine.seal(LATER, force=True) == []


def test_a_lie_of_a_keeper_does_not_end_it() -> None:
    run, known = guarded()
    run.claim("keeper", known, height=50, total_work=1 << 40, tip_id=bytes(32))
    run.say("keeper", Response(id=run.asked("keeper").id))
    assert run.faults == ["EMPTY"]
    seal(run)
    assert replace(run.node.machine.status(LATER)).height == 5
