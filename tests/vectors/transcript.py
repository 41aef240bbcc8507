"""Recorded sessions with other implementations, and the pure machines living through them again.

`scripts/record_sessions.py` writes them. A layer's tape holds its chunks in the order in which our side saw them: `raw`
what went over TCP, `secure` the plaintext above Noise. Nothing here knows trio; every function takes a `Cut`, for the
peer's bytes may arrive in any pieces.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from talos.abc import Role
from talos.identity.keys import PrivateKey
from talos.multistream.machine import Agreed, Dialer, Listener, message
from talos.muxer.event import DataReceived, Event
from talos.muxer.yamux.frame import HEADER, HEADER_BYTES, Flag, Kind
from talos.muxer.yamux.frame import PROTOCOL_ID as YAMUX
from talos.muxer.yamux.machine import YamuxMachine
from talos.security.noise import NoiseConfig, wire
from talos.security.noise.machine import NoiseMachine
from talos.security.noise.record import LENGTH_BYTES
from talos.security.noise.xx import HandshakeState, KeyPair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from talos.security.layer import Authenticated

RECORDED = Path(__file__).resolve().parent / "recorded"
NOISE = "/noise"
IDENTIFY = "/ipfs/id/1.0.0"
PUSH = "/ipfs/id/push/1.0.0"
PING = "/ipfs/ping/1.0.0"
ECHO = "/echo/1.0.0"
SERVED = frozenset({IDENTIFY, PUSH, PING, ECHO})
"""What the recording node had mounted."""
SENT, RECEIVED = "sent", "received"

Tape: TypeAlias = tuple[tuple[str, bytes], ...]
Cut: TypeAlias = "Callable[[bytes], Sequence[bytes]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One connection. `role` is ours; `keys` are the seeds of all that was random on our side."""

    name: str
    peer: str
    version: str
    recorded: str
    stack: str
    role: Role
    operation: str
    keys: dict[str, bytes]
    remote_peer: str
    """For a session that we dialled it is from the peer's address, not from the handshake."""
    early_muxer: str | None
    identified: dict[str, Any] | None
    """What the host made of the peer's identify message at the time; None when none came."""
    raw: Tape
    secure: Tape

    @classmethod
    def from_json(cls, name: str, values: dict[str, Any]) -> Session:
        tapes = {layer: tuple((way, bytes.fromhex(data)) for way, data in values[layer]) for layer in ("raw", "secure")}
        keys = {part: bytes.fromhex(seed) for part, seed in values["keys"].items()}
        return cls(**{**values, **tapes, "name": name, "role": Role[values["role"].upper()], "keys": keys})

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__ if name != "name"}
        tapes = {layer: [[way, data.hex()] for way, data in values[layer]] for layer in ("raw", "secure")}
        keys = {part: seed.hex() for part, seed in self.keys.items()}
        return {**values, **tapes, "role": self.role.name.lower(), "keys": keys}

    @property
    def dialed(self) -> bool:
        return self.role is Role.DIALER


def load(path: Path) -> Session:
    return Session.from_json(path.stem, json.loads(path.read_text()))


def joined(tape: Tape, way: str) -> bytes:
    """All that went one way."""
    return b"".join(data for direction, data in tape if direction == way)


# ------------------------------------------------------------------------------- cuts


def whole(data: bytes) -> Sequence[bytes]:
    return [data]


