"""Messages of circuit relay v2: bytes ↔ dataclasses, and the voucher.

The type numbers of hop and stop differ, zero is a type of both, and zero is no status: all three have to be on the
wire where they are meant (libp2p relay, circuit-v2).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from talos.errors import LocalProtocolError, RemoteProtocolError
from talos.identity.envelope import Envelope
from talos.identity.peer_id import PeerId
from talos.wire.pb import circuit_pb2 as pb

if TYPE_CHECKING:
    from talos.identity.keys import PrivateKey

__all__ = [
    "HOP",
    "MAX_MESSAGE_BYTES",
    "STOP",
    "HopMessage",
    "HopType",
    "Limit",
    "Reservation",
    "Status",
    "StopMessage",
    "StopType",
    "Voucher",
    "decode_hop",
    "decode_stop",
    "encode_hop",
    "encode_stop",
    "open_voucher",
    "seal_voucher",
]

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"
MAX_MESSAGE_BYTES = 4096
MAX_ADDRS = 16
"""Of a reservation; more are not read."""
VOUCHER_DOMAIN = "libp2p-relay-rsvp"
VOUCHER_TYPE = b"\x03\x02"
MAX_UINT32 = (1 << 32) - 1
MAX_UINT63 = (1 << 63) - 1


class HopType(enum.IntEnum):
    """Between a client and its relay."""

    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class StopType(enum.IntEnum):
    """Between the relay and who is called."""

    CONNECT = 0
    STATUS = 1


class Status(enum.IntEnum):
    """How a request ended. OK is not zero."""

    UNUSED = 0
    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


_HOP_TYPES = {int(kind): kind for kind in HopType}
_STOP_TYPES = {int(kind): kind for kind in StopType}


@dataclass(frozen=True, slots=True)
class Limit:
    """What a relay carries of one circuit; zero: as much as you like."""

    duration_seconds: int = 0
    data_bytes: int = 0
    """Each way."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a relay grants."""

    expire: int
    """Unix seconds."""
    addrs: tuple[bytes, ...] = ()
    """Each ends in `/p2p/<relay>`, without `/p2p-circuit`."""
    voucher: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HopMessage:
    """To a relay, and its answer. `status` is a number, for there are ones that nobody knows."""

    type: HopType
    peer: PeerId | None = None
    reservation: Reservation | None = None
    limit: Limit | None = None
    status: int = Status.UNUSED


@dataclass(frozen=True, slots=True, kw_only=True)
class StopMessage:
    """From a relay, and the answer to it."""

    type: StopType
    peer: PeerId | None = None
    limit: Limit | None = None
    status: int = Status.UNUSED


@dataclass(frozen=True, slots=True)
class Voucher:
    """A relay's word that it relays for a peer."""

    relay: PeerId
    peer: PeerId
    expiration: int
    """Unix seconds."""


def encode_hop(message: HopMessage) -> bytes:
    """The message without its length."""
    found = message.reservation
    return pb.HopMessage(
        type=message.type,
        peer=_peer_to_pb(message.peer),
        reservation=None
        if found is None
        else pb.Reservation(expire=found.expire, addrs=found.addrs, voucher=found.voucher),
        limit=_limit_to_pb(message.limit),
        status=message.status or None,
    ).SerializeToString()


def decode_hop(data: bytes) -> HopMessage:
    """RemoteProtocolError when `data` is malformed, or of no type."""
    try:
        message = pb.HopMessage.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError("hop message is malformed") from error
    kind = _HOP_TYPES.get(message.type) if message.HasField("type") else None
    if kind is None:
        raise RemoteProtocolError("hop message of no type that there is")
    reservation = None
    if message.HasField("reservation"):
        granted = message.reservation
        voucher = granted.voucher if granted.HasField("voucher") else None
        reservation = Reservation(min(granted.expire, MAX_UINT63), tuple(islice(granted.addrs, MAX_ADDRS)), voucher)
    return HopMessage(
        type=kind,
        peer=PeerId.from_bytes(message.peer.id) if message.HasField("peer") else None,
        reservation=reservation,
        limit=Limit(message.limit.duration, message.limit.data) if message.HasField("limit") else None,
        status=message.status,
    )


def encode_stop(message: StopMessage) -> bytes:
    """The message without its length."""
    return pb.StopMessage(
        type=message.type,
        peer=_peer_to_pb(message.peer),
        limit=_limit_to_pb(message.limit),
        status=message.status or None,
    ).SerializeToString()


def decode_stop(data: bytes) -> StopMessage:
    """RemoteProtocolError when `data` is malformed, or of no type."""
    try:
        message = pb.StopMessage.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError("stop message is malformed") from error
    kind = _STOP_TYPES.get(message.type) if message.HasField("type") else None
    if kind is None:
        raise RemoteProtocolError("stop message of no type that there is")
    return StopMessage(
        type=kind,
        peer=PeerId.from_bytes(message.peer.id) if message.HasField("peer") else None,
        limit=Limit(message.limit.duration, message.limit.data) if message.HasField("limit") else None,
        status=message.status,
    )


def seal_voucher(key: PrivateKey, voucher: Voucher) -> bytes:
    """The signed envelope around `voucher`; the key is the relay's."""
    payload = pb.Voucher(
        relay=voucher.relay.to_bytes(), peer=voucher.peer.to_bytes(), expiration=voucher.expiration
    ).SerializeToString()
    return Envelope.seal(key, VOUCHER_DOMAIN, VOUCHER_TYPE, payload).raw


def open_voucher(data: bytes) -> Voucher:
    """The voucher in an envelope; RemoteProtocolError or BadSignature where it is not its relay's own."""
    envelope = Envelope.open(data, {VOUCHER_TYPE: VOUCHER_DOMAIN})
    try:
        message = pb.Voucher.FromString(envelope.payload)
    except DecodeError as error:
        raise RemoteProtocolError("voucher is malformed") from error
    relay = PeerId.from_bytes(message.relay)
    if PeerId.from_key(envelope.public_key) != relay:
        raise RemoteProtocolError(f"voucher of {relay} is signed by another peer")
    return Voucher(relay, PeerId.from_bytes(message.peer), message.expiration)


def _peer_to_pb(peer: PeerId | None) -> pb.Peer | None:
    return None if peer is None else pb.Peer(id=peer.to_bytes())


def _limit_to_pb(limit: Limit | None) -> pb.Limit | None:
    if limit is None:
        return None
    if not (0 <= limit.duration_seconds <= MAX_UINT32 and 0 <= limit.data_bytes <= MAX_UINT63):
        raise LocalProtocolError("limit of a circuit does not fit its message")
    return pb.Limit(duration=limit.duration_seconds or None, data=limit.data_bytes or None)
