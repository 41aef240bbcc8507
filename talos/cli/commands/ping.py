"""`talos ping WHO`: whether a peer answers, how fast, and by which path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from talos.cli.frame import command, network_options
from talos.cli.output import short

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.cli.session import Session

__all__ = ["ping"]


@command("ping", help="Asks WHO for a sign of life, and says how long it took and by which path.")
@click.argument("who")
@click.option("-c", "--count", type=click.IntRange(1, 1_000_000), metavar="N", help="so often; else until Ctrl-C")
@click.option("-i", "--interval", type=click.FloatRange(0.01, 3600), default=1.0, metavar="S", help="seconds between")
@network_options
def ping(session: Session, *, who: str, count: int | None, interval: float) -> None:
    name = session.find(who)
    asked = {
        "peer": name.peer_text,
        "addrs": session.addr_texts(name),
        "count": count or 0,
        "interval": interval,
    }
    result = session.perform("ping", asked, show=lambda _, answer: _tell(session, answer))
    if not session.json and result["received"] > 1:
        session.out.note(
            f"{result['received']} answers, {result['min_ms']} / {result['mean_ms']} / {result['max_ms']} ms"
        )


def _tell(session: Session, answer: Mapping[str, Any]) -> None:
    layers = " ".join(filter(None, (answer["security"], answer["muxer"])))
    who = answer["alias"] or short(answer["peer_id"])
    session.out.line(f"{who}  {answer['rtt_ms']} ms  {answer['path']}  {answer['addr']}  {layers}")
