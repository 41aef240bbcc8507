"""Certificates of TLS and QUIC: whole ones, changed ones whose self-signature holds, and the extension alone."""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key

from talos.errors import HandshakeError
from talos.identity import der
from talos.identity.certificate import EXTENSION_OID, IdentityCertificate, verify
from talos.identity.keys import PrivateKey

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MADE = IdentityCertificate.make(PrivateKey.from_seed(bytes(32)), now=NOW)
KEY = load_der_private_key(MADE.private_key, None)
CERTIFICATE = x509.load_der_x509_certificate(MADE.certificate)
TBS = CERTIFICATE.tbs_certificate_bytes
EXTENSION = CERTIFICATE.extensions.get_extension_for_oid(x509.ObjectIdentifier(EXTENSION_OID)).value.public_bytes()
ALGORITHM = bytes.fromhex("300a06082a8648ce3d040302")


def target(data: bytes) -> None:
    """An identity, or HandshakeError with its kinds."""
    _verify(data)
    if len(data) < 4:
        return
    start = int.from_bytes(data[:2], "big") % len(TBS)
    end = start + data[2] % 8
    _verify(_signed(TBS[:start] + data[3:] + TBS[end:]))
    extension = der.encode(der.OCTET_STRING, EXTENSION)
    if len(data) < 8192:
        _verify(_signed(TBS.replace(extension, der.encode(der.OCTET_STRING, data))))


def _signed(tbs: bytes) -> bytes:
    if not isinstance(KEY, ec.EllipticCurvePrivateKey):
        raise TypeError("the certificate's key is on a curve")
    signature = KEY.sign(tbs, ec.ECDSA(SHA256()))
    return der.encode(der.SEQUENCE, tbs, ALGORITHM, der.encode(der.BIT_STRING, b"\0", signature))


def _verify(data: bytes) -> None:
    try:
        verify([data], now=NOW)
    except HandshakeError:
        return
