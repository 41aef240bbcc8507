"""Plaintext 2.0.0 (libp2p plaintext, 1A): peers name themselves, nothing is proven or encrypted. For tests only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from google.protobuf.message import DecodeError, EncodeError

from talos.errors import (
    BadSignature,
    ConfigError,
    HandshakeError,
    LocalProtocolError,
    PeerIdMismatch,
    RemoteProtocolError,
)
from talos.identity.keys import PublicKey
from talos.identity.peer_id import PeerId
from talos.security.channel import open_channel
from talos.security.layer import Authenticated
from talos.wire.length_prefix import LengthPrefixDecoder, frame
from talos.wire.pb import plaintext_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from talos.abc import ProtocolId, Role, SecureChannel
    from talos.identity.keys import PrivateKey
    from talos.security.layer import Bytes

__all__ = ["Plaintext", "PlaintextMachine"]

MAX_EXCHANGE_BYTES = 4096


class Plaintext:
    """A channel to whoever claims a peer id; ConfigError unless `insecure=True` says that this is meant."""

    protocol_id: ProtocolId = "/plaintext/2.0.0"

    def __init__(self, key: PrivateKey, *, insecure: bool = False) -> None:
        if not insecure:
            raise ConfigError("plaintext authenticates nobody: it needs insecure=True")
        self._key = key.public_key

    async def secure(
        self,
        stream: trio.abc.Stream,
        role: Role,  # noqa: ARG002 - the seam's
        expected: PeerId | None,
        *,
        muxers: Sequence[ProtocolId] = (),  # noqa: ARG002 - the seam's
    ) -> SecureChannel:
        """As `talos.abc.SecurityTransport`; both roles do the same, and muxers are not negotiated early."""
        return await open_channel(stream, PlaintextMachine(self._key, expected=expected))


class PlaintextMachine:
    """One side of the exchange: each sends its id and key at once and checks the other's."""

    def __init__(self, key: PublicKey, *, expected: PeerId | None = None) -> None:
        message = plaintext_pb2.Exchange(id=PeerId.from_key(key).to_bytes())
        message.pubkey.ParseFromString(key.to_bytes())
        self._outgoing = frame(message.SerializeToString(deterministic=True))
        self._decoder = LengthPrefixDecoder(MAX_EXCHANGE_BYTES)
        self._expected = expected
        self._ended = False

    def data_to_send(self) -> bytes:
        """What is to be sent now."""
        data, self._outgoing = self._outgoing, b""
        return data

    def receive_data(self, data: Bytes) -> list[Authenticated]:
        """Takes what the peer sent; one event when its exchange is complete. HandshakeError ends it."""
        if self._ended:
            raise LocalProtocolError("this plaintext exchange has ended")
        try:
            self._decoder.feed(data)
            message = self._decoder.next_message()
            if message is None:
                return []
            self._ended = True
            key, peer = _read_exchange(message)
        except (RemoteProtocolError, DecodeError, EncodeError) as error:
            self._ended = True
            raise HandshakeError(f"plaintext exchange is malformed: {error}") from error
        if self._expected is not None and peer != self._expected:
            raise PeerIdMismatch(self._expected, peer)
        return [Authenticated(key, peer, None, PlaintextRecords(), self._decoder.take_leftover())]

    def end(self) -> NoReturn:
        """The stream ended before the exchange did."""
        self._ended = True
        raise HandshakeError("stream ended during the plaintext exchange")


class PlaintextRecords:
    """No records at all."""

    confirmed = True
    ended = False
    failure: str | None = None

    def seal(self, data: Bytes) -> Bytes:
        """As it is."""
        return data

    def receive_data(self, data: Bytes) -> bytes:
        """As it is."""
        return bytes(data)

    def cut_by_end(self) -> bool:
        """There is nothing to cut."""
        return False

    def farewell(self) -> bytes:
        """There is none."""
        return b""


def _read_exchange(data: bytes) -> tuple[PublicKey, PeerId]:
    message = plaintext_pb2.Exchange.FromString(data)
    key = PublicKey.from_bytes(message.pubkey.SerializeToString(deterministic=True))
    peer = PeerId.from_key(key)
    if message.id != peer.to_bytes():
        raise BadSignature("the id in the plaintext exchange is not that of its key")
    return key, peer
