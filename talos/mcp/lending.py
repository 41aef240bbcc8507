"""Several policies on one node: what is lent comes and goes, the tunnel has one mouth."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from talos.errors import ConfigError
from talos.host.block import background
from talos.mcp.policy import Policy
from talos.mcp.serve import McpServeConfig, open_mcp_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from talos.abc import AuditLog, Host
    from talos.mcp.serve import McpServer

__all__ = ["Lending", "Lent", "merged", "open_lending"]


@asynccontextmanager
async def open_lending(
    host: Host, config: Callable[[Policy], McpServeConfig], audit: AuditLog | None, *, leave_seconds: float
) -> AsyncIterator[Lending]:
    """Lends what `Lending.lend` is given, for the length of the block; a peer without a grant finds no protocol at all.

    Servers get `leave_seconds` at the end, then they are killed.
    """
    async with background() as nursery:
        lending = Lending(host, config, audit, nursery, leave_seconds)
        try:
            yield lending
        finally:
            with trio.CancelScope(shield=True):
                await lending.close()


class Lent:
    """One policy among those that are lent."""

    def __init__(self, policy: Policy, report: Callable[[str], None]) -> None:
        self.policy = policy
        self.report = report


class Lending:
    """What a node lends; made by `open_lending`."""

    def __init__(
        self,
        host: Host,
        config: Callable[[Policy], McpServeConfig],
        audit: AuditLog | None,
        nursery: trio.Nursery,
        leave_seconds: float,
    ) -> None:
        self._host = host
        self._config = config
        self._audit = audit
        self._nursery = nursery
        self._leave_seconds = leave_seconds
        self._changing = trio.Lock()
        self._lent: list[Lent] = []
        self._ending = trio.Event()
        self._ended = trio.Event()
        self.server: McpServer | None = None
        """The tunnel; None while nothing is lent."""

    @asynccontextmanager
    async def lend(self, policy: Policy, report: Callable[[str], None]) -> AsyncIterator[Lent]:
        """Lends `policy` too, for the length of the block. `report` gets the lines of the tunnel.

        ConfigError when a server of that name is lent already, or a program is not found.
        """
        lent = Lent(policy, report)
        async with self._changing:
            await self._put([*self._lent, lent])
        try:
            yield lent
        finally:
            with trio.CancelScope(shield=True):
                async with self._changing:
                    await self._put([each for each in self._lent if each is not lent])

    async def change(self, lent: Lent, policy: Policy) -> None:
        """Other rules in the place of those; ConfigError leaves the old ones."""
        async with self._changing:
            old, lent.policy = lent.policy, policy
            try:
                await self._put(self._lent)
            except ConfigError:
                lent.policy = old
                raise

    async def close(self) -> None:
        """Ends all sessions and stops their servers."""
        async with self._changing:
            await self._put([])

    def kill(self) -> None:
        """Kills all servers at once."""
        if self.server is not None:
            self.server.kill()

    def status(self) -> dict[str, object] | None:
        """Plain figures; None while nothing is lent."""
        if self.server is None:
            return None
        servers = sorted({name for lent in self._lent for name in lent.policy.servers})
        return {"servers": servers, "sessions": len(self.server.sessions)}

    def prometheus(self) -> str:
        """The tunnel's numbers in Prometheus' text format; empty while nothing is lent."""
        return "" if self.server is None else self.server.stats.prometheus()

    async def _put(self, lent: list[Lent]) -> None:
        """Makes these the ones that are lent; the caller holds `_changing`."""
        if not lent:
            self._lent = []
            await self._end()
            return
        policy = merged(each.policy for each in lent)
        if self.server is None:
            self._ending, self._ended = trio.Event(), trio.Event()
            self._lent = lent
            try:
                self.server = await self._nursery.start(self._serve, policy)
            except BaseException:
                self._lent = []
                raise
        else:
            await self.server.reload(policy)
            self._lent = lent

    async def _end(self) -> None:
        if self.server is None:
            return
        with trio.move_on_after(self._leave_seconds):
            await self.server.drain()
        self.server.kill()
        self._ending.set()
        await self._ended.wait()
        self.server = None

    async def _serve(self, policy: Policy, task_status: trio.TaskStatus[McpServer] = trio.TASK_STATUS_IGNORED) -> None:
        config = replace(self._config(policy), report=self._report)
        try:
            async with open_mcp_server(self._host, config, self._audit) as server:
                task_status.started(server)
                await self._ending.wait()
        finally:
            self._ended.set()

    def _report(self, text: str) -> None:
        for lent in self._lent:
            lent.report(text)


def merged(policies: Iterable[Policy]) -> Policy:
    """All of them as one; ConfigError when two lend a server by the same name."""
    parts = list(policies)
    if len(parts) == 1:
        return parts[0]
    names = [name for policy in parts for name in policy.servers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"a server {twice!r} is lent already; run: talos mcp-serve --name ANOTHER")
    return Policy(
        servers={name: spec for policy in parts for name, spec in policy.servers.items()},
        grants=tuple(grant for policy in parts for grant in policy.grants),
        allow_any=any(policy.allow_any for policy in parts),
        text=b"\n".join(policy.text for policy in parts),
    )
