"""The libp2p Noise handshake, without IO: framing, payloads, and the order of checks.

Rules (libp2p noise):
- a frame is a u16 length and a message; one over the limit is refused on its length;
- message 1 has no payload; 2 and 3 carry identity key, signature over the static key, and extensions;
- the peer is checked in this order: message decrypts, payload parses, key decodes strictly, signature holds,
  id is the expected one, and only then extensions are read;
- the early muxer is the first of the initiator's list that the responder has; none in common ends the handshake,
  and a missing list on either side leaves the choice to multistream;
- any failure raises HandshakeError, PeerIdMismatch or BadSignature, nothing is answered, the machine is done with.

    state            initiator (dialer)              responder (listener)
    at first         sends 1, awaits 2               awaits 1
    message 1        -                               sends 2, awaits 3
    message 2        checks peer, sends 3, done      -
    message 3        -                               checks peer, done
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from talos.errors import BadSignature, HandshakeError, LocalProtocolError, PeerIdMismatch, RemoteProtocolError
from talos.identity.keys import PublicKey
from talos.identity.peer_id import PeerId
from talos.security.layer import Authenticated, open_early
from talos.security.noise import wire
from talos.security.noise.record import LENGTH_BYTES, NoiseRecords, RecordReader, RecordWriter
from talos.security.noise.xx import HandshakeState, KeyPair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.security.layer import Bytes
    from talos.security.noise.config import NoiseConfig

__all__ = ["NoiseMachine"]


class NoiseMachine:
    """One side of one handshake.

    `payload` is ours, signed already; `muxers` are those listed in it. `ephemeral` is for this handshake only.
    """

    def __init__(
        self,
        *,
        dialer: bool,
        static: KeyPair,
        ephemeral: KeyPair,
        payload: bytes,
        config: NoiseConfig,
        muxers: Sequence[str] = (),
        expected: PeerId | None = None,
        prologue: bytes = b"",
    ) -> None:
        self._dialer = dialer
        self._state = HandshakeState(initiator=dialer, static=static, ephemeral=ephemeral, prologue=prologue)
        self._payload = payload
        self._config = config
        self._muxers = tuple(muxers)
        self._expected = expected
        self._buffer = bytearray()
        self._outgoing = b""
        self._peer: tuple[PublicKey, PeerId, str | None] | None = None
        self._ended = False
        if dialer:
            self._write(b"")

    def receive_data(self, data: Bytes) -> list[Authenticated]:
        """Takes what the peer sent; one event when the handshake is complete. HandshakeError ends it."""
        if self._ended:
            raise LocalProtocolError("this noise handshake has ended")
        self._buffer += data
        try:
            while self._peer is None and (message := self._next_message()) is not None:
                self._read(message)
        except HandshakeError:
            self._ended = True
            raise
        if self._peer is None:
            return []
        self._ended = True
        send_key, receive_key = self._state.split()
        records = NoiseRecords(RecordWriter(send_key), RecordReader(receive_key))
        return [Authenticated(*self._peer, records, open_early(records, self._buffer))]

    def data_to_send(self) -> bytes:
        """What is to be sent now."""
        data, self._outgoing = self._outgoing, b""
        return data

    def end(self) -> NoReturn:
        """The stream ended before the handshake did."""
        self._ended = True
        raise HandshakeError("stream ended during the noise handshake")

    def _next_message(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < LENGTH_BYTES:
            return None
        length = buffer[0] << 8 | buffer[1]
        if length > self._config.max_handshake_message:
            raise HandshakeError(
                f"noise handshake message of {length} bytes is over {self._config.max_handshake_message}"
            )
        end = LENGTH_BYTES + length
        if len(buffer) < end:
            return None
        message = bytes(buffer[LENGTH_BYTES:end])
        del buffer[:end]
        return message

    def _read(self, message: bytes) -> None:
        payload = self._state.read_message(message)
        if not self._state.remote_static:
            if payload:
                raise HandshakeError("first noise message has a payload")
        else:
            self._peer = self._check(payload)
        if self._state.my_turn:
            self._write(self._payload)

    def _write(self, payload: bytes) -> None:
        message = self._state.write_message(payload)
        if len(message) > self._config.max_handshake_message:
            raise LocalProtocolError(f"our noise handshake message has {len(message)} bytes")
        self._outgoing += len(message).to_bytes(LENGTH_BYTES, "big") + message

    def _check(self, data: bytes) -> tuple[PublicKey, PeerId, str | None]:
        payload = wire.decode(data)
        if not payload.identity_key or not payload.identity_sig:
            raise BadSignature("noise payload lacks the identity key or its signature")
        try:
            key = PublicKey.from_bytes(payload.identity_key)
        except RemoteProtocolError as error:
            raise HandshakeError(f"identity key in the noise payload: {error}") from error
        key.verify(wire.SIGNATURE_PREFIX + self._state.remote_static, payload.identity_sig)
        peer = PeerId.from_key(key)
        if self._expected is not None and peer != self._expected:
            raise PeerIdMismatch(self._expected, peer)
        return key, peer, self._choose_muxer(wire.muxers_of(payload, self._config))

    def _choose_muxer(self, theirs: Sequence[str]) -> str | None:
        if not self._muxers or not theirs:
            return None
        preferred, supported = (self._muxers, theirs) if self._dialer else (theirs, self._muxers)
        for muxer in preferred:
            if muxer in supported:
                return muxer
        raise HandshakeError(f"no muxer in common: we have {', '.join(self._muxers)}")
