"""X.509 certificates that carry a libp2p identity (libp2p tls), for TLS and QUIC alike.

The certificate's own key has nothing to do with the identity: an extension holds the identity's public key and
its signature over the certificate's key. X.509 is imported at the first use.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from talos.errors import BadSignature, HandshakeError, PeerIdMismatch, RemoteProtocolError
from talos.identity import der
from talos.identity.keys import PublicKey, check_rsa_numbers
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from cryptography import x509

    from talos.identity.keys import PrivateKey

__all__ = ["EXTENSION_OID", "MAX_CERTIFICATE_BYTES", "IdentityCertificate", "verify"]

EXTENSION_OID = "1.3.6.1.4.1.53594.1.1"
MAX_CERTIFICATE_BYTES = 8192
SIGNATURE_PREFIX = b"libp2p-tls-handshake:"

VALID_BEFORE = timedelta(hours=1)
"""How far back a certificate's life starts: clocks differ."""
VALID_AFTER = timedelta(days=36_525)

_VERSION, _EXTENSIONS = 0xA0, 0xA3
_ECDSA_WITH_SHA2 = bytes.fromhex("06082a8648ce3d0403")
"""The object identifier up to its last byte, which names the hash."""
_RSA = bytes.fromhex("06092a864886f70d0101")
_ED25519 = bytes.fromhex("06032b6570")
_CURVE_HASHES = {"secp256r1": "sha256", "secp384r1": "sha384", "secp521r1": "sha512"}
"""The pairs that TLS 1.3 has signature schemes for."""
_RSA_HASHES = frozenset(_CURVE_HASHES.values())


@dataclass(frozen=True, slots=True)
class IdentityCertificate:
    """A certificate of ours and its key, both in DER (the key as PKCS #8, a secret)."""

    certificate: bytes
    private_key: bytes

    @classmethod
    def make(cls, key: PrivateKey, *, now: datetime) -> Self:
        """A certificate for the identity `key` under a fresh P-256 key, valid from an hour before `now`.

        The libp2p extension is its first and only one (js-libp2p reads no other) and not critical. Make one
        when a transport is built and use it for all its connections. `now` is an aware datetime.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization as forms
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.hashes import SHA256

        certificate_key = ec.generate_private_key(ec.SECP256R1())
        public_key = certificate_key.public_key()
        spki = public_key.public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
        extension = der.encode(
            der.SEQUENCE,
            der.encode(der.OCTET_STRING, key.public_key.to_bytes()),
            der.encode(der.OCTET_STRING, key.sign(SIGNATURE_PREFIX + spki)),
        )
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "libp2p")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - VALID_BEFORE)
            .not_valid_after(now + VALID_AFTER)
            .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(EXTENSION_OID), extension), critical=False)
            .sign(certificate_key, SHA256())
        )
        return cls(
            certificate.public_bytes(forms.Encoding.DER),
            certificate_key.private_bytes(forms.Encoding.DER, forms.PrivateFormat.PKCS8, forms.NoEncryption()),
        )

    def __repr__(self) -> str:
        return f"<certificate of {len(self.certificate)} bytes and its key>"


def verify(chain: Sequence[bytes], *, now: datetime, expected: PeerId | None = None) -> PublicKey:
    """The identity that the only certificate of `chain` proves; each entry is DER.

    Checked in this order: one certificate of at most 8 KiB, its form, its dates against `now`, its own
    signature, the extension, no other critical one unknown, the extension's form, the key, the identity's
    signature, the peer id. Raises HandshakeError, BadSignature or PeerIdMismatch, nothing else.
    """
    if len(chain) != 1:
        raise HandshakeError(f"peer showed {len(chain)} certificates, exactly one is allowed")
    if len(chain[0]) > MAX_CERTIFICATE_BYTES:
        raise HandshakeError(f"certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")
    with _foreign_errors():
        key, signature, spki = _read_certificate(chain[0], now)
    try:
        key.verify(SIGNATURE_PREFIX + spki, signature)
    except BadSignature as error:
        raise BadSignature("the identity did not sign the certificate's key") from error
    actual = PeerId.from_key(key)
    if expected is not None and actual != expected:
        raise PeerIdMismatch(expected, actual)
    return key


def _read_certificate(data: bytes, now: datetime) -> tuple[PublicKey, bytes, bytes]:
    """Identity key, its signature and the certificate's SubjectPublicKeyInfo; all but the identity is checked."""
    from cryptography import x509

    spki = _subject_public_key_info(data)
    certificate = x509.load_der_x509_certificate(data)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise HandshakeError("certificate is expired or not yet valid")
    if not data.endswith(b"\0" + certificate.signature):  # the BIT STRING could leave out bits that are zero anyway
        raise HandshakeError("certificate's signature is not whole bytes")
    _check_algorithm(certificate)
    certificate.verify_directly_issued_by(certificate)
    key, signature = _read_extension(_identity_extension(certificate))
    return key, signature, spki


