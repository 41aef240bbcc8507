"""Following others: which branch is fetched, from whom, and what becomes of it. Headers first, then bodies.

    STATUS says more ──► gap ≤ 16: blocks at once ─────────────────────────┐
                     └─► else headers, by a locator where they do not link ─┴► link, 1-8 ──► fork choice
    wins: bodies, from all who have them ──► 9-12 ──► behind our tip: Persist, in runs of up to 64
                                                 └──► another branch: Stage …, then Replace
    feed, and the fork is below our tip: Evidence, and the chain is frozen

One branch is fetched at a time. Of one that does not extend ours only as much is staged as outweighs our chain: what
comes behind then extends it. Claims are hints, all recomputed; whoever made a false one, is late, or gives what was
not asked has committed a fault.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from talos.chain.block import HEADER_BYTES, SIGNED_HEADER_BYTES, Header, block_id
from talos.chain.candidate import Candidate, Phase
from talos.chain.conflict import equivocation, read_signed
from talos.chain.effects import Alarm, AlarmKind, DropStage, Persist, Replace, Stage
from talos.chain.entry import inspect
from talos.chain.fork_choice import Branch, Choice, choose
from talos.chain.genesis import Mode
from talos.chain.messages import MAX_BLOCKS, MAX_HEADERS, Code, Range
from talos.chain.offers import is_better, offers, reaches
from talos.chain.sessions import Wanted
from talos.chain.validation import Reason, Trail, body_steps, is_future
from talos.errors import BlockRejected, ProofInvalid

if TYPE_CHECKING:
    from talos.chain.effects import Effect, Now, Stored
    from talos.chain.messages import Response, Status
    from talos.chain.sessions import Open, Session, Sessions
    from talos.chain.state import ChainState

__all__ = ["Following"]

STEP_HEADERS = 16
"""Checked between two pauses; a signature takes 0.1 ms."""
FUTURE_SECONDS = 60.0
"""Until a branch from the future is looked at again."""


class _Job:
    """An answer that is being worked through."""

    __slots__ = ("open", "peer", "position", "response")

    def __init__(self, peer: object, opened: Open, response: Response) -> None:
        self.peer, self.open, self.response, self.position = peer, opened, response, 0


class Following:
    """The machine's part that fetches; all methods return effects."""

    def __init__(self, state: ChainState, sessions: Sessions, own_pk: bytes | None) -> None:
        self._state = state
        self._sessions = sessions
        self._own_pk = own_pk
        self._jobs: deque[_Job] = deque()
        self._serial = 0
        self.candidate: Candidate | None = None

    @property
    def holds_sealing(self) -> bool:
        """A better branch is on its way: what we sealed now would lose its place at once."""
        return self.candidate is not None and self.candidate.phase is Phase.BODIES

    def has_work(self, *, writing: bool) -> bool:
        candidate = self.candidate
        if self._jobs:
            return True
        if candidate is None or writing or candidate.phase is Phase.HEADERS:
            return False
        return bool(candidate.run) or candidate.first in candidate.bodies

    # -- Whom to follow

    def consider(self, now: Now) -> list[Effect]:
        """Begins with the best branch that is offered, if one is better than ours."""
        if self.candidate is not None or self._jobs or self._state.frozen_at is not None or self._state.rolled_back:
            return []
        for session in offers(self._state, self._sessions, now):
            assert session.status is not None
            if is_better(self._state, session.status):
                return self._begin(session, session.status, now)
            if self._state.params.mode is Mode.FEED and not session.open:
                # An own block at that height, and this is another: either it is a lie, or a fraud.
                height = min(session.status.height, self._state.height)
                return [self._sessions.ask(session, now, Wanted.CONFLICT, headers=Range(height, height))]
        return []

    def _begin(self, session: Session, status: Status, now: Now) -> list[Effect]:
        self._serial += 1
        self.candidate = Candidate(session.peer, status, self._state.trail.copy())
        start = self._state.height + 1
        if start <= status.height < start + MAX_BLOCKS:
            return [self._ask(session, now, Wanted.BLOCKS, blocks=Range(start, status.height))]
        if start <= status.height:
            return [self._ask_headers(session, status, start, now)]
        return [self._locate(session, now)]

    def _ask_headers(self, session: Session, status: Status, start: int, now: Now) -> Effect:
        end = min(status.height, start + MAX_HEADERS - 1)
        return self._ask(session, now, Wanted.HEADERS, headers=Range(start, end))

    def _locate(self, session: Session, now: Now) -> Effect:
        span = Range(0, MAX_HEADERS - 1)
        return self._ask(session, now, Wanted.LOCATED, headers=span, locator=self._state.locator())

    def _ask(
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
        return self._sessions.ask(
            session, now, wanted, headers=headers, blocks=blocks, locator=locator, tag=self._serial
        )

    # -- What peers answer

    def responded(self, session: Session, opened: Open, response: Response, now: Now) -> list[Effect]:
        """An answer to a request of `Wanted` HEADERS, LOCATED, BLOCKS or CONFLICT."""
        if response.code is not Code.OK:
            if response.code is Code.BUSY:
                session.asked_after = now.seconds + self._sessions.limits.busy_seconds
            else:
                session.denied = True
            return self._unanswered(session.peer, opened, now)
        blocks = opened.wanted is Wanted.BLOCKS
        most = MAX_HEADERS if opened.wanted is Wanted.LOCATED else opened.end - opened.start + 1
        count = len(response.blocks) if blocks else len(response.headers)
        if count > most or (response.headers if blocks else response.blocks):
            effects = self.blame(session.peer, Reason.SIZE, "more was sent than was asked for", now)
            return effects + self._unanswered(session.peer, opened, now)
        if not count:
            effects = self.blame(session.peer, "EMPTY", "what STATUS claims was not given", now)
            return effects + self._unanswered(session.peer, opened, now)
        self._jobs.append(_Job(session.peer, opened, response))
        return []

    def left(self, session: Session, now: Now) -> list[Effect]:
        """The peer is gone: what it was asked is asked of others, or the branch is let go."""
        self._jobs = deque(job for job in self._jobs if job.peer != session.peer)
        effects: list[Effect] = []
        for opened in session.open.values():
            effects += self._unanswered(session.peer, opened, now)
        candidate = self.candidate
        if candidate is not None and candidate.peer == session.peer and candidate.phase is Phase.HEADERS:
            effects += self.drop()
        return effects + self.pump(now)

    def _unanswered(self, peer: object, opened: Open, now: Now) -> list[Effect]:
        candidate = self.candidate
        if candidate is None or opened.tag != self._serial:
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
        session = self._sessions.get(peer)
        effects: list[Effect] = [self._sessions.fault(peer, reason, text, now)]
        return effects + self.left(session, now) if session is not None else effects

    def drop(self) -> list[Effect]:
        """Lets the branch go."""
        candidate, self.candidate = self.candidate, None
        self._jobs = deque(job for job in self._jobs if job.open.wanted is Wanted.CONFLICT)
        return [DropStage()] if candidate is not None and candidate.staged else []

    # -- Work, a few milliseconds at a time

    def work(self, now: Now, *, writing: bool) -> list[Effect]:
        """One step; Persist and Replace come at most one at a time, and only while nothing is being written."""
        if self._jobs:
            job = self._jobs[0]
            try:
                done, effects = self._step(job, now)
            except BlockRejected as error:
                return self._rejected(job, error, now)
            if done and self._jobs and self._jobs[0] is job:
                self._jobs.popleft()
            return effects
        if not self.has_work(writing=writing):
            return []
        assert self.candidate is not None
        return self._check_bodies(self.candidate, now)

    def _step(self, job: _Job, now: Now) -> tuple[bool, list[Effect]]:
        candidate = self.candidate
        if job.open.wanted is Wanted.CONFLICT:
            return True, self._conflict(job, now)
        if candidate is None or job.open.tag != self._serial:
            return True, []
        if candidate.phase is Phase.BODIES:
            return True, self._take_bodies(candidate, job, now)
        response = job.response
        headers = response.headers or [block.raw + block.sig for block in response.blocks]
        effects: list[Effect] = []
        for raw in headers[job.position : job.position + STEP_HEADERS]:
            found = self._take_header(candidate, job, raw, now)
            if found is None:  # it does not link
                session = self._sessions.get(job.peer)
                assert session is not None
                return True, [*effects, self._locate(session, now)]
            effects += found
            if self.candidate is None:
                return True, effects
            if response.blocks:
                candidate.take_body(job.peer, candidate.trail.height, response.blocks[job.position].items)
            job.position += 1
        if job.position < len(headers):
            return False, effects
        return True, effects + self._evaluate(candidate, job, now)

    def _take_header(self, candidate: Candidate, job: _Job, signed: bytes, now: Now) -> list[Effect] | None:
        """Rules 1 to 8, and what a fork means; None when the first one does not link."""
        raw, sig = signed[:HEADER_BYTES], signed[HEADER_BYTES:]
        effects: list[Effect] = []
        if candidate.fork is None and len(signed) == SIGNED_HEADER_BYTES:
            if self._state.height_of(block_id(raw)) is not None:  # a locator is coarse: we have this one
                candidate.trail = Trail.at(self._state.params, self._state.source, self._held(block_id(raw)))
                return []
            parent = self._state.source.header_of(_parent_of(raw))
            if parent is None and job.open.wanted is not Wanted.LOCATED:
                return None
            if parent is not None:
                candidate.trail = Trail.at(self._state.params, self._state.source, parent)
        linked = candidate.trail.check(raw, sig, now.unix_ms)
        if self._state.refused(linked.block_id) is not None:
            raise BlockRejected("the block was refused before", reason=Reason.LINK, height=linked.header.height)
        if candidate.fork is None:
            effects = self._forked(candidate, job, signed, now)
            if self.candidate is None:
                return effects
        candidate.trail.advance(linked)
        candidate.headers.append(linked)
        return effects

    def _held(self, found: bytes) -> Stored:
        stored = self._state.source.header_of(found)
        assert stored is not None
        return stored

    def _forked(self, candidate: Candidate, job: _Job, signed: bytes, now: Now) -> list[Effect]:
        """What the first header that is not ours says by its place."""
        state, header = self._state, Header.decode(signed[:HEADER_BYTES])
        fork = candidate.fork = header.height - 1
        if fork == state.height:
            if state.params.mode is Mode.FEED and header.author_pk == self._own_pk:
                state.rolled_back = True
                text = f"a peer holds block {header.height} of our own feed, which we do not: this copy is old"
                return [Alarm(AlarmKind.ROLLBACK, text), *self.drop()]
            return []
        ours = state.source.header_at(header.height)
        assert ours is not None
        effects = equivocation(state, ours, signed)
        if state.params.mode is Mode.FEED:
            return effects + self.drop()
        if fork < state.final_height:
            state.refuse(candidate.status.tip_id, Reason.FINAL)
            text = f"a branch leaves ours at height {fork}, below the final block {state.final_height}"
            effects.append(Alarm(AlarmKind.SPLIT, f"the chain is split: {text}"))
            return effects + self.drop() + self.blame(job.peer, Reason.FINAL, text, now)
        return effects

    def _conflict(self, job: _Job, now: Now) -> list[Effect]:
        """The one header of a feed that should differ from ours at its height."""
        signed, height = job.response.headers[0], job.open.start
        try:
            read_signed(self._state, signed, height)
        except ProofInvalid as error:
            return self.blame(job.peer, Reason.SIGNATURE, str(error), now)
        ours = self._state.source.header_at(height)
        assert ours is not None
        if ours.raw == signed[:HEADER_BYTES]:
            return self.blame(job.peer, "LIED", "STATUS named another tip than the peer has", now)
        return equivocation(self._state, ours, signed) + self.drop()

    def _evaluate(self, candidate: Candidate, job: _Job, now: Now) -> list[Effect]:
        """All headers of an answer are checked: fetch bodies, more headers, or let it go."""
        state, trail, status = self._state, candidate.trail, candidate.status
        session = self._sessions.get(job.peer)
        assert session is not None
        ended = trail.height >= status.height
        if ended and trail.total_work < status.total_work:
            return self.blame(job.peer, "LIED", "STATUS claimed more work than the headers have", now)
        if candidate.fork is None:  # all of them are ours
            return self._let_go(status) if ended else [self._ask_headers(session, status, trail.height + 1, now)]
        theirs = Branch(trail.height, trail.total_work, trail.block_id)
        choice = choose(state.params, state.branch, theirs, candidate.fork)
        if choice is Choice.EXTEND:
            return self._fetch(candidate, trail.height, now)
        if choice is Choice.SWITCH and trail.total_work > state.branch.total_work:
            enough = next(one for one in candidate.headers if one.total_work > state.branch.total_work)
            return self._fetch(candidate, enough.header.height, now)
        if choice is Choice.SWITCH and ended:
            return self._fetch(candidate, trail.height, now)
        if ended:
            return self._let_go(status)
        if len(candidate.headers) >= self._sessions.limits.staged_headers:
            return self.blame(job.peer, "FLOOD", f"{len(candidate.headers)} headers weigh less than our chain", now)
        return [self._ask_headers(session, status, trail.height + 1, now)]

    def _let_go(self, status: Status) -> list[Effect]:
        """Ours outweighs it, and does so for good."""
        self._state.refuse(status.tip_id, "WORK")
        return self.drop()

    # -- Bodies

    def _fetch(self, candidate: Candidate, win_end: int, now: Now) -> list[Effect]:
        state, fork = self._state, candidate.first - 1
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
            able = [one for one in self._sessions if self._sessions.can_ask(one, now) and reaches(one, span.end)]
            if not able:
                candidate.missing.append(span)
                break
            session = min(able, key=lambda one: len(one.open))
            candidate.asked += span.end - span.start + 1
            effects.append(self._ask(session, now, Wanted.BLOCKS, blocks=span))
        if candidate.missing and not candidate.asked and not candidate.run and candidate.first not in candidate.bodies:
            return effects + self.drop()
        return effects

    def _take_bodies(self, candidate: Candidate, job: _Job, now: Now) -> list[Effect]:
        opened, blocks = job.open, job.response.blocks
        candidate.asked -= opened.end - opened.start + 1
        for height, block in enumerate(blocks, opened.start):
            if not candidate.matches(block, height):
                self._ask_again(candidate, height, opened.end)
                return self._other_block(job, height, now)
            candidate.take_body(job.peer, height, block.items)
        self._ask_again(candidate, opened.start + len(blocks), opened.end)
        return self.pump(now)

    def _other_block(self, job: _Job, height: int, now: Now) -> list[Effect]:
        """A block of another header: in a shared chain an honest peer may be on another branch by now."""
        session = self._sessions.get(job.peer)
        assert session is not None
        if self._state.params.mode is Mode.FEED:
            return self.blame(job.peer, Reason.BODY, f"block {height} is not the one of its header", now)
        session.denied = True
        return self.pump(now)

    def _check_bodies(self, candidate: Candidate, now: Now) -> list[Effect]:
        """One step of the first body, or the run to the store when it is as long as it gets."""
        if candidate.run and candidate.run_is_full:
            return self._write(candidate, now)
        height = candidate.first
        if candidate.steps is None:
            assert candidate.frontier is not None
            linked, (_, items) = candidate.headers[0], candidate.bodies[height]
            candidate.steps = body_steps(
                self._state.params, linked, items, candidate.frontier, lambda key: self._knows(candidate, key)
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
        return key in candidate.keys or self._state.has_below(key, candidate.fork)

    def _bad_body(self, candidate: Candidate, error: BlockRejected, now: Now) -> list[Effect]:
        height = candidate.first
        supplier, _ = candidate.bodies.pop(height)
        candidate.steps = None
        if error.reason in {Reason.BODY, Reason.SIZE}:  # not what the header signs: others may have it
            candidate.missing.append(Range(height, height))
            return self.blame(supplier, error.reason, str(error), now) + self.pump(now)
        self._state.refuse(candidate.headers[0].block_id, error.reason)
        self._state.refuse(candidate.status.tip_id, error.reason)
        return self.drop() + self.blame(supplier, error.reason, str(error), now)

    def _write(self, candidate: Candidate, now: Now) -> list[Effect]:
        run = candidate.take_run()
        if candidate.extends:
            return [Persist(run, own=False)]
        candidate.staged = True
        if not candidate.checked_all:
            return [Stage(run), *self.pump(now)]
        assert candidate.fork is not None
        own = self._state.own_entries_above(candidate.fork, self._own_pk)
        lost = [item for item in own if inspect(item.entry).key24 not in candidate.keys]
        return [Stage(run), Replace(candidate.fork, tuple((item.entry, item.sealed) for item in lost))]

    def written(self, now: Now, *, own: bool) -> list[Effect]:
        """Our chain has what was handed over: on with the branch, if there is more of it.

        A block of our own, sealed meanwhile, takes the branch's place behind the tip: it is looked at anew.
        """
        candidate = self.candidate
        if candidate is None or candidate.phase is Phase.HEADERS:
            return []
        if own:
            return self.drop()
        candidate.keys.clear()
        candidate.staged = False
        candidate.extends, candidate.fork = True, self._state.height
        if not candidate.checked_all:
            return self.pump(now)
        if candidate.headers:  # behind the part that won
            candidate.begin_bodies(candidate.trail.height, self._state.frontier.copy(), extends=True)
            return self.pump(now)
        session = self._sessions.get(candidate.peer)
        if session is None or candidate.trail.height >= candidate.status.height:
            return self.drop()
        candidate.phase = Phase.HEADERS
        return [self._ask_headers(session, candidate.status, candidate.trail.height + 1, now)]

    # -- Refusals

    def _rejected(self, job: _Job, error: BlockRejected, now: Now) -> list[Effect]:
        headers = job.response.headers or [block.raw for block in job.response.blocks]
        raw = headers[job.position][:HEADER_BYTES]
        session = self._sessions.get(job.peer)
        assert session is not None
        if error.reason == Reason.TIME and is_future(Header.decode(raw), now.unix_ms):
            session.asked_after = now.seconds + FUTURE_SECONDS
            return self.drop()
        return self.drop() + self.blame(job.peer, error.reason, str(error), now)


def _parent_of(raw: bytes) -> bytes:
    """The `prev_id` field of a header's bytes."""
    return raw[42:74]
