"""Noise under any chunking, and against any change."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from talos.errors import HandshakeError, RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.security.noise import NoiseConfig, wire
from talos.security.noise.machine import NoiseMachine
from talos.security.noise.record import RecordReader, RecordWriter
from talos.security.noise.xx import KeyPair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from talos.security.layer import Authenticated

KEY = bytes(range(32))
CONFIG = NoiseConfig()


def machine(*, dialer: bool) -> NoiseMachine:
    fill = 10 if dialer else 20
    identity = PrivateKey.from_seed(bytes([fill]) * 32)
    static = KeyPair.from_bytes(bytes([fill + 1]) * 32)
    return NoiseMachine(
        dialer=dialer,
        static=static,
        ephemeral=KeyPair.from_bytes(bytes([fill + 2]) * 32),
        payload=wire.encode(
            identity.public_key.to_bytes(), identity.sign(wire.SIGNATURE_PREFIX + static.public), ["/yamux/1.0.0"]
        ),
        config=CONFIG,
        muxers=["/yamux/1.0.0"],
    )


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        yield data[start:end]


def deliver(receiver: NoiseMachine, data: bytes, cuts: list[int]) -> list[Authenticated]:
    return [event for piece in pieces(data, cuts) for event in receiver.receive_data(piece)]


@given(st.lists(st.integers(0, 400), max_size=30))
def test_any_chunking_gives_the_same_handshake(cuts: list[int]) -> None:
    dialer, listener = machine(dialer=True), machine(dialer=False)
    assert deliver(listener, dialer.data_to_send(), cuts) == []
    [at_dialer] = deliver(dialer, listener.data_to_send(), cuts)
    [at_listener] = deliver(listener, dialer.data_to_send(), cuts)
    assert at_dialer.early_muxer == at_listener.early_muxer == "/yamux/1.0.0"
    assert at_listener.layer.receive_data(at_dialer.layer.seal(b"x")) == b"x"


@given(st.lists(st.binary(max_size=400), max_size=8), st.lists(st.integers(0, 4000), max_size=30))
def test_any_chunking_gives_the_same_plaintext(messages: list[bytes], cuts: list[int]) -> None:
    writer, reader = RecordWriter(KEY), RecordReader(KEY)
    sealed = b"".join(writer.seal(message) for message in messages)
    assert b"".join(reader.receive_data(piece) for piece in pieces(sealed, cuts)) == b"".join(messages)
    assert not reader.cut_by_end()


@given(
    st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=6),
    st.integers(0),
    st.integers(1, 255),
    st.lists(st.integers(0, 500), max_size=10),
)
def test_a_changed_byte_leaves_a_prefix_of_whole_messages(
    messages: list[bytes], at: int, change: int, cuts: list[int]
) -> None:
    writer, reader = RecordWriter(KEY), RecordReader(KEY)
    sealed = [bytes(writer.seal(message)) for message in messages]
    stream = bytearray(b"".join(sealed))
    at %= len(stream)
    stream[at] ^= change
    hit, end = 0, len(sealed[0])
    while at >= end:
        hit += 1
        end += len(sealed[hit])
    opened = bytearray()
    try:
        for piece in pieces(bytes(stream), cuts):
            opened += reader.receive_data(piece)
    except RemoteProtocolError:
        pass
    else:
        assert reader.failure is not None or reader.cut_by_end()
    assert opened == b"".join(messages[:hit])


@given(st.binary(max_size=300), st.booleans(), st.lists(st.integers(0, 300), max_size=5))
def test_no_other_bytes_make_a_handshake(data: bytes, dialer: bool, cuts: list[int]) -> None:
    victim = machine(dialer=dialer)
    try:
        assert deliver(victim, data, cuts) == []
    except HandshakeError:
        pass


@given(st.binary(max_size=40), st.binary(max_size=80), st.lists(st.text(max_size=20), max_size=16))
def test_payload_round_trip(key: bytes, signature: bytes, muxers: list[str]) -> None:
    payload = wire.decode(wire.encode(key, signature, muxers))
    assert (payload.identity_key, payload.identity_sig) == (key, signature)
    assert wire.muxers_of(payload, CONFIG) == tuple(muxers)
