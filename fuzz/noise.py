"""Noise from four sides: handshake frames to either role, a payload from a peer that speaks Noise well, records."""

from __future__ import annotations

from talos.errors import HandshakeError, RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.security.noise import NoiseConfig, wire
from talos.security.noise.machine import NoiseMachine
from talos.security.noise.record import RecordReader
from talos.security.noise.xx import HandshakeState, KeyPair

CONFIG = NoiseConfig()
IDENTITY = PrivateKey.from_seed(bytes([1]) * 32)
STATIC, EPHEMERAL, FOREIGN = (KeyPair.from_bytes(bytes([fill]) * 32) for fill in (2, 3, 4))
PAYLOAD = wire.encode(
    IDENTITY.public_key.to_bytes(), IDENTITY.sign(wire.SIGNATURE_PREFIX + STATIC.public), ["/yamux/1.0.0"]
)


def target(data: bytes) -> None:
    if not data:
        return
    try:
        match data[0] % 4:
            case 0:
                _machine(dialer=True).receive_data(data[1:])
            case 1:
                _machine(dialer=False).receive_data(data[1:])
            case 2:
                _payload(data[1:])
            case 3:
                _records(data[1:])
    except HandshakeError:
        pass


def _machine(*, dialer: bool) -> NoiseMachine:
    return NoiseMachine(
        dialer=dialer, static=STATIC, ephemeral=EPHEMERAL, payload=PAYLOAD, config=CONFIG, muxers=["/yamux/1.0.0"]
    )


def _payload(payload: bytes) -> None:
    victim = _machine(dialer=True)
    attacker = HandshakeState(initiator=False, static=FOREIGN, ephemeral=FOREIGN)
    attacker.read_message(victim.data_to_send()[2:])
    message = attacker.write_message(payload[:4000])
    victim.receive_data(len(message).to_bytes(2, "big") + message)


def _records(data: bytes) -> None:
    whole, bytewise = RecordReader(bytes(32)), RecordReader(bytes(32))
    assert _read(whole, [data]) == _read(bytewise, [data[n : n + 1] for n in range(len(data))])
    assert whole.failure == bytewise.failure


def _read(reader: RecordReader, pieces: list[bytes]) -> bytes:
    opened = bytearray()
    try:
        for piece in pieces:
            opened += reader.receive_data(piece)
    except RemoteProtocolError:
        pass
    return bytes(opened)
