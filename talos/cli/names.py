"""Names of peers as people type them: ticket, multiaddr, did:key, public key, peer id, alias, the short form we print.

The first form that fits by its shape decides. Nothing here loads cryptography; addresses are decoded when asked for.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from talos.cli.exits import Failure
from talos.cli.frame import nearest
from talos.cli.output import short
from talos.errors import ConfigError
from talos.identity import did, multibase
from talos.identity.contacts import Contacts, folded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from multiaddr import Multiaddr

    from talos.identity.peer_id import PeerId

__all__ = ["BROADCAST", "CHANNEL", "Name", "channel_of", "is_alias", "is_short", "parse_name", "ticket"]

BROADCAST = "*"
"""Everybody: for `send` and `history`."""
CHANNEL = "#"
"""Before the name of a channel: there, too."""

MAX_TEXT_LENGTH = 1024
MAX_TICKET_ADDRS = 4
TICKET = "talos1"
_TICKET_VERSION = 1
_TICKET_HASH = b"talos/ticket/v1\n"
_CHECK_BYTES = 4

_IGNORED = re.compile(r"[\s-]+")
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")
_PEER_ID = re.compile(
    r"(?:12D3KooW|16Uiu2HA|Qm)[1-9A-HJ-NP-Za-km-z]{36,}|(?:k51|k2k4)[0-9a-z]{40,}|(?:bafz|bafk)[a-z2-7]{40,}"
)
_SHORT = re.compile(r"(12D3KooW[1-9A-HJ-NP-Za-km-z]{4,})(?:(?:…|\.\.)([1-9A-HJ-NP-Za-km-z]*))?")


@dataclass(frozen=True, slots=True)
class Name:
    """A peer that was named."""

    peer_text: str
    """Its id in base58."""
    key: bytes | None
    """Its 32-byte Ed25519 key; None for the rare peer of another type."""
    addr_texts: tuple[str, ...] = ()
    """Addresses that came with the name as text."""
    addr_bytes: tuple[bytes, ...] = ()
    """Addresses that came in a ticket."""
    alias: str | None = None
    """What its owner calls it, if it is a contact."""

    @property
    def shown(self) -> str:
        """As people read it."""
        return self.alias or short(self.peer_text)

    def peer_id(self) -> PeerId:
        from talos.identity.peer_id import PeerId

        return PeerId.parse(self.peer_text)

    def addrs(self) -> tuple[Multiaddr, ...]:
        """All addresses, without `/p2p/…`; a damaged one is a Failure."""
        from talos.addr import decode, parse, split_peer
        from talos.errors import RemoteProtocolError

        try:
            decoded = [decode(raw) for raw in self.addr_bytes]
        except RemoteProtocolError as error:
            raise Failure("ticket_damaged", f"an address in the ticket is damaged: {error}") from None
        try:
            return tuple(split_peer(addr)[0] for addr in (*map(parse, self.addr_texts), *decoded))
        except ConfigError as error:
            raise Failure("usage", str(error)) from None


def parse_name(text: str, known: Iterable[str] = (), contacts: Contacts | None = None) -> Name:
    """Who `text` names; `known` are the peer ids that a short form may mean, besides the contacts.

    A contact's addresses come with it, however it is named. Failure when nobody is meant, or several are.
    """
    if len(text) > MAX_TEXT_LENGTH:
        raise Failure("usage", f"a name has at most {MAX_TEXT_LENGTH} characters")
    try:
        return _with_addrs(_parse(text.strip(), list(known), contacts or Contacts()), contacts)
    except ConfigError as error:
        raise Failure("peer_unknown", str(error), hint="copy the name again") from None


def is_short(text: str) -> bool:
    """Whether `text` is a short form, which only those can complete who know some peers."""
    text = text.strip()
    return bool(_SHORT.fullmatch(text)) and not _PEER_ID.fullmatch(text)


def channel_of(text: str) -> str | None:
    """What is meant by `*` (the empty name) or `#NAME`; None where it is one peer. Failure for no name of a channel."""
    text = text.strip()
    if text == BROADCAST:
        return ""
    if not text.startswith(CHANNEL):
        return None
    from talos.errors import LocalProtocolError
    from talos.messaging.channel import check_channel

    try:
        return check_channel(text[1:])
    except LocalProtocolError as error:
        raise Failure("usage", str(error)) from error


def is_alias(text: str) -> bool:
    """Whether `text` has none of the shapes that tell a peer by themselves."""
    text = text.strip()
    shaped = _HEX_KEY.fullmatch(text) or _PEER_ID.fullmatch(text) or _SHORT.fullmatch(text)
    return not (shaped or text.startswith(("/", "did:")) or _bare(text).startswith(TICKET))


def ticket(key: bytes, addrs: Sequence[Multiaddr] = ()) -> str:
    """The ticket of a key and its first four addresses (without `/p2p/…`); the longest way to say where one is."""
    raw = [addr.to_bytes() for addr in addrs]
    fitting = [data for data in raw if len(data) < 256][:MAX_TICKET_ADDRS]
    body = bytes((_TICKET_VERSION,)) + key + bytes((len(fitting),))
    body += b"".join(bytes((len(data),)) + data for data in fitting)
    return TICKET + multibase.encode_bits(body + _check(body), multibase.BASE32)


def _bare(text: str) -> str:
    return _IGNORED.sub("", text).lower()


def _with_addrs(name: Name, contacts: Contacts | None) -> Name:
    contact = None if contacts is None else contacts.of(name.peer_text)
    if contact is None:
        return name
    return replace(name, addr_texts=tuple(dict.fromkeys((*name.addr_texts, *contact.addrs))), alias=contact.name)


def _parse(text: str, known: list[str], contacts: Contacts) -> Name:
    bare = _bare(text)
    if bare.startswith(TICKET):
        return _from_ticket(bare.removeprefix(TICKET))
    if text.startswith("/"):
        return _from_multiaddr(text)
    if text.startswith("did:"):
        return _of_key(did.key_of_did(text))
    if _HEX_KEY.fullmatch(text):
        return _of_key(did.key_of_hex(text))
    if _PEER_ID.fullmatch(text):
        return _from_peer_id(text)
    found = _SHORT.fullmatch(text)
    if found:
        candidates = list(dict.fromkeys((*known, *contacts.peers)))
        return _from_short(text, found.group(1), found.group(2) or "", candidates)
    return _from_alias(text, contacts)


def _from_ticket(body: str) -> Name:
    try:
        data = multibase.decode_bits(body, multibase.BASE32)
    except ValueError:
        raise _damaged("a character is wrong or missing") from None
    data, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if len(check) < _CHECK_BYTES or check != _check(data):
        raise _damaged("its checksum does not fit")
    if data[:1] != bytes((_TICKET_VERSION,)):
        raise Failure("ticket_damaged", "the ticket is of another version", hint="a newer talos may read it")
    if len(data) < 34 or data[33] > MAX_TICKET_ADDRS:
        raise _damaged("it does not hold what it should")
    addrs, position = [], 34
    for _ in range(data[33]):
        size = data[position] if position < len(data) else len(data)
        addrs.append(data[position + 1 : position + 1 + size])
        position += 1 + size
    if position != len(data):
        raise _damaged("it does not hold what it should")
    name = _of_key(did.key_of_hex(data[1:33].hex()))
    return Name(name.peer_text, name.key, addr_bytes=tuple(addrs))


def _from_multiaddr(text: str) -> Name:
    rest, separator, peer = text.rstrip("/").rpartition("/p2p/")
    if not separator or not rest or "/" in peer:
        raise Failure("usage", f"address {text} does not end in /p2p/ and a peer id")
    name = _from_peer_id(peer)
    return Name(name.peer_text, name.key, addr_texts=(rest,))


def _from_peer_id(text: str) -> Name:
    if text.startswith("12D3KooW"):
        return _of_key(did.key_of_peer_id(text))
    from talos.identity.peer_id import PeerId

    peer = PeerId.parse(text)
    key = peer.public_key()
    return Name(str(peer), key.data if key is not None and str(peer) == did.peer_id_text(key.data) else None)


def _from_alias(text: str, contacts: Contacts) -> Name:
    contact = contacts.named(text)
    if contact is not None:
        return _from_peer_id(contact.peer)
    if text == BROADCAST or text.startswith(CHANNEL):
        raise Failure("peer_unknown", f"{text!r} is nobody alone: it is for `talos send` and `talos history`")
    spelled = {folded(one.name): one.name for one in contacts.by_name}
    meant = nearest(folded(text), spelled)
    other = "talos contacts add NAME TICKET, or a ticket, address or peer id here"
    hint = f"did you mean {spelled[meant]}?" if meant else other
    raise Failure("peer_unknown", f"nobody matches {text!r}", hint=hint)


def _from_short(text: str, head: str, tail: str, known: list[str]) -> Name:
    fitting = [peer for peer in known if peer.startswith(head) and peer.endswith(tail)]
    if len(fitting) > 1:
        raise Failure("peer_ambiguous", f"{text!r} fits {len(fitting)}", tried=fitting)
    if not fitting:
        raise Failure("peer_unknown", f"no known peer matches {text!r}", hint="write the whole peer id")
    return _from_peer_id(fitting[0])


def _of_key(key: bytes) -> Name:
    return Name(did.peer_id_text(key), key)


def _check(body: bytes) -> bytes:
    return hashlib.sha256(_TICKET_HASH + body).digest()[:_CHECK_BYTES]


def _damaged(why: str) -> Failure:
    return Failure("ticket_damaged", f"the ticket is damaged: {why}", hint="copy it again")
