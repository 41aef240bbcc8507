"""Messages of AutoNAT v1 and v2: bytes ↔ dataclasses.

Statuses are numbers: a reader drops those that it does not know. Addresses are bytes here, for one that nobody
understands must keep its place among the others.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from talos.errors import RemoteProtocolError
from talos.identity.peer_id import PeerId
from talos.wire import fields
from talos.wire.pb import autonat_pb2 as pb
from talos.wire.pb import autonat_v1_pb2 as v1

__all__ = [
    "DIAL_BACK",
    "DIAL_REQUEST",
    "MAX_BACK_BYTES",
    "MAX_MESSAGE_BYTES",
    "MAX_V1_BYTES",
    "V1",
    "BackStatus",
    "DialBack",
    "DialBackResponse",
    "DialData",
    "DialDataRequest",
    "DialRequest",
    "DialResponse",
    "DialStatus",
    "Message",
    "ResponseStatus",
    "V1Request",
    "V1Response",
    "V1Status",
    "decode",
    "decode_back",
    "decode_back_response",
    "decode_v1",
    "encode",
    "encode_back",
    "encode_back_response",
    "encode_v1",
]

V1 = "/libp2p/autonat/1.0.0"
DIAL_REQUEST = "/libp2p/autonat/2/dial-request"
DIAL_BACK = "/libp2p/autonat/2/dial-back"
MAX_MESSAGE_BYTES = 8192
MAX_BACK_BYTES = 1024
MAX_V1_BYTES = 4096
V1_DIAL, V1_DIAL_RESPONSE = 0, 1


class ResponseStatus(enum.IntEnum):
    """What became of a request."""

    INTERNAL_ERROR = 0
    REQUEST_REJECTED = 100
    DIAL_REFUSED = 101
    OK = 200


class DialStatus(enum.IntEnum):
    """What became of the dial."""

    UNUSED = 0
    DIAL_ERROR = 100
    DIAL_BACK_ERROR = 101
    OK = 200


class BackStatus(enum.IntEnum):
    """What is answered to a dial back."""

    OK = 0


class V1Status(enum.IntEnum):
    """What became of a request of version 1."""

    OK = 0
    DIAL_ERROR = 100
    DIAL_REFUSED = 101
    BAD_REQUEST = 200
    INTERNAL_ERROR = 300


@dataclass(frozen=True, slots=True)
class DialRequest:
    """Please dial one of these."""

    addrs: tuple[bytes, ...]
    nonce: int


@dataclass(frozen=True, slots=True)
class DialDataRequest:
    """So many bytes first, for the address is not where you are seen."""

    index: int
    size: int


@dataclass(frozen=True, slots=True)
class DialData:
    """Some of them."""

    data: bytes


@dataclass(frozen=True, slots=True)
class DialResponse:
    """What came of it."""

    status: int
    index: int = 0
    dial_status: int = DialStatus.UNUSED


Message: TypeAlias = DialRequest | DialDataRequest | DialData | DialResponse


@dataclass(frozen=True, slots=True)
class DialBack:
    """On a new connection, to the one who asked."""

    nonce: int


@dataclass(frozen=True, slots=True)
class DialBackResponse:
    """The answer to it."""

    status: int = BackStatus.OK


@dataclass(frozen=True, slots=True)
class V1Request:
    """Please dial me at these."""

    peer: PeerId
    addrs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class V1Response:
    """What came of it, and which address answered."""

    status: int
    text: str = ""
    addr: bytes = b""


def encode(message: Message) -> bytes:
    """A message of version 2, without its length."""
    match message:
        case DialRequest(addrs, nonce):
            made = pb.Message(dialRequest=pb.DialRequest(addrs=addrs, nonce=nonce))
        case DialDataRequest(index, size):
            made = pb.Message(dialDataRequest=pb.DialDataRequest(addrIdx=index, numBytes=size))
        case DialData(data):
            made = pb.Message(dialDataResponse=pb.DialDataResponse(data=data))
        case DialResponse(status, index, dial_status):
            made = pb.Message(dialResponse=pb.DialResponse(status=status, addrIdx=index, dialStatus=dial_status))
    return made.SerializeToString()


def decode(data: bytes) -> Message:
    """RemoteProtocolError when `data` is malformed, or none of the four."""
    message = pb.Message()
    _parse(message, data)
    match message.WhichOneof("msg"):
        case "dialRequest":
            return DialRequest(tuple(message.dialRequest.addrs), message.dialRequest.nonce)
        case "dialDataRequest":
            return DialDataRequest(message.dialDataRequest.addrIdx, message.dialDataRequest.numBytes)
        case "dialDataResponse":
            return DialData(message.dialDataResponse.data)
        case "dialResponse":
            found = message.dialResponse
            return DialResponse(found.status, found.addrIdx, found.dialStatus)
    raise RemoteProtocolError("autonat message is empty")


def encode_back(message: DialBack) -> bytes:
    """Without its length."""
    return pb.DialBack(nonce=message.nonce).SerializeToString()


def decode_back(data: bytes) -> DialBack:
    """RemoteProtocolError when `data` is malformed."""
    message = pb.DialBack()
    _parse(message, data)
    return DialBack(message.nonce)


def encode_back_response(message: DialBackResponse) -> bytes:
    """Without its length."""
    return pb.DialBackResponse(status=message.status).SerializeToString()


def decode_back_response(data: bytes) -> DialBackResponse:
    """RemoteProtocolError when `data` is malformed."""
    message = pb.DialBackResponse()
    _parse(message, data)
    return DialBackResponse(message.status)


def encode_v1(message: V1Request | V1Response) -> bytes:
    """A message of version 1, without its length."""
    if isinstance(message, V1Request):
        info = v1.PeerInfo(id=message.peer.to_bytes(), addrs=message.addrs)
        return v1.Message(type=V1_DIAL, dial=v1.Dial(peer=info)).SerializeToString()
    response = v1.DialResponse(status=message.status, statusText=message.text, addr=message.addr or None)
    return v1.Message(type=V1_DIAL_RESPONSE, dialResponse=response).SerializeToString()


def decode_v1(data: bytes) -> V1Request | V1Response:
    """RemoteProtocolError when `data` is malformed, or neither of the two."""
    message = v1.Message()
    _parse(message, data)
    if message.HasField("type") and message.type == V1_DIAL and message.dial.HasField("peer"):
        info = message.dial.peer
        return V1Request(PeerId.from_bytes(info.id), tuple(info.addrs))
    if message.type == V1_DIAL_RESPONSE and message.HasField("dialResponse"):
        found = message.dialResponse
        if not found.HasField("status"):
            raise RemoteProtocolError("autonat response without a status")
        return V1Response(found.status, fields.text(found.statusText), found.addr)
    raise RemoteProtocolError("autonat message of no type that there is")


def _parse(
    message: pb.Message | pb.DialBack | pb.DialBackResponse | v1.Message,
    data: bytes,
) -> None:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise RemoteProtocolError("autonat message is malformed") from error
