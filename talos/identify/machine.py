"""Identify without IO: reading, judging and writing what peers say of themselves (libp2p identify).

Rules:

- Messages come behind their lengths, each of at most 8 KiB. The first ten count as one; the rest is not read.
- A public key that is not the authenticated one ends the connection: `WrongIdentity`.
- A signed record counts when it is the peer's own, holds, is newer than the last one and all its addresses decode;
  its addresses then stand in place of the unsigned ones. Otherwise it is ignored.
- Addresses are hints: none of a narrower reach than the peer was seen from is taken.
- Our own messages are at most 4096 bytes, for that is what rust-libp2p reads. What does not fit goes into further
  ones, the signed record into one of its own; past their number addresses are left out before protocols.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from talos import addr as addresses
from talos.errors import BadSignature, RemoteProtocolError
from talos.identify import wire
from talos.identify.wire import Identify
from talos.identity.peer_record import SignedPeerRecord
from talos.wire.length_prefix import LengthPrefixDecoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from multiaddr import Multiaddr

    from talos.identity.keys import PublicKey
    from talos.identity.peer_id import PeerId

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MAX_SENT_BYTES",
    "Accepted",
    "IdentifyReader",
    "ReadLimits",
    "WrongIdentity",
    "displayable",
    "judge",
    "split",
]

MAX_MESSAGE_BYTES = 8192
"""What go-libp2p and js-libp2p read."""
MAX_SENT_BYTES = 4096
"""What rust-libp2p reads."""
MAX_PROTOCOL_CHARACTERS = 1022
MAX_AGENT_CHARACTERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """How much of what a peer says is taken."""

    message_bytes: int = MAX_MESSAGE_BYTES
    messages: int = 10
    addrs: int = 128
    protocols: int = 1000


class WrongIdentity(RemoteProtocolError):
    """The peer presented a key that is not the one it authenticated with; its connection ends."""


class IdentifyReader:
    """Gathers the messages of one stream."""

    __slots__ = ("_body", "_count", "_decoder", "_limits")

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._decoder = LengthPrefixDecoder(limits.message_bytes)
        self._body = bytearray()
        self._count = 0

    @property
    def full(self) -> bool:
        """As many messages as are taken have come: nothing more needs to be read."""
        return self._count >= self._limits.messages

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Takes bytes; RemoteProtocolError as soon as they cannot be messages."""
        self._decoder.feed(data)
        while not self.full and (message := self._decoder.next_message()) is not None:
            self._count += 1
            self._body += message

    def end(self) -> Identify:
        """The stream ended, or is full: all messages as one. RemoteProtocolError when there is none, or one is cut."""
        if not self.full:
            self._decoder.end()
        if not self._count:
            raise RemoteProtocolError("peer did not identify itself")
        return wire.decode(self._body, max_addrs=self._limits.addrs, max_protocols=self._limits.protocols)


@dataclass(slots=True)
class Accepted:
    """What is believed of a message; None where nothing was said."""

    addrs: tuple[Multiaddr, ...] | None
    protocols: tuple[str, ...] | None
    observed_addr: Multiaddr | None
    agent_version: str | None
    protocol_version: str | None
    record: SignedPeerRecord | None
    """A record that is newer than the one that is kept."""
    ignored: tuple[str, ...]
    """What was wrong with the parts that do not count."""


def judge(
    message: Identify,
    *,
    peer: PeerId,
    key: PublicKey,
    remote_addr: Multiaddr,
    limits: ReadLimits,
    known_record: tuple[bytes, int] | None = None,
) -> Accepted:
    """What counts of a message of `peer`, which authenticated with `key`; WrongIdentity when it names another.

    `known_record` is the envelope that is kept, and its sequence number.
    """
    if message.public_key is not None and message.public_key != key.to_bytes():
        raise WrongIdentity(f"peer {peer} identified itself by another key than it authenticated with")
    ignored: list[str] = []
    record, signed = _judge_record(message.signed_peer_record, peer, known_record, limits, ignored)
    addrs = signed if signed is not None else _decode_each(message.listen_addrs, ignored)
    observed = _decode_each((message.observed_addr,) if message.observed_addr else (), ignored)
    said_addrs = bool(message.listen_addrs) or signed is not None
    return Accepted(
        addrs=_plausible(addrs, peer, remote_addr) if said_addrs else None,
        protocols=_sound_protocols(message.protocols, ignored) if message.protocols else None,
        observed_addr=observed[0] if observed else None,
        agent_version=None if message.agent_version is None else displayable(message.agent_version),
        protocol_version=None if message.protocol_version is None else displayable(message.protocol_version),
        record=record,
        ignored=tuple(ignored),
    )


