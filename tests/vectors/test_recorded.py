"""Recorded sessions of go, js, py and rust, replayed through the pure machines in every chunking.

With the same keys and the same verbs our machines must say again what they said: negotiation, handshake and records
byte for byte, frames by what they mean.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multiaddr import Multiaddr

from talos.abc import Role
from talos.errors import BadSignature, HandshakeError, RemoteProtocolError
from talos.identify.machine import IdentifyReader, ReadLimits, judge
from talos.identity.keys import PublicKey
from talos.identity.peer_id import PeerId
from talos.identity.peer_record import RecordFormat, SignedPeerRecord
from talos.muxer.event import DataReceived, Event, GoAwayReceived, StreamAborted, StreamEnded, StreamOpened
from talos.muxer.yamux.frame import Flag, Kind
from talos.security.noise import NoiseConfig, wire
from tests.vectors.seeds import seeds_of
from tests.vectors.transcript import (
    ECHO,
    IDENTIFY,
    PING,
    RECEIVED,
    RECORDED,
    SENT,
    Conversation,
    Cut,
    Session,
    bytewise,
    conversations,
    cut_at,
    frames_of,
    handshake_messages,
    joined,
    load,
    noise_machine,
    noise_payload,
    open_raw,
    run_muxer,
    whole,
)

if TYPE_CHECKING:
    from talos.identify.wire import Identify

PATHS = sorted(RECORDED.glob("*.json"))
SESSIONS = [load(path) for path in PATHS]
CORPUS = RECORDED.parents[2] / "fuzz" / "corpus"
MAX_FILE_BYTES = 60_000
LIMITS = ReadLimits()
SEEN_AT = Multiaddr("/ip4/127.0.0.1/tcp/4001")
OUR_AGENT = "talos/"

each_session = pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.name)
each_dialed = pytest.mark.parametrize(
    "session", [session for session in SESSIONS if session.dialed], ids=lambda session: session.name
)
each_cut = pytest.mark.parametrize("cut", [whole, bytewise], ids=["whole", "bytewise"])
any_cut = st.lists(st.integers(0, 5000), max_size=40).map(cut_at)


def test_every_peer_is_recorded_in_both_roles() -> None:
    assert {(session.peer, session.role) for session in SESSIONS} == {
        (peer, role) for peer in ("go", "js", "py", "rust") for role in Role
    }
    for path, session in zip(PATHS, SESSIONS, strict=True):
        assert path.stat().st_size < MAX_FILE_BYTES
        assert session.version
        assert date.fromisoformat(session.recorded).year >= 2025
        assert Session.from_json(session.name, session.to_json()) == session


# ------------------------------------------------------------------------------- multistream and noise


def check_raw(session: Session, cut: Cut) -> None:
    opened = open_raw(session, cut)
    assert opened.sent == joined(session.raw, SENT)
    assert opened.plaintext == joined(session.secure, RECEIVED)
    assert str(opened.peer.remote_peer) == session.remote_peer
    assert opened.peer.early_muxer == session.early_muxer


@each_session
@each_cut
def test_handshake_and_records(session: Session, cut: Cut) -> None:
    check_raw(session, cut)


@each_session
@given(cut=any_cut)
@settings(max_examples=10, deadline=None)
def test_handshake_and_records_in_any_pieces(session: Session, cut: Cut) -> None:
    check_raw(session, cut)


@each_session
def test_the_proof_in_the_handshake(session: Session) -> None:
    payload = wire.decode(noise_payload(session))
    key = PublicKey.from_bytes(payload.identity_key)
    assert key.to_bytes() == payload.identity_key
    assert str(PeerId.from_key(key)) == session.remote_peer
    offered = wire.muxers_of(payload, NoiseConfig())
    assert (session.early_muxer in offered) if session.early_muxer else not offered


@each_dialed
def test_no_changed_byte_of_the_handshake_passes(session: Session) -> None:
    [message] = handshake_messages(session)
    for at in range(len(message)):
        changed = message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]
        machine = noise_machine(session)
        with pytest.raises(HandshakeError):
            machine.receive_data(len(message).to_bytes(2, "big") + changed)


@each_dialed
def test_a_changed_record_ends_the_session(session: Session) -> None:
    received = bytearray(joined(session.raw, RECEIVED))
    received[-1] ^= 1
    machine = noise_machine(session)
    [message] = handshake_messages(session)
    start = received.index(message) - 2
    [peer] = machine.receive_data(received[start:])
    assert peer.layer.failure is not None
    intact = joined(session.secure, RECEIVED)
    assert peer.plaintext
    assert intact.startswith(peer.plaintext)
    assert len(peer.plaintext) < len(intact)


# ------------------------------------------------------------------------------- yamux


def events_of(data: bytes) -> list[Event]:
    """What the peer's frames mean, without the machine: streams here are never left, and no window is used up."""
    events: list[Event] = []
    for frame in frames_of(data):
        if frame.kind is Kind.PING:
            continue
        if frame.kind is Kind.GO_AWAY:
            events.append(GoAwayReceived(frame.length))
            continue
        if frame.flags & Flag.SYN:
            events.append(StreamOpened(frame.stream_id))
        if frame.flags & Flag.RST:
            code = frame.length if frame.kind is Kind.WINDOW else 0
            events.append(StreamAborted(frame.stream_id, code, remote=True))
            continue
        if frame.payload:
            last = events[-1] if events else None
            if isinstance(last, DataReceived) and last.stream_id == frame.stream_id:
                last.data += frame.payload
            else:
                events.append(DataReceived(frame.stream_id, frame.payload))
        if frame.flags & Flag.FIN:
            events.append(StreamEnded(frame.stream_id))
    return events


