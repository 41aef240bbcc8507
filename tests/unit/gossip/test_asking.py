"""Validators that the router calls itself, and copies that it does not read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from talos.errors import LocalProtocolError
from talos.gossip import intake
from talos.gossip.event import Deliver, Validate, ValidationResult
from tests.unit.gossip.peers import TOPIC, give, join, kinds, make_router, message, message_id, peer, sent

if TYPE_CHECKING:
    from talos.gossip.message import Message
    from talos.identity.peer_id import PeerId

ACCEPT, IGNORE, REJECT = ValidationResult.ACCEPT, ValidationResult.IGNORE, ValidationResult.REJECT


@pytest.mark.parametrize(
    ("answer", "delivered", "ignored", "rejected"), [(ACCEPT, 100, 0, 0), (IGNORE, 0, 100, 0), (REJECT, 0, 0, 100)]
)
def test_an_answer_at_once_takes_no_place(
    answer: ValidationResult, delivered: int, ignored: int, rejected: int
) -> None:
    """So that a whole burst of one peer is judged, however little may wait."""
    asked: list[Message] = []

    def ask(one: Message) -> ValidationResult:
        asked.append(one)
        return answer

    router = make_router(ask=ask)
    router.subscribe(TOPIC, 0, validate=True)
    join(router, 1)
    effects = give(router, 1, *(message(5, seqno=number) for number in range(1, 101)))
    assert [one.seqno[-1] for one in asked] == list(range(1, 101))
    assert len(kinds(effects, Deliver)) == delivered
    assert not kinds(effects, Validate)
    stats = router.stats
    assert (stats.delivered, stats.ignored, stats.rejected, stats.throttled) == (delivered, ignored, rejected, 0)


def test_an_answer_that_takes_a_while_is_waited_for() -> None:
    asked: list[Message] = []
    router = make_router(ask=asked.append)
    router.subscribe(TOPIC, 0, validate=True)
    join(router, 1)
    assert not kinds(give(router, 1, message(5)), Deliver)
    assert kinds(router.validated(asked[0], ACCEPT, 1), Deliver)


def test_judging_begins_and_ends() -> None:
    router = make_router(ask=lambda _: REJECT)
    with pytest.raises(LocalProtocolError, match="not subscribed"):
        router.judge(TOPIC, validate=True)
    router.subscribe(TOPIC, 0)
    join(router, 1)
    router.judge(TOPIC, validate=True)
    assert not kinds(give(router, 1, message(5, seqno=1)), Deliver)
    router.judge(TOPIC, validate=False)
    assert kinds(give(router, 1, message(5, seqno=2)), Deliver)


def test_copies_are_known_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They count as duplicates and are told as such, but nothing of them is read."""
    told: list[tuple[PeerId, str, bytes]] = []
    router = make_router(on_receive=lambda *received: told.append(received))
    router.subscribe(TOPIC, 0)
    join(router, 1, 2, 3)
    give(router, 1, message(5))
    monkeypatch.setattr(intake, "MessageFields", None)
    give(router, 2, message(5))
    assert router.stats.duplicates == 1
    assert told == [(peer(number), TOPIC, message_id(5)) for number in (1, 2)]
    assert sent(router, 2).messages == []


def test_copies_of_what_is_over_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgotten by their number, and by the end of the subscription."""
    monkeypatch.setattr(intake, "_MAX_RECENT", 1)
    router = make_router()
    router.subscribe(TOPIC, 0)
    join(router, 1, 2)
    give(router, 1, message(5, seqno=1), message(5, seqno=2))
    give(router, 2, message(5, seqno=1), message(5, seqno=2))
    assert router.stats.duplicates == 2
    router.unsubscribe(TOPIC, 1)
    give(router, 2, message(5, seqno=2))
    assert (router.stats.duplicates, router.stats.ignored) == (2, 1)
