"""`talos outbox`: what waits to be delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from talos.cli.frame import HELP, Group, command, network_options, passphrase_options
from talos.cli.messages import reading
from talos.cli.output import counted

if TYPE_CHECKING:
    from talos.cli.session import Session

__all__ = ["outbox"]

_WHY = {
    "new": "not tried yet",
    "no_key": "its encryption key is not found yet",
    "unreachable": "not reached",
    "not_let_in": "kept there until its owner lets you in",
}


@click.group(
    "outbox",
    cls=Group,
    context_settings=HELP,
    invoke_without_command=True,
    help="Lists what waits to be delivered, for whom, until when and why.",
)
@passphrase_options
@click.pass_context
def outbox(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        _list(context.obj)


@command("list", help="Lists what waits, oldest first.")
@passphrase_options
def list_(session: Session) -> None:
    _list(session)


def _list(session: Session) -> None:
    from talos.messaging.view import outbox_row

    with reading(session) as messages:
        if messages is None:
            return
        for row in messages.outbox():
            _tell(session, outbox_row(row, messages.at(row.number)))


@command("retry", help="Tries now what waits, for WHO or for all.")
@click.argument("who", required=False)
@network_options
def retry(session: Session, *, who: str | None) -> None:
    asked = {"peer": session.find(who).peer_text if who is not None else ""}
    result = session.perform("outbox-retry", asked, show=lambda *_: None)
    session.out.note(f"trying {counted(result['peers'], 'peer')}")


@command("cancel", help="Gives up the message ID.")
@click.argument("ident", metavar="ID")
@network_options
def cancel(session: Session, *, ident: str) -> None:
    result = session.perform("outbox-cancel", {"id": ident}, show=lambda *_: None)
    session.out.note(f"message {result['id']} is given up")


for _command in (list_, retry, cancel):
    outbox.add_command(_command)


def _tell(session: Session, row: dict[str, Any]) -> None:
    peer = row["peer_id"]
    if session.json:
        session.out.emit("outbox", **row, alias=session.alias(peer))
        return
    words = (row["id"], session.shown(peer), f"{row['size']} B", f"until {row['expires'][:16]}", _WHY[row["why"]])
    session.out.line("  ".join(filter(None, words)))
    session.out.detail(f"  {row['type']}, {row['attempts']} attempts, next {row['next']}")
