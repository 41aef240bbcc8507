"""Wycheproof's cases against the primitives as Talos calls them: by its own functions, with its own errors."""

from __future__ import annotations

import hmac
import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from talos.chain.entry import Committer
from talos.errors import BadSignature, HandshakeError, LocalProtocolError, RemoteProtocolError
from talos.identity import wallet
from talos.identity.keys import KeyType, PublicKey
from talos.messaging import seal
from talos.messaging.seal import Sealed, is_usable, open_sealed
from talos.security.noise import record, xx
from talos.security.noise.xx import HandshakeState, KeyPair

if TYPE_CHECKING:
    from collections.abc import Iterator

Case = dict[str, Any]
FOLDER = Path(__file__).parent / "wycheproof"
NOBODY = KeyPair.from_bytes(b"\x01" * 32)


def groups(name: str) -> list[Case]:
    found = json.loads((FOLDER / f"{name}.json").read_text())
    assert sum(len(group["tests"]) for group in found["testGroups"]) == found["numberOfTests"]
    return list(found["testGroups"])


def cases(name: str) -> Iterator[tuple[Case, Case]]:
    for group in groups(name):
        for case in group["tests"]:
            yield group, case


def hexed(case: Case, *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


def holds(key: PublicKey, case: Case) -> bool:
    try:
        key.verify(*hexed(case, "msg", "sig"))
    except BadSignature:
        return False
    return True


# -- X25519: the handshake of Noise and the seal of messages


def handshake_secret(private: bytes, public: bytes) -> bytes:
    state = HandshakeState(initiator=True, static=NOBODY, ephemeral=KeyPair.from_bytes(private))
    state._remote_ephemeral = public
    return state._dh("ee")


def test_x25519() -> None:
    zeros = 0
    for _, case in cases("x25519"):
        public, private, shared = hexed(case, "public", "private", "shared")
        if any(shared):
            assert handshake_secret(private, public) == shared, case
            assert is_usable(public), case
        else:
            zeros += 1
            with pytest.raises(HandshakeError):
                handshake_secret(private, public)
            assert not is_usable(public), case
    assert zeros > 20


def test_a_seal_is_made_of_the_shared_secret_and_refuses_a_zero_one() -> None:
    domain, context, nonce = b"a domain\n", b"a context", bytes(12)
    for _, case in cases("x25519"):
        public, private, shared = hexed(case, "public", "private", "shared")
        if not any(shared):
            with pytest.raises(LocalProtocolError):
                seal.seal(public, domain, context, b"", ephemeral=private, nonce=nonce)
            assert open_sealed(private, domain, context, Sealed(public, bytes(16)), nonce=nonce) is None
            continue
        own = KeyPair.from_bytes(private).public
        prk = hmac.digest(own + public, shared, "sha256")
        key = hmac.digest(prk, domain + sha256(context).digest() + b"\x01", "sha256")
        sealed = seal.seal(public, domain, context, b"what is said", ephemeral=private, nonce=nonce)
        expected = ChaCha20Poly1305(key).encrypt(nonce, b"what is said", context)
        assert sealed == Sealed(own, expected), case


# -- signatures


def test_ed25519() -> None:
    for group, case in cases("ed25519"):
        key = PublicKey(KeyType.ED25519, bytes.fromhex(group["publicKey"]["pk"]))
        assert holds(key, case) == (case["result"] == "valid"), case


@pytest.mark.parametrize("name", ["ecdsa_secp256k1_sha256", "ecdsa_secp256r1_sha256"])
def test_ecdsa(name: str) -> None:
    for group in groups(name):
        point = bytes.fromhex(group["publicKey"]["uncompressed"])
        if name == "ecdsa_secp256k1_sha256":
            key = PublicKey(KeyType.SECP256K1, bytes((2 + (point[-1] & 1),)) + point[1:33])
        else:
            key = PublicKey(KeyType.ECDSA, bytes.fromhex(group["publicKeyDer"]))
        for case in group["tests"]:
            # "acceptable" are encodings that strict readers refuse; either answer is one.
            if case["result"] != "acceptable":
                assert holds(key, case) == (case["result"] == "valid"), case


def test_rsa() -> None:
    for group in groups("rsa_signature_2048_sha256"):
        key = PublicKey(KeyType.RSA, bytes.fromhex(group["publicKeyDer"]))
        for case in group["tests"]:
            if case["result"] != "acceptable":
                assert holds(key, case) == (case["result"] == "valid"), case


# -- ChaCha20-Poly1305


def test_chacha20_poly1305_as_messages_open_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for group, case in cases("chacha20_poly1305"):
        if group["ivSize"] != 96:
            assert case["result"] == "invalid", case
            continue
        key, nonce, ad, message, text, tag = hexed(case, "key", "iv", "aad", "msg", "ct", "tag")
        monkeypatch.setattr(seal, "_derive", lambda *_, key=key: key)
        sealed = Sealed(NOBODY.public, text + tag)
        opened = open_sealed(b"\x02" * 32, b"", ad, sealed, nonce=nonce)
        assert opened == (message if case["result"] == "valid" else None), case
        if case["result"] == "valid":
            made = seal.seal(NOBODY.public, b"", ad, message, ephemeral=b"\x02" * 32, nonce=nonce)
            assert made.ciphertext == text + tag, case


def test_chacha20_poly1305_as_noise_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its nonces are counts; those of the cases are put in their place."""
    records = 0
    for group, case in cases("chacha20_poly1305"):
        if group["ivSize"] != 96:
            continue
        key, nonce, ad, message, text, tag = hexed(case, "key", "iv", "aad", "msg", "ct", "tag")
        valid = case["result"] == "valid"
        for module in (xx, record):
            monkeypatch.setattr(module, "nonce_bytes", lambda _, nonce=nonce: nonce)
        state = xx.SymmetricState(b"")
        state.hash, state._cipher = ad, ChaCha20Poly1305(key)
        if valid:
            assert state.decrypt_and_hash(text + tag) == message, case
        else:
            with pytest.raises(HandshakeError):
                state.decrypt_and_hash(text + tag)
        if ad or not message:
            continue
        records += 1
        sealed = (len(text) + len(tag)).to_bytes(2, "big") + text + tag
        if valid:
            assert record.RecordWriter(key).seal(message) == sealed, case
            assert record.RecordReader(key).receive_data(sealed) == message, case
        else:
            with pytest.raises(RemoteProtocolError):
                record.RecordReader(key).receive_data(sealed)
    assert records > 0


# -- HKDF and HMAC


def test_hkdf() -> None:
    """Two outputs of 32 bytes as Noise has them, and one as the wallet, where salt and info are what these take."""
    noise = own = 0
    for _, case in cases("hkdf_sha256"):
        if case["result"] != "valid":
            continue
        material, salt, info, output = hexed(case, "ikm", "salt", "info", "okm")
        if not info:
            assert b"".join(xx._hkdf(salt, material))[: len(output)] == output[:64], case
            noise += 1
        if not salt:
            assert wallet._hkdf(material, info)[: len(output)] == output[:32], case
            own += 1
    assert noise
    assert own


def test_hmac_as_the_chain_has_it() -> None:
    """The chain begins a keyed hash once and copies it; its keys have no more than a block."""
    count = 0
    for _, case in cases("hmac_sha256"):
        key, message, tag = hexed(case, "key", "msg", "tag")
        if len(key) > 64:
            continue
        committer = Committer(key)
        begun = sha256(bytes(byte ^ 0x36 for byte in key.ljust(64, b"\0")))
        found = committer._keyed(begun, message)[: len(tag)]
        assert (found == tag) == (case["result"] == "valid"), case
        assert (hmac.digest(key, message, "sha256")[: len(tag)] == tag) == (case["result"] == "valid"), case
        count += 1
    assert count > 100
