"""TLS 1.3 as libp2p uses it (libp2p tls), without IO: OpenSSL over memory buffers.

Rules:
- TLS 1.3 only; both sides show exactly one self-signed certificate, which proves a peer id
  (talos.identity.certificate);
- OpenSSL checks no certificate: it only makes sure that the peer has the certificate's key;
- ALPN carries the dialer's muxers in its preference and `libp2p` last; the listener takes the first that it has,
  and the handshake fails when there is none; `libp2p` leaves the muxer to multistream;
- no session tickets, no resumption, no early data, no server name;
- a dialer is done before the listener has judged its certificate: until the listener's first record arrives,
  `confirmed` is False.

    state        dialer                                  listener
    at first     sends hello, awaits                     awaits
    shaking      checks certificate, sends its own, done checks certificate, done
    open         seals and opens; close_notify ends a direction
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key
from OpenSSL import SSL, crypto

from talos.errors import HandshakeError, LocalProtocolError, RemoteProtocolError
from talos.identity import certificate
from talos.identity.peer_id import PeerId
from talos.security.layer import Authenticated, open_early

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from talos.identity.certificate import IdentityCertificate
    from talos.security.layer import Bytes
    from talos.security.tls.config import TlsConfig

__all__ = ["FALLBACK", "TlsMachine", "TlsRecords", "make_context"]

FALLBACK = b"libp2p"
"""The ALPN entry that leaves the muxer to multistream; always the last."""
RECORD_BYTES = 16 * 1024
PIECE_BYTES = 64 * 1024
"""Given to OpenSSL at once: its buffers keep the size that they once had."""
_PARTIAL_WRITE = 0x1
"""SSL_MODE_ENABLE_PARTIAL_WRITE: pyOpenSSL sets it, a call for each 16 KiB, which makes sealing a third dearer."""


class TlsMachine:
    """One side of one handshake over a `context` of `make_context`.

    `muxers` are ours in preference. `now` is the time that certificates are judged at.
    """

    def __init__(
        self,
        context: SSL.Context,
        *,
        dialer: bool,
        now: datetime,
        config: TlsConfig,
        muxers: Sequence[str] = (),
        expected: PeerId | None = None,
    ) -> None:
        self._dialer = dialer
        self._now = now
        self._allowance = config.max_handshake_bytes
        self._expected = expected
        self._ended = False
        self._ssl = SSL.Connection(context)
        offer = [*(muxer.encode() for muxer in muxers), FALLBACK]
        if dialer:
            self._ssl.set_connect_state()
            self._ssl.set_alpn_protos(offer)
            self._shake()
        else:
            self._ssl.set_accept_state()
            self._ssl.set_app_data(offer)  # for the context's callback

    def data_to_send(self) -> bytes:
        """What is to be sent now; after a failure that OpenSSL found, its alert."""
        return _drain(self._ssl)

    def receive_data(self, data: Bytes) -> list[Authenticated]:
        """Takes what the peer sent; one event when the handshake is complete. HandshakeError ends it."""
        if self._ended:
            raise LocalProtocolError("this TLS handshake has ended")
        try:
            self._take(data)
            if not self._shake():
                return []
            event = self._authenticate()
        except HandshakeError:
            self._ended = True
            raise
        self._ended = True
        return [event]

    def end(self) -> NoReturn:
        """The stream ended before the handshake did."""
        self._ended = True
        raise HandshakeError("stream ended during the TLS handshake")

    def _take(self, data: Bytes) -> None:
        self._allowance -= len(data)
        if self._allowance < 0:
            raise HandshakeError("too many bytes before the end of the TLS handshake")
        self._ssl.bio_write(data)

    def _shake(self) -> bool:
        """Whether OpenSSL is done."""
        try:
            self._ssl.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise HandshakeError(f"TLS handshake failed: {_reason(error)}") from error
        return True

    def _authenticate(self) -> Authenticated:
        try:
            key = certificate.verify(self._peer_chain(), now=self._now, expected=self._expected)
        except HandshakeError:
            # Our last flight, or the listener's tickets, must not tell the peer that it was accepted.
            _drain(self._ssl)
            raise
        chosen = self._ssl.get_alpn_proto_negotiated()
        records = TlsRecords(self._ssl, confirmed=not self._dialer)
        return Authenticated(
            remote_key=key,
            remote_peer=PeerId.from_key(key),
            early_muxer=chosen.decode() if chosen not in {b"", FALLBACK} else None,
            layer=records,
            plaintext=open_early(records, b""),
        )

    def _peer_chain(self) -> list[bytes]:
        """What the peer showed, its own certificate first."""
        chain = self._ssl.get_peer_cert_chain() or []
        # OpenSSL leaves the peer's own certificate out of the chain on the listener's side only.
        own = None if self._dialer else self._ssl.get_peer_certificate()
        found = chain if own is None else [own, *chain]
        return [crypto.dump_certificate(crypto.FILETYPE_ASN1, shown) for shown in found]


class TlsRecords:
    """The record layer of a finished handshake, both directions; a record has up to 16 KiB."""

    __slots__ = ("_ssl", "confirmed", "ended", "failure")

    def __init__(self, connection: SSL.Connection, *, confirmed: bool) -> None:
        self._ssl = connection
        self.confirmed = confirmed
        self.ended = False
        self.failure: str | None = None

    def seal(self, data: Bytes) -> bytes:
        """The records of `data`, and what OpenSSL itself has to say."""
        parts = []
        with memoryview(data) as view:
            for start in range(0, len(view), PIECE_BYTES):
                self._seal_piece(view[start : start + PIECE_BYTES])
                parts.append(_drain(self._ssl))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def receive_data(self, data: Bytes) -> bytearray:
        """The plaintext of every record that is whole now; after close_notify what follows is ignored."""
        if self.failure is not None:
            raise RemoteProtocolError(self.failure)
        # Every record is shorter opened than sealed, and one may be half there already.
        out = bytearray(len(data) + RECORD_BYTES)
        written = 0
        with memoryview(data) as source, memoryview(out) as target:
            start = 0
            while True:
                if start < len(source):
                    self._ssl.bio_write(source[start : start + PIECE_BYTES])
                    start += PIECE_BYTES
                written = self._open_all(target, written)
                if start >= len(source) or self.ended or self.failure is not None:
                    break
        if written or self.ended:
            self.confirmed = True
        elif self.failure is not None:
            raise RemoteProtocolError(self.failure)
        del out[written:]
        return out

    def cut_by_end(self) -> bool:
        """An end without close_notify is always a truncation."""
        return not self.ended

    def farewell(self) -> bytes:
        """close_notify."""
        try:
            self._ssl.shutdown()
        except SSL.Error:
            return b""  # the connection has failed already
        return _drain(self._ssl)

    def _seal_piece(self, piece: memoryview) -> None:
        sent = 0
        try:
            while sent < len(piece):
                sent += self._ssl.send(piece[sent:])
        except SSL.Error as error:
            raise LocalProtocolError(f"TLS cannot send: {_reason(error)}") from error

    def _open_all(self, target: memoryview, written: int) -> int:
        """Opens what OpenSSL has into `target` behind `written`; the new end."""
        receive = self._ssl.recv_into
        try:
            while True:
                written += receive(target[written:], RECORD_BYTES)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.ended = True
        except SSL.Error as error:
            self.failure = f"TLS record refused: {_reason(error)}"
        return written


def make_context(own: IdentityCertificate) -> SSL.Context:
    """What all connections of a host share."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.clear_mode(_PARTIAL_WRITE)
    # Without this a ticket would hold the session; so it only names one, which nobody keeps.
    context.set_options(SSL.OP_NO_TICKET)
    context.use_certificate(x509.load_der_x509_certificate(own.certificate))
    context.use_privatekey(_load_key(own.private_key))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept)
    context.set_alpn_select_callback(_select_alpn)
    return context


def _load_key(der: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_der_private_key(der, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _accept(*_arguments: object) -> bool:
    """Leaves every check to `TlsMachine`."""
    return True


def _select_alpn(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    supported: list[bytes] = connection.get_app_data()
    for protocol in offered:
        if protocol in supported:
            return protocol
    raise HandshakeError("no muxer in common, and the dialer does not offer to negotiate one")


def _drain(connection: SSL.Connection) -> bytes:
    """What OpenSSL has to send."""
    parts = []
    try:
        while True:
            parts.append(connection.bio_read(PIECE_BYTES + RECORD_BYTES))
    except SSL.WantReadError:
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _reason(error: SSL.Error) -> str:
    """OpenSSL's last word, of a queue of (library, function, reason)."""
    queue = error.args[0] if error.args else ()
    return str(queue[-1][-1]) if isinstance(queue, list) and queue else "the connection is broken"
