"""`talos dht`: the network's memory."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Any

import click

from talos.cli.exits import Failure
from talos.cli.frame import command, group, network_options
from talos.cli.output import counted, short

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from talos.cli.session import Session

__all__ = ["dht"]

MAX_VALUE_BYTES = 10 * 1024


def _traced(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--trace", is_flag=True, help="one line for each peer that is asked")(network_options(function))


@group("dht", help="Finds peers, providers and records by key.")
def dht() -> None:
    """Only a group."""


@command("find-peer", help="Says where WHO is.")
@click.argument("who")
@_traced
def find_peer(session: Session, *, who: str, trace: bool) -> None:
    asked = {"peer": session.find(who).peer_text, "trace": trace}
    session.perform("dht-find-peer", asked, show=lambda kind, fields: _tell(session, kind, fields))


@command("find-providers", help="Says who has what KEY names.")
@click.argument("key")
@click.option("-n", "count", type=click.IntRange(1, 1000), default=20, metavar="N", help="ends after so many")
@_traced
def find_providers(session: Session, *, key: str, count: int, trace: bool) -> None:
    asked = {"key": key, "count": count, "trace": trace}
    session.perform("dht-find-providers", asked, show=lambda kind, fields: _tell(session, kind, fields))


@command("provide", help="Says that this node has what KEY names; again every 22 hours while an agent runs.")
@click.argument("key")
@_traced
def provide(session: Session, *, key: str, trace: bool) -> None:
    asked = {"key": key, "trace": trace}
    result = session.perform("dht-provide", asked, show=lambda kind, fields: _tell(session, kind, fields))
    if session.json:
        session.out.emit("stored", size=None, **result)
    else:
        session.out.line(f"told {counted(result['told'], 'peer')}")


@command("put", help="Stores VALUE (`-`: standard input) under KEY, /namespace/name.")
@click.argument("key")
@click.argument("value")
@_traced
def put(session: Session, *, key: str, value: str, trace: bool) -> None:
    data = sys.stdin.buffer.read(MAX_VALUE_BYTES + 1) if value == "-" else value.encode("utf-8", "surrogateescape")
    if len(data) > MAX_VALUE_BYTES:
        raise Failure("usage", f"a value has at most {MAX_VALUE_BYTES} bytes")
    asked = {"key": key, "value_b64": base64.b64encode(data).decode(), "trace": trace}
    result = session.perform("dht-put", asked, show=lambda kind, fields: _tell(session, kind, fields))
    if session.json:
        session.out.emit("stored", told=None, **result)
    else:
        session.out.line(f"stored {result['size']} bytes")


@command("get", help="Prints the best value that is known for KEY, /namespace/name.")
@click.argument("key")
@_traced
def get(session: Session, *, key: str, trace: bool) -> None:
    asked = {"key": key, "trace": trace}
    session.perform("dht-get", asked, show=lambda kind, fields: _tell(session, kind, fields))


@command("status", help="Says what this node knows of the DHT.")
def status(session: Session) -> None:
    session.home.check()
    found = session.ask("dht/table")
    if found is None:
        raise Failure("agent_down", f"no agent runs for {session.home.path}", hint="talos up")
    if session.json:
        session.out.emit("dht_status", **{name: value for name, value in found.items() if name != "next"})
        return
    parts = [
        f"{found['mode']} of {found['protocol']}",
        f"{counted(found['peers'], 'peer')} in {counted(found['buckets'], 'bucket')}",
        counted(found["values"], "value"),
        counted(found["providers"], "provider record"),
        f"bootstrap {found['bootstrap']}",
    ]
    session.out.line("  ·  ".join(parts))
    for row in found["rows"]:
        session.out.detail(f"{row['bucket']}  {row['peer_id']}  {' '.join(row['addrs'])}")


for _command in (find_peer, find_providers, provide, put, get, status):
    dht.add_command(_command)


def _tell(session: Session, kind: str, fields: Mapping[str, Any]) -> None:
    match kind:
        case "lookup_step":
            who = "" if fields["asked"] is None else short(fields["asked"])
            parts = (f"hop {fields['hop']}", fields["step"], who, f"{fields['closer']} closer", fields["detail"])
            session.out.note("  ".join(filter(None, parts)))
        case "provider":
            for addr in fields["addrs"] or ["no address known"]:
                session.out.line(f"{fields['peer_id']}  {addr}")
        case "record":
            session.out.line(base64.b64decode(fields["value_b64"]).decode("utf-8", "backslashreplace"))
