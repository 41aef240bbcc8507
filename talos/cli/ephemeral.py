"""A node that lives for one command, and serves the home's socket to others while it does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from talos.cli import config
from talos.cli.exits import SIGNALLED, Failure
from talos.cli.modes import RETRY_SECONDS
from talos.cli.owner import Start, own
from talos.control.client import AgentLost
from talos.control.operations import Request
from talos.host.block import background

if TYPE_CHECKING:
    from collections.abc import Iterable

    from talos.cli.modes import Asked, Teller
    from talos.cli.session import Session
    from talos.control.operations import Operation
    from talos.control.server import Control

__all__ = ["run"]

SERVED_SECONDS = 4 * RETRY_SECONDS
"""At least so long the socket is there, however short our own work: all who wait for it find it, and a crowd of
commands does not have to own the home one after the other."""


def run(session: Session, asked: Asked, teller: Teller) -> dict[str, Any]:
    """The result's fields; Failure as the operation failed. The caller holds the home's lock."""
    settings = config.load(session.home)
    start = Start(config=settings, listen=_listen(settings, asked.port), bootstrap=asked.bootstrap, ephemeral=True)
    outcome = _Outcome(asked, teller)
    code = session.run(own, session, session.unlock_keys(), start, outcome.body)
    if code > SIGNALLED:
        raise SystemExit(code)
    if outcome.failure is not None:
        raise outcome.failure
    assert outcome.result is not None
    return outcome.result


def _listen(settings: config.Config, port: int | None) -> tuple[str, ...]:
    """A free port unless one is asked for: the configured one may be an agent's of another home."""
    node = replace(settings.node, port=0 if port is None else port, listen=())
    return config.listen_addrs(replace(settings, node=node), None)


class _Outcome:
    """What came of the operation."""

    def __init__(self, asked: Asked, teller: Teller) -> None:
        self._asked = asked
        self._teller = teller
        self.result: dict[str, Any] | None = None
        self.failure: Failure | None = None

    async def body(self, control: Control) -> int:
        """Our own operation, then those of others, until all are done or we are told to stop."""
        stays_until = trio.current_time() + SERVED_SECONDS
        async with background() as nursery:
            nursery.start_soon(_cancel_when_stopped, control, nursery.cancel_scope)
            await self._perform(control)
            await trio.sleep_until(stays_until)
            await control.operations.close_when_done()
        return 0

    async def _perform(self, control: Control) -> None:
        asked = self._asked
        request = Request(
            name=asked.name, args=asked.args, seconds=asked.seconds, piped=asked.input is not None
        )  # fmt: skip
        operation = control.operations.begin(request)
        with operation.followed():
            async with background() as nursery:
                if asked.input is not None:
                    nursery.start_soon(_feed, operation, asked.input)
                try:
                    await self._follow(operation)
                except Failure as failure:
                    self.failure = failure
                except AgentLost:
                    self.failure = Failure("going_away", "the agent is stopping")
        control.operations.forget(operation)

    async def _follow(self, operation: Operation) -> None:
        seen = 0
        with self._teller:
            while self.result is None:
                await operation.log.wait_after(seen)
                missed, events = operation.log.after(seen)
                if missed:
                    self._teller("lagged", {"missed": missed})
                for event in events:
                    seen = event.number
                    self.result = self._teller(event.kind, json.loads(event.data))


async def _feed(operation: Operation, pieces: Iterable[bytes]) -> None:
    """Reads in a thread, which is left behind when the operation ends first."""
    waiting = iter(pieces)
    try:
        while piece := await trio.to_thread.run_sync(next, waiting, b"", abandon_on_cancel=True):
            await operation.feed(piece)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
    operation.end_of_feed()


async def _cancel_when_stopped(control: Control, scope: trio.CancelScope) -> None:
    await control.stopped.wait()
    scope.cancel()
