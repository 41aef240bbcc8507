"""Contacts: the names that the owner of a home gives to peers, and whom nothing is taken from.

`contacts.toml` in the home, for people to read. It is public knowledge of its owner, so no wallet is needed; nothing
here loads trio or cryptography. A name is compared after NFKC and case folding, and never has the shape of another
way to name a peer, so that nobody can be mistaken for a key.

    [contact.bob]
    peer = "12D3KooW…"
    addrs = ["/ip4/192.168.1.7/tcp/8766"]

    [blocked]
    peers = ["12D3KooW…"]
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from talos.errors import ConfigError, LimitExceeded, TalosError
from talos.identity import private_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from talos.identity.peer_id import PeerId

__all__ = [
    "AddressBook",
    "Contact",
    "Contacts",
    "NameTaken",
    "change",
    "check_alias",
    "folded",
    "has_key_shape",
    "load",
    "same_name",
]

_log = logging.getLogger(__name__)

MAX_BYTES = 4 << 20
MAX_CONTACTS = 10_000
MAX_BLOCKED = 10_000
MAX_ADDRS = 8
MAX_ADDR_LENGTH = 512
MAX_ALIAS_LENGTH = 64

_ALIAS = re.compile(r"[^\W_][\w.-]*")
_SEPARATORS = re.compile(r"[\s-]+")
_KEY_SHAPE = re.compile(r"[0-9a-f]{64}|12d3koow.{4,}|(?:16uiu2ha|qm|k51|k2k4|bafz|bafk).{30,}|talos1.*")
_PEER = re.compile(r"(?:12D3KooW|16Uiu2HA|Qm)[1-9A-HJ-NP-Za-km-z]{36,120}")
_HEADER = "# Written by `talos contacts`; comments are not kept.\n"


class NameTaken(ConfigError):
    """The name is another peer's, or the peer has another name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A peer with a name of ours."""

    name: str
    peer: str
    """Its id in base58."""
    addrs: tuple[str, ...] = ()
    """Where it was, without `/p2p/…`; hints only."""

    def __post_init__(self) -> None:
        check_alias(self.name)
        check_peer(self.peer)
        if len(self.addrs) > MAX_ADDRS or any(len(addr) > MAX_ADDR_LENGTH for addr in self.addrs):
            raise ConfigError(f"{self.name}: at most {MAX_ADDRS} addresses of {MAX_ADDR_LENGTH} characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contacts:
    """All of them; a change gives another object."""

    by_name: tuple[Contact, ...] = ()
    """In the order of their names."""
    blocked: frozenset[str] = frozenset()
    """Peer ids in base58."""

    def __post_init__(self) -> None:
        _check_single("name", [folded(one.name) for one in self.by_name])
        _check_single("peer", self.peers)
        for peer in self.blocked:
            check_peer(peer)
        if len(self.by_name) > MAX_CONTACTS or len(self.blocked) > MAX_BLOCKED:
            raise LimitExceeded("too many contacts", limit=MAX_CONTACTS, scope="contacts", kind="peers")

    @property
    def peers(self) -> list[str]:
        return [one.peer for one in self.by_name]

    def named(self, name: str) -> Contact | None:
        """Whom this name means."""
        wanted = folded(name)
        return next((one for one in self.by_name if folded(one.name) == wanted), None)

    def of(self, peer: str) -> Contact | None:
        """The contact with this peer id."""
        return next((one for one in self.by_name if one.peer == peer), None)

    def adding(self, contact: Contact) -> Contacts:
        """With one more, or with other addresses of one; NameTaken when name or peer are another contact's."""
        known = self.of(contact.peer)
        if known is not None and not same_name(known.name, contact.name):
            raise NameTaken(f"this peer is a contact already: {known.name}")
        taken = self.named(contact.name)
        if taken is not None and taken.peer != contact.peer:
            raise NameTaken(f"{taken.name} is another peer already")
        others = [one for one in self.by_name if one.peer != contact.peer]
        return replace(self, by_name=tuple(sorted((*others, contact), key=lambda one: folded(one.name))))

    def removing(self, name: str) -> Contacts:
        """Without that one."""
        wanted = folded(name)
        return replace(self, by_name=tuple(one for one in self.by_name if folded(one.name) != wanted))

    def blocking(self, peer: str) -> Contacts:
        """Nothing of this peer is taken any more."""
        return replace(self, blocked=self.blocked | {peer})

    def unblocking(self, peer: str) -> Contacts:
        return replace(self, blocked=self.blocked - {peer})


def folded(name: str) -> str:
    """What names are compared by."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def same_name(one: str, other: str) -> bool:
    """Whether both spell one name."""
    return folded(one) == folded(other)


def check_alias(name: str) -> None:
    """ConfigError unless `name` can be one: 1 to 64 letters, digits, `.`, `_`, `-`, and no other form of a peer."""
    normal = unicodedata.normalize("NFKC", name)
    if not all(_ALIAS.fullmatch(form) and len(form) <= MAX_ALIAS_LENGTH for form in (name, normal)):
        raise ConfigError(
            f"a name has 1 to {MAX_ALIAS_LENGTH} letters, digits, '.', '_' or '-' and begins with one of the first two"
        )
    if has_key_shape(normal):
        raise ConfigError(f"{name} looks like another way to name a peer")


def check_peer(text: str) -> None:
    """ConfigError unless `text` is a peer id in base58, by its shape."""
    if not _PEER.fullmatch(text):
        raise ConfigError(f"not a peer id in base58: {text[:64]!r}")


def has_key_shape(text: str) -> bool:
    """Whether it could be read as a ticket, did:key, public key, peer id or the short form of one."""
    return bool(_KEY_SHAPE.fullmatch(_SEPARATORS.sub("", folded(text))))


# -- The file -------------------------------------------------------------------------------------------


def load(path: Path) -> Contacts:
    """What the file says; nobody where there is none. ConfigError when it is damaged, WalletError when others may
    write it."""
    try:
        data = private_file.read(path, MAX_BYTES, "file")
    except FileNotFoundError:
        return Contacts()
    import tomllib

    try:
        return _decode(tomllib.loads(data.decode()))
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError, ConfigError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error


def change(path: Path, edit: Callable[[Contacts], Contacts]) -> Contacts:
    """Reads, edits and writes the file as a whole; of programs that do so at once, none undoes another's work."""
    with private_file.turn(path):
        before = load(path)
        after = edit(before)
        if after != before:
            private_file.write(path, _encode(after), replace=True)
    return after


class AddressBook:
    """What the owner thinks of peers, for those who ask at each message; a changed file counts at once."""

    def __init__(self, path: Path) -> None:
        """ConfigError when the file is damaged: nobody is let in by mistake."""
        self._path = path
        self._stamp = self._look()
        self._take(load(path))

    def known(self, peer: PeerId) -> bool:
        """A contact."""
        self._refresh()
        return str(peer) in self._peers

    def blocked(self, peer: PeerId) -> bool:
        """Nothing of this peer is taken."""
        self._refresh()
        return str(peer) in self._blocked

    def name_of(self, peer: str) -> str | None:
        """The name of the contact with this peer id."""
        self._refresh()
        return self._peers.get(peer)

    def addrs(self) -> dict[str, tuple[str, ...]]:
        """Where contacts were, by their peer ids."""
        self._refresh()
        return self._addrs

    def _refresh(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(load(self._path))
        except (TalosError, OSError) as error:
            _log.warning("contacts stay as they were: %s", error)

    def _take(self, contacts: Contacts) -> None:
        self._peers = {one.peer: one.name for one in contacts.by_name}
        self._addrs = {one.peer: one.addrs for one in contacts.by_name if one.addrs}
        self._blocked = contacts.blocked

    def _look(self) -> tuple[int, int, int] | None:
        """What changes when the file does: each writing makes a new one."""
        try:
            status = self._path.lstat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


def _encode(contacts: Contacts) -> bytes:
    lines = [_HEADER]
    for one in contacts.by_name:
        lines += [f"[contact.{_text(one.name)}]", f"peer = {_text(one.peer)}"]
        lines += [f"addrs = [{', '.join(map(_text, one.addrs))}]"] if one.addrs else []
        lines.append("")
    if contacts.blocked:
        lines += ["[blocked]", "peers = [", *(f"    {_text(peer)}," for peer in sorted(contacts.blocked)), "]", ""]
    return "\n".join(lines).encode()


def _decode(document: dict[str, Any]) -> Contacts:
    unknown = document.keys() - {"contact", "blocked"}
    if unknown:
        raise ConfigError(f'unknown "{min(unknown)}"')
    found = [
        Contact(name=name, peer=str(fields["peer"]), addrs=tuple(map(str, fields.get("addrs", ()))))
        for name, fields in document.get("contact", {}).items()
    ]
    return Contacts(
        by_name=tuple(sorted(found, key=lambda one: folded(one.name))),
        blocked=frozenset(map(str, document.get("blocked", {}).get("peers", ()))),
    )


def _text(text: str) -> str:
    """As TOML writes a text: JSON's escapes are among its own, and its control characters do not come here."""
    return json.dumps(text, ensure_ascii=False)


def _check_single(what: str, values: list[str]) -> None:
    if len(set(values)) != len(values):
        raise ConfigError(f"two contacts of one {what}: {next(one for one in values if values.count(one) > 1)}")
