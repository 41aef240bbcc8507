"""Counters with limits: the nodes of the resource tree.

Nothing here waits or knows of connections. A charge is made in two steps, so that a chain of scopes agrees as a
whole or is not touched: `admit` asks each, `add` charges each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.abc import Resource
from talos.errors import LimitExceeded
from talos.host.limits_config import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sized

    from talos.host.limits_config import ScopeLimits

__all__ = ["COUNTERS", "NAMES", "UNBOUNDED", "Holder", "Scope", "SharedScope", "as_tuple"]

NAMES = (
    "connections in",
    "connections out",
    "connections",
    "streams in",
    "streams out",
    "streams",
    "memory",
    "descriptors",
)
COUNTERS: Mapping[Resource, tuple[int, ...]] = {
    Resource.CONN_IN: (0, 2),
    Resource.CONN_OUT: (1, 2),
    Resource.STREAM_IN: (3, 5),
    Resource.STREAM_OUT: (4, 5),
    Resource.MEMORY: (6,),
    Resource.FD: (7,),
}
"""Which counters a resource moves: its own, and that of both directions."""
UNBOUNDED = (UNLIMITED,) * len(NAMES)
_DESCRIPTORS = 7
FAIR_SHARE_FROM = 0.75
"""Above that part of a shared counter, nobody takes more than an equal share."""
CEILING = 2
"""How far past its limit a shared counter goes for holders below their share. Descriptors never do: the
operating system would refuse them to somebody else."""


def as_tuple(limits: ScopeLimits) -> tuple[int, ...]:
    """The figures in the order of `NAMES`."""
    return (
        limits.connections_in,
        limits.connections_out,
        limits.connections,
        limits.streams_in,
        limits.streams_out,
        limits.streams,
        limits.memory,
        limits.descriptors,
    )


class Scope:
    """What one owner holds, and may hold."""

    __slots__ = ("kind", "limits", "subject", "used")

    def __init__(self, kind: str, limits: tuple[int, ...] = UNBOUNDED, subject: object = "") -> None:
        self.kind = kind
        self.subject = subject
        self.limits = limits
        self.used = [0] * len(NAMES)

    def admit(self, counters: tuple[int, ...], amount: int) -> None:
        """LimitExceeded when `amount` more does not fit; charges nothing."""
        used, limits = self.used, self.limits
        for counter in counters:
            if used[counter] + amount > limits[counter]:
                raise self.refusal(counter)

    def add(self, counters: tuple[int, ...], amount: int) -> None:
        """Charges; negative gives back."""
        used = self.used
        for counter in counters:
            used[counter] += amount

    def add_all(self, amounts: list[int], sign: int = 1) -> None:
        """Charges or gives back what another scope holds."""
        self.used = [mine + sign * amount for mine, amount in zip(self.used, amounts, strict=True)]

    def admit_all(self, amounts: list[int]) -> None:
        """LimitExceeded when all of `amounts`, one per counter, do not fit."""
        for counter, amount in enumerate(amounts):
            if amount:
                self.admit((counter,), amount)

    def refusal(self, counter: int) -> LimitExceeded:
        """The error that says which limit it was."""
        limit, name = self.limits[counter], NAMES[counter]
        whose = f"{self.kind} {self.subject}" if self.subject else self.kind
        return LimitExceeded(f"limit of {limit} {name} reached in {whose}", limit=limit, scope=self.kind, kind=name)


class Holder(Scope):
    """A scope that has a fair share of the ones above it, equal to that of all its `kin`.

    A `guaranteed` one is served below its share even where nothing is left: authenticated peers are, addresses
    are not, for those cost nothing.
    """

    __slots__ = ("guaranteed", "kin")

    def __init__(
        self, kind: str, kin: Sized, limits: tuple[int, ...] = UNBOUNDED, subject: object = "", *, guaranteed: bool
    ) -> None:
        super().__init__(kind, limits, subject)
        self.kin = kin
        self.guaranteed = guaranteed


class SharedScope(Scope):
    """A scope that many holders fill. While there is room, whoever comes is served.

    From `FAIR_SHARE_FROM` on a holder that would have more than limit / holders (but one at least) is refused; a
    guaranteed one below that is served even past the limit, up to `CEILING` times it: else those who came first
    could lock the others out.
    """

    __slots__ = ()

    def admit_for(self, counters: tuple[int, ...], amount: int, holder: Holder | None) -> None:
        """As `admit`, on behalf of `holder`; None has no share, so for it the limit is hard."""
        for counter in counters:
            limit = self.limits[counter]
            after = self.used[counter] + amount
            if after <= limit * FAIR_SHARE_FROM:
                continue
            ceiling = limit
            if holder is not None:
                if holder.used[counter] + amount > max(1, limit / max(1, len(holder.kin))):
                    raise self.refusal(counter)
                if holder.guaranteed and counter != _DESCRIPTORS:
                    ceiling = limit * CEILING
            if after > ceiling:
                raise self.refusal(counter)

    def admit_all_for(self, amounts: list[int], holder: Holder | None) -> None:
        """As `admit_all`, on behalf of `holder`."""
        for counter, amount in enumerate(amounts):
            if amount:
                self.admit_for((counter,), amount, holder)