def meaning_of(data: bytes) -> dict[int, tuple[Flag, bytes]]:
    """Flags and payload of each stream: how they are spread over frames is not ours to promise. 0 is the session."""
    meaning: dict[int, tuple[Flag, bytes]] = {}
    for frame in frames_of(data):
        flags, payload = meaning.get(frame.stream_id, (Flag(0), b""))
        said = frame.payload if frame.stream_id else bytes([frame.kind, frame.flags]) + frame.length.to_bytes(4, "big")
        meaning[frame.stream_id] = (flags | frame.flags, payload + said)
    return meaning


def check_plaintext(session: Session, cut: Cut) -> None:
    muxed = run_muxer(session, cut)
    sent = joined(session.secure, SENT)
    assert sent.startswith(muxed.proposed)
    assert meaning_of(muxed.sent) == meaning_of(sent[len(muxed.proposed) :])
    assert muxed.events == events_of(joined(session.secure, RECEIVED)[muxed.negotiated :])
    assert bool(muxed.negotiated) == (session.early_muxer is None)


@each_session
@each_cut
def test_yamux(session: Session, cut: Cut) -> None:
    check_plaintext(session, cut)


@each_session
@given(cut=any_cut)
@settings(max_examples=10, deadline=None)
def test_yamux_in_any_pieces(session: Session, cut: Cut) -> None:
    check_plaintext(session, cut)


# ------------------------------------------------------------------------------- streams


def check_conversation(talk: Conversation) -> None:
    match talk.protocol:
        case "/ipfs/id/1.0.0":
            assert not (talk.sent if talk.ours else talk.received)  # the opener asks by opening
        case "/ipfs/ping/1.0.0" | "/echo/1.0.0" if talk.ours:
            assert talk.sent
            assert talk.received == talk.sent
        case "/ipfs/ping/1.0.0" | "/echo/1.0.0":  # who asks may go before the last answer
            assert talk.sent
            assert talk.received.startswith(talk.sent)
        case _:
            raise AssertionError(f"nobody recorded {talk.protocol}")


