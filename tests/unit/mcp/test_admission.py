"""Who gets a session: the order of the checks, and the rates."""

from __future__ import annotations

import pytest

from talos.errors import RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.mcp.admission import REMEMBERED_PEERS, Admission
from talos.mcp.limits import McpLimits
from talos.mcp.policy import parse_policy, quick_policy
from talos.mcp.wire import Open, Status


def peer_of(number: int) -> PeerId:
    return PeerId.from_key(PrivateKey.from_seed(number.to_bytes(32, "big")).public_key)


ALICE, BOB = peer_of(1), peer_of(2)
GOOD = Open(nonce=bytes(32))
MALFORMED = Open(nonce=b"short")


def admission(**limits: int) -> Admission:
    return Admission(quick_policy(["sh"], [ALICE]), McpLimits(**limits))


def test_the_checks_come_in_their_order() -> None:
    rules = admission()
    old = Open(version=0, nonce=b"short")
    assert rules.judge(BOB, old, [], 0.0) == (Status.REFUSED, None)  # not even told that it is malformed
    assert rules.judge(ALICE, old, [], 0.0) == (Status.VERSION, None)
    with pytest.raises(RemoteProtocolError):
        rules.judge(ALICE, MALFORMED, [], 0.0)
    assert rules.judge(ALICE, Open(server="other", nonce=bytes(32)), [], 0.0) == (Status.REFUSED, None)
    resume = Open(session=bytes(16), resume_token=bytes(32), attach=1)
    assert rules.judge(ALICE, resume, [], 0.0) == (Status.NO_SESSION, None)
    status, grant = rules.judge(ALICE, GOOD, [], 0.0)
    assert status is Status.OK
    assert grant is not None
    assert grant.server == "default"
    assert rules.judge(ALICE, Open(version=9, server="default", nonce=bytes(32)), [], 0.0)[0] is Status.OK


def test_sessions_and_openings_are_counted() -> None:
    rules = admission(sessions_per_peer=2, sessions=3, openings_per_minute=2)
    assert rules.judge(ALICE, GOOD, [ALICE, ALICE], 0.0)[0] is Status.BUSY
    assert rules.judge(ALICE, GOOD, [BOB, BOB, BOB], 0.0)[0] is Status.BUSY
    assert rules.judge(ALICE, GOOD, [ALICE, BOB], 0.0)[0] is Status.OK
    assert rules.judge(ALICE, GOOD, [], 1.0)[0] is Status.OK
    assert rules.judge(ALICE, GOOD, [], 59.0)[0] is Status.BUSY
    assert rules.judge(ALICE, GOOD, [], 60.5)[0] is Status.OK


def test_the_peers_remembered_are_bounded() -> None:
    policy = parse_policy(
        b'version = 1\nallow_any = true\n[servers.s]\ncommand = ["sh"]\n[[grants]]\npeer = "*"\nserver = "s"\n'
        b"limits = { rate = 1.0 }\n"
    )
    rules = Admission(policy, McpLimits())
    for number in range(REMEMBERED_PEERS + 10):
        peer = PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32, "big"))
        status, grant = rules.judge(peer, GOOD, [], 0.0)
        assert status is Status.OK
        assert grant is not None
        assert rules.bucket(peer, grant, 0.0) is not None
    assert len(rules._openings) == len(rules._buckets) == REMEMBERED_PEERS


def test_the_rate_of_a_peer_is_that_of_all_its_sessions() -> None:
    rules = admission(rate=1, burst=2)
    grant = rules.judge(ALICE, GOOD, [], 0.0)[1]
    assert grant is not None
    bucket = rules.bucket(ALICE, grant, 0.0)
    assert bucket is not None
    assert bucket.take(0.0) == bucket.take(0.0) == 0.0
    again = rules.bucket(ALICE, grant, 0.1)
    assert again is bucket
    assert again.take(0.1) > 0
    assert admission().bucket(ALICE, grant, 0.0) is None


def test_refusals_are_recorded_once_a_minute_with_their_count() -> None:
    rules = Admission(quick_policy(["sh"], [ALICE]), McpLimits(refusal_peers=2))
    assert rules.refused(BOB, 0.0) == 1
    assert [rules.refused(BOB, float(second)) for second in range(1, 60)] == [0] * 59
    assert rules.refused(BOB, 60.0) == 60
    assert rules.refused(BOB, 61.0) == 0
    assert rules.refused(peer_of(3), 62.0) == 1
    assert rules.refused(peer_of(4), 62.0) == 2  # and the one of Bob that nobody else tells
    assert len(rules._refusals) == 2
