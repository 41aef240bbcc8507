"""How a network command runs: as a client of the agent, or with a node that lives for the command.

1. Whoever serves the home's socket is asked. 2. Nobody there: with the home's lock, the command owns the home for as
long as it takes, and serves others meanwhile. 3. The lock is held but nobody answers, since its owner is starting or
leaving: again from the start, for a while. So any number of commands at once on one home all succeed.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from talos.control.client import AgentLost, Client, GoingAway, NoAgent, failure_of
from talos.control.failure import Failure
from talos.control.kinds import ERROR, LAGGED, PROGRESS, RESULT, STAGE
from talos.errors import HomeInUse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from talos.cli.session import Session

    Show = Callable[[str, Mapping[str, Any]], None]

__all__ = ["Asked", "Teller", "Waiting", "perform", "perform_there"]

RETRY_SECONDS = 0.05
PATIENCE_SECONDS = 15.0
"""What an agent may take to be ready (`talos up -d` waits as long)."""
TOLD_SECONDS = 1.0
STAGE_SECONDS = 1.0
MAX_LOSSES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An operation as a command wants it."""

    name: str
    args: Mapping[str, object]
    seconds: float | None = None
    input: Iterable[bytes] | None = None
    port: int | None = None
    """Of the node that the command may have to run."""
    bootstrap: tuple[str, ...] = ()
    """What that node begins with, besides the configured peers."""


def perform(session: Session, asked: Asked, show: Show) -> dict[str, Any]:
    """The result's fields; Failure for what the operation failed with, `home_in_use` when its owner does not answer."""
    waiting = Waiting(session)
    losses = 0
    while True:
        teller = Teller(session, show)
        try:
            with teller:
                return _as_client(session, asked, teller)
        except NoAgent:
            result = _as_owner(session, asked, teller, waiting)
            if result is not None:
                return result
        except GoingAway:
            waiting.pause()
        except AgentLost:
            losses += 1
            if teller.shown or losses > MAX_LOSSES or asked.input is not None:
                raise Failure("agent_down", "the agent ended in the middle of it", hint="run it again") from None
            waiting.pause()


def perform_there(session: Session, asked: Asked) -> bool:
    """Runs it in whoever serves the home's socket; false when nobody does. Failure as it failed."""
    try:
        with Teller(session, lambda *_: None) as teller:
            _as_client(session, asked, teller)
    except (NoAgent, GoingAway, AgentLost):
        return False
    return True


class Waiting:
    """The patience with an owner who holds the lock and does not answer; a new owner gets it anew."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._owner: object = None
        self._until = time.monotonic() + PATIENCE_SECONDS
        self._told_at = time.monotonic() + TOLD_SECONDS

    def pause(self, held: HomeInUse | None = None) -> None:
        """Waits a little; raises `held` past the end of the patience."""
        owner = self._session.home.holder()
        if owner != self._owner:
            self._owner = owner
            self._until = time.monotonic() + PATIENCE_SECONDS
        now = time.monotonic()
        if now > self._told_at and held is not None:
            self._told_at = math.inf
            self._session.out.note(f"{held}, starting or leaving; waiting for it…")
        if now > self._until:
            raise held or HomeInUse(f"{self._session.home.path} is in use by an agent that is leaving")
        time.sleep(RETRY_SECONDS)


class Teller:
    """Takes an operation's events: stages and progress are told here, all others by the command's own function."""

    def __init__(self, session: Session, show: Show) -> None:
        self._session = session
        self._show = show
        self._timer: threading.Timer | None = None
        self.shown = False
        """Whether the command's own function has had anything."""

    def __enter__(self) -> Teller:
        return self

    def __exit__(self, *_: object) -> None:
        self._quiet()

    def __call__(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result's fields when this is the result; Failure when it is the error."""
        self._quiet()
        if kind == RESULT:
            return _without_kind(fields)
        if kind == ERROR:
            if fields.get("code") == "going_away":
                raise AgentLost
            raise failure_of(fields)
        if kind == STAGE:
            self._stage(str(fields["detail"]))
        elif kind == LAGGED:
            self._session.out.warn(f"{fields['missed']} events were missed")
        elif kind == PROGRESS:
            self._session.out.progress(fields["done"], fields["total"])
        else:
            self.shown = True
            self._show(kind, _without_kind(fields))
        return None

    def _stage(self, detail: str) -> None:
        """Told when it lasts; at once with -v."""
        out = self._session.out
        if self._session.verbose:
            out.detail(f"{detail}…")
            return
        self._timer = threading.Timer(STAGE_SECONDS, out.note, (f"{detail}…",))
        self._timer.daemon = True
        self._timer.start()

    def _quiet(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _as_client(session: Session, asked: Asked, teller: Teller) -> dict[str, Any]:
    client = Client(session.home)
    ident = client.begin(asked.name, asked.args, seconds=asked.seconds, piped=asked.input is not None)
    if asked.port is not None or asked.bootstrap:
        session.out.note("a node is already up; using it")
    try:
        feeder = _Feeder(client, ident, asked.input)
        with feeder:
            for event in client.follow(ident):
                result = teller(event.kind, event.fields)
                if result is not None:
                    return result
    except BaseException:
        client.cancel(ident)
        raise
    raise AgentLost


def _as_owner(session: Session, asked: Asked, teller: Teller, waiting: Waiting) -> dict[str, Any] | None:
    """The result of an ephemeral node; None when somebody else has the lock, after a little while."""
    session.home.check()
    with ExitStack() as stack:
        try:
            stack.enter_context(session.home.lock())
        except HomeInUse as held:
            waiting.pause(held)
            return None
        from talos.cli.ephemeral import run

        return run(session, asked, teller)


@dataclass(slots=True)
class _Feeder:
    """Pipes into the operation from a thread of its own."""

    client: Client
    ident: str
    pieces: Iterable[bytes] | None
    _thread: threading.Thread | None = field(default=None, init=False)

    def __enter__(self) -> None:
        if self.pieces is not None:
            self._thread = threading.Thread(target=self._feed, args=(self.pieces,), daemon=True)
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Left behind when the operation ended before its input did: it may wait for a terminal."""

    def _feed(self, pieces: Iterable[bytes]) -> None:
        try:
            self.client.feed(self.ident, pieces)
        except (NoAgent, GoingAway, AgentLost, Failure):
            return  # whoever follows the operation learns how it ended


def _without_kind(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "kind"}
