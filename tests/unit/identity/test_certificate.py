import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa

from talos.errors import BadSignature, HandshakeError, PeerIdMismatch
from talos.identity import der
from talos.identity.certificate import EXTENSION_OID, MAX_CERTIFICATE_BYTES, IdentityCertificate, verify
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "tls_certificates.json").read_text()
)["certificates"]
KEYS: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "vectors" / "peer_ids.json").read_text())["keys"]
ALGORITHMS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "tls_algorithms.json").read_text())
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY = PrivateKey.from_seed(bytes(range(32)))
CURVE_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
NAMELESS = x509.Name([])
SHA256 = hashes.SHA256()
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "libp2p")])
OURS = x509.ObjectIdentifier(EXTENSION_OID)


def spki_of(certificate_key: Any) -> bytes:
    data = certificate_key.public_key().public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    assert isinstance(data, bytes)
    return data


def proof(
    spki: bytes, key: PrivateKey = KEY, public: bytes | None = None, prefix: bytes = b"libp2p-tls-handshake:"
) -> bytes:
    return der.encode(
        der.SEQUENCE,
        der.encode(der.OCTET_STRING, key.public_key.to_bytes() if public is None else public),
        der.encode(der.OCTET_STRING, key.sign(prefix + spki)),
    )


def build(
    certificate_key: Any = CURVE_KEY,
    algorithm: Any = SHA256,
    *,
    extension: bytes | None = None,
    critical: bool = False,
    others: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    before: timedelta = timedelta(hours=-1),
    after: timedelta = timedelta(days=1),
    signer: Any = None,
    subject: x509.Name = NAME,
    **signing: Any,
) -> bytes:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(NAME).public_key(certificate_key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW + before).not_valid_after(NOW + after)
    for other, other_critical in others:
        builder = builder.add_extension(other, other_critical)
    value = proof(spki_of(certificate_key)) if extension is None else extension
    if value:
        builder = builder.add_extension(x509.UnrecognizedExtension(OURS, value), critical)
    return builder.sign(signer or certificate_key, algorithm, **signing).public_bytes(forms.Encoding.DER)


@pytest.mark.parametrize("vector", VECTORS[:3], ids=lambda vector: vector["name"])
def test_published_certificates(vector: dict[str, Any]) -> None:
    key = verify([bytes.fromhex(vector["certificate"])], now=NOW)
    assert str(PeerId.from_key(key)) == vector["peer_id"]
    assert key.type.name.lower() == vector["name"]


def test_published_invalid_certificate_fails_on_the_identity_alone() -> None:
    data = bytes.fromhex(VECTORS[3]["certificate"])
    certificate = x509.load_der_x509_certificate(data)
    certificate.verify_directly_issued_by(certificate)
    with pytest.raises(BadSignature, match="the identity did not sign"):
        verify([data], now=NOW)


@pytest.mark.parametrize("vector", ALGORITHMS["certificates"], ids=lambda vector: vector["name"])
def test_published_certificates_of_each_algorithm(vector: dict[str, Any]) -> None:
    chain, now = [bytes.fromhex(vector["certificate"])], datetime.fromisoformat(ALGORITHMS["at"])
    match vector["outcome"]:
        case "extension":
            with pytest.raises(BadSignature, match="the identity did not sign"):
                verify(chain, now=now)
        case "algorithm":
            with pytest.raises(HandshakeError, match="algorithm that is not accepted"):
                verify(chain, now=now)
        case peer_id:
            assert str(PeerId.from_key(verify(chain, now=now))) == peer_id


@pytest.mark.parametrize("vector", KEYS, ids=lambda vector: vector["type"])
def test_own_certificate_of_every_key_type(vector: dict[str, Any]) -> None:
    key = PrivateKey.from_bytes(bytes.fromhex(vector["private"]))
    made = IdentityCertificate.make(key, now=NOW)
    assert verify([made.certificate], now=NOW, expected=PeerId.parse(vector["peer_id"])) == key.public_key
    assert len(made.certificate) <= MAX_CERTIFICATE_BYTES


def test_shape_of_our_certificate() -> None:
    made, again = (IdentityCertificate.make(KEY, now=NOW) for _ in range(2))
    certificate = x509.load_der_x509_certificate(made.certificate)
    assert [(entry.oid.dotted_string, entry.critical) for entry in certificate.extensions] == [(EXTENSION_OID, False)]
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    assert certificate.not_valid_after_utc.year == 2126 or certificate.not_valid_after_utc.year == 2125
    public = certificate.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(public.curve, ec.SECP256R1)
    private = forms.load_der_private_key(made.private_key, None)
    assert spki_of(private) == public.public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    assert made.private_key != again.private_key
    assert repr(made) == f"<certificate of {len(made.certificate)} bytes and its key>"


def test_exactly_one_certificate() -> None:
    made = IdentityCertificate.make(KEY, now=NOW).certificate
    for chain in ([], [made, made]):
        with pytest.raises(HandshakeError, match="exactly one"):
            verify(chain, now=NOW)


