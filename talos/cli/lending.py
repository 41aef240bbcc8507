"""`talos mcp-serve` where an agent is up: it lends the servers, this process gives the order and shows what comes."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talos.cli import signals
from talos.cli.exits import SIGNALLED, Failure
from talos.control.client import AgentLost, Client, GoingAway, NoAgent, failure_of
from talos.control.kinds import ERROR
from talos.mcp.child import PASSED_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from talos.cli.session import Session
    from talos.mcp.policy import Policy

__all__ = ["lend", "tell_ready"]


def lend(session: Session, policy: Policy) -> int:
    """Until a signal, whose exit code is given; Failure as the agent's, `agent_down` when it ends."""
    for number in signals.ending():
        signal.signal(number, _leave)
    handed_on = {*PASSED_VARIABLES, *(name for spec in policy.servers.values() for name in spec.pass_env)}
    args = {
        "policy_b64": base64.b64encode(policy.text).decode(),
        "cwd": str(Path.cwd()),
        "environment": {name: os.environ[name] for name in sorted(handed_on) if name in os.environ},
    }
    client = Client(session.home)
    try:
        ident = client.begin("mcp-serve", args)
        try:
            for event in client.follow(ident):
                if event.kind == ERROR and event.fields.get("code") != "going_away":
                    raise failure_of(event.fields)
                _tell(session, event.kind, event.fields)
        finally:
            client.cancel(ident)
    except (NoAgent, GoingAway, AgentLost):
        pass
    raise Failure("agent_down", "the agent that lent the servers has ended")


def tell_ready(session: Session, ready: Mapping[str, Any]) -> None:
    """What to type on the other side: the peer id, with an address where no DHT tells it."""
    peer, addrs, findable, grants = ready["peer_id"], ready["addrs"], ready["findable"], ready["grants"]
    if session.json:
        session.out.emit("mcp_ready", peer_id=peer, addrs=addrs, findable=findable, grants=grants)
        return
    out = session.out
    out.note(f"ready as {peer}")
    for addr in addrs:
        out.note(f"  {addr}")
    for grant in grants:
        out.note(f'  "{grant["server"]}" for {grant["peer_id"]}')
    addition = f" --addr {addrs[0].rpartition('/p2p/')[0]}" if addrs and not findable else ""
    out.note(f"there: talos mcp-connect {peer}{addition}")


def _tell(session: Session, kind: str, fields: Mapping[str, Any]) -> None:
    if kind == "mcp_ready":
        tell_ready(session, fields)
    elif kind == "report":
        session.out.note(str(fields["text"]))


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as the signal module calls it
    raise SystemExit(SIGNALLED + number)
