import json
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils

from talos.errors import BadSignature, ConfigError, RemoteProtocolError
from talos.identity import der
from talos.identity.keys import MAX_PUBLIC_KEY_BYTES, KeyType, PrivateKey, PublicKey
from talos.wire.pb import keys_pb2

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "vectors" / "peer_ids.json").read_text())[
    "keys"
]
BY_TYPE = {vector["type"]: vector for vector in VECTORS}
SEED = bytes(range(32))
P = 2**255 - 19
SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["type"])


def private(name: str) -> PrivateKey:
    return PrivateKey.from_bytes(bytes.fromhex(BY_TYPE[name]["private"]))


def message(key_type: int, data: bytes) -> bytes:
    return keys_pb2.PublicKey(Type=keys_pb2.KeyType.Name(key_type), Data=data).SerializeToString()  # type: ignore[arg-type]


def rsa_data(modulus: int, exponent: int = 65537) -> bytes:
    numbers = der.encode(der.SEQUENCE, der.encode_integer(modulus), der.encode_integer(exponent))
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    return der.encode(der.SEQUENCE, algorithm, der.encode(der.BIT_STRING, b"\0", numbers))


@each_vector
def test_published_private_key_gives_the_published_public_key(vector: dict[str, Any]) -> None:
    key = PrivateKey.from_bytes(bytes.fromhex(vector["private"]))
    assert key.to_bytes().hex() == vector["private"]
    assert key.public_key.to_bytes().hex() == vector["public"]
    assert key.public_key == PublicKey.from_bytes(bytes.fromhex(vector["public"]))
    assert key.type.name.lower() == vector["type"]


@each_vector
def test_encoding_is_what_a_proto2_encoder_writes(vector: dict[str, Any]) -> None:
    key = PublicKey.from_bytes(bytes.fromhex(vector["public"]))
    assert message(key.type, key.data).hex() == vector["public"]


@each_vector
def test_signature_holds_for_its_message_and_key_alone(vector: dict[str, Any]) -> None:
    key = PrivateKey.from_bytes(bytes.fromhex(vector["private"]))
    signature = key.sign(b"message")
    key.public_key.verify(b"message", signature)
    with pytest.raises(BadSignature):
        key.public_key.verify(b"massage", signature)
    with pytest.raises(BadSignature):
        PrivateKey.generate().public_key.verify(b"message", signature)
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(len(signature)), b"\xff" * 64):
        with pytest.raises(BadSignature):
            key.public_key.verify(b"message", wrong)


@each_vector
def test_every_changed_byte_of_a_serialized_key_is_refused_or_another_key(vector: dict[str, Any]) -> None:
    original = bytes.fromhex(vector["public"])
    key = PublicKey.from_bytes(original)
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 1 << position % 8
        try:
            other = PublicKey.from_bytes(bytes(changed))
        except (RemoteProtocolError, BadSignature):
            continue
        assert other.to_bytes() == bytes(changed)
        assert other != key


def test_rsa_type_of_zero_is_written() -> None:
    assert private("rsa").public_key.to_bytes()[:2] == b"\x08\x00"


@pytest.mark.parametrize(
    "serialized",
    [
        b"",
        b"\x08\x01",
        b"\x08\x01\x12",
        b"\x08\x01\x12\x20" + SEED[:-1],  # cut
        b"\x08\x01\x12\x20" + SEED + b"\0",  # more behind it
        b"\x08\x01\x12\xa0\x00" + SEED,  # a length that is not minimal
        b"\x08\x81\x00\x12\x20" + SEED,  # a type that is not minimal
        b"\x12\x20" + SEED + b"\x08\x01",  # out of order
        b"\x12\x20" + SEED,  # no type
        b"\x08\x01\x12\x20" + SEED + b"\x18\x01",  # another field
        b"\x08\x01\x12\x20" + SEED + b"\x12\x20" + SEED,  # a field twice
        b"\x08\x04\x12\x20" + SEED,  # no such type
        b"\x08\x01\x12\x1f" + SEED[:-1],  # too short for its type
        b"\x08\x02\x12\x20" + SEED,
        b"\x08\x01\x12\x80\x10" + bytes(MAX_PUBLIC_KEY_BYTES),
    ],
)
def test_other_encodings_are_refused(serialized: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        PublicKey.from_bytes(serialized)


def test_key_data_over_the_limit_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="longer than 2048"):
        PublicKey(KeyType.RSA, bytes(MAX_PUBLIC_KEY_BYTES + 1))


