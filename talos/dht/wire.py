"""Kademlia messages: bytes ↔ dataclasses (libp2p kad-dht).

Peers that are none, and addresses of unknown protocols, are left out of what is read; so are field 11, which has two
meanings in deployed code, and everything else that is not in the schema.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Self

from google.protobuf.message import DecodeError

from talos import addr as addresses
from talos.dht.peer import PeerInfo
from talos.errors import LocalProtocolError, RemoteProtocolError
from talos.identity.peer_id import PeerId
from talos.wire.length_prefix import frame
from talos.wire.pb import kad_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable


__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_KEY_BYTES",
    "MAX_PEERS",
    "MAX_PEER_ADDRS",
    "MAX_PROVIDERS",
    "MAX_READ_BYTES",
    "MAX_REQUEST_BYTES",
    "Message",
    "MessageType",
    "Record",
    "Request",
    "decode",
    "encode",
    "encode_answer",
]

MAX_REQUEST_BYTES = 16 * 1024
"""What rust-libp2p reads; more is refused."""
MAX_ANSWER_BYTES = 15_999
"""Ours stay under 16,000, so that everybody reads them."""
MAX_READ_BYTES = 64 * 1024
"""Of somebody else's answer."""
MAX_PEERS = 20
"""Closer peers used of one answer."""
MAX_PROVIDERS = 128
"""Providers used of one answer: about what fits into one of ours."""
MAX_PEER_ADDRS = 16
"""Used of one peer of it."""
MAX_KEY_BYTES = 256
"""Of a record: the longest text of a peer id behind the longest of our prefixes has room to spare."""
_MAX_VARINT_BYTES = 3
"""The length of anything that fits an answer."""


class MessageType(enum.IntEnum):
    """The requests; an answer has the type of what it answers."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5
    """Deprecated: answered by an echo, never sent."""


_TYPES = {int(kind): kind for kind in MessageType}


@dataclass(slots=True)
class Record:
    """A value under its key. `time_received` is the sender's word and is not read."""

    key: bytes
    value: bytes
    time_received: str = ""


@dataclass(slots=True)
class Message:
    """A request or an answer."""

    type: MessageType
    key: bytes = b""
    record: Record | None = None
    closer: tuple[PeerInfo, ...] = ()
    providers: tuple[PeerInfo, ...] = ()


class Request(NamedTuple):
    """A request as it is sent to one peer after the other: encoded once, with its length."""

    type: MessageType
    data: bytes

    @classmethod
    def of(cls, message: Message) -> Self:
        """LocalProtocolError when it is over what others read."""
        return cls(message.type, frame(encode(message), MAX_REQUEST_BYTES))


def encode(message: Message) -> bytes:
    """The message without its length, however long that is."""
    return _to_pb(message).SerializeToString()


def encode_answer(message: Message, max_bytes: int = MAX_ANSWER_BYTES) -> bytes:
    """As `encode`, in at most `max_bytes`: addresses leave first, each peer's last ones, then the farthest peers.

    Peers come nearest first. LocalProtocolError when the record alone is too long.
    """
    data = encode(message)
    if len(data) <= max_bytes:
        return data
    room = max_bytes - len(encode(Message(message.type, message.key, message.record)))
    if room < 0:
        raise LocalProtocolError(f"an answer of at most {max_bytes} bytes cannot hold its own record")
    # Providers are what was asked for; the closer peers share what they leave, but are left a quarter.
    providers = _fitting(message.providers, room - min(room // 4, _size(message.closer)))
    closer = _fitting(message.closer, room - _size(providers))
    return encode(Message(message.type, message.key, message.record, closer, providers))


def decode(data: bytes) -> Message:
    """The message in `data`; RemoteProtocolError when it is malformed, of an unknown type, or its key is too long."""
    return _from_pb(_parse(data))


def _parse(data: bytes) -> pb.Message:
    try:
        return pb.Message.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError("kademlia message is malformed") from error


def _from_pb(message: pb.Message) -> Message:
    kind = _TYPES.get(message.type)
    if kind is None:
        raise RemoteProtocolError(f"kademlia message of the unknown type {message.type}")
    if len(message.key) > MAX_KEY_BYTES:
        raise RemoteProtocolError(f"key of {len(message.key)} bytes in a kademlia message")
    record = None
    if message.HasField("record"):
        record = Record(message.record.key, message.record.value, message.record.timeReceived)
    return Message(
        kind, message.key, record, _peers(message.closerPeers, MAX_PEERS), _peers(message.providerPeers, MAX_PROVIDERS)
    )


def _peers(found: Iterable[pb.Peer], most: int) -> tuple[PeerInfo, ...]:
    """The first ones only: a long list costs its sender's bytes, and no more of our time."""
    return tuple(info for peer in islice(found, most) if (info := _peer(peer)) is not None)


def _peer(peer: pb.Peer) -> PeerInfo | None:
    """None for what is no peer; an address that is none does not spoil the others."""
    try:
        return PeerInfo(_peer_id(peer.id), tuple(addresses.decode_each(peer.addrs, limit=MAX_PEER_ADDRS)))
    except RemoteProtocolError:
        return None


@lru_cache(maxsize=4096)  # the same neighbours are named in every answer
def _peer_id(raw: bytes) -> PeerId:
    return PeerId.from_bytes(raw)


def _to_pb(message: Message) -> pb.Message:
    record = message.record
    return pb.Message(
        type=message.type,
        key=message.key,
        record=None
        if record is None
        else pb.Record(key=record.key, value=record.value, timeReceived=record.time_received),
        closerPeers=[_peer_to_pb(peer) for peer in message.closer],
        providerPeers=[_peer_to_pb(peer) for peer in message.providers],
    )


def _peer_to_pb(info: PeerInfo) -> pb.Peer:
    return pb.Peer(id=info.peer.raw, addrs=[addr.to_bytes() for addr in info.addrs])


def _fitting(peers: tuple[PeerInfo, ...], room: int) -> tuple[PeerInfo, ...]:
    """As many addresses of each as fit, one at least; then as many peers as fit with one."""
    most = max((len(info.addrs) for info in peers), default=0)
    for count in range(most, 0, -1):
        cut = tuple(PeerInfo(info.peer, info.addrs[:count]) for info in peers)
        if _size(cut) <= room:
            return cut
    kept: list[PeerInfo] = []
    for info in peers:
        one = PeerInfo(info.peer, info.addrs[:1])
        room -= _size((one,))
        if room < 0:
            break
        kept.append(one)
    return tuple(kept)


def _size(peers: tuple[PeerInfo, ...]) -> int:
    """Bytes in a message, at most."""
    return sum(1 + _MAX_VARINT_BYTES + _peer_to_pb(info).ByteSize() for info in peers)
