"""`talos listen` beside an agent: its events as they come. Leaves it running."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.cli.exits import Failure
from talos.cli.modes import Waiting
from talos.cli.telling import KINDS, tell_event, tell_up
from talos.control.client import AgentLost, Client, GoingAway, NoAgent

if TYPE_CHECKING:
    from talos.cli.session import Session

__all__ = ["follow"]


def follow(session: Session) -> int:
    """Until Ctrl-C; Failure `agent_down` when the agent ends, `home_in_use` when the owner does not answer at all."""
    client = Client(session.home)
    waiting = Waiting(session)
    while True:
        try:
            status, identity = client.get("status"), client.get("id")
            break
        except (NoAgent, GoingAway, AgentLost):
            waiting.pause()
    session.out.note(f"a node is already up (pid {status['pid']}); following it")
    tell_up(session, status, bytes.fromhex(identity["key_hex"]))
    try:
        for event in client.events(KINDS):
            tell_event(session, event.kind, {name: value for name, value in event.fields.items() if name != "kind"})
    except (NoAgent, GoingAway, AgentLost):
        pass
    raise Failure("agent_down", "the agent has ended")
