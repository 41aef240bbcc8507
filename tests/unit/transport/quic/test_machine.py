"""A connection without IO: who gets in, what streams do, what is bounded."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talos.abc import Resource
from talos.errors import (
    BadSignature,
    HandshakeError,
    LimitExceeded,
    LocalProtocolError,
    PeerIdMismatch,
    RemoteProtocolError,
)
from talos.muxed.budget import BudgetLedger
from talos.testing.check_muxer import CountingBudget
from talos.transport.quic import engine, proof
from talos.transport.quic.config import QuicConfig
from talos.transport.quic.event import (
    Confirmed,
    ConnectionEnded,
    DataReceived,
    IdRetired,
    Moved,
    SendingStopped,
    StreamAborted,
    StreamEnded,
    StreamOpened,
)
from talos.transport.quic.handshake import Credentials
from talos.transport.quic.machine import QuicMachine
from talos.transport.quic.packet import RetryTokens, Validated, read_header, retry_packet
from tests.unit.transport.quic.pair import (
    CREDENTIALS,
    DIALER,
    KEYS,
    LISTENER,
    NOW,
    PEERS,
    Pair,
    bare_certificate,
    connected,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def fault(pair: Pair, *, dialer: bool) -> Exception | None:
    (ended,) = pair.seen(ConnectionEnded, dialer=dialer)
    return ended.fault  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------ the handshake


def test_both_sides_are_proven() -> None:
    pair = Pair(expected=PEERS[1])
    pair.pump()
    assert pair.dialer.remote_key == KEYS[1].public_key
    assert pair.listener.remote_key == KEYS[0].public_key
    for dialer in (True, False):
        assert len(pair.seen(Confirmed, dialer=dialer)) == 1


def test_nobody_is_known_before_the_handshake() -> None:
    assert Pair().dialer.remote_key is None


def test_another_identity_than_the_expected_one() -> None:
    pair = Pair(expected=PEERS[2])
    pair.pump()
    error = fault(pair, dialer=True)
    assert isinstance(error, PeerIdMismatch)
    assert (error.expected, error.actual) == (PEERS[2], PEERS[1])
    assert isinstance(fault(pair, dialer=False), HandshakeError)
    assert not pair.listener.confirmed


def test_a_dialer_without_a_certificate() -> None:
    pair = Pair(dialing=None)
    pair.pump()
    assert "no certificate" in str(fault(pair, dialer=False))
    assert "TLS alert 116" in str(fault(pair, dialer=True))
    assert not pair.listener.confirmed
    assert not pair.dialer.confirmed


@pytest.mark.parametrize("dialer", [True, False])
def test_certificates_that_prove_nothing(dialer: bool) -> None:
    bare = bare_certificate()
    pair = Pair(dialing=bare) if dialer else Pair(listening=bare)
    pair.pump()
    assert "without the libp2p extension" in str(fault(pair, dialer=not dialer))
    assert isinstance(fault(pair, dialer=dialer), HandshakeError)


@pytest.mark.parametrize("dialer", [True, False])
def test_a_victims_extension_under_another_key(dialer: bool) -> None:
    """The certificate is the victim's, the key another one: the signature of the handshake does not fit."""
    stolen = Credentials(CREDENTIALS[2].certificate, CREDENTIALS[0].private_key)
    pair = Pair(dialing=stolen) if dialer else Pair(listening=stolen)
    pair.pump()
    for side in (True, False):
        assert isinstance(fault(pair, dialer=side), HandshakeError)
    assert not pair.dialer.confirmed
    assert not pair.listener.confirmed


def test_two_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.dialer._tls._context.certificate_chain = [CREDENTIALS[2].certificate]
    pair.pump()
    assert "2 certificates" in str(fault(pair, dialer=False))


@pytest.mark.parametrize("days", [-2, 40_000])
def test_expired_and_not_yet_valid(days: int) -> None:
    pair = Pair(wall_clock=NOW + timedelta(days))
    pair.pump()
    assert "expired" in str(fault(pair, dialer=True))


def test_another_application_protocol() -> None:
    pair = Pair()
    pair.listener._tls._context._alpn_protocols = ["h3"]
    pair.pump()
    assert isinstance(fault(pair, dialer=False), HandshakeError)
    assert "TLS alert 120" in str(fault(pair, dialer=True))


