"""The identify message: bytes ↔ dataclass (libp2p identify)."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from talos.errors import RemoteProtocolError
from talos.wire import fields
from talos.wire.pb import identify_pb2 as pb

__all__ = ["Identify", "decode", "encode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identify:
    """What a peer says of itself. None, or no entries, is a field that it left out."""

    public_key: bytes | None = None
    listen_addrs: tuple[bytes, ...] = ()
    protocols: tuple[str, ...] = ()
    observed_addr: bytes | None = None
    """Where it sees us."""
    protocol_version: str | None = None
    agent_version: str | None = None
    signed_peer_record: bytes | None = None


def encode(message: Identify) -> bytes:
    """The message without its length."""
    return pb.Identify(
        publicKey=message.public_key,
        listenAddrs=message.listen_addrs,
        protocols=message.protocols,
        observedAddr=message.observed_addr,
        protocolVersion=message.protocol_version,
        agentVersion=message.agent_version,
        signedPeerRecord=message.signed_peer_record,
    ).SerializeToString()


def decode(data: bytes | bytearray, *, max_addrs: int, max_protocols: int) -> Identify:
    """The first so many addresses and protocols, and the rest of the message; RemoteProtocolError.

    Messages that were sent one behind the other are decoded as one, end to end: repeated fields append, of
    singular ones the last counts.
    """
    try:
        message = pb.Identify.FromString(bytes(data))
    except DecodeError as error:
        raise RemoteProtocolError("identify message is malformed") from error
    return Identify(
        public_key=message.publicKey if message.HasField("publicKey") else None,
        listen_addrs=tuple(message.listenAddrs[:max_addrs]),
        protocols=tuple(map(fields.text, message.protocols[:max_protocols])),
        observed_addr=message.observedAddr if message.HasField("observedAddr") else None,
        protocol_version=fields.text(message.protocolVersion) if message.HasField("protocolVersion") else None,
        agent_version=fields.text(message.agentVersion) if message.HasField("agentVersion") else None,
        signed_peer_record=message.signedPeerRecord if message.HasField("signedPeerRecord") else None,
    )
