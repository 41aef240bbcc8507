"""Two machines and the wire between them, without sockets and without waiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from talos.identity.certificate import IdentityCertificate
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.transport.quic.config import QuicConfig
from talos.transport.quic.handshake import Credentials
from talos.transport.quic.machine import QuicMachine

if TYPE_CHECKING:
    from talos.transport.quic.event import Event
    from talos.transport.quic.packet import Validated

NOW = datetime.now(UTC)
DIALER, LISTENER = ("127.0.0.1", 1001), ("127.0.0.1", 1002)
KEYS = [PrivateKey.from_seed(bytes([fill]) * 32) for fill in (1, 2, 3)]
PEERS = [PeerId.from_key(key.public_key) for key in KEYS]
CREDENTIALS = [Credentials.of(IdentityCertificate.make(key, now=NOW)) for key in KEYS]

PACING_ROUNDS = 5

Filter = Callable[[bytes], bytes | None]


def bare_certificate() -> Credentials:
    """A self-signed certificate without the libp2p extension."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        .serial_number(7)
        .not_valid_before(NOW - timedelta(1))
        .not_valid_after(NOW + timedelta(1))
    )
    return Credentials(builder.sign(key, hashes.SHA256()), key)


@dataclass
class Pair:
    """A dialer and a listener; `now` is their clock."""

    config: QuicConfig = field(default_factory=QuicConfig)
    dialing: Credentials | None = CREDENTIALS[0]
    listening: Credentials = CREDENTIALS[1]
    expected: PeerId | None = None
    ledgers: tuple[Any, Any] = (None, None)
    wall_clock: datetime = NOW
    retry: Validated | None = None
    now: float = 100.0

    def __post_init__(self) -> None:
        self.sent = [0, 0]
        self.events: tuple[list[Event], list[Event]] = ([], [])
        self.dialer = self.make(dialer=True)
        self.listener = self.make(dialer=False)

    def make(self, *, dialer: bool, destination: bytes = b"original") -> QuicMachine:
        return QuicMachine(
            self.config,
            self.dialing if dialer else self.listening,
            dialer=dialer,
            remote=LISTENER if dialer else DIALER,
            source=b"dialers." if dialer else b"listens.",
            destination=destination,
            now=self.now,
            wall_clock=self.wall_clock,
            expected=self.expected if dialer else None,
            retry=None if dialer else self.retry,
            ledger=self.ledgers[0 if dialer else 1],
        )

    def pump(self, to_listener: Filter = bytes, to_dialer: Filter = bytes, rounds: int = 10_000) -> None:
        """Carries datagrams both ways, a round a millisecond, until both are silent for longer than they pace."""
        silent = 0
        for _ in range(rounds):
            moved = self.carry(dialer=True, through=to_listener) + self.carry(dialer=False, through=to_dialer)
            self.now += 0.001
            silent = 0 if moved else silent + 1
            if silent == PACING_ROUNDS:
                return
        raise AssertionError("they never fall silent")

    def carry(self, *, dialer: bool, through: Filter = bytes) -> int:
        source, target = (self.dialer, self.listener) if dialer else (self.listener, self.dialer)
        moved = source.datagrams_to_send(self.now, 64)
        for data, _to in moved:
            self.sent[not dialer] += len(data)
            passed = through(data)
            if passed:
                self.events[dialer].extend(
                    target.receive(passed, len(passed), DIALER if dialer else LISTENER, self.now)
                )
        return len(moved)

    def pass_time(self, seconds: float, step: float = 0.01) -> None:
        """Lets timers run, and datagrams flow."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            for machine, events in ((self.dialer, self.events[0]), (self.listener, self.events[1])):
                deadline = machine.next_deadline()
                if deadline is not None and deadline <= self.now:
                    events += machine.deadline_passed(self.now)
            self.pump()

    def seen(self, kind: type[Any], *, dialer: bool) -> list[Any]:
        """What one side reported of one kind."""
        return [event for event in self.events[0 if dialer else 1] if isinstance(event, kind)]

    def stream(self, data: bytes = b"hello") -> int:
        """A stream of the dialer whose first bytes have arrived."""
        stream_id = self.dialer.open_stream()
        assert self.dialer.send(stream_id, data) == len(data)
        self.pump()
        return stream_id


def connected(**options: Any) -> Pair:
    """A pair whose handshake is done."""
    pair = Pair(**options)
    pair.pump()
    assert pair.dialer.confirmed
    assert pair.listener.confirmed
    return pair