SMALL_ORDER_Y = (
    0,
    1,
    P - 1,
    int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
    int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
)


@pytest.mark.parametrize("sign", [0, 1 << 255])
@pytest.mark.parametrize("y", [*SMALL_ORDER_Y, P, P + 1, P + 3, 2**255 - 1])
def test_small_order_and_non_canonical_ed25519_keys_are_refused(y: int, sign: int) -> None:
    with pytest.raises(BadSignature):
        PublicKey(KeyType.ED25519, (y | sign).to_bytes(32, "little"))


def test_the_guard_is_needed_for_the_library_takes_the_neutral_point() -> None:
    neutral = (1).to_bytes(32, "little")
    ed25519.Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"never signed by anybody")


def test_order_eight_points_have_order_eight() -> None:
    d = -121665 * pow(121666, -1, P) % P
    for y in SMALL_ORDER_Y[3:]:
        x_squared = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        # Doubling a point (x, y) gives y' = (y² + x²) / (1 - d x² y²); order 8 means that doubling twice gives y = -1.
        doubled = (y * y + x_squared) * pow(1 - d * x_squared * y * y, -1, P) % P
        assert doubled == 0


def test_ed25519_signature_with_a_large_s_is_refused() -> None:
    key = PrivateKey.from_seed(SEED)
    signature = key.sign(b"m")
    order = 2**252 + 27742317777372353535851937790883648493
    large = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(BadSignature):
        key.public_key.verify(b"m", signature[:32] + large.to_bytes(32, "little"))


@pytest.mark.parametrize("bits", [512, 1024, 2047, 8193, 65_536])
def test_rsa_key_out_of_range_is_refused_before_costly_work(bits: int) -> None:
    serialized = message(0, rsa_data((1 << bits) - 1))
    private("rsa")  # the library is imported by now
    start = time.process_time()
    with pytest.raises((BadSignature, RemoteProtocolError)):
        PublicKey.from_bytes(serialized)
    with pytest.raises((BadSignature, RemoteProtocolError)):
        PublicKey(KeyType.RSA, rsa_data((1 << bits) - 1))
    assert time.process_time() - start < 0.020


@pytest.mark.parametrize("bits", [2048, 8192])
def test_rsa_key_within_range_is_taken(bits: int) -> None:
    data = rsa_data((1 << bits) - 1)
    assert PublicKey.from_bytes(message(0, data)).data == data


@pytest.mark.parametrize(
    ("modulus", "exponent"), [((1 << 2048) - 1, 1), ((1 << 2048) - 1, 1 << 16), ((1 << 2048) - 2, 3)]
)
def test_rsa_numbers_that_are_no_key_are_refused(modulus: int, exponent: int) -> None:
    with pytest.raises(BadSignature):
        PublicKey(KeyType.RSA, rsa_data(modulus, exponent))


def test_rsa_exponent_that_makes_verifying_slow_is_refused() -> None:
    with pytest.raises(BadSignature):
        PublicKey(KeyType.RSA, rsa_data((1 << 2048) - 1, (1 << 2047) + 1))


def test_rsa_key_in_another_encoding_is_refused() -> None:
    good = private("rsa").public_key.data
    modulus, exponent = (1 << 2048) - 1, 65537
    numbers = der.encode(der.SEQUENCE, der.encode_integer(modulus), der.encode_integer(exponent))
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    pss = bytes.fromhex("300d06092a864886f70d01010a0500")
    bad = [
        good + b"\0",
        b"\x30\x83\x00" + good[2:],
        der.encode(der.SEQUENCE, pss, der.encode(der.BIT_STRING, b"\0", numbers)),
        der.encode(der.SEQUENCE, algorithm, der.encode(der.BIT_STRING, b"\1", numbers)),
        der.encode(der.SEQUENCE, algorithm, der.encode(der.BIT_STRING)),
        der.encode(der.SEQUENCE, algorithm, der.encode(der.BIT_STRING, b"\0", numbers, b"\0")),
        der.encode(der.SEQUENCE, algorithm, der.encode(der.BIT_STRING, b"\0", numbers), b"\5\0"),
    ]
    for data in bad:
        with pytest.raises(RemoteProtocolError):
            PublicKey(KeyType.RSA, data)