def test_another_peer_was_dialled() -> None:
    expected = PeerId.from_key(PrivateKey.generate().public_key)
    with pytest.raises(PeerIdMismatch) as caught:
        verify([build()], now=NOW, expected=expected)
    assert caught.value.expected == expected
    assert caught.value.actual == PeerId.from_key(KEY.public_key)


@pytest.mark.parametrize(
    ("before", "after", "good"),
    [
        (timedelta(0), timedelta(days=1), True),
        (timedelta(days=-1), timedelta(0), True),
        (timedelta(seconds=1), timedelta(days=1), False),
        (timedelta(days=-1), timedelta(seconds=-1), False),
    ],
)
def test_dates(before: timedelta, after: timedelta, *, good: bool) -> None:
    data = build(before=before, after=after)
    if good:
        verify([data], now=NOW)
    else:
        with pytest.raises(HandshakeError, match="expired or not yet valid"):
            verify([data], now=NOW)


ACCEPTED: dict[str, Callable[[], bytes]] = {
    "ed25519": lambda: build(ed25519.Ed25519PrivateKey.generate(), None),
    "p256 sha256": build,
    "p384 sha384": lambda: build(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
    "p521 sha512": lambda: build(ec.generate_private_key(ec.SECP521R1()), hashes.SHA512()),
    "rsa sha256": lambda: build(RSA_KEY, hashes.SHA256()),
    "rsa sha384": lambda: build(RSA_KEY, hashes.SHA384()),
    "rsa sha512": lambda: build(RSA_KEY, hashes.SHA512()),
    "rsa pss": lambda: build(RSA_KEY, hashes.SHA384(), rsa_padding=padding.PSS(padding.MGF1(hashes.SHA384()), 48)),
    "our extension critical": lambda: build(critical=True),
    "constraints before ours": lambda: build(others=((x509.BasicConstraints(ca=True, path_length=None), True),)),
    "unknown one not critical": lambda: build(
        others=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x"), False),)
    ),
    "no name at all": lambda: build_nameless(NAMELESS),
}


def build_nameless(name: x509.Name) -> bytes:
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(CURVE_KEY.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW)
    builder = builder.add_extension(x509.UnrecognizedExtension(OURS, proof(spki_of(CURVE_KEY))), critical=False)
    return builder.sign(CURVE_KEY, hashes.SHA256()).public_bytes(forms.Encoding.DER)


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    assert verify([ACCEPTED[name]()], now=NOW) == KEY.public_key


def raw_proof(*parts: bytes) -> bytes:
    return der.encode(der.SEQUENCE, *(der.encode(der.OCTET_STRING, part) for part in parts))


SPKI = spki_of(CURVE_KEY)
PUBLIC = KEY.public_key.to_bytes()
SIGNATURE = KEY.sign(b"libp2p-tls-handshake:" + SPKI)
SMALL_ORDER = b"\x08\x01\x12\x20\x01" + bytes(31)
VICTIM = PrivateKey.generate()

REFUSED: dict[str, tuple[Callable[[], bytes], type[HandshakeError]]] = {
    "no extension": (lambda: build(extension=b""), HandshakeError),
    "another extension's id": (
        lambda: build(
            extension=b"",
            others=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.2"), proof(SPKI)), False),),
        ),
        HandshakeError,
    ),
    "unknown critical extension": (
        lambda: build(others=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x"), True),)),
        HandshakeError,
    ),
    "critical extension that is not obeyed": (
        lambda: build(others=((x509.NameConstraints([x509.DNSName("a")], None), True),)),
        HandshakeError,
    ),
    "extension is no sequence": (lambda: build(extension=b"\x04\x00"), HandshakeError),
    "extension lacks the signature": (lambda: build(extension=raw_proof(PUBLIC)), HandshakeError),
    "extension has three parts": (lambda: build(extension=raw_proof(PUBLIC, SIGNATURE, b"")), HandshakeError),
    "bytes behind the extension": (lambda: build(extension=raw_proof(PUBLIC, SIGNATURE) + b"\0"), HandshakeError),
    "empty key": (lambda: build(extension=raw_proof(b"", SIGNATURE)), HandshakeError),
    "key in another encoding": (lambda: build(extension=raw_proof(PUBLIC[2:] + PUBLIC[:2], SIGNATURE)), HandshakeError),
    "small-order key": (lambda: build(extension=raw_proof(SMALL_ORDER, b"\x01" + bytes(63))), BadSignature),
    "empty signature": (lambda: build(extension=raw_proof(PUBLIC, b"")), BadSignature),
    "signature without its prefix": (lambda: build(extension=proof(SPKI, prefix=b"")), BadSignature),
    "signature over another key": (lambda: build(extension=proof(spki_of(RSA_KEY))), BadSignature),
    "signature by another identity": (
        lambda: build(extension=proof(SPKI, public=VICTIM.public_key.to_bytes())),
        BadSignature,
    ),
    "victim's extension": (
        lambda: build(extension=proof(spki_of(ec.generate_private_key(ec.SECP256R1())), VICTIM)),
        BadSignature,
    ),
    "signed by another key": (lambda: build(signer=ec.generate_private_key(ec.SECP256R1())), BadSignature),
    "issued by another name": (
        lambda: build(subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])),
        HandshakeError,
    ),
    "p384 sha256": (lambda: build(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()), HandshakeError),
    "p256 sha3": (lambda: build(algorithm=hashes.SHA3_256()), HandshakeError),
    "secp256k1": (lambda: build(ec.generate_private_key(ec.SECP256K1())), HandshakeError),
    "ed448": (lambda: build(ed448.Ed448PrivateKey.generate(), None), HandshakeError),
    "dsa": (lambda: build(dsa.generate_private_key(1024)), HandshakeError),
    "rsa 1024": (lambda: build(rsa.generate_private_key(65537, 1024)), BadSignature),
    "rsa sha224": (lambda: build(RSA_KEY, hashes.SHA224()), HandshakeError),
    "too long": (
        lambda: build(others=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(8192)), False),)),
        HandshakeError,
    ),
    "empty": (lambda: b"", HandshakeError),
    "not a certificate": (lambda: b"\x30\x00", HandshakeError),
    "bytes behind it": (lambda: build() + b"\0", HandshakeError),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, error = REFUSED[name]
    with pytest.raises(error):
        verify([make()], now=NOW, expected=PeerId.from_key(KEY.public_key))


