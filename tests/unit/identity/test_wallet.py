"""The wallet: derivations by their known answers, and its life in a home."""

from __future__ import annotations

import json
import os
import pickle
import stat
from typing import TYPE_CHECKING

import pytest

from talos.errors import ConfigError, TalosError, WalletError
from talos.identity import private_file, sealed, wallet, words
from talos.identity.home import Home
from talos.identity.key_record import KeyRecord
from talos.identity.keys import PrivateKey
from talos.identity.sealed import Kdf, Passphrase, UnlockKey
from talos.identity.wallet import EncryptionKey, Wallet
from talos.wire.pb import wallet_pb2

if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn

ROOT = bytes(range(32))
NOW = 1_767_225_600_000
PASSPHRASE = Passphrase.of("correct horse battery staple")


def never() -> NoReturn:
    pytest.fail("asked for a passphrase")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.prepare()
    return made


@pytest.fixture
def alice() -> Wallet:
    return Wallet.new("Alice", now_ms=NOW, root=ROOT)


def test_known_answers(alice: Wallet) -> None:
    assert str(alice.peer_id) == "12D3KooWJgUWt5wZCBtN6cyNqDDBTuN8SqnzX4LgHe8YAv6BugXZ"
    assert alice.public.peer_text == str(alice.peer_id)
    audit = PrivateKey.from_seed(alice.audit_seed(b"\4" * 16)).public_key.data.hex()
    assert audit[:8] + "…" + audit[-8:] == "f0dc8470…73de6e31"
    assert alice.words() == words.encode(ROOT)


def test_a_log_has_its_own_keys(alice: Wallet) -> None:
    assert alice.audit_seed(b"\4" * 16) != alice.audit_seed(b"\5" * 16)
    assert alice.k_priv(b"\4" * 16) != alice.k_priv(b"\5" * 16)
    assert len(alice.k_priv(b"\4" * 16)) == 32
    for derive in (alice.audit_seed, alice.k_priv):
        with pytest.raises(ConfigError, match="16 random bytes"):
            derive(b"\4" * 15)


def test_the_words_bring_back_the_identity_and_nothing_else(alice: Wallet) -> None:
    again = Wallet.new("Alice", now_ms=NOW, root=words.decode(" ".join(alice.words())))
    assert again.identity == alice.identity
    assert again.store_key != alice.store_key
    assert again.encryption[0].secret != alice.encryption[0].secret


def test_the_encryption_key_is_its_own_key_signed_by_the_identity() -> None:
    made = Wallet(
        root=ROOT, store_key=bytes(32), created_ms=NOW, name="Bob", encryption=(EncryptionKey(b"\3" * 32, NOW),)
    )
    record = KeyRecord.open(made.key_record(NOW + 5), now_ms=NOW + 5, identity=made.identity.public_key.data)
    assert record.x25519.hex() == "5dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef22"
    assert (record.name, record.seq, record.not_before_ms) == ("Bob", NOW + 5, NOW)
    assert record.not_after_ms - record.not_before_ms == 37 * 86_400_000


@pytest.mark.parametrize("name", ["", " x", "x ", "a\nb", "a\x1b[31m", "\u202eevil", "é" * 33, "\udc80"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ConfigError):
        Wallet.new(name, now_ms=NOW)


def test_it_shows_and_pickles_nothing(alice: Wallet) -> None:
    assert repr(alice) == f"<wallet of {alice.peer_id}>"
    assert repr(alice.encryption[0].secret) not in repr(alice.encryption)
    with pytest.raises(TypeError):
        pickle.dumps(alice)


def test_life_with_an_unlock_key(home: Home, alice: Wallet) -> None:
    wallet.create(home, alice, None)
    assert wallet.kdf(home) is Kdf.UNLOCK_KEY
    assert wallet.unlock(home, never) == alice
    assert wallet.public_identity(home) == alice.public
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.path.iterdir()}
    assert modes == {"wallet": 0o600, "wallet.key": 0o600, "identity.json": 0o600}


def test_life_with_a_passphrase(home: Home, alice: Wallet) -> None:
    wallet.create(home, alice, PASSPHRASE)
    assert wallet.kdf(home) is Kdf.PASSPHRASE
    assert not home.unlock_key.exists()
    assert wallet.unlock(home, lambda: PASSPHRASE) == alice
    with pytest.raises(WalletError, match="wrong passphrase") as caught:
        wallet.unlock(home, lambda: Passphrase.of("other"))
    assert caught.value.reason == "locked"


def test_a_passphrase_takes_the_place_of_the_unlock_key(home: Home, alice: Wallet) -> None:
    wallet.create(home, alice, None)
    wallet.reseal(home, wallet.unlock_to_keep(home, never)[1], PASSPHRASE)
    assert not home.unlock_key.exists()
    assert wallet.unlock(home, lambda: PASSPHRASE) == alice


def test_a_wallet_is_never_overwritten(home: Home, alice: Wallet) -> None:
    wallet.create(home, alice, None)
    before = home.wallet.read_bytes(), home.unlock_key.read_bytes()
    with pytest.raises(FileExistsError):
        wallet.create(home, Wallet.new("Eve", now_ms=NOW), None)
    assert (home.wallet.read_bytes(), home.unlock_key.read_bytes()) == before
    home.wallet.unlink()
    home.wallet.symlink_to("/nowhere")
    with pytest.raises(FileExistsError):
        wallet.create(home, alice, None)


