"""Answering: which requests a peer may make, and what exactly is read for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.chain.effects import Send, Serve, ServeBlock, ServeBlocks, ServeHeaders, ServeProof
from talos.chain.messages import MAX_BLOCKS, MAX_HEADERS, MAX_LOCATOR, Code, Range, Response

if TYPE_CHECKING:
    from talos.chain.effects import Effect, Now
    from talos.chain.messages import Request
    from talos.chain.sessions import Session, Sessions
    from talos.chain.state import ChainState

__all__ = ["Serving"]

HASH_BYTES = 32


class Serving:
    """Decides on requests; refusals are answered here, the rest becomes Serve."""

    def __init__(self, state: ChainState, sessions: Sessions) -> None:
        self._state = state
        self._sessions = sessions
        self.min_height = 0
        """Below it bodies were pruned."""
        self.min_index = 0
        self.shown: int | None = None
        """The height above which nothing is shown yet, where there is one."""

    def requested(self, session: Session, request: Request, now: Now) -> list[Effect]:
        """The answer, or what is to be read for it; a fault for what is no request."""
        if problem := self._problem(request):
            return [self._sessions.fault(session.peer, "DECODE", problem, now)]
        if not self._sessions.may_ask(session, now):
            return [self._refuse(session, request, Code.BUSY)]
        if not session.reader and (request.proof is None or request.proof.msg_id is None):
            return [self._refuse(session, request, Code.NOT_FOUND)]
        what = self._what(session, request)
        if isinstance(what, Code):
            return [self._refuse(session, request, what)]
        session.serving += 1
        return [Serve(session.peer, request.id, what)]

    def served(self, session: Session, n_bytes: int) -> None:
        session.serving = max(0, session.serving - 1)
        session.minute_bytes += n_bytes

    def _problem(self, request: Request) -> str | None:
        if request.chain_id != self._state.params.chain_id:
            return "a request for another chain"
        wanted = (request.headers, request.blocks, request.block_id, request.proof)
        if sum(one is not None for one in wanted) != 1:
            return "a request for nothing, or for several things"
        if len(request.locator) > MAX_LOCATOR or any(len(found) != HASH_BYTES for found in request.locator):
            return f"a locator has at most {MAX_LOCATOR} ids of {HASH_BYTES} bytes"
        span = request.headers or request.blocks
        if span is not None and span.start > span.end:
            return "a range that ends before it begins"
        return None

    def _what(self, session: Session, request: Request) -> ServeHeaders | ServeBlocks | ServeBlock | ServeProof | Code:
        state = self._state
        if self.shown is not None and (request.proof is not None or request.block_id is not None):
            return Code.BUSY
        if request.proof is not None:
            return ServeProof(request.proof, counterparty_only=not session.reader)
        if request.block_id is not None:
            return ServeBlock(request.block_id)
        if request.headers is not None:
            start = self._after(request.locator) if request.locator else request.headers.start
            length = min(request.headers.end - request.headers.start, MAX_HEADERS - 1)
            return self._within(Range(start, start + length), ServeHeaders)
        assert request.blocks is not None
        start, end = request.blocks
        if start < self.min_height:
            return Code.PRUNED
        if start > self._last and state.frozen_at is None:
            return Code.NOT_FOUND
        return self._within(Range(start, min(end, start + MAX_BLOCKS - 1)), ServeBlocks)

    def _within(self, span: Range, kind: type[ServeHeaders | ServeBlocks]) -> ServeHeaders | ServeBlocks | Code:
        """A frozen feed shows what it held before the conflict."""
        frozen = self._state.frozen_at
        if frozen is not None and span.start >= frozen:
            return Code.FROZEN
        last = self._last if frozen is None else frozen - 1
        return kind(span.start, min(span.end, last))

    @property
    def _last(self) -> int:
        return self._state.height if self.shown is None else self.shown

    def _after(self, locator: tuple[bytes, ...]) -> int:
        """The height behind the first of these ids that is ours."""
        for block_id in locator:
            height = self._state.height_of(block_id)
            if height is not None:
                return height + 1
        return 0

    def _refuse(self, session: Session, request: Request, code: Code) -> Send:
        minima = (self.min_height, self.min_index) if code is Code.PRUNED else (0, 0)
        return Send(session.peer, Response(id=request.id, code=code, min_height=minima[0], min_index=minima[1]))
