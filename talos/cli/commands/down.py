"""`talos down`: ends the agent and waits for its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from talos.cli.exits import Failure
from talos.cli.frame import command
from talos.control.client import AgentLost, Client, GoingAway, NoAgent

if TYPE_CHECKING:
    from talos.cli.session import Session

__all__ = ["down"]

SECONDS = 10.0
POLL_SECONDS = 0.05


@command("down", help="Ends the agent of this home; returns when it is gone.")
def down(session: Session) -> None:
    home = session.home
    home.check()
    owner = home.holder()
    try:
        Client(home).post("down", {})
    except NoAgent:
        raise Failure("agent_down", f"no agent runs for {home.path}") from None
    except (GoingAway, AgentLost):
        pass  # it is on its way out
    until = time.monotonic() + (session.timeout or SECONDS)
    while home.is_owned() and home.holder() == owner:
        if time.monotonic() > until:
            raise Failure("timeout", "the agent has not ended yet", hint="talos logs")
        time.sleep(POLL_SECONDS)
    session.out.note("the agent has ended")
