"""Keys of peers: Ed25519, RSA, ECDSA P-256 and secp256k1, in their one protobuf form (libp2p peer-ids).

A peer id is made from the bytes of a public key, so a key must have exactly one encoding: what would not
encode to the same bytes again is refused. All four types are verified; new keys are Ed25519 only.

A received key that is malformed raises RemoteProtocolError, one that must not be used (an RSA key out of
range, an Ed25519 point that verifies what was never signed) raises BadSignature, both before any costly work.
The parts of `cryptography` are imported when a key of their type is first met.
"""

from __future__ import annotations

import enum
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from talos.errors import BadSignature, ConfigError, RemoteProtocolError
from talos.identity import der
from talos.wire import varint

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "MAX_PUBLIC_KEY_BYTES",
    "MAX_RSA_BITS",
    "MIN_RSA_BITS",
    "KeyType",
    "PrivateKey",
    "PublicKey",
    "check_ed25519",
    "check_rsa_numbers",
]

MAX_PUBLIC_KEY_BYTES = 2048
"""Longest serialized public key: an RSA key of 8192 bits takes 1,062 bytes."""
MAX_PRIVATE_KEY_BYTES = 8192
"""Longest serialized private key: an RSA key of 8192 bits takes about 4,700 bytes."""
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
MAX_RSA_EXPONENT_BITS = 31
"""Verifying costs time in proportion to the exponent's length; others accept no more than 31 bits either."""


