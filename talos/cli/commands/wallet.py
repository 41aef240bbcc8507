"""`talos wallet`: the recovery words and the passphrase."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from talos.cli import passphrase
from talos.cli.exits import Failure
from talos.cli.frame import command, group, passphrase_options
from talos.identity.wallet import reseal

if TYPE_CHECKING:
    from talos.cli.session import Session

__all__ = ["wallet"]

COLUMNS = 4


@group("wallet", help="The recovery words and the passphrase of this identity.")
def wallet() -> None:
    """Only a name for what is below it."""


@command("words", help="Shows the 24 recovery words: on a terminal only, for they are the identity.")
@passphrase_options
def words(session: Session) -> None:
    if not sys.stdout.isatty():
        raise Failure("usage", "recovery words are shown on a terminal only, never on a pipe or in a file")
    shown = [f"{number:>2} {word:<10}" for number, word in enumerate(session.unlock().words(), 1)]
    for start in range(0, len(shown), COLUMNS):
        session.out.line("  ".join(shown[start : start + COLUMNS]).rstrip())


@command("passphrase", help="Seals the wallet by a new passphrase, asked on the terminal.")
@passphrase_options
def change(session: Session) -> None:
    unlocked = session.unlock()
    if not session.interactive:
        raise Failure("wallet_locked", "nobody can be asked for a new passphrase here", hint="run it on a terminal")
    reseal(session.home, unlocked, passphrase.ask_new())
    session.out.note("the wallet is sealed by the new passphrase")


wallet.add_command(words)
wallet.add_command(change)