def test_too_many_handshake_bytes() -> None:
    pair = Pair()
    pair.listener._tls._allowance = 100
    pair.pump()
    assert "too many bytes" in str(fault(pair, dialer=False))


def test_ids_that_were_not_used() -> None:
    pair = Pair()
    pair.listener = pair.make(dialer=False)
    pair.listener._remote_source = b"another."
    pair.pump()
    assert "connection ids" in str(fault(pair, dialer=False))


def test_a_bad_signature_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise BadSignature("forged")

    monkeypatch.setattr("talos.identity.certificate.verify", refuse)
    pair = Pair()
    pair.pump()
    assert isinstance(fault(pair, dialer=True), BadSignature)


def test_retry_moves_the_dialer_to_another_id_and_shows_the_original() -> None:
    pair = Pair()
    ((initial, _),) = pair.dialer.datagrams_to_send(pair.now, 9)
    header = read_header(initial)
    assert header is not None
    token = RetryTokens(b"secret", seconds=10).make("there", header.destination, b"retried.", pair.now)
    answer = retry_packet(header, b"retried.", token)
    pair.dialer.receive(answer, len(answer), LISTENER, pair.now)
    pair.dialer.receive(answer, len(answer), LISTENER, pair.now)  # a second one is nothing
    pair.retry = Validated(header.destination)
    pair.listener = pair.make(dialer=False, destination=b"retried.")
    again = pair.dialer.datagrams_to_send(pair.now, 9)
    found = read_header(again[0][0])
    assert found is not None
    assert (found.destination, found.token) == (b"retried.", token)
    for data, _to in again:
        pair.events[1].extend(pair.listener.receive(data, len(data), DIALER, pair.now))
    pair.pump()
    assert pair.dialer.confirmed
    assert pair.listener.confirmed


def test_a_forged_retry_is_nothing() -> None:
    pair = Pair()
    ((initial, _),) = pair.dialer.datagrams_to_send(pair.now, 9)
    header = read_header(initial)
    assert header is not None
    answer = retry_packet(header, b"retried.", b"token")[:-1] + b"?"
    pair.dialer.receive(answer, len(answer), LISTENER, pair.now)
    pair.listener.receive(initial, len(initial), DIALER, pair.now)
    pair.pump()
    assert pair.dialer.confirmed


def test_a_peer_of_another_version() -> None:
    pair = Pair()
    ((initial, _),) = pair.dialer.datagrams_to_send(pair.now, 9)
    header = read_header(initial)
    assert header is not None
    answer = b"\xc0" + bytes(4) + b"\x08dialers.\x08original" + bytes.fromhex("6b3343cf")
    pair.events[0].extend(pair.dialer.receive(answer, len(answer), LISTENER, pair.now))
    assert "QUIC v1" in str(fault(pair, dialer=True))


def test_lost_and_doubled_datagrams_cost_time_only() -> None:
    pair = Pair()
    counter = iter(range(10_000))

    def lossy(data: bytes) -> bytes | None:
        return None if next(counter) % 3 == 0 else data

    pair.pump(lossy, lossy)
    pair.pass_time(3.0)
    assert pair.dialer.confirmed
    assert pair.listener.confirmed


@settings(max_examples=30)
@given(st.integers(0, 1199), st.integers(1, 255))
def test_a_flipped_byte_of_the_first_flight_is_a_lost_packet(place: int, flip: int) -> None:
    pair = Pair()
    flipped: list[bool] = []

    def flip_once(data: bytes) -> bytes:
        if flipped:
            return data
        flipped.append(True)
        at = place % len(data)
        return data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]

    pair.pump(flip_once)
    pair.pass_time(2.0, step=0.05)
    assert pair.listener.confirmed == pair.dialer.confirmed
    assert not pair.seen(StreamOpened, dialer=False)


def test_the_answer_before_the_address_is_proven_is_at_most_threefold() -> None:
    pair = Pair()
    pair.carry(dialer=True)
    received = pair.sent[0]
    answered = 0
    for _ in range(2000):
        answered += sum(len(data) for data, _ in pair.listener.datagrams_to_send(pair.now, 64))
        pair.now += 0.01
        pair.listener.deadline_passed(pair.now)
    assert 0 < answered <= 3 * received


