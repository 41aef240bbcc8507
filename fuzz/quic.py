"""QUIC from five sides: headers, transport parameters, datagrams to a newcomer, to a dialer, and to a connection."""

from __future__ import annotations

from datetime import UTC, datetime

from talos.errors import RemoteProtocolError
from talos.identity.certificate import IdentityCertificate
from talos.identity.keys import PrivateKey
from talos.transport.quic import packet
from talos.transport.quic.config import QuicConfig
from talos.transport.quic.handshake import Credentials, Handshake, HandshakeFailure
from talos.transport.quic.machine import QuicMachine
from talos.transport.quic.parameters import decode

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = QuicConfig()
CREDENTIALS = Credentials.of(IdentityCertificate.make(PrivateKey.from_seed(bytes([1]) * 32), now=NOW))
DIALER, LISTENER = ("127.0.0.1", 1), ("127.0.0.1", 2)
ROUNDS = 8


def target(data: bytes) -> None:
    if len(data) < 2:
        return
    kind, rest = data[0] % 5, data[1:]
    match kind:
        case 0:
            _headers(rest)
        case 1:
            try:
                decode(rest, from_dialer=bool(rest[0] & 1))
            except RemoteProtocolError:
                pass
        case 2:
            _datagrams(_machine(dialer=bool(rest[0] & 1)), rest[1:])
        case 3:
            _messages(rest[1:], dialer=bool(rest[0] & 1))
        case 4:
            dialer, listener = _connected()
            _datagrams(listener if rest[0] & 1 else dialer, rest[1:])


def _headers(data: bytes) -> None:
    packets = packet.packets_of(data)
    assert data.startswith(b"".join(part for part, _ in packets))
    for part, header in packets:
        if header is not None and header.kind == packet.RETRY:
            packet.read_retry(part, header, b"original")


def _machine(*, dialer: bool) -> QuicMachine:
    return QuicMachine(
        CONFIG,
        CREDENTIALS,
        dialer=dialer,
        remote=LISTENER if dialer else DIALER,
        source=b"dialers." if dialer else b"listens.",
        destination=b"original",
        now=0.0,
        wall_clock=NOW,
    )


def _connected() -> tuple[QuicMachine, QuicMachine]:
    dialer, listener = _machine(dialer=True), _machine(dialer=False)
    for _ in range(ROUNDS):
        for data, _to in dialer.datagrams_to_send(0.0, 64):
            listener.receive(data, len(data), DIALER, 0.0)
        for data, _to in listener.datagrams_to_send(0.0, 64):
            dialer.receive(data, len(data), LISTENER, 0.0)
    assert dialer.confirmed
    assert listener.confirmed
    return dialer, listener


def _datagrams(machine: QuicMachine, data: bytes) -> None:
    """The first byte says how long each datagram is; whatever comes, the machine goes on or ends, and never raises."""
    confirmed = machine.confirmed
    size = 1 + 8 * (data[0] if data else 1)
    for start in range(1, len(data), size):
        piece = data[start : start + size]
        machine.receive(piece, len(piece), DIALER, start / 1000)
        machine.datagrams_to_send(start / 1000, 64)
        machine.deadline_passed(start / 1000)
    assert machine.confirmed == confirmed, "bytes of nobody were believed"


def _messages(data: bytes, *, dialer: bool) -> None:
    """TLS messages in the clear, as nobody on the way can send them, but a peer can."""
    handshake = Handshake(
        CREDENTIALS, dialer=dialer, parameters=b"", expected=None, wall_clock=NOW, max_bytes=CONFIG.max_handshake_bytes
    )
    if dialer:
        handshake.start()
    try:
        handshake.receive(data)
    except HandshakeFailure:
        pass
    assert not handshake.complete
