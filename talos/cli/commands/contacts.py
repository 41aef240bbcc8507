"""`talos contacts`: names for peers, strangers who wait, and who is not let in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from talos.cli.exits import Failure
from talos.cli.frame import command, group, network_options, passphrase_options
from talos.cli.output import counted
from talos.errors import ConfigError
from talos.identity import contacts as book
from talos.identity.contacts import Contact

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.cli.names import Name
    from talos.cli.session import Session
    from talos.identity.contacts import Contacts

__all__ = ["contacts"]

TAIL = 6
"""Characters of the peer id that name somebody who was let in without a name."""


@group("contacts", help="Names for peers; strangers who wait; who is blocked.")
def contacts() -> None:
    """Only a group."""


@command("add", help="Calls WHO by NAME; the addresses of a ticket are kept with it.")
@click.argument("name")
@click.argument("who")
def add(session: Session, *, name: str, who: str) -> None:
    session.home.check()
    found = session.find(who)
    _tell(session, _save(session, found, name))


@command("list", help="Lists the contacts, then who is blocked.")
def list_(session: Session) -> None:
    session.home.check()
    known = session.contacts()
    for contact in known.by_name:
        _tell(session, contact, blocked=contact.peer in known.blocked)
    for peer in sorted(known.blocked - set(known.peers)):
        _tell_peer(session, None, peer, (), blocked=True)


@command("show", help="Shows one contact with its addresses.")
@click.argument("who")
def show(session: Session, *, who: str) -> None:
    session.home.check()
    contact, known = _contact(session, who)
    _tell(session, contact, blocked=contact.peer in known.blocked)
    if not session.json:
        for addr in contact.addrs:
            session.out.line(f"  {addr}")


@command("rename", help="Calls WHO by another NAME.")
@click.argument("who")
@click.argument("name")
def rename(session: Session, *, who: str, name: str) -> None:
    session.home.check()
    contact, _ = _contact(session, who)
    new = _contact_of(name, contact.peer, contact.addrs)
    _change(session, lambda known: known.removing(contact.name).adding(new))
    _tell(session, new)


@command("remove", help="Forgets the name and addresses of WHO.")
@click.argument("who")
def remove(session: Session, *, who: str) -> None:
    session.home.check()
    contact, _ = _contact(session, who)
    book.change(session.home.contacts, lambda known: known.removing(contact.name))
    session.out.note(f"{contact.name} is no contact any more")


@command("block", help="Takes nothing from WHO any more.")
@click.argument("who")
def block(session: Session, *, who: str) -> None:
    session.home.check()
    name = session.find(who)
    book.change(session.home.contacts, lambda known: known.blocking(name.peer_text))
    session.out.note(f"nothing is taken from {name.shown} any more")


@command("unblock", help="Takes messages of WHO again.")
@click.argument("who")
def unblock(session: Session, *, who: str) -> None:
    session.home.check()
    name = session.find(who)
    book.change(session.home.contacts, lambda known: known.unblocking(name.peer_text))
    session.out.note(f"{name.shown} is not blocked")


@command("pending", help="Lists the strangers whose messages wait to be let in.")
@passphrase_options
def pending(session: Session) -> None:
    from talos.cli.messages import reading
    from talos.messaging.view import rfc3339

    strangers: dict[str, dict[str, Any]] = {}
    with reading(session) as messages:
        for letter in messages.waiting() if messages is not None else ():
            row = strangers.setdefault(
                str(letter.peer), {"messages": 0, "size": 0, "since": rfc3339(letter.since_ms)}
            )  # fmt: skip
            row["messages"] += 1
            row["size"] += len(letter.envelope)
    for offer in session.pages("transfers") or ():
        if offer["direction"] == "in" and offer["state"] == "offered":
            row = strangers.setdefault(offer["peer_id"], {"messages": 0, "size": 0, "since": None})
            row["files"] = row.get("files", 0) + offer["file_count"]
    for peer, row in strangers.items():
        if session.json:
            session.out.emit("stranger", peer_id=peer, **{"files": 0, **row})
        else:
            files = f", {counted(row['files'], 'file')}" if "files" in row else ""
            session.out.line(f"{peer}  {counted(row['messages'], 'message')}, {row['size']} B{files}")


@command("accept", help="Lets a stranger in: makes WHO a contact and takes the messages that wait.")
@click.argument("who")
@click.option("--name", metavar="NAME", help="what to call WHO (default: peer- and the end of the peer id)")
@network_options
def accept(session: Session, *, who: str, name: str | None) -> None:
    found = _stranger(session, who)
    contact = _save(session, found, name or found.alias or f"peer-{found.peer_text[-TAIL:]}")
    result = session.perform("letters-admit", {"peer": found.peer_text}, show=lambda *_: None)
    offers = session.perform("files-answer", {"peer": found.peer_text, "accept": True}, show=lambda *_: None)
    _tell(session, contact)
    session.out.note(f"taken in: {counted(result['messages'], 'message')}, {counted(offers['offers'], 'file offer')}")


@command("decline", help="Throws away what waits of a stranger; `block` keeps the next ones out.")
@click.argument("who")
@network_options
def decline(session: Session, *, who: str) -> None:
    found = _stranger(session, who)
    session.perform("letters-decline", {"peer": found.peer_text}, show=lambda *_: None)
    session.perform("files-answer", {"peer": found.peer_text, "accept": False}, show=lambda *_: None)
    session.out.note(f"what waited of {found.shown} is thrown away")


for _command in (add, list_, show, rename, remove, pending, accept, decline, block, unblock):
    contacts.add_command(_command)


def _save(session: Session, found: Name, name: str) -> Contact:
    """Adds a contact; addresses that are new join those that are known."""
    contact = _contact_of(name, found.peer_text, tuple(session.addr_texts(found)[: book.MAX_ADDRS]))
    _change(session, lambda known: known.adding(contact))
    return contact


def _contact_of(name: str, peer: str, addrs: tuple[str, ...]) -> Contact:
    try:
        return Contact(name=name, peer=peer, addrs=addrs)
    except ConfigError as error:
        raise Failure("usage", str(error)) from None


def _change(session: Session, edit: Callable[[Contacts], Contacts]) -> None:
    try:
        book.change(session.home.contacts, edit)
    except book.NameTaken as error:
        raise Failure("name_taken", str(error), hint="another name, or: talos contacts rename") from None


def _contact(session: Session, who: str) -> tuple[Contact, Contacts]:
    known = session.contacts()
    found = known.of(session.find(who).peer_text)
    if found is None:
        raise Failure("peer_unknown", f"{who} is no contact", hint="talos contacts list")
    return found, known


def _stranger(session: Session, who: str) -> Name:
    """Somebody who waits may be named by a short form, as `pending` prints whole ids and people cut them."""
    session.home.check()
    return session.find(who)


def _tell(session: Session, contact: Contact, *, blocked: bool = False) -> None:
    _tell_peer(session, contact.name, contact.peer, contact.addrs, blocked=blocked)


def _tell_peer(session: Session, name: str | None, peer: str, addrs: tuple[str, ...], *, blocked: bool) -> None:
    if session.json:
        session.out.emit("contact", alias=name, peer_id=peer, addrs=list(addrs), blocked=blocked)
        return
    session.out.line("  ".join(filter(None, (name or "-", peer, "blocked" if blocked else ""))))
