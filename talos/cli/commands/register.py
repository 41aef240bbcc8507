"""`talos register`: makes this identity findable by its key."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

import click

from talos.cli.exits import Failure
from talos.cli.frame import command, network_options
from talos.cli.output import counted, short

if TYPE_CHECKING:
    from talos.cli.session import Session

__all__ = ["register", "server_addr"]

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@command("register", help="Publishes the keys of this identity in the DHT, through SERVER if one is named.")
@click.option("--server", metavar="HOST:PORT", help="a peer to begin with: HOST:PORT, a ticket or an address")
@network_options
def register(session: Session, *, server: str | None) -> None:
    asked = {"server": [] if server is None else _addrs(session, server)}
    result = session.perform("register", asked, show=lambda *_: None)
    if session.json:
        session.out.emit("registration", **result)
    else:
        peers = counted(result["told"], "peer")
        session.out.line(f"{result['name']}  {short(result['peer_id'])}  is in the DHT, with {peers}")


def _addrs(session: Session, server: str) -> list[str]:
    if server.startswith(("/", "talos1")):
        name = session.find(server)
        return [f"{addr}/p2p/{name.peer_text}" for addr in session.addr_texts(name)]
    return [server_addr(server)]


def server_addr(text: str) -> str:
    """The multiaddr of `HOST:PORT`: an address of either family (IPv6 in brackets), or a name."""
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise Failure("usage", f"{text!r} is not HOST:PORT", hint="talos register --server example.org:8765")
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        if not _NAME.fullmatch(host):
            raise Failure("usage", f"{host!r} is neither an address nor a name") from None
        return f"/dns/{host}/tcp/{port}"
    return f"/ip{ip.version}/{ip}/tcp/{port}"
