"""What a security protocol is made of, free of IO: a handshake machine, then a record layer.

`talos.security.channel` joins the two to a stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeAlias

from talos.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.abc import ProtocolId
    from talos.identity.keys import PublicKey
    from talos.identity.peer_id import PeerId

__all__ = ["Authenticated", "Bytes", "HandshakeMachine", "RecordLayer", "open_early"]

Bytes: TypeAlias = bytes | bytearray | memoryview


class RecordLayer(Protocol):
    """Seals and opens what follows the handshake."""

    @property
    def confirmed(self) -> bool:
        """Whether the peer is known to have accepted us. Until then a failing read is a failed handshake."""

    @property
    def ended(self) -> bool:
        """Whether the peer has said that no more will come."""

    @property
    def failure(self) -> str | None:
        """Why the peer's bytes are not opened any more."""

    def seal(self, data: Bytes) -> Bytes:
        """The bytes to send for `data`; LocalProtocolError when no more can be sealed."""

    def receive_data(self, data: Bytes) -> bytes | bytearray:
        """The plaintext that `data` completes.

        What came intact before a forged record is still given out; then `failure` is set, and every further
        call raises RemoteProtocolError.
        """

    def cut_by_end(self) -> bool:
        """Whether an end of the stream below would be a truncation now."""

    def farewell(self) -> bytes:
        """The last bytes to send, where the protocol has them."""


@dataclass(slots=True)
class Authenticated:
    """A handshake is complete: who the peer is, and how to go on.

    `plaintext` is what came behind the handshake's last message, opened already.
    """

    remote_key: PublicKey
    remote_peer: PeerId
    early_muxer: ProtocolId | None
    layer: RecordLayer
    plaintext: bytes | bytearray = b""


def open_early(layer: RecordLayer, data: Bytes) -> bytes | bytearray:
    """The plaintext of what came with the end of the handshake; a fault in it shows as `layer.failure`."""
    try:
        return layer.receive_data(data)
    except RemoteProtocolError:
        return b""


class HandshakeMachine(Protocol):
    """One side of one handshake. Whatever the peer does wrong raises HandshakeError or a child of it."""

    def data_to_send(self) -> bytes:
        """What is to be sent now; after an error, what tells the peer, if anything."""

    def receive_data(self, data: Bytes) -> Sequence[Authenticated]:
        """Takes what the peer sent; one event when the handshake is complete."""

    def end(self) -> NoReturn:
        """The stream ended: HandshakeError."""