def forge(tbs: bytes, algorithm: bytes = bytes.fromhex("300a06082a8648ce3d040302")) -> bytes:
    """The certificate of these contents, signed once more."""
    signature = CURVE_KEY.sign(tbs, ec.ECDSA(SHA256))
    return der.encode(der.SEQUENCE, tbs, algorithm, der.encode(der.BIT_STRING, b"\0", signature))


def test_same_extension_twice_is_refused() -> None:
    first, second = (x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.4.{n}"), b"x") for n in (5, 6))
    tbs = x509.load_der_x509_certificate(build(others=((first, False), (second, False)))).tbs_certificate_bytes
    doubled = tbs.replace(bytes.fromhex("2a030406"), bytes.fromhex("2a030405"))
    assert doubled.count(bytes.fromhex("2a030405")) == 2
    with pytest.raises(HandshakeError, match="malformed"):
        verify([forge(doubled)], now=NOW)


def test_what_the_library_only_warns_about_is_refused() -> None:
    tbs = x509.load_der_x509_certificate(build()).tbs_certificate_bytes
    serial, algorithm = bytes.fromhex("020101"), bytes.fromhex("300a06082a8648ce3d040302")
    body = der.Reader(tbs).take(der.SEQUENCE)
    assert verify([forge(tbs)], now=NOW) == KEY.public_key
    for bad in (bytes.fromhex("020100"), bytes.fromhex("020181")):
        with pytest.raises(HandshakeError):
            verify([forge(tbs.replace(serial, bad, 1))], now=NOW)
    with pytest.raises(HandshakeError, match="two signature algorithms"):
        verify([forge(tbs, bytes.fromhex("300a06082a8648ce3d040303"))], now=NOW)
    null = bytes.fromhex("300c06082a8648ce3d0403020500")
    with pytest.raises(HandshakeError, match="ECDSA with parameters"):
        verify([forge(der.encode(der.SEQUENCE, body.replace(algorithm, null, 1)), null)], now=NOW)


def test_unique_ids_are_refused() -> None:
    body = der.Reader(x509.load_der_x509_certificate(build()).tbs_certificate_bytes).take(der.SEQUENCE)
    position = body.index(SPKI) + len(SPKI)
    with pytest.raises(HandshakeError, match="malformed"):
        verify([forge(der.encode(der.SEQUENCE, body[:position], b"\x81\x02\x00x", body[position:]))], now=NOW)


def test_every_changed_byte_is_refused() -> None:
    data = build()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        with pytest.raises(HandshakeError):
            verify([bytes(changed)], now=NOW)


def test_a_signature_is_whole_bytes() -> None:
    """Bits that the BIT STRING calls unused would change nothing where they are zero."""
    while (data := build())[-1] & 0b11:
        pass
    signature = x509.load_der_x509_certificate(data).signature
    changed = bytearray(data)
    changed[-len(signature) - 1] = 2
    with pytest.raises(HandshakeError, match="whole bytes"):
        verify([bytes(changed)], now=NOW)


def test_every_truncation_is_refused() -> None:
    data = build()
    for end in range(0, len(data), 3):
        with pytest.raises(HandshakeError):
            verify([data[:end]], now=NOW)


def test_errors_do_not_come_from_elsewhere_when_the_signature_holds() -> None:
    """Changed bytes behind a fresh self-signature reach the checks that lie deeper."""
    tbs = x509.load_der_x509_certificate(build()).tbs_certificate_bytes
    outcomes = set()
    for position in range(len(tbs)):
        changed = bytearray(tbs)
        changed[position] ^= 1 << position % 8
        try:
            assert verify([forge(bytes(changed))], now=NOW) == KEY.public_key
            outcomes.add("another name, date or serial")
        except HandshakeError as error:
            outcomes.add(re.sub(r"[:(].*", "", str(error)))
    assert outcomes >= {
        "another name, date or serial",
        "certificate without the libp2p extension",
        "the identity did not sign the certificate's key",
    }