def test_curve_points_that_are_none_are_refused() -> None:
    ecdsa = private("ecdsa").public_key.data
    with pytest.raises(RemoteProtocolError):
        PublicKey(KeyType.ECDSA, ecdsa[:-1] + bytes((ecdsa[-1] ^ 1,)))  # not on the curve
    with pytest.raises(RemoteProtocolError):
        PublicKey(KeyType.SECP256K1, b"\x02" + (2**256 - 2**32 - 977 + 1).to_bytes(32, "big"))  # x above the field
    with pytest.raises(RemoteProtocolError):
        PublicKey(KeyType.SECP256K1, b"\x04" + bytes(32))


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_ecdsa_is_p256_alone(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    public = key.public_key().public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(RemoteProtocolError):
        PublicKey(KeyType.ECDSA, public)
    sec1 = key.private_bytes(forms.Encoding.DER, forms.PrivateFormat.TraditionalOpenSSL, forms.NoEncryption())
    with pytest.raises(ConfigError):
        PrivateKey(KeyType.ECDSA, sec1)


def test_secp256k1_signatures_have_a_low_s() -> None:
    key = private("secp256k1")
    for number in range(16):
        _, s = utils.decode_dss_signature(key.sign(bytes((number,))))
        assert s <= SECP256K1_ORDER // 2


def test_old_form_of_an_ed25519_private_key() -> None:
    key = PrivateKey.generate()
    data = key.to_bytes()[4:]
    assert PrivateKey(KeyType.ED25519, data + data[32:]) == key
    assert PrivateKey(KeyType.ED25519, data + data[32:]).to_bytes() == key.to_bytes()
    for bad in (data + SEED, data[:32] + SEED, data[:32], data + data[32:] + b"\0"):
        with pytest.raises(ConfigError):
            PrivateKey(KeyType.ED25519, bad)


def test_ecdsa_private_key_in_pkcs8_is_read_and_written_as_sec1() -> None:
    vector = private("ecdsa")
    loaded = forms.load_der_private_key(vector.to_bytes()[3 + 1 :], None)
    pkcs8 = loaded.private_bytes(forms.Encoding.DER, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    assert PrivateKey(KeyType.ECDSA, pkcs8) == vector


@pytest.mark.parametrize(
    ("key_type", "data"),
    [
        (KeyType.RSA, b""),
        (KeyType.RSA, bytes.fromhex(BY_TYPE["ecdsa"]["private"])[4:]),
        (KeyType.ECDSA, b"\x30\x00"),
        (KeyType.ECDSA, bytes.fromhex(BY_TYPE["rsa"]["private"])[5:]),
        (KeyType.SECP256K1, bytes(32)),
        (KeyType.SECP256K1, SECP256K1_ORDER.to_bytes(32, "big")),
        (KeyType.SECP256K1, bytes(31)),
    ],
)
def test_bad_private_key_is_a_config_error_that_quotes_nothing(key_type: KeyType, data: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        PrivateKey(key_type, data)
    assert caught.value.__cause__ is None


def test_encrypted_and_small_private_keys_are_config_errors() -> None:
    key = rsa.generate_private_key(65537, 1024)
    small = key.private_bytes(forms.Encoding.DER, forms.PrivateFormat.TraditionalOpenSSL, forms.NoEncryption())
    locked = key.private_bytes(forms.Encoding.DER, forms.PrivateFormat.PKCS8, forms.BestAvailableEncryption(b"x"))
    for data in (small, locked):
        with pytest.raises(ConfigError):
            PrivateKey(KeyType.RSA, data)


@pytest.mark.parametrize("serialized", [b"", b"\x08\x01", bytes(8193)])
def test_what_is_no_private_key_message_is_a_config_error(serialized: bytes) -> None:
    with pytest.raises(ConfigError):
        PrivateKey.from_bytes(serialized)


def test_seed_has_32_bytes() -> None:
    with pytest.raises(ConfigError):
        PrivateKey.from_seed(SEED[1:])


@each_vector
def test_private_bytes_never_show(vector: dict[str, Any]) -> None:
    key = PrivateKey.from_bytes(bytes.fromhex(vector["private"]))
    secret = {"rsa": vector["private"][600:700], "ecdsa": vector["private"][24:80]}.get(
        vector["type"], vector["private"][8:72]
    )
    assert secret not in repr(key)
    assert secret not in str(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_private_keys_compare_by_value() -> None:
    key = PrivateKey.from_seed(SEED)
    assert key == PrivateKey.from_seed(SEED)
    assert hash(key) == hash(PrivateKey.from_seed(SEED))
    assert key != PrivateKey.generate()
    assert key != private("secp256k1")
    assert key != "key"
