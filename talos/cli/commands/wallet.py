"""`talos wallet`: the recovery words and the passphrase."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from talos.cli import passphrase
from talos.cli.exits import Failure
from talos.cli.frame import command, group, passphrase_options
from talos.identity import backup, private_file
from talos.identity.wallet import reseal

if TYPE_CHECKING:
    from talos.cli.session import Session
    from talos.identity.sealed import Passphrase

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
    _, secret = session.unlock_to_keep()
    if not session.interactive:
        raise Failure("wallet_locked", "nobody can be asked for a new passphrase here", hint="run it on a terminal")
    new = passphrase.ask_new()
    reseal(session.home, secret, new)
    session.out.note("the wallet is sealed by the new passphrase")
    _tell_agent(session, new)


@command("export", help="Writes wallet, contacts and settings into FILE, sealed by a passphrase of its own.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--history", is_flag=True, help="the messages, too")
@click.option("--seal-file", type=click.Path(path_type=Path), metavar="FILE", help="file with FILE's passphrase")
@passphrase_options
def export(session: Session, file: Path, *, history: bool, seal_file: Path | None) -> None:
    unlocked = session.unlock()
    files = {}
    for name in backup.SETTINGS:
        path = session.home.path / name
        if path.exists():
            files[name] = private_file.read(path, backup.MAX_BACKUP_BYTES, "file")
    if history and session.home.messages.exists():
        files[backup.HISTORY] = _snapshot(session.home.messages)
    try:
        backup.write(file, backup.Backup(unlocked, files), _seal(session, seal_file))
    except FileExistsError:
        raise Failure("file_exists", f"{file} exists already", hint="another name, or remove it first") from None
    session.out.note(f"{', '.join(['wallet', *files])} in {file}; restore it by: talos wallet restore FILE")


@command("restore", help="Fills a data directory that has no identity from an exported FILE.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--seal-file", type=click.Path(path_type=Path), metavar="FILE", help="file with FILE's passphrase")
@passphrase_options
def restore(session: Session, file: Path, *, seal_file: Path | None) -> None:
    home = session.home
    if os.path.lexists(home.wallet):
        raise Failure("identity_exists", f"an identity lives in {home.path}", hint="another one: --data-dir DIR")
    found = backup.read(file, _unseal(session, seal_file))
    home.prepare()
    with home.lock():
        try:
            backup.restore(home, found, passphrase.given(session))
        except FileExistsError as error:
            raise Failure(
                "file_exists", f"{error.filename2 or error.filename} exists already", hint="--data-dir DIR"
            ) from None
    session.out.line(f'Restored "{found.wallet.name}"  {found.wallet.peer_id}   in {home.path}')


def _tell_agent(session: Session, new: Passphrase) -> None:
    """The agent that is up saves the wallet when its keys change, and needs the passphrase for it."""
    import base64

    from talos.cli.modes import Asked, perform_there

    args = {"passphrase_b64": base64.b64encode(new.data).decode()}
    try:
        perform_there(session, Asked(name="wallet-reread", args=args))
    except Failure as failure:
        session.out.warn(
            f"the agent that is up has not learned it, and its keys stay the same till a restart: {failure}"
        )


def _seal(session: Session, file: Path | None) -> Passphrase:
    if file is not None:
        return passphrase.of_file(file)
    if not session.interactive:
        raise Failure("wallet_locked", "nobody can be asked for the export's passphrase here", hint="--seal-file FILE")
    return passphrase.ask_new()


def _unseal(session: Session, file: Path | None) -> Passphrase:
    if file is not None:
        return passphrase.of_file(file)
    if not session.interactive:
        raise Failure("wallet_locked", "nobody can be asked for the export's passphrase here", hint="--seal-file FILE")
    return passphrase.ask("Passphrase of the export: ")


def _snapshot(database: Path) -> bytes:
    """The message store as it is at one moment, also while an agent writes to it."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(":memory:")) as copy:
        source.backup(copy)
        return copy.serialize()


wallet.add_command(export)
wallet.add_command(restore)
wallet.add_command(words)
wallet.add_command(change)
