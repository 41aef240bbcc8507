"""Reading, judging and writing identify messages, without IO."""

from __future__ import annotations

from dataclasses import replace

import pytest
from multiaddr import Multiaddr

from talos.errors import MessageTooLarge, RemoteProtocolError
from talos.identify import wire
from talos.identify.machine import (
    MAX_AGENT_CHARACTERS,
    MAX_MESSAGE_BYTES,
    MAX_SENT_BYTES,
    Accepted,
    IdentifyReader,
    ReadLimits,
    WrongIdentity,
    displayable,
    judge,
    split,
)
from talos.identify.wire import Identify
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.identity.peer_record import RecordFormat, SignedPeerRecord
from talos.wire.length_prefix import frame

KEY = PrivateKey.from_seed(bytes(32))
PEER = PeerId.from_key(KEY.public_key)
OTHER_KEY = PrivateKey.from_seed(bytes(31) + b"1")
OTHER = PeerId.from_key(OTHER_KEY.public_key)
PUBLIC, PRIVATE, LOOPBACK = "/ip4/5.6.7.8/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1"
DNS, LAN_NAME = "/dns4/example.com/tcp/1", "/dns4/printer.local/tcp/1"
LIMITS = ReadLimits()


def raw(text: str) -> bytes:
    data: bytes = Multiaddr(text).to_bytes()
    return data


def texts(accepted: Accepted) -> list[str]:
    assert accepted.addrs is not None
    return [str(addr) for addr in accepted.addrs]


def read(*messages: bytes, limits: ReadLimits = LIMITS) -> Identify:
    reader = IdentifyReader(limits)
    for message in messages:
        reader.receive_data(frame(message))
    return reader.end()


def believe(message: Identify, *, seen_at: str = PUBLIC, known: tuple[bytes, int] | None = None) -> Accepted:
    return judge(
        message,
        peer=PEER,
        key=KEY.public_key,
        remote_addr=Multiaddr(seen_at),
        limits=LIMITS,
        known_record=known,
    )


def record(seq: int, *addrs: str, key: PrivateKey = KEY, form: RecordFormat = RecordFormat.STANDARD) -> bytes:
    return SignedPeerRecord.make(key, [raw(addr) for addr in addrs], seq, form).envelope.raw


# ----------------------------------------------------------------------------------- reading

FULL = Identify(
    public_key=KEY.public_key.to_bytes(),
    listen_addrs=(raw(PUBLIC),),
    protocols=("/a", "/b"),
    observed_addr=raw(DNS),
    protocol_version="/talos/1.0.0",
    agent_version="talos/0",
    signed_peer_record=record(1, PUBLIC),
)


def test_a_message_comes_back_as_it_went() -> None:
    assert read(wire.encode(FULL)) == FULL
    assert read(b"") == Identify()


def test_what_the_encoding_looks_like() -> None:
    message = Identify(public_key=b"k", listen_addrs=(b"a",), protocols=("p",), observed_addr=b"o")
    message = replace(message, protocol_version="v", agent_version="g", signed_peer_record=b"r")
    assert wire.encode(message) == b"\x0a\x01k\x12\x01a\x1a\x01p\x22\x01o\x2a\x01v\x32\x01g\x42\x01r"


def test_further_messages_append_and_replace() -> None:
    second = Identify(listen_addrs=(raw(DNS),), protocols=("/c",), agent_version="newer")
    merged = read(wire.encode(FULL), wire.encode(second))
    assert merged.listen_addrs == (raw(PUBLIC), raw(DNS))
    assert merged.protocols == ("/a", "/b", "/c")
    assert (merged.agent_version, merged.protocol_version) == ("newer", "/talos/1.0.0")


def test_the_eleventh_message_is_not_read() -> None:
    reader = IdentifyReader(LIMITS)
    for number in range(11):
        reader.receive_data(frame(wire.encode(Identify(protocols=(f"/{number}",)))))
    assert reader.full
    assert reader.end().protocols == tuple(f"/{number}" for number in range(10))
    reader.receive_data(b"\xff" * 100)


