"""A branch that somebody offers and that may become ours: its headers, then the bodies of the part that wins."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from talos.chain.messages import MAX_BLOCKS, Range

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from talos.chain.block import Block, Checked, Item
    from talos.chain.effects import Peer
    from talos.chain.merkle import Frontier
    from talos.chain.messages import Status
    from talos.chain.validation import Linked, Trail

__all__ = ["MAX_RUN_BLOCKS", "MAX_RUN_BYTES", "Candidate", "Phase"]

MAX_RUN_BLOCKS = 64
"""In one transaction."""
MAX_RUN_BYTES = 4_000_000
MAX_AHEAD_BLOCKS = 64
"""Asked for, or waiting to be checked."""


class Phase(enum.Enum):
    HEADERS = "headers"
    BODIES = "bodies"


@dataclass(slots=True, eq=False)
class Candidate:
    """What was learnt of the branch so far."""

    peer: Peer
    """Who offered it, and gives its headers."""
    status: Status
    trail: Trail
    """Behind the last of its headers."""
    fork: int | None = None
    """The height of the last block that it has in common with our chain, once that is known."""
    phase: Phase = Phase.HEADERS
    extends: bool = False
    headers: deque[Linked] = field(default_factory=deque)
    """Checked; their bodies are not."""
    win_end: int = -1
    """The height up to which bodies are wanted."""
    next_ask: int = 0
    missing: list[Range] = field(default_factory=list)
    """Asked for once, and to be asked for again."""
    asked: int = 0
    """Blocks on their way."""
    bodies: dict[int, tuple[Peer, tuple[Item, ...]]] = field(default_factory=dict)
    frontier: Frontier | None = None
    """Behind the last body that was checked."""
    steps: Generator[None, None, Checked] | None = None
    run: list[Checked] = field(default_factory=list)
    """Checked, and not yet given to the store."""
    run_bytes: int = 0
    keys: set[bytes] = field(default_factory=set)
    """Message keys of its blocks that the store does not show yet."""
    staged: bool = False

    @property
    def first(self) -> int:
        """The height whose body is checked next."""
        return self.headers[0].header.height if self.headers else self.trail.height + 1

    @property
    def checked_all(self) -> bool:
        return self.first > self.win_end

    def begin_bodies(self, win_end: int, frontier: Frontier, *, extends: bool) -> None:
        self.phase, self.win_end, self.extends, self.frontier = Phase.BODIES, win_end, extends, frontier
        self.next_ask = self.first

    def next_range(self) -> Range | None:
        """What to ask for next; None while enough is on its way."""
        if self.missing:
            return self.missing.pop()
        if self.asked + len(self.bodies) + len(self.run) >= MAX_AHEAD_BLOCKS:
            return None
        while self.next_ask in self.bodies:  # came with their headers
            self.next_ask += 1
        if self.next_ask > self.win_end:
            return None
        start = self.next_ask
        self.next_ask = min(start + MAX_BLOCKS, self.win_end + 1)
        return Range(start, self.next_ask - 1)

    def matches(self, block: Block, height: int) -> bool:
        """Whether this is the block whose header stands at this height."""
        place = height - self.first
        return 0 <= place < len(self.headers) and self.headers[place].raw == block.raw

    def take_body(self, peer: Peer, height: int, items: Sequence[Item]) -> None:
        if height >= self.first:
            self.bodies[height] = (peer, tuple(items))

    def done_with(self, checked: Checked) -> None:
        """Its first body keeps all rules."""
        self.headers.popleft()
        del self.bodies[checked.height]
        self.steps = None
        self.run.append(checked)
        self.run_bytes += checked.block.size
        self.keys.update(checked.keys)

    @property
    def run_is_full(self) -> bool:
        """Or can grow no further for now."""
        return (
            len(self.run) >= MAX_RUN_BLOCKS
            or self.run_bytes >= MAX_RUN_BYTES
            or self.checked_all
            or self.first not in self.bodies
        )

    def take_run(self) -> tuple[Checked, ...]:
        run = tuple(self.run)
        self.run, self.run_bytes = [], 0
        return run
