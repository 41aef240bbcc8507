"""The vectors of the RFCs, from `cryptography-vectors`, against the primitives as Talos calls them."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import cryptography
import cryptography_vectors
import pytest

from talos.errors import BadSignature
from talos.identity import sealed as container
from talos.identity import wallet
from talos.identity.keys import KeyType, PrivateKey, PublicKey
from talos.identity.sealed import Kdf, Passphrase
from talos.messaging import seal
from talos.messaging.seal import Sealed, open_sealed
from talos.security.noise import xx
from talos.security.noise.xx import HandshakeState, KeyPair

if TYPE_CHECKING:
    from collections.abc import Iterator

ARGON2_BLOCKS_A_LANE = 8


def records(path: str) -> Iterator[dict[str, str]]:
    """Blocks of `name = value` between empty lines, names in lower case."""
    found: dict[str, str] = {}
    with cryptography_vectors.open_vector_file(path, "r") as file:
        for line in file:
            name, equals, value = line.partition("=")
            name = name.strip().lower()
            if line.startswith("#") or not equals:
                continue
            if name in found:
                yield found
                found = {}
            found[name] = value.strip()
    yield found


def octets(value: str) -> bytes:
    """Hex, or text in quotes."""
    return value[1:-1].encode() if value.startswith('"') else bytes.fromhex(value)


def test_the_vectors_are_of_the_library_that_is_installed() -> None:
    assert cryptography_vectors.__version__ == cryptography.__version__


def test_x25519_of_rfc_7748() -> None:
    found = list(records("asymmetric/X25519/rfc7748.txt"))
    for one in found:
        pair = KeyPair.from_bytes(bytes.fromhex(one["input_scalar"]))
        state = HandshakeState(initiator=True, static=pair, ephemeral=pair)
        state._remote_ephemeral = bytes.fromhex(one["input_u"])
        assert state._dh("ee").hex() == one["output_u"]
    assert len(found) >= 2


def test_ed25519_of_its_authors() -> None:
    """All 1,024 that RFC 8032 refers to: the first hundred are signed too, the rest is verified."""
    with cryptography_vectors.open_vector_file("asymmetric/Ed25519/sign.input", "r") as file:
        lines = [line.split(":") for line in file if line.strip()]
    for number, (secret, public, message, signed, *_) in enumerate(lines):
        data, signature = bytes.fromhex(message), bytes.fromhex(signed)[:64]
        key = PublicKey(KeyType.ED25519, bytes.fromhex(public))
        key.verify(data, signature)
        if number < 100:
            own = PrivateKey.from_seed(bytes.fromhex(secret)[:32])
            assert (own.public_key, own.sign(data)) == (key, signature)
            with pytest.raises(BadSignature):
                key.verify(data + b"\0", signature)
    assert len(lines) == 1024


@pytest.mark.parametrize("name", ["openssl", "boringssl"])
def test_chacha20_poly1305_of_rfc_8439(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    for one in records(f"ciphers/ChaCha20Poly1305/{name}.txt"):
        fields = {key: octets(value) for key, value in one.items() if key not in ("count", "result")}
        nonce = fields["iv" if name == "openssl" else "nonce"]
        ad = fields["aad" if name == "openssl" else "ad"]
        plain = fields["plaintext" if name == "openssl" else "in"]
        text = fields["ciphertext" if name == "openssl" else "ct"] + fields["tag"]
        if len(nonce) != 12:
            continue
        monkeypatch.setattr(seal, "_derive", lambda *_, key=fields["key"]: key)
        pair = KeyPair.from_bytes(b"\x07" * 32)
        good = one.get("result") != "CIPHERFINAL_ERROR"
        opened = open_sealed(b"\x08" * 32, b"", ad, Sealed(pair.public, text), nonce=nonce)
        assert opened == (plain if good else None)
        count += 1
    assert count


def test_hkdf_of_rfc_5869() -> None:
    for one in records("KDF/rfc-5869-HKDF-SHA256.txt"):
        material, salt, info, output = (bytes.fromhex(one[name]) for name in ("ikm", "salt", "info", "okm"))
        if not info:
            assert b"".join(xx._hkdf(salt, material)).startswith(output)
        if not salt:
            assert output.startswith(wallet._hkdf(material, info))
        assert hmac.digest(salt, material, "sha256").hex() == one["prk"]


def test_hmac_of_rfc_4231() -> None:
    for one in records("HMAC/rfc-4231-sha256.txt"):
        assert hmac.digest(bytes.fromhex(one["key"]), bytes.fromhex(one["msg"]), "sha256").hex() == one["md"]


def test_argon2id_of_rfc_9106() -> None:
    """As the wallet asks for it: 32 bytes, no secret and no further data."""
    count = 0
    for one in records("KDF/argon2id.txt"):
        lanes, passes, memory = (int(one[name]) for name in ("lanes", "iter", "memcost"))
        if int(one["length"]) != 32 or "secret" in one or memory < ARGON2_BLOCKS_A_LANE * lanes or not one["pass"]:
            continue
        header = container._Header(Kdf.PASSPHRASE, memory, passes, lanes, bytes.fromhex(one["salt"]), bytes(12))
        assert container._derive(header, Passphrase(bytes.fromhex(one["pass"]))).hex() == one["output"]
        count += 1
    assert count