def test_silence_ends_a_handshake() -> None:
    pair = Pair()
    for _ in range(4000):
        pair.now += 0.01
        pair.dialer.datagrams_to_send(pair.now, 64)
        pair.events[0].extend(pair.dialer.deadline_passed(pair.now))
    assert isinstance(fault(pair, dialer=True), HandshakeError)
    assert pair.dialer.next_deadline() is None


def test_turning_a_newcomer_away() -> None:
    pair = Pair()
    ((initial, _),) = pair.dialer.datagrams_to_send(pair.now, 9)
    pair.listener.turn_away(initial, DIALER, pair.now)
    pair.pump()
    assert "code 0x2" in str(fault(pair, dialer=True))


# ------------------------------------------------------------------------------------ streams


def test_bytes_both_ways_and_both_ends() -> None:
    pair = connected()
    stream = pair.stream()
    assert pair.seen(StreamOpened, dialer=False) == [StreamOpened(stream)]
    pair.listener.accept(stream)
    pair.listener.send(stream, memoryview(b"world"))
    pair.listener.close(stream)
    pair.pump()
    assert pair.seen(DataReceived, dialer=True) == [DataReceived(stream, b"world")]
    assert pair.seen(StreamEnded, dialer=True) == [StreamEnded(stream)]
    pair.dialer.close(stream)
    pair.dialer.close(stream)
    pair.pump()
    assert pair.seen(StreamEnded, dialer=False) == [StreamEnded(stream)]
    assert not pair.seen(SendingStopped, dialer=True)


def test_reset_ends_both_directions_with_its_code() -> None:
    pair = connected()
    stream = pair.stream()
    pair.dialer.reset(stream, 0x1003)
    pair.dialer.reset(stream, 0x1003)
    pair.pump()
    assert pair.seen(StreamAborted, dialer=False) == [StreamAborted(stream, 0x1003, remote=True)]
    assert pair.listener.room(stream) == 0
    pair.pass_time(0.2)
    assert not pair.dialer._streams
    assert not pair.listener._streams
    assert (pair.dialer.resets_out, pair.listener.resets_in) == (1, 1)


def test_closing_a_stream_stops_the_peers_sending_and_not_its_reading() -> None:
    pair = connected()
    stream = pair.stream()
    pair.dialer.close(stream)
    pair.dialer.abandon(stream)
    pair.pump()
    assert pair.seen(StreamEnded, dialer=False) == [StreamEnded(stream)]
    assert pair.seen(SendingStopped, dialer=False) == [SendingStopped(stream, 0)]
    assert pair.listener.send(stream, b"too late") == 0
    assert not pair.seen(StreamAborted, dialer=False)
    pair.listener.consumed(stream, 5)
    pair.listener.abandon(stream)
    pair.pass_time(0.2)
    assert not pair.dialer._streams
    assert not pair.listener._streams


def sent_and_lost(pair: Pair, stream: int, data: bytes) -> None:
    """The dialer sends it and the network drops it."""
    assert pair.dialer.send(stream, data) == len(data)
    assert pair.carry(dialer=True, through=lambda _: None)


def test_an_end_whose_data_is_lost_arrives_behind_it() -> None:
    """qh3 2.1.0 forgets an end alone that is lost together with data."""
    pair = connected()
    stream = pair.stream()
    sent_and_lost(pair, stream, bytes(3000))
    pair.dialer.close(stream)
    pair.carry(dialer=True, through=lambda _: None)
    pair.pass_time(1.0)
    received = b"".join(event.data for event in pair.seen(DataReceived, dialer=False) if event.stream_id == stream)
    assert received.endswith(bytes(3000))
    assert pair.seen(StreamEnded, dialer=False) == [StreamEnded(stream)]


