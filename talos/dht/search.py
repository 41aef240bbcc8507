"""Runs the lookup machine over requests, and tells how it goes."""

from __future__ import annotations

from dataclasses import dataclass
from random import SystemRandom
from typing import TYPE_CHECKING, Literal, TypeAlias

import trio

from talos.dht.key import kad_id
from talos.dht.query import Lookup, Purpose
from talos.dht.region import RegionQuery
from talos.dht.request import RequestFailed
from talos.dht.wire import Message, MessageType, Request
from talos.host.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from multiaddr import Multiaddr

    from talos.dht.peer import PeerInfo
    from talos.dht.query import Step
    from talos.dht.request import Requests
    from talos.dht.state import DhtState
    from talos.identity.peer_id import PeerId

__all__ = ["Observer", "QueryStep", "Search"]


@dataclass(slots=True)
class QueryStep:
    """A line of a trace. `seconds` are those of the request, at the end those of the whole query."""

    kind: Literal["start", "ask", "answer", "fail", "end"]
    seconds: float = 0.0
    peer: PeerId | None = None
    closer: int = 0
    """Peers in the answer that were new."""
    detail: str = ""
    hop: int = 0


Observer: TypeAlias = "Callable[[QueryStep], None]"
Answer: TypeAlias = "tuple[Sequence[PeerInfo], int]"
"""Closer peers, and how much of what is looked for."""
Ask: TypeAlias = "Callable[[PeerId, tuple[Multiaddr, ...]], Awaitable[Answer]]"
"""One request; RequestFailed."""


class Search:
    """Lookups of one node, each bounded by `lookup_seconds`."""

    def __init__(self, state: DhtState, requests: Requests) -> None:
        self._state = state
        self._requests = requests
        self._random = SystemRandom()

    async def find_node(
        self, key: bytes, purpose: Purpose, trace: Observer | None = None, *, seeds: Iterable[PeerId] = ()
    ) -> Lookup:
        """Looks for the peers nearest to `key`, or for the peer that it is the id of."""
        request = Request.of(Message(MessageType.FIND_NODE, key))

        async def ask(peer: PeerId, addrs: tuple[Multiaddr, ...]) -> Answer:
            return (await self._requests.ask(peer, addrs, request)).closer, 0

        return await self.run(key, purpose, ask, trace=trace, seeds=seeds)

    async def run(
        self,
        key: bytes,
        purpose: Purpose,
        ask: Ask,
        *,
        quorum: int = 0,
        trace: Observer | None = None,
        seeds: Iterable[PeerId] = (),
    ) -> Lookup:
        """A whole lookup, from what the table knows (or `seeds`) to its end or its deadline."""
        state = self._state
        nearest = list(seeds) or state.table.nearest(kad_id(key))
        lookup = Lookup(
            key, nearest, own=state.host.peer_id, purpose=purpose, quorum=quorum, config=state.config.lookup
        )
        started = trio.current_time()
        _tell(trace, QueryStep("start", detail=purpose.value))
        with Trace("query", state.host.emit, purpose=purpose.value, key=key.hex()) as facts:
            with trio.move_on_after(state.config.lookup_seconds):
                await _Run(lookup, ask, trace).run()
            facts.facts.update(asked=lookup.asked, hops=lookup.hops)
        seconds = trio.current_time() - started
        _tell(trace, QueryStep("end", seconds, detail=f"{lookup.asked} asked", hop=lookup.hops))
        return lookup

    async def region(self, key: bytes) -> Sequence[PeerInfo]:
        """All peers around `key`, not only the k nearest; none in a network so small that these are the same."""
        state = self._state
        bits = state.table.region_bits()
        if not bits:
            return ()
        query = RegionQuery(
            key, state.table.nearest, own=state.host.peer_id, bits=bits, rng=self._random, config=state.config.lookup
        )
        with trio.move_on_after(state.config.lookup_seconds):
            # Choosing places takes some 10 ms of hashing; a thread would race with the table.
            while lookups := query.to_run():
                async with trio.open_nursery() as nursery:
                    for lookup in lookups:
                        nursery.start_soon(self._find_node, lookup)
        return query.peers()

    async def _find_node(self, lookup: Lookup) -> None:
        request = Request.of(Message(MessageType.FIND_NODE, lookup.key))

        async def ask(peer: PeerId, addrs: tuple[Multiaddr, ...]) -> Answer:
            return (await self._requests.ask(peer, addrs, request)).closer, 0

        await _Run(lookup, ask, None).run()


class _Run:
    """One lookup under way: a task for each request, and each answer starts those that it calls for."""

    def __init__(
        self,
        lookup: Lookup,
        ask: Ask,
        trace: Observer | None,
    ) -> None:
        self._lookup = lookup
        self._ask = ask
        self._trace = trace

    async def run(self) -> None:
        if self._lookup.done:
            return
        async with trio.open_nursery() as nursery:
            self._next(nursery)

    def _next(self, nursery: trio.Nursery) -> None:
        if self._lookup.done:
            nursery.cancel_scope.cancel()
            return
        for peer in self._lookup.to_ask():
            nursery.start_soon(self._request, peer, nursery)

    async def _request(self, peer: PeerId, nursery: trio.Nursery) -> None:
        started = trio.current_time()
        _tell(self._trace, QueryStep("ask", peer=peer))
        try:
            closer, hits = await self._ask(peer, self._lookup.addrs(peer))
        except RequestFailed as error:
            step, detail = self._lookup.failed(peer), str(error)
        else:
            step, detail = self._lookup.answered(peer, closer, hits), f"{hits} found" if hits else ""
        if self._trace is not None:
            self._trace(_told(step, trio.current_time() - started, detail))
        self._next(nursery)


def _told(step: Step, seconds: float, detail: str) -> QueryStep:
    kind: Literal["answer", "fail"] = "answer" if step.answered else "fail"
    return QueryStep(kind, seconds, step.peer, step.taken, detail, step.hop)


def _tell(trace: Observer | None, step: QueryStep) -> None:
    if trace is not None:
        trace(step)
