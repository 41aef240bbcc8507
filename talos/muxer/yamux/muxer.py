"""Yamux as a muxer: the machine, run by the trio half that all muxers share."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from talos.abc import Role
from talos.muxed.budget import BudgetLedger
from talos.muxer.connection import MachineConnection, open_connection
from talos.muxer.yamux.config import YamuxConfig
from talos.muxer.yamux.frame import PROTOCOL_ID
from talos.muxer.yamux.machine import YamuxMachine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.abc import Budget

__all__ = ["Yamux"]


class Yamux:
    """Makes many streams of one channel, by `/yamux/1.0.0`."""

    protocol_id = PROTOCOL_ID

    def __init__(self, config: YamuxConfig | None = None) -> None:
        self.config = config or YamuxConfig()

    @asynccontextmanager
    async def open(
        self, channel: trio.abc.Stream, role: Role, *, budget: Budget | None = None
    ) -> AsyncIterator[MachineConnection]:
        """As `talos.abc.Muxer.open`. Streams and the memory held for them are charged to `budget`."""
        ledger = None if budget is None else BudgetLedger(budget)
        machine = YamuxMachine(dialer=role is Role.DIALER, config=self.config, ledger=ledger, now=trio.current_time())
        try:
            async with open_connection(machine, channel, self.config) as connection:
                yield connection
        finally:
            if ledger is not None:
                ledger.release_all()