@each_session
@each_cut
def test_streams(session: Session, cut: Cut) -> None:
    talks = conversations(session, cut)
    for talk in talks:
        check_conversation(talk)
    said = {(talk.protocol, talk.ours) for talk in talks}
    assert (IDENTIFY, True) in said
    if session.dialed:
        assert {(IDENTIFY, False), (PING, True), (ECHO, True)} <= said
        assert [talk.refused for talk in talks if talk.refused] == [("/talos/absent/1.0.0",)]
    else:
        assert ({"ping": PING, "echo": ECHO}[session.operation], False) in said


@each_session
@given(cut=any_cut)
@settings(max_examples=10, deadline=None)
def test_streams_in_any_pieces(session: Session, cut: Cut) -> None:
    assert conversations(session, cut) == conversations(session, whole)


# ------------------------------------------------------------------------------- identify and peer records


def identify_of(talk: Conversation, cut: Cut) -> Identify:
    reader = IdentifyReader(LIMITS)
    for piece in cut(talk.sent or talk.received):
        reader.receive_data(piece)
    return reader.end()


def told(session: Session) -> Conversation:
    """The stream on which the peer was asked."""
    [talk] = [talk for talk in conversations(session, whole) if talk.protocol == IDENTIFY and talk.ours]
    return talk


@each_session
@each_cut
def test_identify(session: Session, cut: Cut) -> None:
    talk = told(session)
    if session.identified is None:  # py agrees to be asked while it dials, and then says nothing
        assert (session.peer, session.dialed, talk.received) == ("py", False, b"")
        return
    key = PublicKey.from_bytes(wire.decode(noise_payload(session)).identity_key)
    message = identify_of(talk, cut)
    heard = judge(message, peer=PeerId.from_key(key), key=key, remote_addr=SEEN_AT, limits=LIMITS)
    assert message.public_key == key.to_bytes()
    assert heard.ignored == ()
    assert {
        "agent": heard.agent_version,
        "protocol_version": heard.protocol_version or "",
        "protocols": sorted(heard.protocols or ()),
        "listen_addrs": list(map(str, heard.addrs or ())),
        "observed_addr": str(heard.observed_addr),
        "signed_record": heard.record is not None,
    } == session.identified


@each_session
@given(cut=any_cut)
@settings(max_examples=5, deadline=None)
def test_identify_in_any_pieces(session: Session, cut: Cut) -> None:
    talk = told(session)
    if talk.received:
        assert identify_of(talk, cut) == identify_of(talk, whole)


@each_session
def test_what_we_told(session: Session) -> None:
    for talk in conversations(session, whole):
        if talk.protocol == IDENTIFY and not talk.ours:
            message = identify_of(talk, whole)
            assert (message.agent_version or "").startswith(OUR_AGENT)
            assert {IDENTIFY, PING, ECHO} <= set(message.protocols)
            assert bool(message.listen_addrs) is not session.dialed


@pytest.mark.parametrize("peer", ["go", "js", "py"])
def test_signed_peer_record(peer: str) -> None:
    [session] = [session for session in SESSIONS if session.peer == peer and session.dialed]
    data = identify_of(told(session), whole).signed_peer_record
    assert data
    signed = SignedPeerRecord.consume(data)
    assert str(signed.record.peer_id) == session.remote_peer
    assert signed.envelope.payload_type == RecordFormat.STANDARD.payload_type
    assert signed.envelope.raw == data
    assert session.identified is not None
    addrs = [Multiaddr(addr) for addr in signed.record.addrs]
    assert [str(addr).partition("/p2p/")[0] for addr in addrs] == session.identified["listen_addrs"]
    with pytest.raises(RemoteProtocolError, match="not newer"):
        SignedPeerRecord.consume(data, last_seq=signed.record.seq)
    at = data.index(signed.envelope.payload) + len(signed.envelope.payload) - 1
    with pytest.raises(BadSignature):
        SignedPeerRecord.consume(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


# ------------------------------------------------------------------------------- seeds


@each_dialed
def test_the_fuzz_corpus_has_the_recorded_inputs(session: Session) -> None:
    for target, kinds in seeds_of(session).items():
        for kind, data in kinds.items():
            assert (CORPUS / target / f"recorded-{session.peer}{kind}").read_bytes() == data