def test_an_end_waits_for_other_streams_data_only_so_long() -> None:
    pair = connected()
    busy, stream = pair.stream(), pair.stream()
    sent_and_lost(pair, busy, bytes(100))
    pair.dialer.close(stream)
    assert pair.carry(dialer=True) == 0
    deadline = pair.dialer.next_deadline()
    assert deadline is not None
    assert deadline <= pair.now + 0.05
    pair.now += 0.05
    pair.events[0].extend(pair.dialer.deadline_passed(pair.now))
    pair.carry(dialer=True)
    assert StreamEnded(stream) in pair.seen(StreamEnded, dialer=False)


@pytest.mark.parametrize("end", ["reset", "stop"])
def test_an_end_that_waits_gives_way_to_a_reset(end: str) -> None:
    pair = connected()
    stream = pair.stream()
    sent_and_lost(pair, stream, bytes(100))
    pair.dialer.close(stream)
    if end == "reset":
        pair.dialer.reset(stream, 7)
    else:
        pair.listener.abandon(stream)
    pair.pass_time(1.0)
    assert not pair.dialer._late_ends
    if end == "reset":
        assert pair.seen(StreamAborted, dialer=False) == [StreamAborted(stream, 7, remote=True)]
    assert not pair.seen(ConnectionEnded, dialer=True)


def test_unknown_streams_are_nothing() -> None:
    pair = connected()
    pair.dialer.close(400)
    pair.dialer.abandon(400)
    pair.dialer.reset(400)
    assert pair.dialer.consumed(400, 1) == []
    assert pair.dialer.room(400) == 0


def test_sending_is_bounded_and_goes_on() -> None:
    pair = connected(config=QuicConfig(stream_send_bytes=10_000, connection_send_bytes=15_000))
    first, second = pair.dialer.open_stream(), pair.dialer.open_stream()
    assert pair.dialer.window(first) == 10_000
    assert pair.dialer.send(first, bytes(50_000)) == 10_000
    assert pair.dialer.send(first, b"x") == 0
    assert pair.dialer.send(second, bytes(50_000)) == 5_000
    pair.pass_time(0.5)
    assert pair.dialer.queued == 0
    assert sum(len(event.data) for event in pair.seen(DataReceived, dialer=False)) == 15_000


def test_the_peers_limit_of_streams_makes_opening_wait() -> None:
    pair = connected(config=QuicConfig(max_inbound_streams=2))
    streams = [pair.stream(), pair.stream()]
    with pytest.raises(LocalProtocolError):
        pair.dialer.open_stream()
    for machine in (pair.dialer, pair.listener):
        machine.close(streams[0])
        machine.abandon(streams[0])
        pair.pump()
    pair.pass_time(0.5)
    assert pair.dialer.can_open
    pair.stream()
    assert len(pair.seen(StreamOpened, dialer=False)) == 3


def test_our_own_limit_of_streams() -> None:
    pair = connected(config=QuicConfig(max_outbound_streams=1))
    pair.stream()
    with pytest.raises(LimitExceeded):
        pair.dialer.open_stream()


def test_streams_too_fast_end_the_connection() -> None:
    pair = connected(config=QuicConfig(streams_per_second=2, max_inbound_streams=50))
    for _ in range(4):
        pair.stream()
    assert not pair.seen(ConnectionEnded, dialer=False)
    pair.stream()
    assert "too fast" in str(fault(pair, dialer=False))
    (ended,) = pair.seen(ConnectionEnded, dialer=True)
    assert ended.code == 0x1002


@pytest.mark.parametrize("kind", ["uni", "datagram"])
def test_what_libp2p_does_not_use_ends_the_connection(kind: str) -> None:
    """The peer breaks our limit of no unidirectional streams, or sends a datagram frame that we did not offer."""
    pair = connected()
    core = pair.dialer._core
    if kind == "uni":
        with pytest.raises((ValueError, RuntimeError)):
            core.open_stream(True)
    else:
        with pytest.raises(ValueError, match="DATAGRAM"):
            core.send_datagram(b"x")


def test_a_budget_is_charged_while_bytes_are_unread() -> None:
    budgets = [CountingBudget(), CountingBudget()]
    pair = connected(ledgers=tuple(map(BudgetLedger, budgets)))
    stream = pair.stream(bytes(100_000))
    pair.pass_time(0.2)
    assert budgets[0].used[Resource.STREAM_OUT] == budgets[1].used[Resource.STREAM_IN] == 1
    assert 80_000 < budgets[1].used[Resource.MEMORY] <= 100_000
    pair.listener.consumed(stream, 100_000)
    assert budgets[1].used[Resource.MEMORY] == 0
    for machine in (pair.dialer, pair.listener):
        machine.close(stream)
        machine.abandon(stream)
    assert all(budget.is_zero() for budget in budgets)


