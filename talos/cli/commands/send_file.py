"""`talos send-file WHO PATH…`: files, directories or a pipe, verified by their recipient."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from talos.cli.exits import Failure
from talos.cli.frame import command, network_options
from talos.cli.output import counted, size_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.cli.names import Name
    from talos.cli.session import Session

__all__ = ["send_file"]

STILL_SECONDS = 60.0
MAX_SECONDS = 7 * 86_400
PIPE = Path("-")
PIECE_BYTES = 1 << 16


@command("send-file", help="Sends files and directories (`-`: standard input, with --name) to WHO; what is broken off "
         "goes on by itself.")  # fmt: skip
@click.argument("who")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="what WHO sees and keeps it under")
@click.option("--wait", type=click.FloatRange(0, MAX_SECONDS), default=STILL_SECONDS, show_default=True, metavar="S",
              help="seconds to wait while nothing moves")  # fmt: skip
@network_options
def send_file(session: Session, who: str, *, paths: tuple[Path, ...], name: str | None, wait: float) -> None:
    peer = session.find(who)
    piped = PIPE in paths
    if piped and (len(paths) > 1 or not name):
        raise Failure("usage", "standard input goes alone, and has no name of its own", hint="- --name NAME")
    for path in () if piped else paths:
        if not path.exists():
            raise Failure("file_unusable", f"{path}: no such file or directory")
    asked = {
        "peer": peer.peer_text,
        "addrs": session.addr_texts(peer),
        "paths": [] if piped else [str(path.absolute()) for path in paths],
        "name": name or "",
        "wait": wait if session.timeout is None else session.timeout,
    }
    pieces = iter(partial(os.read, sys.stdin.fileno(), PIECE_BYTES), b"") if piped else None
    result = session.perform("send-file", asked, show=lambda _, fields: _offered(session, fields), input=pieces)
    reached = result.pop("reached")
    if session.json:
        session.out.emit("transfer", **result)
    if not reached:
        raise Failure("queued", f"{result['name']} is {result['state']}: {peer.shown} has {result['done']} bytes of it")
    if not session.json:
        _tell(session, peer, result)


def _offered(session: Session, fields: Mapping[str, Any]) -> None:
    for path in fields["skipped"]:
        session.out.warn(f"not sent, as it is no file: {path}")


def _tell(session: Session, peer: Name, result: Mapping[str, Any]) -> None:
    words = [f"✓ {result['name']}", size_text(result["total"])]
    if result["rate_bps"]:
        words.append(f"{size_text(result['rate_bps'])}/s")
    if len(result["files"]) == 1:
        words.append(f"sha256 {result['files'][0]['sha256'][:8]}…")
    else:
        words.append(counted(result["file_count"], "file"))
    session.out.line("  ".join((*words, f"verified by {peer.shown}")))
