"""`talos verify WHO`: eight words that two people compare aloud."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from talos.cli.exits import Failure
from talos.cli.frame import command
from talos.errors import WalletError
from talos.identity import words
from talos.identity.wallet import public_identity

if TYPE_CHECKING:
    from talos.cli.session import Session

__all__ = ["verify"]


@command("verify", help="Prints eight words; when WHO reads the same ones to you, nobody stands between you.")
@click.argument("who")
def verify(session: Session, who: str) -> None:
    session.home.check()
    try:
        own = public_identity(session.home)
    except FileNotFoundError:
        raise WalletError(f"no identity in {session.home.path}", reason="missing") from None
    name = session.find(who)
    if name.key is None:
        raise Failure("failed", f"{name.peer_text} is no Ed25519 identity: there are no words for it")
    if name.key == own.key:
        raise Failure("usage", "that is this identity itself; the other side's name is needed")
    spoken = words.spoken(own.key, name.key)
    if session.json:
        session.out.emit("verify_words", peer_id=name.peer_text, alias=name.alias, words=list(spoken))
        return
    session.out.line(" ".join(spoken))
    session.out.note(f"{name.shown} runs `talos verify` with your name: over a call, the words must be the same")