def test_a_message_over_the_limit_is_refused_at_its_prefix() -> None:
    reader = IdentifyReader(LIMITS)
    with pytest.raises(MessageTooLarge):
        reader.receive_data(b"\x81\x40")
    assert read(wire.encode(Identify(agent_version="x" * (MAX_MESSAGE_BYTES - 3)))).agent_version is not None


@pytest.mark.parametrize(
    "data",
    [b"", b"\x05\x0a", b"\x80", frame(b"\x0a\xff"), frame(b"\x1a\x01\xff"), frame(b"\x32\x02\xc3\x28"), b"\x80\x00"],
    ids=["nothing", "cut", "cut prefix", "no protobuf", "protocol not text", "agent not text", "long prefix"],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    def read_all() -> None:
        reader = IdentifyReader(LIMITS)
        reader.receive_data(data)
        reader.end()

    with pytest.raises(RemoteProtocolError):
        read_all()


def test_lists_are_cut() -> None:
    message = wire.encode(Identify(listen_addrs=(b"",) * 4000))
    assert len(read(message).listen_addrs) == 128
    names = wire.encode(Identify(protocols=("/",) * 2000))
    assert len(read(names).protocols) == 1000
    assert len(read(names, limits=ReadLimits(protocols=3)).protocols) == 3


# ----------------------------------------------------------------------------------- judging


def test_a_sound_message_is_believed() -> None:
    accepted = believe(FULL)
    assert texts(accepted) == [PUBLIC]
    assert accepted.protocols == ("/a", "/b")
    assert str(accepted.observed_addr) == DNS
    assert accepted.record is not None
    assert accepted.record.record.seq == 1
    assert accepted.ignored == ()


def test_what_is_not_said_stays_unknown() -> None:
    accepted = believe(Identify())
    assert accepted == Accepted(None, None, None, None, None, None, ())


@pytest.mark.parametrize("key", [OTHER_KEY.public_key.to_bytes(), b"", b"junk"])
def test_another_key_ends_the_connection(key: bytes) -> None:
    with pytest.raises(WrongIdentity, match=str(PEER)):
        believe(Identify(public_key=key))


@pytest.mark.parametrize(
    ("seen_at", "kept"),
    [
        (PUBLIC, [PUBLIC, DNS]),
        (PRIVATE, [PUBLIC, PRIVATE, DNS]),
        (LOOPBACK, [PUBLIC, PRIVATE, LOOPBACK, DNS, LAN_NAME]),
        ("/memory/1", [PUBLIC, PRIVATE, LOOPBACK, DNS, LAN_NAME]),
        (f"{LOOPBACK}/p2p/{OTHER}/p2p-circuit", [PUBLIC, DNS]),
    ],
)
def test_addresses_of_a_narrower_reach_are_not_taken(seen_at: str, kept: list[str]) -> None:
    said = tuple(map(raw, (PUBLIC, PRIVATE, LOOPBACK, DNS, LAN_NAME)))
    assert texts(believe(Identify(listen_addrs=said), seen_at=seen_at)) == kept


def test_bad_addresses_say_nothing_against_the_others() -> None:
    said = (
        b"\xff\xff",
        raw(f"{PUBLIC}/p2p/{PEER}"),
        raw(PUBLIC),
        raw(f"{DNS}/p2p/{OTHER}"),
        b"",
        raw(f"/p2p/{PEER}"),
        b"\xfe\xff\x7f",
    )
    accepted = believe(Identify(listen_addrs=said, observed_addr=b"\x04"))
    assert texts(accepted) == [PUBLIC]
    assert accepted.observed_addr is None
    assert len(accepted.ignored) >= 2


def test_addresses_that_are_all_refused_are_none_and_not_unknown() -> None:
    assert believe(Identify(listen_addrs=(raw(LOOPBACK),))).addrs == ()


def test_control_characters_are_removed() -> None:
    message = Identify(agent_version="go\x1b[2J\u202e\r\nlib\u2028p2p\x7f", protocol_version="\x00v" + "x" * 1000)
    accepted = believe(message)
    assert accepted.agent_version == "go[2Jlibp2p"
    assert accepted.protocol_version == "v" + "x" * (MAX_AGENT_CHARACTERS - 2)
    assert displayable("\U000e0001ü €") == "ü €"


def test_protocol_names_that_cannot_be_are_ignored() -> None:
    accepted = believe(Identify(protocols=("/a", "", "/b\n", "x" * 2000, "/a")))
    assert accepted.protocols == ("/a",)
    assert len(accepted.ignored) == 1


# ----------------------------------------------------------------------------------- signed records


@pytest.mark.parametrize("form", RecordFormat)
def test_signed_addresses_stand_in_place_of_the_others(form: RecordFormat) -> None:
    message = Identify(listen_addrs=(raw(PUBLIC),), signed_peer_record=record(2, DNS, LOOPBACK, form=form))
    accepted = believe(message, known=(b"older", 1))
    assert texts(accepted) == [DNS]
    assert accepted.record is not None


@pytest.mark.parametrize(
    "envelope",
    [
        record(1, DNS),
        record(0, DNS),
        record(9, DNS, key=OTHER_KEY),
        record(9, DNS)[:-1] + b"\x00",
        b"junk",
        b"x" * 9000,
        SignedPeerRecord.make(KEY, [b"\x04"], 9).envelope.raw,
    ],
    ids=["equal", "older", "of another", "forged", "junk", "too large", "bad address"],
)
def test_other_records_are_ignored_and_counted(envelope: bytes) -> None:
    message = Identify(listen_addrs=(raw(PUBLIC),), signed_peer_record=envelope)
    accepted = believe(message, known=(b"older", 1))
    assert accepted.record is None
    assert texts(accepted) == [PUBLIC]
    assert len(accepted.ignored) == 1


def test_the_record_that_is_known_already_is_no_offence() -> None:
    known = record(5, PUBLIC)
    accepted = believe(Identify(signed_peer_record=known), known=(known, 5))
    assert accepted == Accepted(None, None, None, None, None, None, ())


def test_addresses_of_a_record_are_cut() -> None:
    many = [raw(f"/ip4/5.6.7.8/tcp/{port}") for port in range(1, 300)]
    message = Identify(signed_peer_record=SignedPeerRecord.make(KEY, many, 1).envelope.raw)
    assert len(texts(believe(message))) == 128


# ----------------------------------------------------------------------------------- writing


def test_what_fits_is_one_message() -> None:
    assert split(FULL) == [wire.encode(FULL)]


def test_a_byte_too_many_makes_two_messages() -> None:
    base = replace(FULL, agent_version="")
    room = MAX_SENT_BYTES - len(wire.encode(base)) - 1  # the length of the text takes a byte more
    assert len(split(replace(base, agent_version="x" * room))) == 1
    over = replace(base, agent_version="x" * (room + 1))
    messages = split(over)
    assert len(messages) == 2
    assert all(len(message) <= MAX_SENT_BYTES for message in messages)
    assert read(*messages) == over


def test_much_state_goes_into_several_messages_and_comes_back() -> None:
    own = replace(
        FULL,
        protocols=tuple(f"/protocol/number/{number}" for number in range(300)),
        listen_addrs=tuple(raw(f"/ip4/5.6.7.8/tcp/{port}") for port in range(1, 129)),
    )
    messages = split(own)
    assert 2 < len(messages) < 10
    assert max(map(len, messages)) <= MAX_SENT_BYTES
    assert read(*messages) == own


def test_addresses_are_left_out_before_protocols_and_the_record_stays() -> None:
    own = replace(
        FULL,
        protocols=tuple(f"/{number:0100}" for number in range(100)),
        listen_addrs=tuple(raw(f"/ip4/5.6.7.8/tcp/{port}") for port in range(1, 2000)),
    )
    messages = split(own, max_messages=5)
    assert len(messages) == 5
    merged = read(*messages, limits=ReadLimits(addrs=10_000))
    assert merged.protocols == own.protocols
    assert 0 < len(merged.listen_addrs) < len(own.listen_addrs)
    assert merged.signed_peer_record == own.signed_peer_record


def test_a_record_that_fits_no_message_is_left_out() -> None:
    own = replace(FULL, signed_peer_record=b"x" * MAX_SENT_BYTES)
    assert read(*split(own)) == replace(own, signed_peer_record=None)
    assert read(*split(replace(own, signed_peer_record=None), max_bytes=100)).protocols == own.protocols