def bytewise(data: bytes) -> Sequence[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def cut_at(places: Sequence[int]) -> Cut:
    """Cuts at these places, counted round and round the piece."""

    def cut(data: bytes) -> Sequence[bytes]:
        edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
        return [data[start:end] for start, end in itertools.pairwise(edges)]

    return cut


# ------------------------------------------------------------------------------- multistream


def negotiate(side: Dialer | Listener, pieces: Iterator[bytes]) -> tuple[Agreed, bytes]:
    """What was agreed on, and what our side sent for it; `pieces` are left where the agreement was."""
    sent = side.data_to_send()
    for piece in pieces:
        events = side.receive_data(piece)
        sent += side.data_to_send()
        if events:
            [agreed] = events
            assert isinstance(agreed, Agreed), "the peer refused everything"
            return agreed, sent
    raise AssertionError("the recording ends within a negotiation")


# ------------------------------------------------------------------------------- noise


@dataclass(slots=True)
class Opened:
    """The raw bytes, understood: who the peer is, all that we sent, and all plaintext of the peer."""

    peer: Authenticated
    sent: bytes
    plaintext: bytes


def own_payload(session: Session) -> bytes:
    """What our side proved in its handshake message; Ed25519 signs the same twice."""
    identity = PrivateKey.from_seed(session.keys["identity"])
    static = KeyPair.from_bytes(session.keys["noise_static"])
    signature = identity.sign(wire.SIGNATURE_PREFIX + static.public)
    return wire.encode(identity.public_key.to_bytes(), signature, [YAMUX])


def noise_machine(session: Session) -> NoiseMachine:
    """Our side of the handshake, as it was."""
    return NoiseMachine(
        dialer=session.dialed,
        static=KeyPair.from_bytes(session.keys["noise_static"]),
        ephemeral=KeyPair.from_bytes(session.keys["noise_ephemeral"]),
        payload=own_payload(session),
        config=NoiseConfig(),
        muxers=[YAMUX],
    )


def open_raw(session: Session, cut: Cut) -> Opened:
    """Replays multistream, handshake and records over the raw bytes."""
    pieces = iter(cut(joined(session.raw, RECEIVED)))
    agreed, sent = negotiate(Dialer([NOISE]) if session.dialed else Listener({NOISE}), pieces)
    machine = noise_machine(session)
    out, plaintext = bytearray(sent + machine.data_to_send()), bytearray()
    peer: Authenticated | None = None
    for piece in itertools.chain([agreed.leftover], pieces):
        if peer is not None:
            plaintext += peer.layer.receive_data(piece)
            continue
        for peer in machine.receive_data(piece):
            plaintext += peer.plaintext
        out += machine.data_to_send()
    assert peer is not None, "the recording ends within the handshake"
    for way, data in session.secure:
        if way == SENT:
            out += peer.layer.seal(data)
    assert peer.layer.failure is None
    assert not peer.layer.cut_by_end()
    return Opened(peer, bytes(out), bytes(plaintext))


def handshake_messages(session: Session) -> list[bytes]:
    """The peer's: the second one when we dialled, else the first and the third."""
    received = joined(session.raw, RECEIVED)
    start = b"".join(map(message, ("/multistream/1.0.0", NOISE)))
    assert received.startswith(start)
    at, messages = len(start), []
    for _ in range(1 if session.dialed else 2):
        end = at + LENGTH_BYTES + int.from_bytes(received[at : at + LENGTH_BYTES], "big")
        messages.append(received[at + LENGTH_BYTES : end])
        at = end
    return messages


def noise_payload(session: Session) -> bytes:
    """The payload of the peer's handshake message, by the framework's state alone."""
    state = HandshakeState(
        initiator=session.dialed,
        static=KeyPair.from_bytes(session.keys["noise_static"]),
        ephemeral=KeyPair.from_bytes(session.keys["noise_ephemeral"]),
    )
    payload = b""
    for received in handshake_messages(session):
        if state.my_turn:
            state.write_message(b"" if session.dialed else own_payload(session))
        payload = state.read_message(received)
    return payload


# ------------------------------------------------------------------------------- yamux


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    flags: Flag
    stream_id: int
    length: int
    payload: bytes


def frames_of(data: bytes) -> Iterator[Frame]:
    """Whole frames, read without the machine."""
    at = 0
    while at < len(data):
        kind, flags, stream_id, length = HEADER.unpack_from(data, at)
        at += HEADER_BYTES
        payload = data[at : at + length] if kind == Kind.DATA else b""
        at += len(payload)
        yield Frame(Kind(kind), Flag(flags), stream_id, length, payload)
    assert at == len(data), "a frame is cut"


@dataclass(slots=True)
class Muxed:
    """The plaintext, understood."""

    proposed: bytes = b""
    """What we sent to agree on the muxer; nothing when the handshake did that."""
    negotiated: int = 0
    """How many bytes of the peer did the same."""
    sent: bytes = b""
    """The frames that we sent."""
    events: list[Event] = field(default_factory=list)
    """With neighbouring data of a stream joined."""
    said: dict[int, bytes] = field(default_factory=dict)
    """What we sent on each stream."""
    opened: set[int] = field(default_factory=set)
    """Those of the streams that we opened."""

    def heard(self, stream_id: int) -> bytes:
        return b"".join(
            event.data for event in self.events if isinstance(event, DataReceived) and event.stream_id == stream_id
        )


class _MuxerReplay:
    """Receives as was received, and does what had been done wherever something was sent."""

    def __init__(self, session: Session) -> None:
        self.result = Muxed()
        self._machine = YamuxMachine(dialer=session.dialed)
        self._side: Dialer | Listener | None = None
        self._unframed = 0
        if session.early_muxer is None:
            self._side = Dialer([YAMUX]) if session.dialed else Listener({YAMUX})
            self.result.proposed = self._side.data_to_send()

    def received(self, piece: bytes) -> None:
        if self._side is not None:
            self.result.negotiated += len(piece)
            agreed = self._side.receive_data(piece)
            self.result.proposed += self._side.data_to_send()
            if not agreed:
                return
            self._side = None
            assert isinstance(agreed[0], Agreed)
            piece = agreed[0].leftover
            self.result.negotiated -= len(piece)
        for event in self._machine.receive_data(piece):
            self._note(event)

    def _note(self, event: Event) -> None:
        last = self.result.events[-1] if self.result.events else None
        if isinstance(event, DataReceived) and isinstance(last, DataReceived) and last.stream_id == event.stream_id:
            last.data += event.data
        else:
            self.result.events.append(event)

    def sent(self, chunk: bytes) -> None:
        if self._unframed < len(self.result.proposed):
            self._unframed += len(chunk)
            return  # the negotiation needs nobody to ask for it
        for frame in frames_of(chunk):
            self._repeat(frame)
        self.result.sent += self._machine.data_to_send()

    def _repeat(self, frame: Frame) -> None:
        """The verb behind a frame of ours."""
        machine, stream_id = self._machine, frame.stream_id
        if frame.kind is Kind.PING:
            assert frame.flags is Flag.ACK, "the recording node asks for no round trip"
        elif frame.kind is Kind.GO_AWAY:
            machine.go_away(frame.length)
        elif frame.flags & Flag.RST:
            machine.reset(stream_id, frame.length)
        else:
            if frame.flags & Flag.SYN:
                assert machine.open_stream() == stream_id
                self.result.opened.add(stream_id)
            if frame.flags & Flag.ACK:
                machine.accept(stream_id)
            if frame.payload:
                assert machine.send(stream_id, frame.payload) == frame.length
            self.result.said[stream_id] = self.result.said.get(stream_id, b"") + frame.payload
            if frame.flags & Flag.FIN:
                machine.close(stream_id)


def run_muxer(session: Session, cut: Cut) -> Muxed:
    """Replays the plaintext. Nobody takes or leaves a stream, so that every frame of the peer shows in the events."""
    replay = _MuxerReplay(session)
    for way, chunks in itertools.groupby(session.secure, key=lambda chunk: chunk[0]):
        if way == SENT:
            for _, chunk in chunks:
                replay.sent(chunk)
        else:
            for piece in cut(b"".join(data for _, data in chunks)):
                replay.received(piece)
    return replay.result


# ------------------------------------------------------------------------------- streams


@dataclass(slots=True)
class Conversation:
    """What was said on one stream behind its negotiation."""

    protocol: str
    ours: bool
    """Whether we opened it."""
    refused: tuple[str, ...]
    """What we proposed in vain."""
    sent: bytes
    received: bytes


def lines_of(data: bytes) -> Iterator[bytes]:
    """The multistream messages at the front, read without the machine; the first that is none ends it."""
    at = 0
    while at < len(data) and data[at] < 128 and data[at + data[at] : at + data[at] + 1] == b"\n":
        end = at + 1 + data[at]
        yield data[at + 1 : end - 1]
        at = end


def converse(muxed: Muxed, stream_id: int, cut: Cut) -> Conversation:
    """Replays the negotiation of a stream: the bytes that we sent for it must be the recorded ones."""
    said, heard = muxed.said[stream_id], muxed.heard(stream_id)
    ours = stream_id in muxed.opened
    refused: tuple[str, ...] = ()
    if ours:
        refusals = sum(1 for _ in itertools.takewhile(lambda line: line == b"na", list(lines_of(heard))[1:]))
        proposals = [line.decode() for line in list(lines_of(said))[1 : refusals + 2]]
        refused = tuple(proposals[:-1])
    side = Dialer(proposals) if ours else Listener(SERVED)
    pieces = iter(cut(heard))
    agreed, sent = negotiate(side, pieces)
    assert said.startswith(sent)
    return Conversation(agreed.protocol, ours, refused, said[len(sent) :], agreed.leftover + b"".join(pieces))


def conversations(session: Session, cut: Cut) -> list[Conversation]:
    muxed = run_muxer(session, cut)
    return [converse(muxed, stream_id, cut) for stream_id in sorted(muxed.said)]
