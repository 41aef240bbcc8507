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

from typing import TYPE_CHECKING

from talos.chain.block import HEADER_BYTES, SIGNED_HEADER_BYTES, Header, block_id
from talos.chain.candidate import Candidate, Phase
from talos.chain.conflict import equivocation, read_signed
from talos.chain.effects import Alarm, AlarmKind
from talos.chain.fetching import Fetching, Job
from talos.chain.fork_choice import Branch, Choice, choose
from talos.chain.genesis import Mode
from talos.chain.messages import MAX_BLOCKS, MAX_HEADERS, Code, Range
from talos.chain.offers import is_better, offers
from talos.chain.sessions import Wanted
from talos.chain.validation import Reason, Trail, is_future
from talos.errors import BlockRejected, ProofInvalid

if TYPE_CHECKING:
    from talos.chain.effects import Effect, Now, Stored
    from talos.chain.messages import Response, Status
    from talos.chain.sessions import Open, Session

__all__ = ["Following"]

STEP_HEADERS = 16
"""Checked between two pauses; a signature takes 0.1 ms."""
FUTURE_SECONDS = 60.0
"""Until a branch from the future is looked at again."""


class Following(Fetching):
    """The machine's part that follows peers; all methods return effects."""

    # -- Whom to follow

    def consider(self, now: Now) -> list[Effect]:
        """Begins with the best branch that is offered, if one is better than ours."""
        if self.candidate is not None or self.jobs or self.state.frozen_at is not None or self.state.rolled_back:
            return []
        for session in offers(self.state, self.sessions, now):
            assert session.status is not None
            if is_better(self.state, session.status):
                return self._begin(session, session.status, now)
            if self.state.params.mode is Mode.FEED and not session.open:
                # An own block at that height, and this is another: either it is a lie, or a fraud.
                height = min(session.status.height, self.state.height)
                return [self.sessions.ask(session, now, Wanted.CONFLICT, headers=Range(height, height))]
        return []

    def _begin(self, session: Session, status: Status, now: Now) -> list[Effect]:
        self.serial += 1
        self.candidate = Candidate(session.peer, status, self.state.trail.copy())
        start = self.state.height + 1
        if start <= status.height < start + MAX_BLOCKS:
            return [self.ask(session, now, Wanted.BLOCKS, blocks=Range(start, status.height))]
        if start <= status.height:
            return [self._ask_headers(session, status, start, now)]
        return [self._locate(session, now)]

    def _ask_headers(self, session: Session, status: Status, start: int, now: Now) -> Effect:
        end = min(status.height, start + MAX_HEADERS - 1)
        return self.ask(session, now, Wanted.HEADERS, headers=Range(start, end))

    def _locate(self, session: Session, now: Now) -> Effect:
        span = Range(0, MAX_HEADERS - 1)
        return self.ask(session, now, Wanted.LOCATED, headers=span, locator=self.state.locator())

    # -- What peers answer

    def responded(self, session: Session, opened: Open, response: Response, now: Now) -> list[Effect]:
        """An answer to a request of `Wanted` HEADERS, LOCATED, BLOCKS or CONFLICT."""
        if response.code is not Code.OK:
            if response.code is Code.BUSY:
                session.asked_after = now.seconds + self.sessions.limits.busy_seconds
            else:
                session.denied = True
            return self.unanswered(session.peer, opened, now)
        blocks = opened.wanted is Wanted.BLOCKS
        most = MAX_HEADERS if opened.wanted is Wanted.LOCATED else opened.end - opened.start + 1
        count = len(response.blocks) if blocks else len(response.headers)
        if count > most or (response.headers if blocks else response.blocks):
            effects = self.blame(session.peer, Reason.SIZE, "more was sent than was asked for", now)
            return effects + self.unanswered(session.peer, opened, now)
        if not count:
            effects = self.blame(session.peer, "EMPTY", "what STATUS claims was not given", now)
            return effects + self.unanswered(session.peer, opened, now)
        self.jobs.append(Job(session.peer, opened, response))
        return []

    # -- Work, a few milliseconds at a time

    def work(self, now: Now, *, writing: bool) -> list[Effect]:
        """One step; Persist and Replace come at most one at a time, and only while nothing is being written."""
        if self.jobs:
            job = self.jobs[0]
            try:
                done, effects = self._step(job, now)
            except BlockRejected as error:
                return self._rejected(job, error, now)
            if done and self.jobs and self.jobs[0] is job:
                self.jobs.popleft()
            return effects
        if not self.has_work(writing=writing):
            return []
        assert self.candidate is not None
        return self.check_bodies(self.candidate, now)

    def _step(self, job: Job, now: Now) -> tuple[bool, list[Effect]]:
        candidate = self.candidate
        if job.open.wanted is Wanted.CONFLICT:
            return True, self._conflict(job, now)
        if candidate is None or job.open.tag != self.serial:
            return True, []
        if candidate.phase is Phase.BODIES:
            return True, self.take_bodies(candidate, job, now)
        response = job.response
        headers = response.headers or [block.raw + block.sig for block in response.blocks]
        effects: list[Effect] = []
        for raw in headers[job.position : job.position + STEP_HEADERS]:
            found = self._take_header(candidate, job, raw, now)
            if found is None:  # it does not link
                session = self.sessions.get(job.peer)
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

    def _take_header(self, candidate: Candidate, job: Job, signed: bytes, now: Now) -> list[Effect] | None:
        """Rules 1 to 8, and what a fork means; None when the first one does not link."""
        raw, sig = signed[:HEADER_BYTES], signed[HEADER_BYTES:]
        effects: list[Effect] = []
        if candidate.fork is None and len(signed) == SIGNED_HEADER_BYTES:
            if self.state.height_of(block_id(raw)) is not None:  # a locator is coarse: we have this one
                candidate.trail = Trail.at(self.state.params, self.state.source, self._held(block_id(raw)))
                return []
            parent = self.state.source.header_of(_parent_of(raw))
            if parent is None and job.open.wanted is not Wanted.LOCATED:
                return None
            if parent is not None:
                candidate.trail = Trail.at(self.state.params, self.state.source, parent)
        linked = candidate.trail.check(raw, sig, now.unix_ms)
        if self.state.refused(linked.block_id) is not None:
            raise BlockRejected("the block was refused before", reason=Reason.LINK, height=linked.header.height)
        if candidate.fork is None:
            effects = self._forked(candidate, job, signed, now)
            if self.candidate is None:
                return effects
        candidate.trail.advance(linked)
        candidate.headers.append(linked)
        return effects

    def _held(self, found: bytes) -> Stored:
        stored = self.state.source.header_of(found)
        assert stored is not None
        return stored

    def _forked(self, candidate: Candidate, job: Job, signed: bytes, now: Now) -> list[Effect]:
        """What the first header that is not ours says by its place."""
        state, header = self.state, Header.decode(signed[:HEADER_BYTES])
        fork = candidate.fork = header.height - 1
        if fork == state.height:
            if state.params.mode is Mode.FEED and header.author_pk == self.own_pk:
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

    def _conflict(self, job: Job, now: Now) -> list[Effect]:
        """The one header of a feed that should differ from ours at its height."""
        signed, height = job.response.headers[0], job.open.start
        try:
            read_signed(self.state, signed, height)
        except ProofInvalid as error:
            return self.blame(job.peer, Reason.SIGNATURE, str(error), now)
        ours = self.state.source.header_at(height)
        assert ours is not None
        if ours.raw == signed[:HEADER_BYTES]:
            return self.blame(job.peer, "LIED", "STATUS named another tip than the peer has", now)
        return equivocation(self.state, ours, signed) + self.drop()

    def _evaluate(self, candidate: Candidate, job: Job, now: Now) -> list[Effect]:
        """All headers of an answer are checked: fetch bodies, more headers, or let it go."""
        state, trail, status = self.state, candidate.trail, candidate.status
        session = self.sessions.get(job.peer)
        assert session is not None
        ended = trail.height >= status.height
        if ended and trail.total_work < status.total_work:
            return self.blame(job.peer, "LIED", "STATUS claimed more work than the headers have", now)
        if candidate.fork is None:  # all of them are ours
            return self._let_go(status) if ended else [self._ask_headers(session, status, trail.height + 1, now)]
        theirs = Branch(trail.height, trail.total_work, trail.block_id)
        choice = choose(state.params, state.branch, theirs, candidate.fork)
        if choice is Choice.EXTEND:
            return self.fetch(candidate, trail.height, now)
        if choice is Choice.SWITCH and trail.total_work > state.branch.total_work:
            enough = next(one for one in candidate.headers if one.total_work > state.branch.total_work)
            return self.fetch(candidate, enough.header.height, now)
        if choice is Choice.SWITCH and ended:
            return self.fetch(candidate, trail.height, now)
        if ended:
            return self._let_go(status)
        if len(candidate.headers) >= self.sessions.limits.staged_headers:
            return self.blame(job.peer, "FLOOD", f"{len(candidate.headers)} headers weigh less than our chain", now)
        return [self._ask_headers(session, status, trail.height + 1, now)]

    def _let_go(self, status: Status) -> list[Effect]:
        """Ours outweighs it, and does so for good."""
        self.state.refuse(status.tip_id, "WORK")
        return self.drop()

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
        candidate.extends, candidate.fork = True, self.state.height
        if not candidate.checked_all:
            return self.pump(now)
        if candidate.headers:  # behind the part that won
            candidate.begin_bodies(candidate.trail.height, self.state.frontier.copy(), extends=True)
            return self.pump(now)
        session = self.sessions.get(candidate.peer)
        if session is None or candidate.trail.height >= candidate.status.height:
            return self.drop()
        candidate.phase = Phase.HEADERS
        return [self._ask_headers(session, candidate.status, candidate.trail.height + 1, now)]

    # -- Refusals

    def _rejected(self, job: Job, error: BlockRejected, now: Now) -> list[Effect]:
        headers = job.response.headers or [block.raw for block in job.response.blocks]
        raw = headers[job.position][:HEADER_BYTES]
        session = self.sessions.get(job.peer)
        assert session is not None
        if error.reason == Reason.TIME and is_future(Header.decode(raw), now.unix_ms):
            session.asked_after = now.seconds + FUTURE_SECONDS
            return self.drop()
        return self.drop() + self.blame(job.peer, error.reason, str(error), now)


def _parent_of(raw: bytes) -> bytes:
    """The `prev_id` field of a header's bytes."""
    return raw[42:74]
