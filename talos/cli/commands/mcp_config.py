"""`talos mcp-config`: the entry that makes an MCP client run `talos mcp-connect`."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from talos.cli.exits import Failure
from talos.cli.frame import command

if TYPE_CHECKING:
    from talos.cli.session import Session

__all__ = ["mcp_config"]

CLIENTS = {
    "generic": "the configuration of your MCP client",
    "claude-desktop": "claude_desktop_config.json in ~/Library/Application Support/Claude (macOS) or %APPDATA%\\Claude",
    "claude-code": ".mcp.json of the project",
    "cursor": ".cursor/mcp.json",
    "vscode": ".vscode/mcp.json",
}


@command("mcp-config", help="Prints the entry that lets an MCP client use PEER's server; edits nothing.")
@click.argument("peer")
@click.option("--client", type=click.Choice(list(CLIENTS)), default="generic", show_default=True, help="whose format")
@click.option("--name", metavar="NAME", help="how the client calls the server (default: that of --server, else talos)")
@click.option("--server", metavar="NAME", help="which of PEER's servers (default: the only one)")
def mcp_config(session: Session, peer: str, client: str, name: str | None, server: str | None) -> None:
    session.find(peer)  # a damaged name is found here, not by a client that shows no errors
    arguments = ["mcp-connect", peer.strip()]
    if server:
        arguments += ["--server", server]
    if not session.home_is_default:
        arguments += ["--data-dir", str(session.home.path)]
    program = _program()
    label = name or server or "talos"
    entry: dict[str, object] = {"command": program, "args": arguments}
    if client in ("claude-code", "vscode"):
        entry = {"type": "stdio", **entry}
    if client != "vscode":
        entry["env"] = {}
    print(json.dumps({"servers" if client == "vscode" else "mcpServers": {label: entry}}, indent=2))
    session.out.note(f"goes into {CLIENTS[client]}")
    if client == "claude-code":
        session.out.note(f"or run: {shlex.join(['claude', 'mcp', 'add', label, '--', program, *arguments])}")


def _program() -> str:
    """The absolute path of the running command: clients give a poor PATH and any working directory."""
    invoked = Path(sys.argv[0])
    beside = Path(sys.executable).with_name("talos")
    for candidate in (invoked if invoked.name == "talos" else None, beside, shutil.which("talos")):
        if candidate is not None and Path(candidate).is_file():
            return str(Path(candidate).absolute())
    raise Failure("failed", "the talos program is not installed where it can be named", hint="pip install talos")
