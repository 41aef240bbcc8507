"""`talos wait`: returns when the agent is ready, and has the peers that are asked for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from talos.cli.exits import Failure
from talos.cli.frame import command
from talos.control.client import AgentLost, Client, GoingAway, NoAgent, failure_of
from talos.control.kinds import ERROR, RESULT

if TYPE_CHECKING:
    from talos.cli.session import Session

__all__ = ["wait"]

SECONDS = 60.0
POLL_SECONDS = 0.1


@command("wait", help="Waits for the agent of this home to be ready, and to have so many peers.")
@click.option("--peers", type=click.IntRange(0, 10_000), default=0, metavar="N", help="connected peers to wait for")
def wait(session: Session, *, peers: int) -> None:
    session.home.check()
    client = Client(session.home)
    until = time.monotonic() + (session.timeout or SECONDS)
    while (left := until - time.monotonic()) > 0:
        try:
            ident = client.begin("ready", {"peers": peers}, seconds=left)
            for event in client.follow(ident):
                if event.kind == RESULT:
                    return
                if event.kind == ERROR and event.fields.get("code") != "going_away":
                    raise failure_of(event.fields)
        except (NoAgent, GoingAway, AgentLost):
            time.sleep(min(POLL_SECONDS, left))
    raise Failure("timeout", f"no agent was ready within {session.timeout or SECONDS:g} s", hint="talos up -d")
