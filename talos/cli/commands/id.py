"""`talos id`: who I am, or who that is. Loads no cryptography: the public copy says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from talos.cli import names
from talos.cli.exits import Failure
from talos.cli.frame import command
from talos.errors import WalletError
from talos.identity import did
from talos.identity.wallet import public_identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.cli.session import Session
    from talos.identity.wallet import PublicIdentity

__all__ = ["identity"]


@command("id", help="Says who I am, or who WHO is. With one of the options exactly that value, for pipes.")
@click.argument("who", required=False)
@click.option("--ticket", "form", flag_value="ticket", help="the text to give to others")
@click.option("--qr", "form", flag_value="qr", help="the ticket as a code to scan")
@click.option("--key", "form", flag_value="key", help="the public key in hexadecimal")
@click.option("--did", "form", flag_value="did", help="the did:key")
def identity(session: Session, who: str | None, form: str | None) -> None:
    label, name = _own_name(session) if who is None else _other_name(session, who)
    if form is None:
        _whole(session, label, name)
    elif form == "qr":
        _print_qr(session, _ticket(name))
    else:
        session.out.line(_SPELLINGS[form](name))


def _own_name(session: Session) -> tuple[str | None, names.Name]:
    own = _own(session)
    return own.name, names.Name(own.peer_text, own.key)


def _other_name(session: Session, who: str) -> tuple[str | None, names.Name]:
    try:
        own = public_identity(session.home)
    except FileNotFoundError:
        return None, names.parse_name(who, contacts=session.contacts())
    name = names.parse_name(who, [own.peer_text], session.contacts())
    return own.name if own.key == name.key else name.alias, name


def _whole(session: Session, label: str | None, name: names.Name) -> None:
    key = name.key
    addrs = [str(addr) for addr in name.addrs()] if name.addr_texts or name.addr_bytes else []
    facts = {
        "peer_id": name.peer_text,
        "did": did.did_key(key) if key else None,
        "key_hex": key.hex() if key else None,
        "ticket": _ticket(name) if key else None,
    }
    if session.json:
        session.out.emit("identity", name=label, **facts, addrs=addrs)
        return
    if label is not None:
        session.out.line(f"name     {label}")
    words = {"peer_id": "peer id", "did": "did", "key_hex": "key", "ticket": "ticket"}
    for field, word in words.items():
        if facts[field]:
            session.out.line(f"{word:<8} {facts[field]}")
    for addr in addrs:
        session.out.line(f"address  {addr}")


def _own(session: Session) -> PublicIdentity:
    session.home.check()
    try:
        return public_identity(session.home)
    except FileNotFoundError:
        if session.home.wallet.exists():
            return session.unlock().public  # which writes the lost copy anew
        raise WalletError(f"no identity in {session.home.path}", reason="missing") from None


def _key(name: names.Name) -> bytes:
    if name.key is None:
        raise Failure("failed", f"{name.peer_text} is no Ed25519 identity: it has no such spelling")
    return name.key


def _ticket(name: names.Name) -> str:
    return names.ticket(_key(name), name.addrs() if name.addr_texts or name.addr_bytes else ())


_SPELLINGS: dict[str, Callable[[names.Name], str]] = {
    "ticket": _ticket,
    "key": lambda name: _key(name).hex(),
    "did": lambda name: did.did_key(_key(name)),
}
_CELLS = {(False, False): "█", (False, True): "▀", (True, False): "▄", (True, True): " "}


def _print_qr(session: Session, ticket: str) -> None:
    """Two modules to a character, dark on light as scanners want it, whatever colours the terminal has."""
    import qrcode

    code = qrcode.QRCode(border=2)
    code.add_data(ticket.upper())  # upper case alone: a denser code
    code.make(fit=True)
    rows = [list(map(bool, row)) for row in code.get_matrix()]
    rows += [[False] * len(rows[0])] * (len(rows) % 2)
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        cells = zip(upper, lower, strict=True)
        session.out.line("".join(_CELLS[cell] for cell in cells))
