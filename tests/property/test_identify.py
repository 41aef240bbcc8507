"""Identify messages: any chunking, any split and any order of fields gives the same; junk gives RemoteProtocolError."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from talos.errors import RemoteProtocolError
from talos.identify import wire
from talos.identify.machine import MAX_SENT_BYTES, IdentifyReader, ReadLimits, WrongIdentity, displayable, judge, split
from talos.identify.wire import Identify
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.wire.length_prefix import frame

KEY = PrivateKey.from_seed(bytes(32))
PEER = PeerId.from_key(KEY.public_key)
LIMITS = ReadLimits(addrs=10_000, protocols=10_000)
SEEN_AT = [
    Multiaddr(text) for text in ("/ip4/5.6.7.8/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1", "/memory/1")
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
addrs = st.one_of(
    st.binary(max_size=40),
    st.integers(1, 65_535).map(lambda port: bytes(Multiaddr(f"/ip4/5.6.7.8/tcp/{port}").to_bytes())),
)
messages = st.builds(
    Identify,
    public_key=st.none() | st.binary(max_size=40) | st.just(KEY.public_key.to_bytes()),
    listen_addrs=st.lists(addrs, max_size=150).map(tuple),
    protocols=st.lists(texts, max_size=150).map(tuple),
    observed_addr=st.none() | addrs,
    protocol_version=st.none() | texts,
    agent_version=st.none() | texts,
    signed_peer_record=st.none() | st.binary(max_size=300),
)


def read(data: bytes, chunks: st.DataObject | None = None) -> Identify:
    reader = IdentifyReader(LIMITS)
    while data:
        size = len(data) if chunks is None else chunks.draw(st.integers(1, len(data)))
        reader.receive_data(data[:size])
        data = data[size:]
    return reader.end()


@given(messages)
def test_encoding_and_decoding_are_inverse(message: Identify) -> None:
    assert wire.decode(wire.encode(message), max_addrs=10_000, max_protocols=10_000) == message


@given(messages, st.data())
def test_a_split_message_comes_back_whole_in_any_chunks(message: Identify, data: st.DataObject) -> None:
    parts = split(message)
    assert all(len(part) <= MAX_SENT_BYTES for part in parts)
    assert read(b"".join(map(frame, parts)), data) == message


@given(messages, st.integers(400, 2000), st.integers(2, 4))
def test_what_does_not_fit_is_left_out_in_order(message: Identify, max_bytes: int, max_messages: int) -> None:
    message = replace(message, agent_version="a", protocol_version="p")
    parts = split(message, max_bytes=max_bytes, max_messages=max_messages)
    assert len(parts) <= max_messages
    assert all(len(part) <= max_bytes for part in parts)
    got = read(b"".join(map(frame, parts)))
    assert got.protocols == message.protocols[: len(got.protocols)]
    assert got.listen_addrs == message.listen_addrs[: len(got.listen_addrs)]
    assert got.protocols == message.protocols or not got.listen_addrs
    assert got.signed_peer_record == message.signed_peer_record


@given(messages, st.sampled_from(SEEN_AT))
def test_judging_takes_anything_and_believes_only_what_is_sound(message: Identify, seen_at: Multiaddr) -> None:
    try:
        accepted = judge(message, peer=PEER, key=KEY.public_key, remote_addr=seen_at, limits=ReadLimits())
    except WrongIdentity:
        assert message.public_key != KEY.public_key.to_bytes()
        return
    assert message.public_key in (None, KEY.public_key.to_bytes())
    assert accepted.record is None
    assert all(name.isprintable() and name for name in accepted.protocols or ())
    assert len(set(accepted.addrs or ())) == len(accepted.addrs or ())
    assert "".join(map(str, accepted.addrs or ())) is not None


@given(st.lists(st.binary(max_size=300), max_size=12))
def test_junk_gives_a_message_or_a_remote_error(parts: list[bytes]) -> None:
    for data in (b"".join(parts), b"".join(map(frame, parts))):
        try:
            read(data)
        except RemoteProtocolError:
            pass


@given(st.text(max_size=600))
def test_what_is_displayed_is_harmless(text: str) -> None:
    shown = displayable(text)
    assert len(shown) <= 256
    assert shown.isprintable()
    shown.encode()