def test_a_budget_that_refuses_a_stream_resets_it() -> None:
    theirs = CountingBudget({Resource.STREAM_IN: 0})
    pair = connected(ledgers=(None, BudgetLedger(theirs)))
    stream = pair.stream()
    assert pair.seen(StreamAborted, dialer=True) == [StreamAborted(stream, 0x1002, remote=True)]
    assert not pair.seen(StreamOpened, dialer=False)


def test_a_budget_that_refuses_memory_resets_the_stream() -> None:
    theirs = CountingBudget({Resource.MEMORY: 32 * 1024})
    pair = connected(ledgers=(None, BudgetLedger(theirs)))
    stream = pair.stream(bytes(100_000))
    pair.pass_time(0.2)
    assert pair.seen(StreamAborted, dialer=False) == [StreamAborted(stream, 0x1002, remote=False)]
    assert theirs.is_zero() or theirs.used == {Resource.STREAM_IN: 0, Resource.MEMORY: 0}


def test_ending_gives_everything_back() -> None:
    budgets = [CountingBudget(), CountingBudget()]
    pair = connected(ledgers=tuple(map(BudgetLedger, budgets)))
    pair.stream(bytes(100_000))
    for machine in (pair.dialer, pair.listener):
        machine.release_all()
    assert all(budget.is_zero() for budget in budgets)


# ------------------------------------------------------------------------------------ a reader that does not read


def flooded(pair: Pair, stream: int, size: int) -> int:
    """Sends as long as anything goes, for a second; how much went."""
    sent = 0
    for _ in range(100):
        while sent < size and (more := pair.dialer.send(stream, bytes(min(65_536, size - sent)))):
            sent += more
        pair.pass_time(0.01)
    return sent


def test_unread_bytes_are_bounded_and_nothing_is_lost() -> None:
    config = QuicConfig(stream_window=65_536, connection_window=131_072, stream_unread_bytes=65_536)
    pair = connected(config=config)
    stream = pair.stream()
    flooded(pair, stream, 4 << 20)
    got = sum(len(event.data) for event in pair.seen(DataReceived, dialer=False))
    assert pair.listener.held
    assert got <= 2 * 65_536 + 65_536
    taken = 0
    while taken < 1 << 20:
        pair.events[1].extend(pair.listener.consumed(stream, got - taken, pair.now))
        taken = got
        flooded(pair, stream, 1 << 16)
        got = sum(len(event.data) for event in pair.seen(DataReceived, dialer=False))
    assert not pair.seen(StreamAborted, dialer=False)


def test_a_stream_that_nobody_reads_is_reset_and_the_others_go_on() -> None:
    config = QuicConfig(stream_window=65_536, connection_window=131_072, stream_unread_bytes=65_536, stall_seconds=5.0)
    pair = connected(config=config)
    stuck = pair.stream()
    flooded(pair, stuck, 4 << 20)
    other = pair.dialer.open_stream()
    pair.dialer.send(other, b"still there")
    pair.pass_time(5.5)
    assert pair.seen(StreamAborted, dialer=False) == [StreamAborted(stuck, 0x1002, remote=False)]
    assert DataReceived(other, b"still there") in pair.seen(DataReceived, dialer=False)
    assert not pair.listener.held


# ------------------------------------------------------------------------------------ the end


def test_good_bye_has_its_code() -> None:
    pair = connected()
    pair.dialer.go_away(0x1006)
    pair.pump()
    assert pair.seen(ConnectionEnded, dialer=False) == [ConnectionEnded(0x1006, None)]
    assert not pair.listener.can_open


def test_after_the_end_nothing_is_said() -> None:
    pair = connected()
    pair.dialer.go_away(0x1006)
    pair.pump()
    pair.listener.go_away(0x1007)
    assert pair.listener.datagrams_to_send(pair.now, 64) == []


