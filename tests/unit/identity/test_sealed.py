"""The sealed container: wrong secrets, altered bytes, headers that ask for too much or too little."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.errors import WalletError
from talos.identity import sealed
from talos.identity.sealed import Kdf, Passphrase, UnlockKey

if TYPE_CHECKING:
    from typing import NoReturn

KEY = UnlockKey(b"\7" * 32)
HEADER = struct.Struct(">8sHBIIB16s12s")


def with_header(*, version: int = 1, kdf: int = 1, memory: int = 65_536, passes: int = 3, lanes: int = 4) -> bytes:
    return HEADER.pack(b"TALOSWAL", version, kdf, memory, passes, lanes, b"s" * 16, b"n" * 12) + bytes(64)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deriving a key fails the test: it must not come so far."""

    def derive(*_args: object) -> NoReturn:
        pytest.fail("work was done for a header that is not accepted")

    monkeypatch.setattr(sealed, "_derive", derive)


def test_round_trips() -> None:
    for secret, kdf in ((KEY, Kdf.UNLOCK_KEY), (Passphrase.of("correct horse"), Kdf.PASSPHRASE)):
        data = sealed.seal(b"body", secret)
        assert sealed.kdf_of(data) is kdf
        assert sealed.open_sealed(data, secret) == b"body"


def test_layout() -> None:
    data = sealed.seal(b"body", Passphrase.of("p"))
    assert HEADER.size == 48
    assert HEADER.unpack_from(data)[:6] == (b"TALOSWAL", 1, 1, 65_536, 3, 4)
    assert len(data) == 48 + 4 + 16
    data = sealed.seal(b"body", KEY)
    assert HEADER.unpack_from(data)[:6] == (b"TALOSWAL", 1, 2, 0, 0, 0)


def test_a_container_of_known_bytes_opens() -> None:
    """Written by hand after the format, with HKDF and AEAD of the standard library's and OpenSSL's making."""
    import hashlib
    import hmac

    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    header = HEADER.pack(b"TALOSWAL", 1, 2, 0, 0, 0, b"s" * 16, b"n" * 12)
    extracted = hmac.digest(b"s" * 16, KEY.data, hashlib.sha256)
    key = hmac.digest(extracted, b"talos/wallet/unlock/v1\n\x01", hashlib.sha256)
    data = header + ChaCha20Poly1305(key).encrypt(b"n" * 12, b"body", header)
    assert sealed.open_sealed(data, KEY) == b"body"


def test_each_container_has_its_own_salt_and_nonce() -> None:
    assert len({sealed.seal(b"", KEY)[20:48] for _ in range(8)}) == 8


def test_spellings_that_look_alike_are_one_passphrase() -> None:
    assert Passphrase.of("ﬁancé") == Passphrase.of("fiance\u0301")


@pytest.mark.parametrize("text", ["", "x" * 1025, "\udc80"])
def test_what_is_no_passphrase(text: str) -> None:
    with pytest.raises(WalletError) as caught:
        Passphrase.of(text)
    assert caught.value.reason == "locked"


def test_an_unlock_key_has_32_bytes() -> None:
    with pytest.raises(WalletError, match="32 bytes, this has 31"):
        UnlockKey(bytes(31))


def test_wrong_secrets_give_one_error_and_no_secret() -> None:
    data = sealed.seal(b"body", Passphrase.of("right"))
    with pytest.raises(WalletError, match=r"^wrong passphrase, or the wallet file was altered$") as caught:
        sealed.open_sealed(data, Passphrase.of("wrong"))
    assert caught.value.reason == "locked"
    assert caught.value.__cause__ is None
    with pytest.raises(WalletError, match="another kind"):
        sealed.open_sealed(data, KEY)
    with pytest.raises(WalletError, match="the unlock key is another one"):
        sealed.open_sealed(sealed.seal(b"body", KEY), UnlockKey(bytes(32)))


def test_every_flipped_bit_is_found() -> None:
    data = sealed.seal(b"body", KEY)
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            with pytest.raises(WalletError):
                sealed.open_sealed(bytes(changed), KEY)


@pytest.mark.parametrize("change", [{"memory": 32_768}, {"passes": 2}, {"lanes": 1}])
def test_a_weaker_derivation_written_into_the_header_opens_nothing(change: dict[str, int]) -> None:
    data = sealed.seal(b"body", Passphrase.of("p"))
    magic, version, kdf, memory, passes, lanes, salt, nonce = HEADER.unpack_from(data)
    cost = {"memory": memory, "passes": passes, "lanes": lanes, **change}
    header = HEADER.pack(magic, version, kdf, cost["memory"], cost["passes"], cost["lanes"], salt, nonce)
    with pytest.raises(WalletError) as caught:
        sealed.open_sealed(header + data[48:], Passphrase.of("p"))
    assert caught.value.reason == "locked"


@pytest.mark.parametrize(
    "data",
    [
        with_header(memory=256 * 1024 + 1),
        with_header(memory=2**32 - 1),
        with_header(memory=19 * 1024 - 1),
        with_header(memory=0),
        with_header(passes=11),
        with_header(passes=2**32 - 1),
        with_header(passes=1),
        with_header(lanes=9),
        with_header(lanes=255),
        with_header(lanes=0),
        with_header(kdf=2),
        with_header(kdf=0, memory=0, passes=0, lanes=0),
        with_header(kdf=3),
        with_header(version=0),
        with_header(version=2),
        b"",
        b"TALOSWAL",
        with_header()[:63],
        b"X" + with_header()[1:],
        with_header() + bytes(65_536),
    ],
)
def test_a_bad_header_is_refused_before_any_work(data: bytes, no_work: None) -> None:
    for secret in (Passphrase.of("p"), KEY):
        with pytest.raises(WalletError) as caught:
            sealed.open_sealed(data, secret)
        assert caught.value.reason == "damaged"


@pytest.mark.parametrize(("memory", "passes", "lanes"), [(19 * 1024, 2, 1), (19 * 1024, 10, 8)])
def test_costs_within_range_are_read(memory: int, passes: int, lanes: int) -> None:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    header = with_header(memory=memory, passes=passes, lanes=lanes)[:48]
    argon = Argon2id(salt=b"s" * 16, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
    data = header + ChaCha20Poly1305(argon.derive(b"p")).encrypt(b"n" * 12, b"body", header)
    assert sealed.open_sealed(data, Passphrase.of("p")) == b"body"


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WalletError):
        sealed.open_sealed(data, KEY)


def test_secrets_are_not_printed() -> None:
    assert repr(KEY.data) not in repr(KEY)
    assert "hush" not in repr(Passphrase.of("hush"))
