"""Peer records (libp2p RFC 0003): the addresses of a peer, signed by it.

Addresses stand here as the bytes on the wire: `talos.addr` lies above this package, and an address with a
protocol that we do not know must be passed on as it came. Who uses them decodes each by `talos.addr`, where a
malformed one is an error of the whole record.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from talos.errors import LocalProtocolError, RemoteProtocolError
from talos.identity.envelope import Envelope
from talos.identity.peer_id import PeerId
from talos.wire import fields, varint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from talos.identity.keys import PrivateKey

__all__ = ["PeerRecord", "RecordFormat", "SignedPeerRecord", "next_seq"]

_PEER_ID, _SEQ, _ADDRESSES = 1, 2, 3
_MULTIADDR = 1


class RecordFormat(enum.Enum):
    """Domain and payload type under which a record is signed."""

    STANDARD = ("libp2p-peer-record", b"\x03\x01")
    """What everybody deploys."""
    LEGACY = ("libp2p-routing-state", b"/libp2p/routing-state-record")
    """The text of the RFC, all that rust-libp2p's identify and rendezvous know."""

    def __init__(self, domain: str, payload_type: bytes) -> None:
        self.domain = domain
        self.payload_type = payload_type


_DOMAINS = {form.payload_type: form.domain for form in RecordFormat}


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """The payload: whose addresses, in which order of events, and the addresses in bytes."""

    peer_id: PeerId
    seq: int
    addrs: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """The serialized PeerRecord message."""
        infos = (fields.bytes_field(_MULTIADDR, addr) for addr in self.addrs)
        return b"".join(
            (
                fields.bytes_field(_PEER_ID, self.peer_id.to_bytes()),
                fields.uint64_field(_SEQ, self.seq),
                *(fields.bytes_field(_ADDRESSES, info) for info in infos),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The record in `data`; RemoteProtocolError where a field is missing, repeated or malformed."""
        peer_id: PeerId | None = None
        seq: int | None = None
        addrs: list[bytes] = []
        for number, value in fields.read(data):
            if number == _ADDRESSES and isinstance(value, bytes):
                addrs.append(_address(value))
            elif number == _PEER_ID and isinstance(value, bytes) and peer_id is None:
                peer_id = PeerId.from_bytes(value)
            elif number == _SEQ and isinstance(value, int) and seq is None:
                seq = value
            elif number in (_PEER_ID, _SEQ, _ADDRESSES):
                raise RemoteProtocolError(f"field {number} of a peer record is repeated or of another type")
        if peer_id is None:
            raise RemoteProtocolError("peer record without a peer id")
        return cls(peer_id, seq or 0, tuple(addrs))


@dataclass(frozen=True, slots=True)
class SignedPeerRecord:
    """A record and the envelope that proves it; pass on `envelope.raw`."""

    record: PeerRecord
    envelope: Envelope

    @classmethod
    def make(
        cls, key: PrivateKey, addrs: Iterable[bytes], seq: int, form: RecordFormat = RecordFormat.STANDARD
    ) -> Self:
        """Signs `addrs` as the addresses of `key`'s peer; take `seq` from `next_seq`."""
        if not 0 <= seq <= varint.MAX_VALUE:
            raise LocalProtocolError(f"sequence number {seq} does not fit 63 bits")
        record = PeerRecord(PeerId.from_key(key.public_key), seq, tuple(addrs))
        return cls(record, Envelope.seal(key, form.domain, form.payload_type, record.to_bytes()))

    @classmethod
    def consume(cls, data: bytes, *, last_seq: int | None = None) -> Self:
        """The record in the envelope `data`, of either format.

        Checked in this order: the envelope with its signature, the record's form, that it is about the
        signer, that its sequence number is above `last_seq`. Raises RemoteProtocolError or BadSignature.
        """
        envelope = Envelope.open(data, _DOMAINS)
        record = PeerRecord.from_bytes(envelope.payload)
        signer = PeerId.from_key(envelope.public_key)
        if record.peer_id != signer:
            raise RemoteProtocolError(f"peer record about {record.peer_id} is signed by {signer}")
        if last_seq is not None and record.seq <= last_seq:
            raise RemoteProtocolError(f"peer record of {signer} is not newer than the last one")
        return cls(record, envelope)


def next_seq(now_ns: int, last_seq: int | None = None) -> int:
    """The sequence number of a record made now: Unix time in nanoseconds, raised above the last one's."""
    return now_ns if last_seq is None else max(now_ns, last_seq + 1)


def _address(info: bytes) -> bytes:
    addr = fields.singular_bytes(info, (_MULTIADDR,)).get(_MULTIADDR)
    if not addr:
        raise RemoteProtocolError("peer record with an empty address")
    return addr
