"""What the streams of one connection are charged to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.abc import Resource

if TYPE_CHECKING:
    from talos.abc import Budget

__all__ = ["BudgetLedger"]


class BudgetLedger:
    """Charges a `Budget`; `release_all` gives back what is still charged."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._charged = dict.fromkeys((Resource.STREAM_IN, Resource.STREAM_OUT, Resource.MEMORY), 0)

    def reserve_stream(self, *, inbound: bool) -> None:
        self._reserve(Resource.STREAM_IN if inbound else Resource.STREAM_OUT, 1)

    def release_stream(self, *, inbound: bool) -> None:
        self._release(Resource.STREAM_IN if inbound else Resource.STREAM_OUT, 1)

    def reserve_memory(self, amount: int) -> None:
        self._reserve(Resource.MEMORY, amount)

    def release_memory(self, amount: int) -> None:
        self._release(Resource.MEMORY, amount)

    def release_all(self) -> None:
        for kind, amount in self._charged.items():
            if amount:
                self._release(kind, amount)

    def _reserve(self, kind: Resource, amount: int) -> None:
        self._budget.reserve(kind, amount)
        self._charged[kind] += amount

    def _release(self, kind: Resource, amount: int) -> None:
        self._charged[kind] -= amount
        self._budget.release(kind, amount)
