"""The TLS 1.3 half of QUIC (RFC 9001, libp2p tls): aioquic's handshake, with a certificate asked of both sides.

aioquic's listener asks for a client certificate only when a private attribute says so, and goes on when the client
answers with none. So that attribute is set in one place (`_Context`), the certificate is judged where aioquic files
it, and a handshake that ends without a judged certificate fails here; `Quic` proves both at its start.
"""

from __future__ import annotations

import ssl
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioquic import tls
from aioquic._buffer import Buffer
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from talos.errors import HandshakeError, RemoteProtocolError, TalosError
from talos.identity import certificate
from talos.transport.quic.parameters import EXTENSION, Parameters, decode

if TYPE_CHECKING:
    from datetime import datetime

    from talos.identity.certificate import IdentityCertificate
    from talos.identity.keys import PublicKey
    from talos.identity.peer_id import PeerId

__all__ = ["ALPN", "CERTIFICATE_REQUIRED", "Credentials", "Handshake", "HandshakeFailure", "Keys"]

ALPN = "libp2p"
CERTIFICATE_REQUIRED = int(tls.AlertDescription.certificate_required)
_INTERNAL = int(tls.AlertDescription.internal_error)
BUFFER_BYTES = 32 * 1024
"""For what we send at once: our certificate is far smaller."""
_EPOCHS = (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE, tls.Epoch.ONE_RTT)
_SUITES = {
    tls.CipherSuite.AES_128_GCM_SHA256: (("aes-128-gcm", "aes-128-ecb"), 16),
    tls.CipherSuite.AES_256_GCM_SHA384: (("aes-256-gcm", "aes-256-ecb"), 32),
    tls.CipherSuite.CHACHA20_POLY1305_SHA256: (("chacha20-poly1305", "chacha20"), 32),
}
"""The names of the ciphers and the length of their keys, in our preference."""


class HandshakeFailure(Exception):
    """Why a handshake is over: `alert` is what the peer is told, `reason` what our caller gets."""

    def __init__(self, alert: int, reason: TalosError) -> None:
        super().__init__(str(reason))
        self.alert = alert
        self.reason = reason


@dataclass(slots=True)
class Keys:
    """Packet keys of one epoch and direction."""

    epoch: int
    sending: bool
    algorithms: tuple[str, str]
    key: bytes
    iv: bytes
    protection: bytes
    secret: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """Our certificate, ready for use."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey

    @classmethod
    def of(cls, own: IdentityCertificate) -> Credentials:
        key = load_der_private_key(own.private_key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(x509.load_der_x509_certificate(own.certificate), key)

    def __repr__(self) -> str:
        return "<credentials>"


class _Context(tls.Context):
    """aioquic's handshake that asks for a certificate and shows what it got to `judge` before it is used."""

    judge: Handshake

    def __init__(self, *, dialer: bool) -> None:
        super().__init__(
            is_client=dialer, alpn_protocols=[ALPN], cipher_suites=list(_SUITES), verify_mode=ssl.CERT_NONE
        )
        self._request_client_certificate = True

    def _set_peer_certificate(self, certificate: tls.Certificate) -> None:
        self.judge.judge([entry[0] for entry in certificate.certificates])
        super()._set_peer_certificate(certificate)


class Handshake:
    """One side of one handshake. Without `credentials` it shows no certificate, which only the self-test does."""

    def __init__(
        self,
        credentials: Credentials | None,
        *,
        dialer: bool,
        parameters: bytes,
        expected: PeerId | None,
        wall_clock: datetime,
        max_bytes: int,
    ) -> None:
        self._dialer = dialer
        self._expected = expected
        self._wall_clock = wall_clock
        self._allowance = max_bytes
        self._output = dict.fromkeys(_EPOCHS, 0)
        self.outgoing: list[tuple[int, int, bytes]] = []
        """Epoch, offset and bytes of what is to be sent."""
        self.keys: list[Keys] = []
        """Packet keys to be installed, in order."""
        self.peer_parameters: Parameters | None = None
        self.remote_key: PublicKey | None = None
        self.complete = False
        context = self._context = _Context(dialer=dialer)
        context.judge = self
        context.handshake_extensions = [(EXTENSION, parameters)]
        context.alpn_cb = self._read_parameters
        context.update_traffic_key_cb = self._take_keys
        if credentials is not None:
            context.certificate = credentials.certificate
            context.certificate_private_key = credentials.private_key

    def start(self) -> None:
        """The dialer's first message."""
        self._run(b"")

    def receive(self, data: bytes) -> None:
        """The next bytes of the peer's messages, in order. HandshakeFailure when that is its end."""
        if self.complete:
            return  # session tickets: nothing is ever resumed
        self._allowance -= len(data)
        if self._allowance < 0:
            raise HandshakeFailure(_INTERNAL, HandshakeError("too many bytes before authentication"))
        self._run(data)

    def judge(self, chain: list[bytes]) -> None:
        """Checks what the peer shows, before aioquic makes use of it."""
        try:
            self.remote_key = certificate.verify(chain, now=self._wall_clock, expected=self._expected)
        except HandshakeError as error:
            raise HandshakeFailure(int(tls.AlertDescription.bad_certificate), error) from error

    def _run(self, data: bytes) -> None:
        buffers = {epoch: Buffer(capacity=BUFFER_BYTES) for epoch in _EPOCHS}
        with_certificate = int(tls.AlertDescription.decode_error)
        try:
            self._context.handle_message(data, buffers)
        except tls.Alert as alert:
            reason = HandshakeError(f"TLS handshake failed: {str(alert) or alert.description.name}")
            raise HandshakeFailure(int(alert.description), reason) from alert
        except RemoteProtocolError as error:
            raise HandshakeFailure(with_certificate, HandshakeError(str(error))) from error
        except _FOREIGN as error:
            reason = HandshakeError(f"TLS handshake is malformed: {error}")
            raise HandshakeFailure(with_certificate, reason) from error
        if self._context.state in {tls.State.CLIENT_POST_HANDSHAKE, tls.State.SERVER_POST_HANDSHAKE}:
            if self.remote_key is None:
                raise HandshakeFailure(CERTIFICATE_REQUIRED, HandshakeError("the peer showed no certificate"))
            if self.peer_parameters is None:
                raise HandshakeFailure(with_certificate, HandshakeError("the peer sent no transport parameters"))
            self.complete = True
        for epoch, buffer in buffers.items():
            if output := buffer.data:
                self.outgoing.append((epoch.value, self._output[epoch], output))
                self._output[epoch] += len(output)

    def _read_parameters(self, _alpn: str | None) -> None:
        for kind, value in self._context.received_extensions or ():
            if kind == EXTENSION:
                self.peer_parameters = decode(value, from_dialer=not self._dialer)

    def _take_keys(self, direction: tls.Direction, epoch: tls.Epoch, suite: tls.CipherSuite, secret: bytes) -> None:
        algorithms, size = _SUITES[suite]
        algorithm = tls.cipher_suite_hash(suite)
        key, iv, protection = (
            tls.hkdf_expand_label(algorithm, secret, label, b"", length)
            for label, length in ((b"quic key", size), (b"quic iv", 12), (b"quic hp", size))
        )
        sending = direction == tls.Direction.ENCRYPT
        self.keys.append(Keys(epoch.value, sending, algorithms, key, iv, protection, secret))


_FOREIGN = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
    UnsupportedAlgorithm,
    InvalidSignature,
)
"""What aioquic and X.509 raise for malformed input besides alerts."""
