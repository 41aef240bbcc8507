"""A peer that shows a chain made by the test, and breaks one rule while it does."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from talos.chain.messages import Code, Range, Request, Response, Status
from talos.chain.sync import CHAIN
from tests.chain.test_sync import talk
from tests.unit.chain.memory_chain import IDENTITY, Builder
from tests.unit.chain.test_following import signed, status_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.abc import Stream
    from talos.chain.block import Checked

    Respond = Callable[[Request], Response | None]

__all__ = ["AUTHOR", "CHAIN", "RawPeer"]


class Author:
    """The wallet of the chains that a `Builder` makes."""

    identity = IDENTITY


AUTHOR = Author()


class RawPeer:
    """Answers `/talos/chain/1.0.0` by a builder's blocks; `respond` and `claim` are what a test changes."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.respond: Respond = self.honest
        self.claim: Status = status_of(builder)
        self.asked: list[Request] = []
        self.withheld = trio.Event()
        """Something was asked and will not be answered."""

    async def answer(self, stream: Stream) -> None:
        messages = talk(stream)
        with suppress(trio.BrokenResourceError, EOFError):
            while True:
                found = await messages.receive()
                if isinstance(found, Request):
                    self.asked.append(found)
                    response = self.respond(found)
                    if response is None:
                        self.withheld.set()
                    else:
                        await messages.send(response)
                elif isinstance(found, Status):
                    await messages.send(status_of(self.builder) if not found.chain_id else self.claim)

    def honest(self, request: Request) -> Response:
        blocks = self.builder.blocks
        if request.block_id is not None:
            return self._blocks(request, [one for one in blocks if one.block_id == request.block_id])
        span = request.headers or request.blocks
        assert span is not None
        if request.locator:
            ids = [block.block_id for block in blocks]
            first = next((ids.index(one) + 1 for one in request.locator if one in ids), 0)
            span = Range(first, first + span.end - span.start)
        found = blocks[span.start : span.end + 1]
        if request.headers is not None:
            return Response(id=request.id, headers=signed(*found))
        return self._blocks(request, found)

    @staticmethod
    def _blocks(request: Request, found: list[Checked]) -> Response:
        code = Code.OK if found else Code.NOT_FOUND
        return Response(id=request.id, blocks=tuple(one.block for one in found), code=code)

    def genesis_only(self, request: Request) -> Response | None:
        """Headers, and no body but the first."""
        return None if request.blocks is not None and request.blocks.start else self.honest(request)
