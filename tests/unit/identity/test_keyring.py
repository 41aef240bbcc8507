"""The calendar of encryption keys: a new one on day 30, records to day 37, the secret to day 52."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from talos.errors import RemoteProtocolError, WalletError
from talos.identity import private_file, sealed, wallet
from talos.identity.home import Home
from talos.identity.key_record import DAY_MS, KeyRecord
from talos.identity.keyring import HomeKeys, next_turn_ms, turned
from talos.identity.sealed import Passphrase, Secret
from talos.identity.wallet import MAX_ENCRYPTION_KEYS, EncryptionKey, Wallet

if TYPE_CHECKING:
    from pathlib import Path

START = 1_767_225_600_000


def unlocked(home: Home) -> tuple[Wallet, Secret]:
    return wallet.unlock_to_keep(home, lambda: pytest.fail("nobody is asked"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.prepare()
    wallet.create(home, Wallet.new("Alice", now_ms=START), None)
    return home


def test_two_years_of_days() -> None:
    """On each day there is a key not older than 30 days, and every key younger than 52 days and no other is kept."""
    held = Wallet.new("Alice", now_ms=START)
    made: dict[bytes, int] = {held.encryption[0].secret: 0}
    for day in range(1, 730):
        now = START + day * DAY_MS
        held = turned(held, now)
        made.setdefault(held.encryption[0].secret, day)
        assert day - made[held.encryption[0].secret] < 30
        kept = {key.secret for key in held.encryption}
        assert kept == {secret for secret, born in made.items() if day - born < 52}
        record = KeyRecord.open(held.key_record(now), now_ms=now)
        assert record.x25519 == held.encryption[0].public()
        assert record.not_after_ms - START == (made[held.encryption[0].secret] + 37) * DAY_MS
        assert next_turn_ms(held) > now
    assert len(made) == 25


def test_nothing_is_done_before_its_time() -> None:
    held = Wallet.new("Alice", now_ms=START)
    assert next_turn_ms(held) == START + 30 * DAY_MS
    assert turned(held, START + 30 * DAY_MS - 1) is held
    assert turned(held, START - 400 * DAY_MS) is held, "a clock that was set back"
    second = turned(held, START + 30 * DAY_MS)
    assert len(second.encryption) == 2
    assert next_turn_ms(second) == START + 52 * DAY_MS
    assert turned(second, START + 52 * DAY_MS - 1) is second
    third = turned(second, START + 52 * DAY_MS)
    assert third.encryption == second.encryption[:1]


def test_who_slept_for_a_year_wakes_with_one_new_key() -> None:
    held = Wallet.new("Alice", now_ms=START)
    now = START + 365 * DAY_MS
    with pytest.raises(RemoteProtocolError, match="expired"):
        KeyRecord.open(held.key_record(now), now_ms=now)
    (newest,) = turned(held, now).encryption
    assert newest.not_before_ms == now
    assert newest.secret != held.encryption[0].secret


def test_a_full_wallet_drops_the_oldest() -> None:
    keys = tuple(EncryptionKey(bytes((number,)) * 32, START) for number in range(MAX_ENCRYPTION_KEYS))
    held = Wallet(root=bytes(32), store_key=bytes(32), created_ms=START, encryption=keys, name="Alice")
    later = turned(held, START + 30 * DAY_MS)
    assert later.encryption[1:] == keys[:-1]


def test_the_home_has_what_is_used(home: Home) -> None:
    keys = HomeKeys(home, *unlocked(home))
    first = keys.x25519_public
    record = keys.key_record(START)
    assert keys.key_record(START + 7 * DAY_MS) == record, "everybody sees the same bytes for a week"
    assert keys.key_record(START + 8 * DAY_MS) != record
    assert not keys.turn(START + 29 * DAY_MS)
    assert keys.turn(START + 30 * DAY_MS)
    assert keys.x25519_public != first
    assert len(keys.secrets()) == 2
    assert unlocked(home)[0].encryption == keys.wallet.encryption
    now = START + 30 * DAY_MS
    assert KeyRecord.open(keys.key_record(now), now_ms=now).x25519 == keys.x25519_public
    erased = keys.secrets()[1]
    assert not keys.turn(START + 52 * DAY_MS), "there is no new key to publish"
    assert erased not in [key.secret for key in unlocked(home)[0].encryption]
    assert (keys.identity, keys.store_key) == (keys.wallet.identity, keys.wallet.store_key)


def test_a_wallet_that_cannot_be_written_stays_as_it_is(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = HomeKeys(home, *unlocked(home))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(private_file, "write", full)
    before = keys.secrets()
    with pytest.raises(OSError, match="no space"):
        keys.turn(START + 30 * DAY_MS)
    assert keys.secrets() == before
    assert unlocked(home)[0].encryption == keys.wallet.encryption


def test_nobody_is_locked_out_by_an_agent_that_knows_the_old_secret(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "_MEMORY_KIB", 19 * 1024)
    monkeypatch.setattr(sealed, "_PASSES", 2)
    keys = HomeKeys(home, *unlocked(home))
    secret = Passphrase.of("correct horse")
    wallet.reseal(home, unlocked(home)[1], secret)
    with pytest.raises(WalletError) as caught:
        keys.turn(START + 30 * DAY_MS)
    assert caught.value.reason == "locked"
    assert wallet.unlock(home, lambda: secret).encryption == keys.wallet.encryption
    with pytest.raises(WalletError, match="wrong passphrase"):
        keys.reread(Passphrase.of("battery staple"))
    keys.reread(secret)
    assert keys.turn(START + 30 * DAY_MS)
    assert wallet.unlock(home, lambda: secret).encryption == keys.wallet.encryption


def test_what_an_agent_changed_meanwhile_is_sealed_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "_MEMORY_KIB", 19 * 1024)
    monkeypatch.setattr(sealed, "_PASSES", 2)
    _, before = unlocked(home)
    keys = HomeKeys(home, *unlocked(home))
    assert keys.turn(START + 30 * DAY_MS)
    wallet.reseal(home, before, Passphrase.of("correct horse"))
    assert wallet.unlock(home, lambda: Passphrase.of("correct horse")).encryption == keys.wallet.encryption


def test_a_wallet_of_another_identity_is_not_taken_up(home: Home) -> None:
    _, secret = unlocked(home)
    keys = HomeKeys(home, Wallet.new("Eve", now_ms=START), secret)
    with pytest.raises(WalletError, match="another identity"):
        keys.reread(secret)


def test_another_identity_is_never_overwritten(home: Home) -> None:
    _, secret = unlocked(home)
    with pytest.raises(WalletError, match="another identity"):
        wallet.save(home, Wallet.new("Mallory", now_ms=START), secret)


def test_without_the_secret_nothing_is_due(home: Home) -> None:
    keys = HomeKeys(home, unlocked(home)[0])
    assert keys.due(START + 400 * DAY_MS) is None
    assert not keys.turn(START + 400 * DAY_MS)
