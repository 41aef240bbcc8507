"""The bare Noise handshake against published vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from talos.errors import HandshakeError, LocalProtocolError
from talos.security.noise.record import LENGTH_BYTES, RecordReader, RecordWriter
from talos.security.noise.xx import HandshakeState, KeyPair

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "noise_xx.json").read_text(encoding="utf-8")
)["vectors"]
SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def key_pair(fill: int) -> KeyPair:
    return KeyPair.from_bytes(bytes([fill]) * 32)


def two_states() -> tuple[HandshakeState, HandshakeState]:
    return (
        HandshakeState(initiator=True, static=key_pair(1), ephemeral=key_pair(2)),
        HandshakeState(initiator=False, static=key_pair(3), ephemeral=key_pair(4)),
    )


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_published_vector(name: str) -> None:
    vector = VECTORS[name]
    sides = [
        HandshakeState(
            initiator=prefix == "init",
            static=KeyPair.from_bytes(bytes.fromhex(vector[f"{prefix}_static"])),
            ephemeral=KeyPair.from_bytes(bytes.fromhex(vector[f"{prefix}_ephemeral"])),
            prologue=bytes.fromhex(vector[f"{prefix}_prologue"]),
        )
        for prefix in ("init", "resp")
    ]
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]
    for n, (payload, ciphertext) in enumerate(messages[:3]):
        assert sides[n % 2].write_message(payload) == ciphertext
        assert sides[1 - n % 2].read_message(ciphertext) == payload
    assert all(side.finished for side in sides)
    assert sides[0].handshake_hash == sides[1].handshake_hash
    if "handshake_hash" in vector:
        assert sides[0].handshake_hash.hex() == vector["handshake_hash"]
    keys = [side.split() for side in sides]
    assert keys[0] == keys[1][::-1]
    writers = [RecordWriter(send) for send, _ in keys]
    readers = [RecordReader(receive) for _, receive in keys]
    for n, (payload, ciphertext) in enumerate(messages[3:], 3):
        record = writers[n % 2].seal(payload)
        assert record[LENGTH_BYTES:] == ciphertext
        assert readers[1 - n % 2].receive_data(record) == payload


def test_another_prologue_fails() -> None:
    dialer = HandshakeState(initiator=True, static=key_pair(1), ephemeral=key_pair(2), prologue=b"one")
    listener = HandshakeState(initiator=False, static=key_pair(3), ephemeral=key_pair(4), prologue=b"two")
    listener.read_message(dialer.write_message(b""))
    with pytest.raises(HandshakeError, match="does not decrypt"):
        dialer.read_message(listener.write_message(b""))


def test_turns() -> None:
    dialer, listener = two_states()
    with pytest.raises(LocalProtocolError):
        dialer.read_message(bytes(96))
    with pytest.raises(LocalProtocolError):
        listener.write_message(b"")
    with pytest.raises(LocalProtocolError):
        dialer.split()
    for n in range(3):
        sides = (dialer, listener)
        sides[1 - n % 2].read_message(sides[n % 2].write_message(b""))
    for side in (dialer, listener):
        with pytest.raises(LocalProtocolError):
            side.read_message(bytes(96))
        with pytest.raises(LocalProtocolError):
            side.write_message(b"")


def test_short_messages() -> None:
    _, listener = two_states()
    with pytest.raises(HandshakeError, match="too short"):
        listener.read_message(bytes(31))


@pytest.mark.parametrize("point", SMALL_ORDER, ids=range(len(SMALL_ORDER)))
def test_a_zero_shared_secret_is_refused(point: bytes) -> None:
    _, listener = two_states()
    listener.read_message(point)
    with pytest.raises(HandshakeError, match="small order"):
        listener.write_message(b"")
