"""`talos init`: makes the wallet."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from talos.cli import names, passphrase
from talos.cli.exits import Failure
from talos.cli.frame import command, passphrase_options
from talos.errors import WalletError
from talos.identity import did, wallet, words

if TYPE_CHECKING:
    from talos.cli.session import Session
    from talos.identity.sealed import Passphrase

__all__ = ["init"]

MAX_WORDS_BYTES = 1024


@command("init", help="Makes an identity: a key pair that is your name to others, sealed in the data directory.")
@click.option("--name", required=True, metavar="NAME", help="what others may call you; a claim, it proves nothing")
@click.option("--passphrase", "ask", is_flag=True, help="seal it by a passphrase, asked on the terminal")
@click.option("--recover", is_flag=True, help="from the 24 recovery words, on stdin or asked")
@passphrase_options
def init(session: Session, *, name: str, ask: bool, recover: bool) -> None:
    wallet.check_name(name)
    home = session.home
    home.prepare()
    with home.lock():
        _refuse_second(session)
        sealed_by = _passphrase(session, ask=ask)
        root = words.decode(_words(session)) if recover else None
        made = wallet.Wallet.new(name, now_ms=int(time.time() * 1000), root=root)
        wallet.create(home, made, sealed_by)
    _tell(session, made, by_file=sealed_by is None, recovered=recover)


def _refuse_second(session: Session) -> None:
    home = session.home
    if not home.wallet.exists() and not home.wallet.is_symlink():
        return
    try:
        who = f'"{wallet.public_identity(home).name}"'
    except (FileNotFoundError, WalletError):
        who = "an identity"
    raise Failure(
        "identity_exists", f"{who} already lives in {home.path}", hint="another one: --data-dir DIR; who am I: talos id"
    )


def _passphrase(session: Session, *, ask: bool) -> Passphrase | None:
    given = passphrase.given(session)
    if given is not None or not ask:
        return given
    if not session.interactive:
        raise Failure("wallet_locked", "nobody can be asked for a passphrase here")
    return passphrase.ask_new()


def _words(session: Session) -> str:
    if session.interactive:
        import getpass

        return getpass.getpass("24 recovery words: ")
    if sys.stdin.isatty():
        raise Failure("usage", "nobody can be asked for the recovery words", hint="give them on stdin")
    return sys.stdin.read(MAX_WORDS_BYTES + 1)


def _tell(session: Session, made: wallet.Wallet, *, by_file: bool, recovered: bool) -> None:
    out, public = session.out, made.public
    if by_file:
        out.warn(f"only file permissions protect the wallet in {session.home.path} (stronger: talos wallet passphrase)")
    if session.json:
        out.emit(
            "identity",
            name=public.name,
            peer_id=public.peer_text,
            did=did.did_key(public.key),
            key_hex=public.key.hex(),
            ticket=names.ticket(public.key),
            addrs=[],
        )
        return
    out.line(f'{"Recovered" if recovered else "Created"} "{public.name}"  {public.peer_text}   in {session.home.path}')
    if recovered:
        return
    if sys.stdout.isatty():
        out.line(f"24 recovery words, write them down: {' '.join(made.words())}")
    else:
        out.note("24 recovery words are shown on a terminal by: talos wallet words")