def _check_algorithm(certificate: x509.Certificate) -> None:
    """Lets through what TLS 1.3 can use, and of RSA only what is cheap to verify."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    key, hashed = certificate.public_key(), certificate.signature_hash_algorithm
    digest = hashed.name if hashed is not None else None
    if isinstance(key, ec.EllipticCurvePublicKey):
        known = digest is not None and _CURVE_HASHES.get(key.curve.name) == digest
    elif isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        check_rsa_numbers(numbers.n, numbers.e)
        known = digest in _RSA_HASHES
    else:
        known = isinstance(key, ed25519.Ed25519PublicKey)
    if not known:
        raise HandshakeError("certificate has a key or signature algorithm that is not accepted")


def _identity_extension(certificate: x509.Certificate) -> bytes:
    """The value of our extension, once it is sure that no other one has to be obeyed."""
    from cryptography import x509

    understood = (
        x509.BasicConstraints,
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.SubjectAlternativeName,
        x509.SubjectKeyIdentifier,
        x509.AuthorityKeyIdentifier,
    )
    found: bytes | None = None
    for extension in certificate.extensions:
        value = extension.value
        if extension.oid.dotted_string == EXTENSION_OID and isinstance(value, x509.UnrecognizedExtension):
            found = value.value
        elif extension.critical and not isinstance(value, understood):
            raise HandshakeError(f"certificate has the critical extension {extension.oid.dotted_string}")
    if found is None:
        raise HandshakeError("certificate without the libp2p extension")
    return found


def _read_extension(value: bytes) -> tuple[PublicKey, bytes]:
    outer = der.Reader(value)
    signed_key = der.Reader(outer.take(der.SEQUENCE))
    outer.end()
    key, signature = signed_key.take(der.OCTET_STRING), signed_key.take(der.OCTET_STRING)
    signed_key.end()
    return PublicKey.from_bytes(key), signature


def _subject_public_key_info(data: bytes) -> bytes:
    """The very bytes that are signed: encoding the parsed key again loses an algorithm such as RSASSA-PSS.

    On the way it refuses what the library would only print a warning about, in any peer's name.
    """
    outer = der.Reader(data)
    certificate = der.Reader(outer.take(der.SEQUENCE))
    outer.end()
    fields = der.Reader(certificate.take(der.SEQUENCE))
    algorithm = certificate.take(der.SEQUENCE)
    fields.take(_VERSION)
    if fields.take_integer() == 0:
        raise RemoteProtocolError("serial number of zero")
    if fields.take(der.SEQUENCE) != algorithm:
        raise RemoteProtocolError("two signature algorithms")
    if not algorithm.startswith((_ECDSA_WITH_SHA2, _RSA, _ED25519)):
        raise RemoteProtocolError("signature algorithm that is not accepted")
    if algorithm.startswith(_ECDSA_WITH_SHA2) and len(algorithm) > len(_ECDSA_WITH_SHA2) + 1:
        raise RemoteProtocolError("ECDSA with parameters")
    for _name in ("issuer", "validity", "subject"):
        fields.take(der.SEQUENCE)
    info = der.encode(der.SEQUENCE, fields.take(der.SEQUENCE))
    fields.take(_EXTENSIONS)  # nothing between: the unique ids of old are not allowed
    fields.end()
    return info


@contextmanager
def _foreign_errors() -> Iterator[None]:
    """The one seam where what X.509 and our readers raise becomes a failed handshake."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        yield
    except InvalidSignature as error:
        raise BadSignature("certificate is not signed by its own key") from error
    except (
        RemoteProtocolError,
        ValueError,
        TypeError,
        OverflowError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise HandshakeError(f"certificate is malformed: {error}") from error
