"""`talos peers`: who is connected here, near, or known."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from talos.cli.exits import Failure
from talos.cli.frame import command, network_options
from talos.cli.output import short

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.cli.session import Session

__all__ = ["peers"]

WATCH_SECONDS = 2.0


@command("peers", help="Lists the peers that this node is connected to.")
@click.option("--nearby", is_flag=True, help="those that answer on the local network")
@click.option("--known", is_flag=True, help="all that are remembered, connected or not")
@click.option("--watch", is_flag=True, help="again every 2 s, until Ctrl-C")
@network_options
def peers(session: Session, *, nearby: bool, known: bool, watch: bool) -> None:
    if nearby and known:
        raise Failure("usage", "--nearby or --known, not both")
    which = "nearby" if nearby else "known" if known else "connected"
    while True:
        if not session.json:
            session.perform("peers", {"which": which}, show=lambda _, peer: _tell(session, peer))
        else:
            session.perform("peers", {"which": which})
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


def _tell(session: Session, peer: Mapping[str, Any]) -> None:
    where = peer["addr"] or "no address known"
    layers = " ".join(filter(None, (peer["security"], peer["muxer"])))
    path = peer["path"] or ("connected" if peer["connected"] else "not connected")
    session.out.line(
        "  ".join(filter(None, (peer["alias"] or short(peer["peer_id"]), path, where, layers, peer["agent"] or "")))
    )
