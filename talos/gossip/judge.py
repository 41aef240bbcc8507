"""Asking the application's validators, behind the wall: a fault of theirs refuses the message, nothing else."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import trio

from talos.abc import Verdict
from talos.gossip.event import ValidationResult
from talos.host.contain import Owner, contain, contain_sync

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from talos.abc import Event, TopicMessage, Validator

__all__ = ["Judge"]

_OWNER = "gossip validator"


class Judge:
    """Runs validators; `answered` hears of each verdict that took a while, once, unless the block ends before.

    How many of those run at once is bounded by the router, which asks.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        seconds: float,
        emit: Callable[[Event], None],
        answered: Callable[[object, ValidationResult], None],
    ) -> None:
        self._nursery = nursery
        self._seconds = seconds
        self._answered = answered
        self._owner = Owner(_OWNER, emit)

    def ask(self, validator: Validator, message: TopicMessage, question: object) -> ValidationResult | None:
        """The verdict; None when it takes a while, and `answered(question, verdict)` follows."""
        verdict = contain_sync(self._owner, _first_answer, validator, message)
        if verdict is None:
            return ValidationResult.REJECT
        if isinstance(verdict, Verdict):
            return ValidationResult(verdict.value)
        self._nursery.start_soon(self._wait_for, verdict, question)
        return None

    async def _wait_for(self, verdict: Awaitable[Verdict], question: object) -> None:
        result = ValidationResult.IGNORE
        with trio.move_on_after(self._seconds):
            final = await contain(self._owner, _last_answer, verdict)
            result = ValidationResult.REJECT if final is None else ValidationResult(final.value)
        self._answered(question, result)


def _first_answer(validator: Validator, message: TopicMessage) -> Verdict | Awaitable[Verdict]:
    answer = validator(message)
    if isinstance(answer, Verdict) or inspect.isawaitable(answer):
        return answer
    raise TypeError(f"a validator answers with a Verdict, not with {type(answer).__name__}")


async def _last_answer(verdict: Awaitable[Verdict]) -> Verdict:
    answer = await verdict
    if isinstance(answer, Verdict):
        return answer
    raise TypeError(f"a validator answers with a Verdict, not with {type(answer).__name__}")
