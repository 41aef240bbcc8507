"""One branch on its way to us: who is asked for its bodies, what comes back, and what of it goes to the store.

Bodies are asked of all who have them; each is checked in steps of a few milliseconds, and whole runs are handed over:
behind our tip as Persist, of another branch as Stage and at last Replace. What a peer does not give is asked of others;
when nobody is left to ask, the branch is let go.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from talos.chain.candidate import Candidate, Phase
from talos.chain.effects import DropStage, Persist, Replace, Stage
from talos.chain.entry import inspect
from talos.chain.genesis import Mode
from talos.chain.messages import Range
from talos.chain.offers import reaches
from talos.chain.sessions import Wanted
from talos.chain.validation import Reason, body_steps
from talos.errors import BlockRejected

if TYPE_CHECKING:
    from talos.chain.effects import Effect, Now
    from talos.chain.messages import Response
    from talos.chain.sessions import Open, Session, Sessions
    from talos.chain.state import ChainState

__all__ = ["Fetching", "Job"]


class Job:
    """An answer that is being worked through."""

    __slots__ = ("open", "peer", "position", "response")

    def __init__(self, peer: object, opened: Open, response: Response) -> None:
        self.peer, self.open, self.response, self.position = peer, opened, response, 0


class Fetching:
    """The branch that is fetched, if there is one; all methods return effects."""

    def __init__(self, state: ChainState, sessions: Sessions, own_pk: bytes | None) -> None:
        self.state = state
        self.sessions = sessions
        self.own_pk = own_pk
        self.jobs: deque[Job] = deque()
        self.serial = 0
        self.candidate: Candidate | None = None

    @property
    def holds_sealing(self) -> bool:
        """A better branch is on its way: what we sealed now would lose its place at once."""
        return self.candidate is not None and self.candidate.phase is Phase.BODIES

    def has_work(self, *, writing: bool) -> bool:
        candidate = self.candidate
        if self.jobs:
            return True
        if candidate is None or writing or candidate.phase is Phase.HEADERS:
            return False
        return bool(candidate.run) or candidate.first in candidate.bodies

    # -- Asking

    def ask(
        self,
        session: Session,
        now: Now,
        wanted: Wanted,
        *,
        headers: Range | None = None,
        blocks: Range | None = None,
        locator: tuple[bytes, ...] = (),
    ) -> Effect:
        """Of the branch that is fetched now; an answer that comes when it is another is passed over."""
        return self.sessions.ask(session, now, wanted, headers=headers, blocks=blocks, locator=locator, tag=self.serial)

    # -- What is not answered, or badly

    def left(self, session: Session, now: Now) -> list[Effect]:
        """The peer is gone: what it was asked is asked of others, or the branch is let go."""
        self.jobs = deque(job for job in self.jobs if job.peer != session.peer)
        effects: list[Effect] = []
        for opened in session.open.values():
            effects += self.unanswered(session.peer, opened, now)
        candidate = self.candidate
        if candidate is not None and candidate.peer == session.peer and candidate.phase is Phase.HEADERS:
            effects += self.drop()
        return effects + self.pump(now)

    def unanswered(self, peer: object, opened: Open, now: Now) -> list[Effect]:
        candidate = self.candidate
        if candidate is None or opened.tag != self.serial:
            return []
        if candidate.phase is Phase.HEADERS:
            return self.drop() if candidate.peer == peer else []
        self._ask_again(candidate, opened.start, opened.end)
        candidate.asked -= opened.end - opened.start + 1
        return self.pump(now)

    @staticmethod
    def _ask_again(candidate: Candidate, start: int, end: int) -> None:
        start = max(start, candidate.first)
        if start <= end:
            candidate.missing.append(Range(start, end))

    def blame(self, peer: object, reason: str, text: str, now: Now) -> list[Effect]:
        """A fault of the peer; its session is over."""
        session = self.sessions.get(peer)
        effects: list[Effect] = [self.sessions.fault(peer, reason, text, now)]
        return effects + self.left(session, now) if session is not None else effects

    def drop(self) -> list[Effect]:
        """Lets the branch go."""
        candidate, self.candidate = self.candidate, None
        self.jobs = deque(job for job in self.jobs if job.open.wanted is Wanted.CONFLICT)
        return [DropStage()] if candidate is not None and candidate.staged else []

    # -- Bodies

    def fetch(self, candidate: Candidate, win_end: int, now: Now) -> list[Effect]:
        state, fork = self.state, candidate.first - 1
        parent = state.source.header_at(fork)
        assert parent is not None
        candidate.begin_bodies(win_end, state.frontier_at(parent), extends=fork == state.height)
        candidate.fork = fork
        return self.pump(now)

    def pump(self, now: Now) -> list[Effect]:
        """Asks for bodies, of whoever is least busy; lets the branch go when nobody is left to ask."""
        candidate = self.candidate
        if candidate is None or candidate.phase is Phase.HEADERS:
            return []
        effects: list[Effect] = []
        while (span := candidate.next_range()) is not None:
            able = [one for one in self.sessions if self.sessions.can_ask(one, now) and reaches(one, span.end)]
            if not able:
                candidate.missing.append(span)
                break
            session = min(able, key=lambda one: len(one.open))
            candidate.asked += span.end - span.start + 1
            effects.append(self.ask(session, now, Wanted.BLOCKS, blocks=span))
        if candidate.missing and not candidate.asked and not candidate.run and candidate.first not in candidate.bodies:
            return effects + self.drop()
        return effects

    def take_bodies(self, candidate: Candidate, job: Job, now: Now) -> list[Effect]:
        opened, blocks = job.open, job.response.blocks
        candidate.asked -= opened.end - opened.start + 1
        for height, block in enumerate(blocks, opened.start):
            if not candidate.matches(block, height):
                self._ask_again(candidate, height, opened.end)
                return self._other_block(job, height, now)
            candidate.take_body(job.peer, height, block.items)
        self._ask_again(candidate, opened.start + len(blocks), opened.end)
        return self.pump(now)

    def _other_block(self, job: Job, height: int, now: Now) -> list[Effect]:
        """A block of another header: in a shared chain an honest peer may be on another branch by now."""
        session = self.sessions.get(job.peer)
        assert session is not None
        if self.state.params.mode is Mode.FEED:
            return self.blame(job.peer, Reason.BODY, f"block {height} is not the one of its header", now)
        session.denied = True
        return self.pump(now)

    def check_bodies(self, candidate: Candidate, now: Now) -> list[Effect]:
        """One step of the first body, or the run to the store when it is as long as it gets."""
        if candidate.run and candidate.run_is_full:
            return self._write(candidate, now)
        height = candidate.first
        if candidate.steps is None:
            assert candidate.frontier is not None
            linked, (_, items) = candidate.headers[0], candidate.bodies[height]
            candidate.steps = body_steps(
                self.state.params, linked, items, candidate.frontier, lambda key: self._knows(candidate, key)
            )
        try:
            next(candidate.steps)
        except StopIteration as done:
            candidate.done_with(done.value)
        except BlockRejected as error:
            return self._bad_body(candidate, error, now)
        return []

    def _knows(self, candidate: Candidate, key: bytes) -> bool:
        assert candidate.fork is not None
        return key in candidate.keys or self.state.has_below(key, candidate.fork)

    def _bad_body(self, candidate: Candidate, error: BlockRejected, now: Now) -> list[Effect]:
        height = candidate.first
        supplier, _ = candidate.bodies.pop(height)
        candidate.steps = None
        if error.reason in {Reason.BODY, Reason.SIZE}:  # not what the header signs: others may have it
            candidate.missing.append(Range(height, height))
            return self.blame(supplier, error.reason, str(error), now) + self.pump(now)
        self.state.refuse(candidate.headers[0].block_id, error.reason)
        self.state.refuse(candidate.status.tip_id, error.reason)
        return self.drop() + self.blame(supplier, error.reason, str(error), now)

    def _write(self, candidate: Candidate, now: Now) -> list[Effect]:
        run = candidate.take_run()
        if candidate.extends:
            return [Persist(run, own=False)]
        candidate.staged = True
        if not candidate.checked_all:
            return [Stage(run), *self.pump(now)]
        assert candidate.fork is not None
        own = self.state.own_entries_above(candidate.fork, self.own_pk)
        lost = [item for item in own if inspect(item.entry).key24 not in candidate.keys]
        return [Stage(run), Replace(candidate.fork, tuple((item.entry, item.sealed) for item in lost))]
