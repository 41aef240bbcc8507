"""What a muxer's machine asks before it holds something for the peer."""

from __future__ import annotations

from typing import Protocol

__all__ = ["MEMORY_STEP_BYTES", "Ledger", "Unlimited"]

MEMORY_STEP_BYTES = 16 * 1024
"""Memory is charged in whole steps of this, rounded down, so that no small frame is worth a charge."""


class Ledger(Protocol):
    """Streams and bytes held. `reserve_…` raises LimitExceeded, and then nothing was reserved."""

    def reserve_stream(self, *, inbound: bool) -> None: ...

    def release_stream(self, *, inbound: bool) -> None: ...

    def reserve_memory(self, amount: int) -> None: ...

    def release_memory(self, amount: int) -> None: ...


class Unlimited:
    """Refuses nothing."""

    def reserve_stream(self, *, inbound: bool) -> None:
        pass

    def release_stream(self, *, inbound: bool) -> None:
        pass

    def reserve_memory(self, amount: int) -> None:
        pass

    def release_memory(self, amount: int) -> None:
        pass
