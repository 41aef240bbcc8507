"""Mplex as a muxer: the machine, run by the trio half that all muxers share."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from talos.muxed.budget import BudgetLedger
from talos.muxer.connection import MachineConnection, open_connection
from talos.muxer.mplex.config import MplexConfig
from talos.muxer.mplex.frame import PROTOCOL_ID
from talos.muxer.mplex.machine import MplexMachine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.abc import Budget, Role

__all__ = ["Mplex"]


class Mplex:
    """Makes many streams of one channel, by `/mplex/6.7.0`.

    Deprecated by its specification and in no default list: without flow control a slow reader loses its stream.
    """

    protocol_id = PROTOCOL_ID

    def __init__(self, config: MplexConfig | None = None) -> None:
        self.config = config or MplexConfig()

    @asynccontextmanager
    async def open(
        self,
        channel: trio.abc.Stream,
        role: Role,  # noqa: ARG002 - both sides number their streams alike
        *,
        budget: Budget | None = None,
    ) -> AsyncIterator[MachineConnection]:
        """As `talos.abc.Muxer.open`. Streams and the memory held for them are charged to `budget`."""
        ledger = None if budget is None else BudgetLedger(budget)
        machine = MplexMachine(config=self.config, ledger=ledger, now=trio.current_time())
        try:
            async with open_connection(machine, channel, self.config) as connection:
                yield connection
        finally:
            if ledger is not None:
                ledger.release_all()
