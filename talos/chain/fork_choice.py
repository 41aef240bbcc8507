"""Which of two valid branches is the chain.

1. A prefix of ours is nothing new.
2. What extends our tip is adopted: it has more work.
3. In a feed everything else is equivocation: its author signed two blocks for one height.
4. In a shared chain what leaves ours below the final block is refused; above it most total work wins, and at equal work
   the smaller tip id, so that quiet fleets converge. (First seen would leave them apart.)
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from talos.chain.genesis import Mode

if TYPE_CHECKING:
    from talos.chain.genesis import Params

__all__ = ["Branch", "Choice", "choose", "final_height"]


class Choice(enum.Enum):
    EXTEND = "extend"
    SWITCH = "switch"
    KEEP = "keep"
    FINAL = "final"
    EQUIVOCATION = "equivocation"


class Branch(NamedTuple):
    """A tip, by what ranks it."""

    height: int
    total_work: int
    tip_id: bytes


def final_height(params: Params, height: int) -> int:
    """The highest block of a chain of this height that nothing replaces."""
    return height if params.mode is Mode.FEED else max(0, height - params.finality_depth)


def choose(params: Params, ours: Branch, theirs: Branch, fork_height: int) -> Choice:
    """`fork_height` is that of the last block that both have."""
    if fork_height == ours.height:
        return Choice.EXTEND if theirs.height > ours.height else Choice.KEEP
    if fork_height == theirs.height:
        return Choice.KEEP
    if params.mode is Mode.FEED:
        return Choice.EQUIVOCATION
    if fork_height < final_height(params, ours.height):
        return Choice.FINAL
    if theirs.total_work != ours.total_work:
        return Choice.SWITCH if theirs.total_work > ours.total_work else Choice.KEEP
    return Choice.SWITCH if theirs.tip_id < ours.tip_id else Choice.KEEP
