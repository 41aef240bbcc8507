from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

from talos.abc import ServiceFault, TopicMessage, Verdict
from talos.gossip.event import ValidationResult
from talos.gossip.judge import Judge
from talos.host.block import background
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from talos.abc import Event, Validator

MESSAGE = TopicMessage(topic="t", data=b"x", id=b"i", source=PeerId.from_key(PrivateKey.generate().public_key))
ACCEPT, IGNORE, REJECT = ValidationResult.ACCEPT, ValidationResult.IGNORE, ValidationResult.REJECT


class Asked:
    """A judge, what it answered later, and the faults that were told."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.later: list[tuple[object, ValidationResult]] = []
        self.faults: list[str] = []
        self._judge = Judge(nursery, 5.0, self._emit, lambda question, result: self.later.append((question, result)))

    def _emit(self, event: Event) -> None:
        assert isinstance(event, ServiceFault)
        self.faults.append(type(event.exception).__name__)

    def ask(self, validator: Any) -> ValidationResult | None:
        return self._judge.ask(cast("Validator", validator), MESSAGE, "question")


def raising(_: TopicMessage) -> Verdict:
    raise ValueError("a bug of the application")


async def raising_later(_: TopicMessage) -> Verdict:
    await trio.lowlevel.checkpoint()
    raise ValueError("a bug of the application")


async def saying_nothing(_: TopicMessage) -> None:
    await trio.lowlevel.checkpoint()


async def too_slow(_: TopicMessage) -> Verdict:
    await trio.sleep(6)
    return Verdict.ACCEPT


async def slow(_: TopicMessage) -> Verdict:
    await trio.sleep(4)
    return Verdict.IGNORE


@pytest.mark.parametrize("verdict", Verdict)
async def test_an_answer_at_once(verdict: Verdict) -> None:
    async with background() as nursery:
        asked = Asked(nursery)
        assert asked.ask(lambda _: verdict) is ValidationResult(verdict.value)
        assert not asked.faults


@pytest.mark.parametrize(("validator", "fault"), [(raising, "ValueError"), (lambda _: True, "TypeError")])
async def test_a_validator_that_fails_refuses_the_message(validator: Any, fault: str) -> None:
    async with background() as nursery:
        asked = Asked(nursery)
        assert asked.ask(validator) is REJECT
        assert asked.faults == [fault]


@pytest.mark.parametrize(
    ("validator", "result", "faults"),
    [
        (slow, IGNORE, []),
        (too_slow, IGNORE, []),
        (raising_later, REJECT, ["ValueError"]),
        (saying_nothing, REJECT, ["TypeError"]),
    ],
)
async def test_an_answer_that_takes_a_while(
    validator: Any, result: ValidationResult, faults: list[str], autojump_clock: trio.testing.MockClock
) -> None:
    async with background() as nursery:
        asked = Asked(nursery)
        assert asked.ask(validator) is None
        assert asked.later == []
        await trio.sleep(10)
        assert asked.later == [("question", result)]
        assert asked.faults == faults
