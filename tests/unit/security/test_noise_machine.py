"""The libp2p handshake: framing, limits, order of checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from talos.errors import BadSignature, ConfigError, HandshakeError, LocalProtocolError, PeerIdMismatch
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.security.noise import Noise, NoiseConfig, wire
from talos.security.noise.machine import NoiseMachine
from talos.security.noise.xx import HandshakeState, KeyPair
from talos.wire.pb import noise_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.security.layer import Authenticated

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "noise_libp2p.json").read_text(encoding="utf-8")
)
CONFIG = NoiseConfig()
DIALER_KEY = PrivateKey.from_seed(bytes([1]) * 32)
LISTENER_KEY = PrivateKey.from_seed(bytes([2]) * 32)
STATIC = {True: KeyPair.from_bytes(bytes([3]) * 32), False: KeyPair.from_bytes(bytes([4]) * 32)}
EPHEMERAL = {True: KeyPair.from_bytes(bytes([5]) * 32), False: KeyPair.from_bytes(bytes([6]) * 32)}
KEYS = {True: DIALER_KEY, False: LISTENER_KEY}


def payload_of(*, dialer: bool, muxers: Sequence[str] = ()) -> bytes:
    key = KEYS[dialer]
    signature = key.sign(wire.SIGNATURE_PREFIX + STATIC[dialer].public)
    return wire.encode(key.public_key.to_bytes(), signature, muxers)


def make(
    *, dialer: bool, muxers: Sequence[str] = (), expected: PeerId | None = None, config: NoiseConfig = CONFIG
) -> NoiseMachine:
    return NoiseMachine(
        dialer=dialer,
        static=STATIC[dialer],
        ephemeral=EPHEMERAL[dialer],
        payload=payload_of(dialer=dialer, muxers=muxers),
        config=config,
        muxers=muxers,
        expected=expected,
    )


def run(dialer: NoiseMachine, listener: NoiseMachine) -> tuple[Authenticated, Authenticated]:
    assert listener.receive_data(dialer.data_to_send()) == []
    [at_dialer] = dialer.receive_data(listener.data_to_send())
    [at_listener] = listener.receive_data(dialer.data_to_send())
    return at_dialer, at_listener


def frame(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def say(payload: bytes, *, to_dialer: bool, expected: PeerId | None = None) -> list[Authenticated]:
    """Lets an attacker who speaks perfect Noise say `payload` where it belongs."""
    victim = make(dialer=to_dialer, expected=expected)
    attacker = HandshakeState(initiator=not to_dialer, static=STATIC[not to_dialer], ephemeral=EPHEMERAL[not to_dialer])
    if to_dialer:
        attacker.read_message(victim.data_to_send()[2:])
        return victim.receive_data(frame(attacker.write_message(payload)))
    victim.receive_data(frame(attacker.write_message(b"")))
    attacker.read_message(victim.data_to_send()[2:])
    return victim.receive_data(frame(attacker.write_message(payload)))


def test_both_sides_know_each_other() -> None:
    at_dialer, at_listener = run(make(dialer=True), make(dialer=False))
    assert at_dialer.remote_key == LISTENER_KEY.public_key
    assert at_listener.remote_peer == PeerId.from_key(DIALER_KEY.public_key)
    assert at_listener.layer.receive_data(at_dialer.layer.seal(b"hello")) == b"hello"
    assert at_dialer.layer.receive_data(at_listener.layer.seal(b"back")) == b"back"


def test_our_own_transcript() -> None:
    """Fixed keys give fixed bytes: a change of the wire format shows here."""
    dialer, listener = make(dialer=True, muxers=["/yamux/1.0.0"]), make(dialer=False, muxers=["/yamux/1.0.0"])
    first = dialer.data_to_send()
    listener.receive_data(first)
    second = listener.data_to_send()
    dialer.receive_data(second)
    third = dialer.data_to_send()
    assert [first.hex(), second.hex(), third.hex()] == VECTOR["messages"]
    [at_listener] = listener.receive_data(third)
    assert at_listener.layer.seal(b"talos").hex() == VECTOR["first record of the listener"]


def test_records_behind_the_last_message_are_opened() -> None:
    dialer, listener = make(dialer=True), make(dialer=False)
    listener.receive_data(dialer.data_to_send())
    [at_dialer] = dialer.receive_data(listener.data_to_send())
    third = dialer.data_to_send()
    [event] = listener.receive_data(third + at_dialer.layer.seal(b"early") + b"\x00")
    assert event.plaintext == b"early"
    assert event.layer.failure is None
    assert event.layer.cut_by_end()


def test_a_forged_record_behind_the_last_message() -> None:
    dialer, listener = make(dialer=True), make(dialer=False)
    listener.receive_data(dialer.data_to_send())
    dialer.receive_data(listener.data_to_send())
    [event] = listener.receive_data(dialer.data_to_send() + b"\x00\x10" + bytes(16))
    assert event.plaintext == b""
    assert event.layer.failure == "noise record does not decrypt"


@pytest.mark.parametrize("dialer", [True, False])
@pytest.mark.parametrize("length", [4097, 65_535])
def test_a_long_message_is_refused_on_its_length(dialer: bool, length: int) -> None:
    with pytest.raises(HandshakeError, match="over 4096"):
        make(dialer=dialer).receive_data(length.to_bytes(2, "big"))


def test_a_machine_is_used_once() -> None:
    dialer, listener = make(dialer=True), make(dialer=False)
    run(dialer, listener)
    failed = make(dialer=False)
    with pytest.raises(HandshakeError):
        failed.receive_data(b"\xff\xff")
    for machine in (dialer, listener, failed):
        with pytest.raises(LocalProtocolError):
            machine.receive_data(b"")


def test_the_end_of_the_stream() -> None:
    machine = make(dialer=True)
    with pytest.raises(HandshakeError, match="stream ended"):
        machine.end()
    with pytest.raises(LocalProtocolError):
        machine.receive_data(b"")


def test_our_own_message_over_the_limit() -> None:
    listener = make(dialer=False, config=NoiseConfig(max_handshake_message=100))
    with pytest.raises(LocalProtocolError):
        listener.receive_data(make(dialer=True).data_to_send())


def test_the_first_message_has_no_payload() -> None:
    attacker = HandshakeState(initiator=True, static=STATIC[True], ephemeral=EPHEMERAL[True])
    with pytest.raises(HandshakeError, match="has a payload"):
        make(dialer=False).receive_data(frame(attacker.write_message(b"x")))


@pytest.mark.parametrize("to_dialer", [True, False])
def test_order_of_checks(to_dialer: bool) -> None:
    """A payload with every fault fails on the first of them; with each one mended, on the next."""
    key = KEYS[not to_dialer]
    serialized = key.public_key.to_bytes()
    signature = key.sign(wire.SIGNATURE_PREFIX + STATIC[not to_dialer].public)
    foreign = key.sign(wire.SIGNATURE_PREFIX + STATIC[to_dialer].public)
    stranger = PeerId.from_key(PrivateKey.from_seed(bytes([9]) * 32).public_key)
    too_many = ["/x"] * 17

    with pytest.raises(HandshakeError, match="malformed"):
        say(b"\x0a\xff", to_dialer=to_dialer, expected=stranger)
    with pytest.raises(BadSignature, match="lacks"):
        say(wire.encode(b"", foreign, too_many), to_dialer=to_dialer, expected=stranger)
    with pytest.raises(BadSignature, match="lacks"):
        say(wire.encode(serialized, b"", too_many), to_dialer=to_dialer, expected=stranger)
    with pytest.raises(HandshakeError, match="identity key"):
        say(wire.encode(serialized + b"\x00", foreign, too_many), to_dialer=to_dialer, expected=stranger)
    with pytest.raises(BadSignature, match="does not hold"):
        say(wire.encode(serialized, foreign, too_many), to_dialer=to_dialer, expected=stranger)
    with pytest.raises(PeerIdMismatch):
        say(wire.encode(serialized, signature, too_many), to_dialer=to_dialer, expected=stranger)
    with pytest.raises(HandshakeError, match="over 16 entries"):
        say(wire.encode(serialized, signature, too_many), to_dialer=to_dialer)
    with pytest.raises(HandshakeError, match="over 16 entries"):
        say(wire.encode(serialized, signature, ["x" * 129]), to_dialer=to_dialer)
    [event] = say(wire.encode(serialized, signature, ["x" * 128] * 16), to_dialer=to_dialer)
    assert event.remote_key == key.public_key


def test_muxers_that_are_not_utf8() -> None:
    payload = wire.HandshakePayload(b"", b"", b"\x12\x02\xff\xfe")
    with pytest.raises(HandshakeError, match="UTF-8"):
        wire.muxers_of(payload, CONFIG)
    with pytest.raises(HandshakeError, match="malformed"):
        wire.muxers_of(wire.HandshakePayload(b"", b"", b"\x12\xff"), CONFIG)


def test_unknown_fields_and_extensions_are_ignored() -> None:
    known = payload_of(dialer=False, muxers=["/a"])
    message = noise_pb2.NoiseHandshakePayload.FromString(known)
    extensions = message.extensions.SerializeToString() + b"\x1a\x01x" + b"\xc2\x3e\x01y"
    message.ClearField("extensions")
    data = message.SerializeToString() + b"\x1a\x01d" + b"\x22" + bytes([len(extensions)]) + extensions
    [event] = say(data, to_dialer=True)
    assert event.remote_key == LISTENER_KEY.public_key
    assert wire.muxers_of(wire.decode(data), CONFIG) == ("/a",)


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [(["/a", "/b"], ["/b", "/a"], "/a"), (["/a", "/b"], ["/c", "/b"], "/b"), (["/a"], [], None), ([], ["/a"], None)],
)
def test_early_muxer(ours: list[str], theirs: list[str], chosen: str | None) -> None:
    events = run(make(dialer=True, muxers=ours), make(dialer=False, muxers=theirs))
    assert [event.early_muxer for event in events] == [chosen, chosen]


def test_no_muxer_in_common() -> None:
    with pytest.raises(HandshakeError, match="no muxer in common"):
        run(make(dialer=True, muxers=["/a"]), make(dialer=False, muxers=["/b"]))


@pytest.mark.parametrize(
    "limits",
    [{"max_handshake_message": 95}, {"max_handshake_message": 65_536}, {"max_muxers": -1}, {"max_muxer_bytes": -1}],
)
def test_config_limits(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        NoiseConfig(**limits)


def test_the_signature_is_made_once_and_the_payload_cached() -> None:
    noise = Noise(DIALER_KEY)
    assert noise._payload_for(("/a",)) is noise._payload_for(("/a",))
    assert wire.muxers_of(wire.decode(noise._payload_for(("/b", "/a"))), CONFIG) == ("/b", "/a")
    with pytest.raises(ConfigError):
        noise._payload_for(("/x",) * 17)
