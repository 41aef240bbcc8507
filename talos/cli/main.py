"""Entry point of the `talos` command.

Descriptors come first: a command whose stdout is a wire must own it before anything can print. Then click, and of
the commands only the one that is called: `--help`, `--version` and completion work from the table here.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from talos.cli import streams

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "Entry", "main", "server"]

INTERRUPTED = 130


class Entry(NamedTuple):
    """Where a command lives and how the help tells it."""

    module: str
    attribute: str
    help: str
    group: str


COMMANDS = {
    "init": Entry("talos.cli.commands.init", "init", "make an identity", "start"),
    "id": Entry("talos.cli.commands.id", "identity", "who I am, or who that is", "start"),
    "wallet": Entry("talos.cli.commands.wallet", "wallet", "recovery words, passphrase, backup", "start"),
    "up": Entry("talos.cli.commands.up", "up", "be the agent of this home", "start"),
    "listen": Entry("talos.cli.commands.up", "listen", "the same, or follow the agent that is up", "start"),
    "down": Entry("talos.cli.commands.down", "down", "end the agent", "start"),
    "wait": Entry("talos.cli.commands.wait", "wait", "until the agent has peers", "start"),
    "status": Entry("talos.cli.commands.status", "status", "what the agent does", "start"),
    "logs": Entry("talos.cli.commands.logs", "logs", "what the agent in the background said", "start"),
    "server": Entry("talos.cli.commands.server", "server", "help others to find each other", "start"),
    "register": Entry("talos.cli.commands.register", "register", "be found by your key", "start"),
    "demo": Entry("talos.cli.commands.demo", "demo", "see it work on this machine", "start"),
    "mcp-serve": Entry("talos.cli.commands.mcp_serve", "mcp_serve", "lend an MCP server to named peers", "agents"),
    "mcp-connect": Entry("talos.cli.commands.mcp_connect", "mcp_connect", "be that server's stdio here", "agents"),
    "mcp-config": Entry("talos.cli.commands.mcp_config", "mcp_config", "the entry for an MCP client", "agents"),
    "audit": Entry("talos.cli.commands.audit", "audit", "who called what, and when", "agents"),
    "send": Entry("talos.cli.commands.send", "send", "a message to a peer", "talk"),
    "send-file": Entry("talos.cli.commands.send_file", "send_file", "files and directories to a peer", "talk"),
    "contacts": Entry("talos.cli.commands.contacts", "contacts", "names for peers, strangers, who is blocked", "talk"),
    "verify": Entry("talos.cli.commands.verify", "verify", "eight words to compare aloud", "talk"),
    "outbox": Entry("talos.cli.commands.outbox", "outbox", "what waits to be delivered", "talk"),
    "history": Entry("talos.cli.commands.history", "history", "what was said, sent and called", "talk"),
    "peers": Entry("talos.cli.commands.peers", "peers", "who is connected, near or known", "talk"),
    "ping": Entry("talos.cli.commands.ping", "ping", "whether a peer answers, and by which path", "talk"),
    "dht": Entry("talos.cli.commands.dht", "dht", "peers, providers, records by key", "look inside"),
    "gossip": Entry("talos.cli.commands.gossip", "gossip", "say and hear by topic", "look inside"),
    "chain": Entry("talos.cli.commands.chain", "chain", "the record itself: blocks, proofs, checks", "look inside"),
    "config": Entry("talos.cli.commands.config", "config", "the settings, and where they come from", "look inside"),
    "completion": Entry("talos.cli.commands.completion", "completion", "for bash, zsh or fish", "look inside"),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code. What it does not expect goes to `sys.excepthook`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return 0


def server() -> int:
    """Entry point of `talos-server`."""
    return main(["server", *sys.argv[1:]])


def _run(arguments: list[str]) -> int:
    streams.mend()
    wire = streams.claim(arguments)
    import click

    from talos.cli import crash, program
    from talos.cli.exits import Failure, problem_of
    from talos.cli.session import Session
    from talos.errors import TalosError

    session = Session(wire=wire, json="--json" in arguments)
    crash.install(session)
    try:
        code = program.invoke(COMMANDS, arguments, session)
        sys.stdout.flush()
    except click.ClickException as error:
        problem = program.usage_problem(error)
    except BrokenPipeError:
        raise
    except (Failure, TalosError, OSError) as error:
        found = problem_of(error)
        if found is None:
            raise
        problem = found
    else:
        return code
    session.out.problem(problem)
    try:
        sys.stdout.flush()
    except OSError:  # the disk is full; or nobody reads, after another failure
        _discard_stdout()
    return problem.exit


def _discard_stdout() -> None:
    """What is still buffered must not fail again when the interpreter ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