def test_silence_ends_a_connection() -> None:
    pair = connected(config=QuicConfig(keep_alive_seconds=float("inf"), idle_seconds=10.0))
    for _ in range(1500):
        pair.now += 0.01
        pair.events[0].extend(pair.dialer.deadline_passed(pair.now))
    assert pair.seen(ConnectionEnded, dialer=True) == [ConnectionEnded(0, None)]


def test_a_ping_keeps_it_alive() -> None:
    pair = connected(config=QuicConfig(keep_alive_seconds=2.0, idle_seconds=10.0))
    pair.pass_time(25.0, step=0.1)
    assert not pair.seen(ConnectionEnded, dialer=True)
    assert not pair.seen(ConnectionEnded, dialer=False)


@given(st.lists(st.binary(min_size=1, max_size=1500), max_size=8))
@settings(max_examples=60)
def test_garbage_after_the_handshake_is_dropped(datagrams: list[bytes]) -> None:
    pair = connected()
    for data in datagrams:
        pair.events[1].extend(pair.listener.receive(data, len(data), DIALER, pair.now))
    pair.stream()
    assert pair.seen(DataReceived, dialer=False)[-1].data == b"hello"


def test_a_spoofed_sender_is_not_followed_before_it_is_proven() -> None:
    pair = connected()
    stream = pair.dialer.open_stream()
    pair.dialer.send(stream, b"copied from the wire")
    ((data, _),) = pair.dialer.datagrams_to_send(pair.now, 9)
    pair.listener.receive(data, len(data), ("10.9.9.9", 9), pair.now)
    pair.listener.send(stream, bytes(200_000))
    elsewhere = sum(len(out) for out, to in pair.listener.datagrams_to_send(pair.now, 64) if to[0] == "10.9.9.9")
    assert elsewhere <= 3 * max(len(data), 1200)


class _Panic(BaseException):
    __module__ = "pyo3_runtime"


def test_a_panic_of_the_engine_ends_one_connection() -> None:
    pair = connected()

    class Broken:
        def receive_gro_buffer(self, *_arguments: Any) -> None:
            raise _Panic("index out of bounds")

    pair.listener._core = Broken()
    pair.events[1].extend(pair.listener.receive(b"x", 1, DIALER, pair.now))
    assert isinstance(fault(pair, dialer=False), engine.EngineBroken)


def test_other_exceptions_are_not_taken_for_a_panic() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.guarded(interrupt)


# ------------------------------------------------------------------------------------ the proof at the start


def test_the_libraries_here_are_good() -> None:
    proof.prove(CREDENTIALS[0])


