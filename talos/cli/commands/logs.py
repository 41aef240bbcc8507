"""`talos logs`: what the agent in the background said."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import click

from talos.cli.detach import log_file
from talos.cli.exits import Failure
from talos.cli.frame import command

if TYPE_CHECKING:
    from typing import TextIO

    from talos.cli.session import Session

__all__ = ["logs"]

LINES = 100
POLL_SECONDS = 0.25


@command("logs", help="Prints what the agent that `talos up -d` started has said.")
@click.option("-f", "--follow", is_flag=True, help="go on with what comes, until Ctrl-C")
@click.option("-n", "--lines", type=click.IntRange(1, 100_000), default=LINES, show_default=True, metavar="N")
def logs(session: Session, *, follow: bool, lines: int) -> None:
    session.home.check()
    path = log_file(session.home)
    try:
        file = path.open(encoding="utf-8", errors="backslashreplace")
    except FileNotFoundError:
        raise Failure(
            "agent_down", f"no agent of {session.home.path} was ever in the background", hint="talos up -d"
        ) from None
    with file:
        for line in deque(file, maxlen=lines):
            session.out.line(line.rstrip("\n"))
        if follow:
            _follow(session, file)


def _follow(session: Session, file: TextIO) -> None:
    rest = ""
    while True:
        piece = file.readline()
        rest += piece
        if rest.endswith("\n"):
            session.out.line(rest.rstrip("\n"))
            rest = ""
        elif not piece:
            time.sleep(POLL_SECONDS)
