"""`talos gossip`: saying and hearing by topic, and what the router looks like."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Any

import click

from talos.cli.exits import Failure
from talos.cli.frame import command, group, network_options
from talos.cli.output import counted, short

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.cli.session import Session

__all__ = ["gossip"]

MAX_INPUT_BYTES = 1 << 20


@group("gossip", help="Broadcasts by topic.")
def gossip() -> None:
    """Only a group."""


@command("pub", help="Says TEXT (`-`: standard input) to all who are in TOPIC.")
@click.argument("topic")
@click.argument("text")
@network_options
def pub(session: Session, *, topic: str, text: str) -> None:
    data = _input() if text == "-" else text.encode("utf-8", "surrogateescape")
    asked = {"topic": topic, "data_b64": base64.b64encode(data).decode()}
    result = session.perform("gossip-pub", asked, show=lambda *_: None)
    if session.json:
        session.out.emit("published", **result)
    else:
        session.out.line(f"said in {topic} to {counted(result['peers'], 'neighbour')}")


@command("sub", help="Shows what others say in each TOPIC, until Ctrl-C.")
@click.argument("topics", nargs=-1, required=True, metavar="TOPIC…")
@click.option("-n", "count", type=click.IntRange(1), metavar="N", help="ends after so many messages")
@network_options
def sub(session: Session, *, topics: tuple[str, ...], count: int | None) -> None:
    asked = {"topics": list(topics), "count": count or 0}
    session.perform("gossip-sub", asked, show=lambda _, message: _tell(session, message))


@command("topics", help="Lists the topics of this node and its neighbours.")
def topics(session: Session) -> None:
    for row in _mesh(session)["rows"]:
        if session.json:
            session.out.emit("mesh", **row)
        else:
            ours = "subscribed" if row["subscribed"] else ""
            session.out.line("  ".join(filter(None, (row["topic"], counted(len(row["peers"]), "neighbour"), ours))))


@command("peers", help="Lists the neighbours that gossip, with their scores.")
def peers(session: Session) -> None:
    for row in _mesh(session)["peers"]:
        if session.json:
            session.out.emit("gossip_peer", **row)
        else:
            who, topics_ = short(row["peer_id"]), ", ".join(row["topics"])
            session.out.line(f"{who}  {row['protocol']}  {row['direction']}  score {row['score']}  {topics_}")


@command("mesh", help="Lists who is in TOPIC, and who of them is in our mesh.")
@click.argument("topic")
def mesh(session: Session, *, topic: str) -> None:
    rows = _mesh(session, topic)["rows"]
    if not rows:
        raise Failure("not_found", f"neither this node nor a neighbour is in topic {topic}", hint="talos gossip topics")
    if session.json:
        session.out.emit("mesh", **rows[0])
        return
    for peer in rows[0]["peers"]:
        session.out.line(f"{short(peer['peer_id'])}  {'mesh' if peer['in_mesh'] else 'outside'}  score {peer['score']}")


for _command in (pub, sub, topics, peers, mesh):
    gossip.add_command(_command)


def _tell(session: Session, message: Mapping[str, Any]) -> None:
    text = base64.b64decode(message["data_b64"]).decode("utf-8", "backslashreplace")
    author = "somebody" if message["from"] is None else short(message["from"])
    session.out.line(f"{message['topic']}  {author}  {text}")


def _mesh(session: Session, topic: str | None = None) -> dict[str, Any]:
    session.home.check()
    found = session.ask("gossip/mesh", None if topic is None else {"topic": topic})
    if found is None:
        raise Failure("agent_down", f"no agent runs for {session.home.path}", hint="talos up")
    return found


def _input() -> bytes:
    data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(data) > MAX_INPUT_BYTES:
        raise Failure("usage", f"a message has at most {MAX_INPUT_BYTES} bytes")
    return data
