"""`talos send WHO TEXT`: sealed, signed, recorded, brought to its recipient."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Any

import click

from talos.cli import names
from talos.cli.exits import Failure
from talos.cli.frame import command, network_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.cli.session import Session

__all__ = ["send"]

MAX_BODY_BYTES = 64 * 1024
MAX_OPEN_BYTES = 32 * 1024
"""To all."""
WAIT_SECONDS = 30.0
MAX_SECONDS = 14 * 86_400
STATES = ("sent", "stored", "delivered", "read")
_KEPT = {
    "stored": "kept by {who}'s node until its owner lets you in",
    "delivered": "delivered to {who}, not read",
}


@command(
    "send", help="Sends TEXT (`-`: standard input) to WHO (`*`: all, `#NAME`: a channel), now or when that can be."
)
@click.argument("who")
@click.argument("text")
@click.option("--wait", type=click.FloatRange(0, MAX_SECONDS), default=WAIT_SECONDS, show_default=True, metavar="S",
              help="seconds to wait for it to arrive")  # fmt: skip
@click.option("--until", type=click.Choice(STATES), default="delivered", show_default=True, help="how far it is to be")
@click.option("--ttl", type=click.IntRange(1, MAX_SECONDS), metavar="S", help="seconds after which it is given up")
@click.option("--subject", default="", metavar="TEXT", help="what it is about")
@click.option("--reply-to", default="", metavar="ID", help="the message that this answers")
@network_options
def send(session: Session, who: str, text: str, *, wait: float, until: str, ttl: int | None, **more: str) -> int | None:
    channel = names.channel_of(who)
    peer, addrs, shown = _recipient(session, who) if channel is None else (names.BROADCAST, [], _all(channel))
    body = _body(text, MAX_BODY_BYTES if channel is None else MAX_OPEN_BYTES)
    asked = {
        "peer": peer,
        "addrs": addrs,
        "channel": channel or "",
        "body_b64": base64.b64encode(body).decode(),
        "wait": wait if session.timeout is None else session.timeout,
        "until": until,
        "ttl": ttl or 0,
        **more,
    }
    result = session.perform("send", asked, show=lambda *_: None)
    reached, expires = result.pop("reached"), str(result.pop("expires"))
    if session.json:
        session.out.emit("delivery", **result)
    if reached:
        _tell(session, shown, result)
        return None
    if channel is not None:
        why = f"no neighbour hears it; who comes until {expires[11:16]} UTC gets it"
        raise Failure("queued", why, hint="talos peers; it is said by whoever runs `talos up` here meanwhile")
    raise Failure("queued", _not_yet(result["state"], shown, asked["wait"], expires))


def _recipient(session: Session, who: str) -> tuple[str, list[str], str]:
    """Peer, addresses, and how it is called."""
    name = session.find(who)
    return name.peer_text, session.addr_texts(name), name.shown


def _all(channel: str) -> str:
    """How those are called who hear it."""
    return f"{names.CHANNEL}{channel}" if channel else "all"


def _tell(session: Session, who: str, result: Mapping[str, Any]) -> None:
    if session.json:
        return
    words = [f"✓ {result['state']} to {who}"]
    if result["latency_ms"] is not None:
        words[0] += f" in {result['latency_ms']} ms"
    if result["receipt"]:
        words.append(f"receipt {result['receipt'][:8]}…")
    session.out.line(" · ".join(words))
    session.out.detail(f"  id {result['id']}  entry {result['entry'] or 'none yet'}")


def _not_yet(state: str, who: str, wait: object, expires: str) -> str:
    kept = _KEPT.get(state, "").format(who=who)
    return kept or f"not delivered to {who} in {wait:g} s; it waits in the outbox until {expires[:10]}"


def _body(text: str, most: int) -> bytes:
    data = sys.stdin.buffer.read(most + 1) if text == "-" else text.encode("utf-8", "surrogateescape")
    if len(data) > most:
        raise Failure("usage", f"a message has at most {most} bytes", hint="talos send-file WHO FILE")
    return data
