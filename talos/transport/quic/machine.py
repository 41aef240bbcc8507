"""One QUIC connection without IO: TLS around the packet engine, and streams as libp2p wants them.

Rules (RFC 9000, RFC 9001, libp2p quic):
- ALPN is `libp2p`; both sides show a certificate that proves a peer id (libp2p tls), and no stream is reported before;
- a dialer is done when the listener has confirmed the handshake, thus has judged the dialer's certificate;
- a bidirectional QUIC stream is a libp2p stream; unidirectional streams and datagram frames are not allowed;
- FIN ends a direction, RESET_STREAM ends a stream both ways, STOP_SENDING ends our direction only; closing a stream
  is FIN with STOP_SENDING, for whatever the peer still sends is not read;
- the engine gives credit for what is taken from it. A stream with too many unread bytes stops the taking, which the
  windows then bound, until it is read from; after `stall_seconds` it is reset (docs/decisions/0012).

    state       dialer                                 listener
    at first    sends Initial                          -
    shaking     keys and certificate by TLS, Retry     the same
    confirmed   on HANDSHAKE_DONE                      when TLS is done
    ended       by CONNECTION_CLOSE of either side, silence, or a fault
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from talos.errors import (
    ConnectionCode,
    HandshakeError,
    RemoteProtocolError,
    TalosError,
)
from talos.transport.quic import engine
from talos.transport.quic import parameters as transport_parameters
from talos.transport.quic.engine import guarded, make_core, parameters_of
from talos.transport.quic.event import (
    Confirmed,
    ConnectionEnded,
    Event,
    IdIssued,
    IdRetired,
    Moved,
)
from talos.transport.quic.handshake import Handshake, HandshakeFailure
from talos.transport.quic.packet import RETRY, packets_of, read_retry
from talos.transport.quic.streams import StreamFlood, StreamTable

if TYPE_CHECKING:
    from datetime import datetime

    from talos.identity.keys import PublicKey
    from talos.identity.peer_id import PeerId
    from talos.muxed.ledger import Ledger
    from talos.transport.quic.config import QuicConfig
    from talos.transport.quic.handshake import Credentials
    from talos.transport.quic.packet import Header, Validated
    from talos.transport.quic.parameters import Parameters

__all__ = ["QuicMachine"]

Address = tuple[Any, ...]
CRYPTO_ERROR = 0x100
CRYPTO_FRAME = 0x06
CONNECTION_REFUSED = 0x02
PARAMETER_ERROR = 0x08
ONE_RTT = 3
INITIAL = 0


class QuicMachine(StreamTable):
    """One side of one connection.

    A dialer makes `destination` up, a listener takes it from the first Initial. `retry` is what a Retry token proved.
    """

    def __init__(
        self,
        config: QuicConfig,
        credentials: Credentials | None,
        *,
        dialer: bool,
        remote: Address,
        source: bytes,
        destination: bytes,
        now: float,
        wall_clock: datetime,
        expected: PeerId | None = None,
        retry: Validated | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(config, ledger, dialer=dialer, now=now)
        self._source = source
        self._destination = self._original = destination
        self._retry_source: bytes | None = None
        self._remote_source: bytes | None = None
        self._remote = remote
        self._parameters_applied = False
        self._hello = b""
        self._heard_at = self._spoke_at = now
        self.heard = False
        """Whether anything authentic came."""
        self.frames_in = self.frames_out = self.dropped = 0
        ours = parameters_of(config)
        ours.initial_source = source
        if not dialer:
            ours.original_destination = destination
            if retry is not None:
                ours.original_destination, ours.retry_source = retry.original, destination
        self._core = self._make_core(now, proven=dialer or retry is not None)
        self._tls = Handshake(
            credentials,
            dialer=dialer,
            parameters=transport_parameters.encode(ours),
            expected=expected,
            wall_clock=wall_clock,
            max_bytes=config.max_handshake_bytes,
        )
        if dialer:
            self._tls.start()
            self._hello = self._tls.outgoing[0][2]
            self._pass_on_handshake()

    def _make_core(self, now: float, *, proven: bool) -> Any:
        return make_core(
            self._config,
            dialer=self._dialer,
            remote=self._remote,
            source=self._source,
            destination=self._destination,
            proven=proven,
            now=now,
        )

    # ------------------------------------------------------------------------------- questions

    @property
    def remote_key(self) -> PublicKey | None:
        """The peer's key, once it is `confirmed`."""
        return self._tls.remote_key if self.confirmed else None

    @property
    def rtt_seconds(self) -> float:
        """Smoothed; 0 while unknown."""
        return 0.0 if self.ended else self._core.smoothed_rtt or 0.0

    # ------------------------------------------------------------------------------- what comes in

    def receive(self, data: bytes, segment: int, address: Address, now: float) -> list[Event]:
        """Datagrams of `segment` bytes each, the last one maybe shorter. Never raises for what a peer can do."""
        try:
            if self._tls.complete:
                report = guarded(self._core.receive_gro_buffer, data, segment, address, now)
                self._count_received(report, now)
            else:
                for start in range(0, len(data), segment):
                    self._receive_handshake(data[start : start + segment], address, now)
            self._take(now)
        except RemoteProtocolError as fault:
            self._end(fault)
        return self._flush_events()

    def _count_received(self, report: tuple[int, ...], now: float) -> None:
        self.frames_in += report[2]
        self.dropped += report[4]
        if report[2]:
            self.heard = True
            self._heard_at = now

    def _receive_handshake(self, datagram: bytes, address: Address, now: float) -> None:
        """Packet by packet, for each may bring the keys of the next."""
        for packet, header in packets_of(datagram):
            if header is not None and header.kind == RETRY and header.version:
                self._receive_retry(packet, header, now)
                continue
            report = guarded(self._core.receive_datagram, packet, address, now, len(datagram))
            self._count_received(report, now)
            if report[2] and header is not None and self._remote_source is None:
                self._remote_source = header.source
            self._take(now)

    def _receive_retry(self, packet: bytes, header: Header, now: float) -> None:
        """The listener wants our address proven: the same hello again, to another id and with its token."""
        if not self._dialer or self.heard or self._retry_source is not None or header.destination != self._source:
            return
        token = read_retry(packet, header, self._original)
        if token is None:
            return
        self._retry_source = self._destination = header.source
        self._core = self._make_core(now, proven=True)
        self._core.set_initial_token(token)
        guarded(self._core.send_crypto, INITIAL, 0, self._hello)

    # ------------------------------------------------------------------------------- the engine's events

    def _take(self, now: float) -> None:
        """Takes what the engine has, as far as readers keep up."""
        core = self._core
        while self._held_by is None and not self.ended and (event := guarded(core.next_event)) is not None:
            kind = event[0]
            if kind == "stream_data":
                self._stream_data(event[1], event[2], now, ended=event[3])
            else:
                handler = _HANDLERS.get(kind)
                if handler is not None:
                    handler(self, event, now)

    def _crypto(self, event: tuple[Any, ...], _now: float) -> None:
        try:
            self._tls.receive(event[3])
            self._pass_on_handshake()
        except HandshakeFailure as failure:
            self._fail(CRYPTO_ERROR + failure.alert, CRYPTO_FRAME, failure.reason)
        except RemoteProtocolError as error:
            self._fail(PARAMETER_ERROR, CRYPTO_FRAME, HandshakeError(str(error)))

    def _fail(self, code: int, frame: int, fault: TalosError) -> None:
        guarded(self._core.close, code, frame, b"")
        self._end(fault)

    def _pass_on_handshake(self) -> None:
        """Gives the engine what TLS has for it."""
        tls, core = self._tls, self._core
        for keys in tls.keys:
            guarded(
                core.install_packet_key,
                "send" if keys.sending else "receive",
                keys.epoch,
                keys.algorithms,
                keys.key,
                keys.iv,
                keys.protection,
                0,
                keys.secret,
                1,
            )
        tls.keys.clear()
        for epoch, offset, data in tls.outgoing:
            guarded(core.send_crypto, epoch, offset, data)
        tls.outgoing.clear()
        if tls.peer_parameters is not None and not self._parameters_applied:
            self._parameters_applied = True
            self._apply(tls.peer_parameters)
        if tls.complete and not self.confirmed and not self._dialer:
            core.handshake_complete()
            self._confirm()
        elif tls.complete and self._dialer:
            core.handshake_complete()

    def _apply(self, theirs: Parameters) -> None:
        """What the peer told, once its ids are those that we saw (RFC 9000 7.3)."""
        expected = (self._remote_source, self._original if self._dialer else None, self._retry_source)
        if (theirs.initial_source, theirs.original_destination, theirs.retry_source) != expected:
            raise RemoteProtocolError("the peer's connection ids are not those that were used")
        guarded(
            self._core.apply_peer_transport_parameters,
            theirs.max_data,
            theirs.stream_data_bidi_local,
            theirs.stream_data_bidi_remote,
            theirs.stream_data_uni,
            theirs.max_streams_bidi,
            theirs.max_streams_uni,
            theirs.ack_delay_exponent,
            theirs.max_ack_delay_milliseconds / 1000,
            theirs.idle_milliseconds / 1000 or None,
            None,
            theirs.reset_token,
            theirs.active_connection_ids,
            theirs.disable_migration,
            theirs.max_udp_payload,
        )

    def _handshake_done(self, _event: tuple[Any, ...], _now: float) -> None:
        if self._dialer and self._tls.complete and not self.confirmed:
            self._core.handshake_confirmed()
            self._confirm()

    def _confirm(self) -> None:
        self.confirmed = True
        self._events.append(Confirmed())

    def _id_issued(self, event: tuple[Any, ...], _now: float) -> None:
        self._events.append(IdIssued(event[1]))

    def _id_retired(self, event: tuple[Any, ...], _now: float) -> None:
        self._events.append(IdRetired(event[1]))

    def _moved(self, _event: tuple[Any, ...], _now: float) -> None:
        self._events.append(Moved(self._core.active_path[2]))

    def _version_negotiation(self, _event: tuple[Any, ...], _now: float) -> None:
        self._end(HandshakeError("the peer does not speak QUIC v1"))

    def _peer_closed(self, event: tuple[Any, ...], _now: float) -> None:
        _, application, code, _, _ = event
        if self.confirmed:
            self._end(None, code if application else 0)
        elif CRYPTO_ERROR <= code < CRYPTO_ERROR + 256:
            self._end(HandshakeError(f"the peer refused the handshake (TLS alert {code - CRYPTO_ERROR})"))
        else:
            self._end(HandshakeError(f"the peer closed the connection during the handshake (code {code:#x})"))

    def _protocol_error(self, event: tuple[Any, ...], _now: float) -> None:
        self._end(RemoteProtocolError(f"QUIC: {event[3]} (code {event[1]:#x})"))

    def _terminated(self, _event: tuple[Any, ...], _now: float) -> None:
        self._end(None if self.confirmed else HandshakeError("no connection within the time of silence allowed"))

    def _end(self, fault: TalosError | None, code: int = 0) -> None:
        if self.ended:
            return
        if isinstance(fault, StreamFlood):
            self.go_away(ConnectionCode.RATE_LIMITED)
        self.ended = True
        if isinstance(fault, RemoteProtocolError) and not self.confirmed:
            fault = HandshakeError(str(fault))
        self._events.append(ConnectionEnded(code, fault))

    def consumed(self, stream_id: int, size: int, now: float = 0.0) -> list[Event]:
        """The application took bytes; what that sets free."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return []
        held = self._held_by
        self._consume(stream_id, stream, size)
        return self.resume(now) if held is not None else []

    def resume(self, now: float) -> list[Event]:
        """Goes on taking, if nothing holds the connection up any more."""
        if self._held_by is None and not self.ended:
            try:
                self._take(now)
            except RemoteProtocolError as fault:
                self._end(fault)
        return self._flush_events()

    def _flush_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # ------------------------------------------------------------------------------- what goes out, and the clock

    def datagrams_to_send(self, now: float, limit: int) -> list[tuple[bytes, Address]]:
        """At most `limit` datagrams, each with where it goes."""
        poll = self._core.poll_transmit
        found: list[tuple[bytes, Address]] = []
        try:
            while len(found) < limit:
                transmit = engine.polled(poll, now)
                if transmit is not None:
                    found.append((transmit[0], transmit[1]))
                elif not self._send_late_ends(now):
                    break
        except RemoteProtocolError as fault:
            self._end(fault)
        if found:
            self.frames_out += len(found)
            self._spoke_at = now
        if self.queued and not self.ended:
            self.queued = self._core.get_send_buffer_size()
        return found

    def next_deadline(self) -> float | None:
        """When `deadline_passed` is due; None when nothing is."""
        if self.ended:
            return None
        timer = self._core.get_timer()
        deadlines = [] if timer is None else [timer[1]]
        if self.confirmed:
            deadlines.append(self._ping_at())
        if self._held_by is not None:
            deadlines.append(self._held_until)
        deadlines.extend(self._late_ends.values())
        return min(deadlines, default=None)

    def _ping_at(self) -> float:
        return max(self._heard_at, self._spoke_at) + self._config.keep_alive_seconds

    def deadline_passed(self, now: float) -> list[Event]:
        """Does what is due."""
        if self.ended:
            return self._flush_events()
        timer = self._core.get_timer()
        try:
            if timer is not None and timer[1] <= now + 1e-6:
                guarded(self._core.handle_timer, max(now, timer[1]))
            if self.confirmed and now >= self._ping_at():
                self._spoke_at = now
                guarded(self._core.send_ping, 0)
            if self._held_by is not None and now >= self._held_until:
                stream_id = self._held_by
                self._give_up(stream_id, self._streams[stream_id])
            self._send_late_ends(now)
            self._take(now)
        except RemoteProtocolError as fault:
            self._end(fault)
        return self._flush_events()

    def go_away(self, code: int = ConnectionCode.NONE) -> None:
        """Ends the connection; one more datagram says so. Before the handshake is done the code is not shown."""
        if not self.ended:
            guarded(self._core.close, code, None, b"")

    def turn_away(self, datagram: bytes, address: Address, now: float) -> None:
        """Answers a newcomer's first datagram with a refusal; none of its handshake is looked at."""
        guarded(self._core.receive_datagram, datagram, address, now, len(datagram))
        guarded(self._core.close, CONNECTION_REFUSED, 0, b"")


_HANDLERS = {
    "crypto_data": QuicMachine._crypto,  # noqa: SLF001 - its own table
    "stream_reset": QuicMachine._stream_reset,  # noqa: SLF001
    "stop_sending": QuicMachine._stop_sending,  # noqa: SLF001
    "stream_finished": QuicMachine._stream_finished,  # noqa: SLF001
    "handshake_done": QuicMachine._handshake_done,  # noqa: SLF001
    "connection_id_issued": QuicMachine._id_issued,  # noqa: SLF001
    "connection_id_retired": QuicMachine._id_retired,  # noqa: SLF001
    "path_validated": QuicMachine._moved,  # noqa: SLF001
    "version_negotiation": QuicMachine._version_negotiation,  # noqa: SLF001
    "peer_closed": QuicMachine._peer_closed,  # noqa: SLF001
    "protocol_error": QuicMachine._protocol_error,  # noqa: SLF001
    "connection_terminated": QuicMachine._terminated,  # noqa: SLF001
}
"""Of the engine's events, by name; the others need no action."""