class KeyType(enum.IntEnum):
    """Key types by their number on the wire."""

    RSA = 0
    ED25519 = 1
    SECP256K1 = 2
    ECDSA = 3


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key; `data` is its form within the protobuf message (raw, compressed point, or PKIX DER).

    Building one checks it: RemoteProtocolError for what is malformed, BadSignature for what must not be used.
    """

    type: KeyType
    data: bytes
    _verify: Callable[[bytes, bytes], None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.data) > MAX_PUBLIC_KEY_BYTES:
            raise RemoteProtocolError(f"public key is longer than {MAX_PUBLIC_KEY_BYTES} bytes")
        object.__setattr__(self, "_verify", _LOADERS[self.type](self.data))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The key in a serialized PublicKey message."""
        if len(data) > MAX_PUBLIC_KEY_BYTES:
            raise RemoteProtocolError(f"public key is longer than {MAX_PUBLIC_KEY_BYTES} bytes")
        return cls(*_decode_message(data))

    def to_bytes(self) -> bytes:
        """The serialized PublicKey message, from which the peer id is made."""
        return _encode_message(self.type, self.data)

    def verify(self, data: bytes, signature: bytes) -> None:
        """Returns when `signature` over `data` holds, else raises BadSignature."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._verify(signature, data)
        except (InvalidSignature, ValueError) as error:
            raise BadSignature(f"signature does not hold under this {self.type.name} key") from error

    def __repr__(self) -> str:
        return f"PublicKey({self.type.name}, {self.data[-32:].hex()})"


class PrivateKey:
    """A private key; it never shows its bytes but through `to_bytes`.

    Only keys of our own are ever loaded, so a bad one is a ConfigError.
    """

    __slots__ = ("_data", "_sign", "public_key", "type")

    type: KeyType
    public_key: PublicKey

    def __init__(self, type: KeyType, data: bytes) -> None:  # noqa: A002 - the field's name in the message
        try:
            canonical, public_data, sign = _PRIVATE_LOADERS[type](data)
            self.public_key = PublicKey(type, public_data)
        except (ValueError, RemoteProtocolError, BadSignature):
            # Nothing of the cause is kept: a parser's message may quote what it read.
            raise ConfigError(f"not a usable {type.name} private key") from None
        self.type = type
        self._data = canonical
        self._sign = sign

    @classmethod
    def generate(cls) -> Self:
        """A new Ed25519 key."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls.from_seed(Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The Ed25519 key of a 32-byte seed."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if len(seed) != 32:
            raise ConfigError("an Ed25519 seed has 32 bytes")
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        return cls(KeyType.ED25519, seed + public)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The key in a serialized PrivateKey message, as key files hold it."""
        if len(data) > MAX_PRIVATE_KEY_BYTES:
            raise ConfigError(f"private key is longer than {MAX_PRIVATE_KEY_BYTES} bytes")
        try:
            key_type, key_data = _decode_message(data)
        except RemoteProtocolError as error:
            raise ConfigError("not a serialized private key") from error
        return cls(key_type, key_data)

    def to_bytes(self) -> bytes:
        """The serialized PrivateKey message: a secret."""
        return _encode_message(self.type, self._data)

    def sign(self, data: bytes) -> bytes:
        """A signature over `data`, which must begin with a prefix that no other use of the key has."""
        return self._sign(data)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PrivateKey):
            return NotImplemented
        return self.type == other.type and hmac.compare_digest(self._data, other._data)

    def __hash__(self) -> int:
        return hash(self.public_key)

    def __repr__(self) -> str:
        return f"<private key of {self.public_key!r}>"

    def __reduce__(self) -> str:
        raise TypeError("a private key is not pickled")


def _encode_message(key_type: KeyType, data: bytes) -> bytes:
    """Both fields in order; a type of zero (RSA) is written too, which a proto3 encoder would leave out."""
    return bytes((0x08, key_type, 0x12)) + varint.encode(len(data)) + data


def _decode_message(data: bytes) -> tuple[KeyType, bytes]:
    if len(data) < 4 or data[0] != 0x08 or data[1] > KeyType.ECDSA or data[2] != 0x12:
        raise RemoteProtocolError("not a key of a known type in its deterministic form")
    header = varint.decode(data, 3)
    if header is None or header[0] != len(data) - header[1]:
        raise RemoteProtocolError("key does not end where its length says")
    return KeyType(data[1]), data[header[1] :]


# -- Ed25519 --------------------------------------------------------------------------------------------

_ED25519_P = 2**255 - 19
_ED25519_SMALL_ORDER = frozenset(
    {
        0,  # order 4
        1,  # the neutral point
        _ED25519_P - 1,  # order 2
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
    }
)
"""The y of every point of order 1, 2, 4 and 8, the last two listed by their bytes."""


def check_ed25519(data: bytes) -> None:
    """Raises RemoteProtocolError or BadSignature for 32 bytes that must not be used as a public key."""
    if len(data) != 32:
        raise RemoteProtocolError("an Ed25519 public key has 32 bytes")
    y = int.from_bytes(data, "little") & ~(1 << 255)
    # The library takes these keys. A signature that holds for every message can be made under the neutral
    # point, one for about half of them under a point of order 2; a y not below p is a second name of a key.
    if y >= _ED25519_P or y in _ED25519_SMALL_ORDER:
        raise BadSignature("Ed25519 public key is of small order or not canonical")


def _load_ed25519(data: bytes) -> Callable[[bytes, bytes], None]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    check_ed25519(data)
    return Ed25519PublicKey.from_public_bytes(data).verify


def _load_private_ed25519(data: bytes) -> tuple[bytes, bytes, Callable[[bytes], bytes]]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed, public = data[:32], data[32:64]
    # Old files hold the public half twice.
    if not (len(data) == 64 or (len(data) == 96 and data[64:] == public)):
        raise ConfigError("an Ed25519 private key has 64 bytes, or 96 with two equal public halves")
    key = Ed25519PrivateKey.from_private_bytes(seed)
    if key.public_key().public_bytes_raw() != public:
        raise ConfigError("the halves of an Ed25519 private key do not belong together")
    return seed + public, public, key.sign


# -- secp256k1 and ECDSA P-256 --------------------------------------------------------------------------

_SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

# SubjectPublicKeyInfo { { id-ecPublicKey, prime256v1 }, BIT STRING of an uncompressed point } up to its `04`.
_P256_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


def _load_secp256k1(data: bytes) -> Callable[[bytes, bytes], None]:
    from cryptography.hazmat.primitives.asymmetric import ec

    if len(data) != 33:
        raise RemoteProtocolError("a secp256k1 public key has 33 bytes")
    return _load_point(ec.SECP256K1(), data)


def _load_ecdsa(data: bytes) -> Callable[[bytes, bytes], None]:
    from cryptography.hazmat.primitives.asymmetric import ec

    prefix = len(_P256_PREFIX)
    if len(data) != prefix + 65 or data[:prefix] != _P256_PREFIX:
        raise RemoteProtocolError("an ECDSA public key is a P-256 key in PKIX DER with its point uncompressed")
    return _load_point(ec.SECP256R1(), data[prefix:])


def _load_point(curve: Any, point: bytes) -> Callable[[bytes, bytes], None]:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    except ValueError as error:
        raise RemoteProtocolError(f"not a point of {curve.name}") from error
    algorithm = ec.ECDSA(SHA256())
    return lambda signature, data: key.verify(signature, data, algorithm)


def _load_private_secp256k1(data: bytes) -> tuple[bytes, bytes, Callable[[bytes], bytes]]:
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.hashes import SHA256

    if len(data) != 32:
        raise ConfigError("a secp256k1 private key has 32 bytes")
    key = ec.derive_private_key(int.from_bytes(data, "big"), ec.SECP256K1())
    point = key.public_key().public_numbers()
    algorithm = ec.ECDSA(SHA256())

    def sign(message: bytes) -> bytes:
        r, s = utils.decode_dss_signature(key.sign(message, algorithm))
        # Bitcoin's rule (BIP 62), which some peers demand: of the two valid s, the lower one.
        return utils.encode_dss_signature(r, min(s, _SECP256K1_ORDER - s))

    return data, bytes((2 + (point.y & 1),)) + point.x.to_bytes(32, "big"), sign


def _load_private_ecdsa(data: bytes) -> tuple[bytes, bytes, Callable[[bytes], bytes]]:
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    # Reads SEC1 ECPrivateKey, as the vectors have it, and PKCS #8, as the text may be read.
    key = _load_der(data)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("not an elliptic curve key")
    public = key.public_key().public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    sec1 = key.private_bytes(forms.Encoding.DER, forms.PrivateFormat.TraditionalOpenSSL, forms.NoEncryption())
    algorithm = ec.ECDSA(SHA256())
    return sec1, public, lambda message: key.sign(message, algorithm)


# -- RSA ------------------------------------------------------------------------------------------------

# AlgorithmIdentifier { rsaEncryption, NULL }
_RSA_ALGORITHM = bytes.fromhex("300d06092a864886f70d0101010500")


def check_rsa_numbers(modulus: int, exponent: int) -> None:
    """BadSignature unless the key is of 2048 to 8192 bits with an exponent that is cheap to verify with."""
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
        raise BadSignature(f"RSA key of {modulus.bit_length()} bits, {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted")
    if exponent.bit_length() > MAX_RSA_EXPONENT_BITS or exponent < 3 or not exponent & modulus & 1:
        raise BadSignature("RSA exponent is out of range, or the modulus is even")


def _load_rsa(data: bytes) -> Callable[[bytes, bytes], None]:
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256

    modulus, exponent = _read_rsa(data)
    check_rsa_numbers(modulus, exponent)
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    scheme, algorithm = padding.PKCS1v15(), SHA256()
    return lambda signature, message: key.verify(signature, message, scheme, algorithm)


def _read_rsa(data: bytes) -> tuple[int, int]:
    """Modulus and exponent of a PKIX key, by our own reader: its size is known before a library sees it."""
    outer = der.Reader(data)
    info = der.Reader(outer.take(der.SEQUENCE))
    outer.end()
    if der.encode(der.SEQUENCE, info.take(der.SEQUENCE)) != _RSA_ALGORITHM:
        raise RemoteProtocolError("an RSA public key names another algorithm")
    bits = info.take(der.BIT_STRING)
    info.end()
    if bits[:1] != b"\0":
        raise RemoteProtocolError("an RSA public key is not a whole number of bytes")
    wrapped = der.Reader(bits[1:])
    numbers = der.Reader(wrapped.take(der.SEQUENCE))
    wrapped.end()
    modulus, exponent = numbers.take_integer(), numbers.take_integer()
    numbers.end()
    return modulus, exponent


def _load_private_rsa(data: bytes) -> tuple[bytes, bytes, Callable[[bytes], bytes]]:
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256

    key = _load_der(data)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigError("not an RSA key")
    public = key.public_key().public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    pkcs1 = key.private_bytes(forms.Encoding.DER, forms.PrivateFormat.TraditionalOpenSSL, forms.NoEncryption())
    scheme, algorithm = padding.PKCS1v15(), SHA256()
    return pkcs1, public, lambda message: key.sign(message, scheme, algorithm)


def _load_der(data: bytes) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    try:
        return load_der_private_key(data, None)
    except (TypeError, UnsupportedAlgorithm) as error:  # encrypted; of a curve that is not supported
        raise ValueError("not a private key in DER") from error


_LOADERS: dict[KeyType, Callable[[bytes], Callable[[bytes, bytes], None]]] = {
    KeyType.RSA: _load_rsa,
    KeyType.ED25519: _load_ed25519,
    KeyType.SECP256K1: _load_secp256k1,
    KeyType.ECDSA: _load_ecdsa,
}
_PRIVATE_LOADERS: dict[KeyType, Callable[[bytes], tuple[bytes, bytes, Callable[[bytes], bytes]]]] = {
    KeyType.RSA: _load_private_rsa,
    KeyType.ED25519: _load_private_ed25519,
    KeyType.SECP256K1: _load_private_secp256k1,
    KeyType.ECDSA: _load_private_ecdsa,
}
