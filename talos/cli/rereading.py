"""SIGHUP: what of the configuration changes while an agent runs, and what waits for its next start."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from talos.cli import config, logs
from talos.cli.exits import Failure
from talos.errors import TalosError

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.cli.session import Session
    from talos.control.server import Control
    from talos.mcp.policy import Policy

__all__ = ["Rereading"]

LIVE = frozenset({"log.level", "log.file", "mcp.policy"})
"""Keys that need no restart. Contacts need not even this: each look at them sees the file as it is."""


class Rereading:
    """Reads configuration and policy again, for the agent that was opened with `settings`."""

    def __init__(
        self, session: Session, settings: config.Config, policy: Callable[[config.Config], Policy | None]
    ) -> None:
        self._session = session
        self._settings = settings
        self._policy = policy

    async def __call__(self, control: Control) -> None:
        """All that can be done is done, or nothing where a file has a mistake; what else changed is named."""
        warn = self._session.out.warn
        try:
            settings = config.load(self._session.home)
            policy = self._policy(settings)
            logs.configure_for(self._session, settings.log)
        except (Failure, TalosError, OSError) as error:
            warn(f"everything stays as it was: {error}")
            return
        waits = [key for key in _changed(self._settings, settings) if key not in LIVE]
        if waits:
            warn(f"restart needed for {', '.join(waits)}")
        # What waits is told once: the next time only what changed since.
        self._settings = settings
        await self._change(control, policy)

    async def _change(self, control: Control, policy: Policy | None) -> None:
        lending, lent = control.agent.mcp, control.agent.lent
        if lending is not None and lent is not None and policy is not None:
            try:
                await lending.change(lent, policy)
            except TalosError as error:
                self._session.out.warn(f"the policy stays as it was: {error}")
        elif (policy is None) != (lent is None):
            self._session.out.warn("a policy file that comes or goes needs a restart")


def _changed(before: config.Config, after: config.Config) -> list[str]:
    """The keys that differ, as the file has them."""
    return [
        f"{section.name}.{key.name.rstrip('_')}"
        for section in fields(before)
        for key in fields(getattr(before, section.name))
        if getattr(getattr(before, section.name), key.name) != getattr(getattr(after, section.name), key.name)
    ]