def displayable(text: str) -> str:
    """`text` in at most 256 characters that no terminal obeys: no controls, none that turn the direction."""
    return "".join(character for character in text[:MAX_AGENT_CHARACTERS] if character.isprintable())


def split(own: Identify, *, max_bytes: int = MAX_SENT_BYTES, max_messages: int = 10) -> list[bytes]:
    """`own` as the messages that are sent, not framed yet."""
    whole = wire.encode(own)
    if len(whole) <= max_bytes:
        return [whole]
    record = own.signed_peer_record
    tail = [wire.encode(Identify(signed_peer_record=record))] if record is not None else []
    tail = [part for part in tail if len(part) <= max_bytes]
    head = wire.encode(replace(own, listen_addrs=(), protocols=(), signed_peer_record=None))
    fields = [wire.encode(Identify(protocols=(protocol,))) for protocol in own.protocols]
    fields += [wire.encode(Identify(listen_addrs=(addr,))) for addr in own.listen_addrs]
    return _pack(head, fields, max_bytes, max_messages - len(tail)) + tail


def _pack(head: bytes, fields: Iterable[bytes], max_bytes: int, max_messages: int) -> list[bytes]:
    """As many of `fields` as fit, in order; encoded fields may stand one behind the other in any message."""
    messages = [bytearray(head)]
    for field in fields:
        if len(messages[-1]) + len(field) > max_bytes:
            if len(messages) == max_messages:
                break
            messages.append(bytearray())
        messages[-1] += field
    return [bytes(message) for message in messages]


def _judge_record(
    data: bytes | None, peer: PeerId, known: tuple[bytes, int] | None, limits: ReadLimits, ignored: list[str]
) -> tuple[SignedPeerRecord | None, list[Multiaddr] | None]:
    """The record if it is a new one, and its addresses if it holds."""
    if not data:
        return None, None
    if known is not None and data == known[0]:
        return None, None
    try:
        record = SignedPeerRecord.consume(data, last_seq=None if known is None else known[1])
        if record.record.peer_id != peer:
            ignored.append(f"record of {record.record.peer_id}")
            return None, None
        return record, addresses.decode_known(record.record.addrs, limit=limits.addrs)
    except (RemoteProtocolError, BadSignature) as error:
        ignored.append(str(error))
        return None, None


def _decode_each(items: Iterable[bytes], ignored: list[str]) -> list[Multiaddr]:
    """Those that are addresses: one that is not says nothing against the others."""
    decoded: list[Multiaddr] = []
    for item in items:
        try:
            addr = addresses.decode_or_skip(item)
        except RemoteProtocolError as error:
            ignored.append(str(error))
            continue
        if addr is not None:
            decoded.append(addr)
    return decoded


def _plausible(addrs: Sequence[Multiaddr], peer: PeerId, remote_addr: Multiaddr) -> tuple[Multiaddr, ...]:
    """Without `/p2p/…`, each once, and only those that lead to the peer from here."""
    kept: dict[Multiaddr, None] = {}
    for addr in addrs:
        bare, named = addresses.split_peer(addr)
        if (named is None or named == peer) and len(bare.to_bytes()) and _reaches(bare, remote_addr):
            kept[bare] = None
    return tuple(kept)


def _reaches(addr: Multiaddr, remote_addr: Multiaddr) -> bool:
    """Whether who was seen at `remote_addr` may be reached at `addr`.

    A peer on this machine may be anywhere; one of a private network has no loopback address for us, and one of the
    public network no private one either.
    """
    relayed = addresses.is_relayed(remote_addr)
    if not relayed and (addresses.ip_of(remote_addr) is None or addresses.is_loopback(remote_addr)):
        return True
    if addresses.is_loopback(addr):
        return False
    if not relayed and addresses.is_private(remote_addr):
        return addresses.is_private(addr) or addresses.is_public(addr)
    return addresses.is_public(addr)


def _sound_protocols(protocols: Sequence[str], ignored: list[str]) -> tuple[str, ...]:
    sound = [name for name in protocols if 0 < len(name) <= MAX_PROTOCOL_CHARACTERS and name.isprintable()]
    if len(sound) < len(protocols):
        ignored.append("protocol names with control characters, empty or too long")
    return tuple(dict.fromkeys(sound))
