"""The message of DCUtR: bytes ↔ a dataclass."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from talos import addr as addresses
from talos.errors import RemoteProtocolError
from talos.wire.pb import holepunch_pb2 as pb

if TYPE_CHECKING:
    from multiaddr import Multiaddr

__all__ = ["DCUTR", "MAX_ADDRS", "MAX_MESSAGE_BYTES", "HolePunch", "HolePunchType", "decode", "encode"]

DCUTR = "/libp2p/dcutr"
MAX_MESSAGE_BYTES = 4096
MAX_ADDRS = 16


class HolePunchType(enum.IntEnum):
    """First addresses, then the moment."""

    CONNECT = 100
    SYNC = 300


_TYPES = {int(kind): kind for kind in HolePunchType}


@dataclass(frozen=True, slots=True)
class HolePunch:
    """Addresses at which the sender is seen come with CONNECT."""

    type: HolePunchType
    addrs: tuple[Multiaddr, ...] = ()


def encode(message: HolePunch) -> bytes:
    """Without its length; the first addresses only."""
    told = [addr.to_bytes() for addr in message.addrs[:MAX_ADDRS]]
    return pb.HolePunch(type=message.type, ObsAddrs=told).SerializeToString()


def decode(data: bytes) -> HolePunch:
    """RemoteProtocolError when `data` is malformed, or of no type.

    Addresses that are none, or of unknown protocols, are left out.
    """
    try:
        message = pb.HolePunch.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError("hole punching message is malformed") from error
    kind = _TYPES.get(message.type)
    if kind is None:
        raise RemoteProtocolError(f"hole punching message of the unknown type {message.type}")
    return HolePunch(kind, tuple(addresses.decode_each(message.ObsAddrs, limit=MAX_ADDRS)))