def test_libraries_that_do_not_ask_for_a_certificate_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when aioquic renames its private switch: a dialer without a certificate gets in, or nobody does."""
    from talos.errors import NotSupported

    def careless(*arguments: Any, **options: Any) -> QuicMachine:
        machine = QuicMachine(*arguments, **options)
        machine._tls._context._request_client_certificate = False
        return machine

    with pytest.raises(NotSupported):
        proof.prove(CREDENTIALS[0], careless)


def test_a_listener_that_lets_everybody_in_is_refused() -> None:
    from talos.errors import NotSupported

    class Careless(QuicMachine):
        def receive(self, data: bytes, segment: int, address: Any, now: float) -> list[Any]:
            self._tls.remote_key = self._tls.remote_key or KEYS[2].public_key
            return super().receive(data, segment, address, now)

    with pytest.raises(NotSupported, match="without a certificate"):
        proof.prove(CREDENTIALS[0], Careless)


def test_what_the_engine_cannot_go_on_with_ends_the_connection() -> None:
    """Whichever way it is asked."""

    class Broken:
        smoothed_rtt = None

        def fail(self, *_arguments: Any) -> None:
            raise RuntimeError("out of step")

        poll_transmit = next_event = send_ping = fail

        def get_timer(self) -> None:
            return None

        def get_send_buffer_size(self, *_arguments: Any) -> int:
            return 0

    asked: dict[str, Callable[[QuicMachine, float], list[Any]]] = {
        "poll": lambda machine, now: machine.datagrams_to_send(now, 1) + machine.resume(now),
        "resume": lambda machine, now: machine.resume(now),
        "deadline": lambda machine, now: machine.deadline_passed(now + 100),
    }
    for ask in asked.values():
        pair = connected()
        pair.listener._core = Broken()
        events = ask(pair.listener, pair.now)
        (ended,) = [event for event in events if isinstance(event, ConnectionEnded)]
        assert "out of step" in str(ended.fault)
        assert not [event for event in ask(pair.listener, pair.now) if isinstance(event, ConnectionEnded)]


class Telling:
    """An engine that has these events to tell, and nothing else."""

    def __init__(self, *events: tuple[Any, ...]) -> None:
        self._events = iter(events)

    def next_event(self) -> tuple[Any, ...] | None:
        return next(self._events, None)


@pytest.mark.parametrize(("make", "kind"), [(Pair, HandshakeError), (connected, RemoteProtocolError)])
def test_what_breaks_the_protocol_ends_the_connection(make: Callable[[], Pair], kind: type[Exception]) -> None:
    machine = make().listener
    machine._core = Telling(("protocol_error", 0x7, 0x8, "a frame that is none"))
    (ended,) = machine.resume(0)
    assert isinstance(ended, ConnectionEnded)
    assert type(ended.fault) is kind
    assert "a frame that is none (code 0x7)" in str(ended.fault)


def test_only_a_listener_says_that_the_handshake_is_done() -> None:
    machine = Pair().listener
    machine._core = Telling(("handshake_done",))
    assert machine.resume(0) == []
    assert not machine.confirmed


def test_an_engine_that_takes_no_room_for_an_answer() -> None:
    def full(_now: float) -> bytes:
        raise RuntimeError("packet builder capacity exhausted")

    assert engine.polled(full, 0.0) is None


def test_a_round_trip_is_measured_and_ids_are_retired() -> None:
    pair = connected()
    pair.stream()
    pair.pass_time(0.5)
    assert 0 < pair.dialer.rtt_seconds < 1
    assert Pair().dialer.rtt_seconds == 0.0
    pair.dialer._core.change_connection_id()
    pair.pump()
    assert pair.seen(IdRetired, dialer=False)


def test_a_peer_that_moves_is_followed_once_its_address_is_proven() -> None:
    pair = connected()
    stream = pair.stream()
    there = ("127.0.0.7", 77)
    pair.dialer.send(stream, b"from elsewhere")
    for _ in range(20):
        pair.now += 0.01
        for data, _to in pair.dialer.datagrams_to_send(pair.now, 64):
            pair.events[1].extend(pair.listener.receive(data, len(data), there, pair.now))
        for data, _to in pair.listener.datagrams_to_send(pair.now, 64):
            pair.events[0].extend(pair.dialer.receive(data, len(data), LISTENER, pair.now))
    assert pair.seen(Moved, dialer=False)[-1].address == there


def test_forged_keys_end_the_connection() -> None:
    """A packet that breaks the rules, under the right keys: only a peer can send it."""
    pair = connected()
    pair.dialer._core.close(0x0A, 0x08, b"said by the engine")
    pair.pump()
    (ended,) = pair.seen(ConnectionEnded, dialer=False)
    assert ended.code == 0
    assert ended.fault is None


def test_late_words_about_a_finished_stream_open_no_other() -> None:
    pair = connected()
    stream = pair.stream()
    for machine in (pair.dialer, pair.listener):
        machine.close(stream)
        machine.abandon(stream)
        pair.pump()
    pair.pass_time(0.3)
    assert not pair.listener._streams
    pair.listener._stop_sending(("stop_sending", stream, 0), pair.now)
    pair.listener._stream_reset(("stream_reset", stream, 0, 5), pair.now)
    pair.listener._stream_data(stream, b"again", pair.now, ended=True)
    assert pair.listener._flush_events() == []


def test_streams_may_come_in_any_order() -> None:
    pair = connected()
    for stream_id in (8, 0, 8, 4, 0, 16):
        pair.listener._stream_data(stream_id, b"x", pair.now, ended=False)
    opened = [event.stream_id for event in pair.listener._flush_events() if isinstance(event, StreamOpened)]
    assert opened == [8, 0, 4, 16]
