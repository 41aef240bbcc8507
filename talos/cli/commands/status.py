"""`talos status`: what the agent does, or who would run. Loads neither trio nor cryptography."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from talos.cli.exits import Failure
from talos.cli.frame import command
from talos.cli.output import counted, short
from talos.errors import WalletError
from talos.identity.wallet import public_identity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.cli.session import Session

__all__ = ["status"]

WATCH_SECONDS = 2.0
AGENT_KNOWS = (
    "pid", "started", "version", "uptime_ms", "ephemeral", "reachability", "dht", "relay", "gossip", "chain", "outbox",
    "transfers", "mcp",
)  # fmt: skip
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


@command("status", help="Says what the agent of this home does; without one, who would run.")
@click.option("--check", is_flag=True, help="exit 4 when no agent answers")
@click.option("--watch", is_flag=True, help="again every 2 s, until Ctrl-C")
def status(session: Session, *, check: bool, watch: bool) -> None:
    session.home.check()
    while True:
        _once(session, check=check)
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


def _once(session: Session, *, check: bool) -> None:
    found = session.ask("status")
    if found is None and check:
        raise Failure("agent_down", f"no agent runs for {session.home.path}")
    if session.json:
        session.out.emit("status", **(found or _without_agent(session)))
    elif found is None:
        who = _identity(session)
        session.out.line(f"no agent runs  ·  {who['name']}  {who['peer_id']}")
        session.out.note("start it: talos up")
    else:
        _tell(session, found)


def _tell(session: Session, found: Mapping[str, Any]) -> None:
    parts = [f"up {_duration(found['uptime_ms'] / 1000)}", counted(found["peers"], "peer"), *_services(found)]
    parts.append(found["reachability"] or "reachability not yet known")
    session.out.line("  ·  ".join(parts))
    if session.verbose:
        session.out.line(f"{found['identity']['name']}  {found['identity']['peer_id']}  pid {found['pid']}")
        for addr in found["addrs"]:
            session.out.line(f"  {addr}")
    relay = found["relay"]
    if relay and relay["relays"]:
        relays = ", ".join(map(short, relay["relays"]))
        session.out.line(f"reached through {counted(len(relay['relays']), 'relay')}: {relays}")
    if relay and relay["serving"]:
        serving = relay["serving"]
        peers, circuits = counted(serving["reservations"], "peer"), counted(serving["circuits"], "circuit")
        session.out.line(f"relaying for {peers}, {circuits} open")
    for weak in found["weakened"]:
        session.out.warn(weak)
    if found["faults"]:
        session.out.note(f"{found['faults']} faults were contained: talos logs")


def _services(found: Mapping[str, Any]) -> list[str]:
    """One word or two for each service that runs."""
    words = []
    dht, gossip, chain, mcp = found["dht"], found["gossip"], found["chain"], found["mcp"]
    if dht:
        words.append(f"dht {dht['peers']} in {counted(dht['buckets'], 'bucket')}")
    if gossip:
        words.append(counted(gossip["topics"], "topic"))
    if chain:
        words.append(f"chain {chain.get('height', '-')}")
    if found["outbox"] is not None:
        words.append(f"outbox {found['outbox']}")
    if found["transfers"]:
        words.append(counted(found["transfers"], "transfer"))
    if mcp:
        words.append(f"{mcp['sessions']} mcp sessions")
    return words


def _without_agent(session: Session) -> dict[str, Any]:
    return {
        **dict.fromkeys(AGENT_KNOWS),
        "running": False,
        "identity": _identity(session),
        "addrs": [],
        "peers": 0,
        "weakened": [],
        "faults": 0,
    }


def _identity(session: Session) -> dict[str, str]:
    try:
        found = public_identity(session.home)
    except FileNotFoundError:
        raise WalletError(f"no identity in {session.home.path}", reason="missing") from None
    return {"name": found.name, "peer_id": found.peer_text}


def _duration(seconds: float) -> str:
    for size, unit in UNITS:
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