def test_an_unlock_key_left_by_a_broken_start_is_replaced(home: Home, alice: Wallet) -> None:
    private_file.write(home.unlock_key, bytes(32))
    wallet.create(home, alice, None)
    assert wallet.unlock(home, never) == alice


def test_a_lost_public_copy_is_written_anew(home: Home, alice: Wallet) -> None:
    wallet.create(home, alice, None)
    home.identity.unlink()
    assert wallet.unlock(home, never) == alice
    assert wallet.public_identity(home) == alice.public


def test_the_public_copy_of_another_is_found(home: Home, alice: Wallet) -> None:
    wallet.create(home, alice, None)
    other = Wallet.new("Alice", now_ms=NOW)
    text = json.dumps({"v": 1, "name": "Alice", "peer_id": str(other.peer_id)})
    private_file.write(home.identity, text.encode(), replace=True)
    with pytest.raises(WalletError, match="another identity"):
        wallet.unlock(home, never)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"name": "A"}',
        b'{"name": "\\u001b", "peer_id": "x"}',
        b'{"name": "A", "peer_id": "Qm"}',
        b"\xff",
        b"[" * 4000,
    ],
)
def test_a_damaged_public_copy(home: Home, alice: Wallet, text: bytes) -> None:
    wallet.create(home, alice, None)
    private_file.write(home.identity, text, replace=True)
    with pytest.raises(WalletError, match="damaged; remove it"):
        wallet.public_identity(home)


def test_no_wallet_and_no_unlock_key(home: Home, alice: Wallet) -> None:
    with pytest.raises(WalletError, match="no identity") as caught:
        wallet.unlock(home, never)
    assert caught.value.reason == "missing"
    wallet.create(home, alice, None)
    home.unlock_key.unlink()
    with pytest.raises(WalletError, match=r"unlock key .* is missing") as caught:
        wallet.unlock(home, never)
    assert caught.value.reason == "locked"


@pytest.mark.parametrize("name", ["wallet", "wallet.key", "."])
def test_a_home_that_others_may_use_is_not_opened(home: Home, alice: Wallet, name: str) -> None:
    wallet.create(home, alice, None)
    path = home.path / name
    path.chmod(path.stat().st_mode | stat.S_IROTH)
    with pytest.raises(WalletError, match="run: chmod") as caught:
        wallet.unlock(home, never)
    assert caught.value.reason == "open"


def test_truncation_at_every_length(home: Home, alice: Wallet) -> None:
    wallet.create(home, alice, None)
    data = home.wallet.read_bytes()
    for length in range(len(data)):
        home.wallet.write_bytes(data[:length])
        with pytest.raises(WalletError):
            wallet.unlock(home, never)


def body(**changes: object) -> bytes:
    values: dict[str, object] = {"root": ROOT, "store_key": bytes(32), "created_ms": NOW, "name": "Alice"}
    values["enc"] = [wallet_pb2.EncKey(secret=b"\3" * 32, not_before_ms=NOW)]
    return wallet_pb2.WalletBody(**{**values, **changes}).SerializeToString(deterministic=True)  # type: ignore[arg-type]


def put(home: Home, content: bytes) -> None:
    private_file.write(home.unlock_key, b"\7" * 32, replace=True)
    private_file.write(home.wallet, sealed.seal(content, UnlockKey(b"\7" * 32)), replace=True)


def test_the_body_is_that_of_the_schema(home: Home) -> None:
    put(home, body())
    expected = Wallet(
        root=ROOT, store_key=bytes(32), created_ms=NOW, name="Alice", encryption=(EncryptionKey(b"\3" * 32, NOW),)
    )
    assert wallet.unlock(home, never) == expected
    wallet.reseal(home, wallet.unlock_to_keep(home, never)[1], PASSPHRASE)
    opened = sealed.open_sealed(home.wallet.read_bytes(), PASSPHRASE)
    assert wallet_pb2.WalletBody.FromString(opened) == wallet_pb2.WalletBody.FromString(body())
    assert opened == body()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        body(root=b"x"),
        body(store_key=b""),
        body(enc=[]),
        body(enc=[wallet_pb2.EncKey(secret=b"x")]),
        body(enc=[wallet_pb2.EncKey(secret=b"\3" * 32)] * 17),
        body(name=""),
        body() + b"\x2a\x01\xff",
        body() + b"\x08\x01",
        body() + b"\x1a\x01x",
    ],
)
def test_a_body_that_no_release_wrote(home: Home, content: bytes) -> None:
    put(home, content)
    with pytest.raises(TalosError) as caught:
        wallet.unlock(home, never)
    assert isinstance(caught.value, ConfigError)


def test_files_are_private_under_umask_000(home: Home, alice: Wallet) -> None:
    before = os.umask(0)
    try:
        wallet.create(home, alice, None)
        wallet.reseal(home, wallet.unlock_to_keep(home, never)[1], PASSPHRASE)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.path.iterdir()} == {0o600}
