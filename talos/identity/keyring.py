"""The keys of a home while it is used: its encryption key is a new one every 30 days, and old ones are erased.

    day 0    a new X25519 key; records name it
    day 30   the next one comes, records name that
    day 37   the records of this one end, so nobody seals to it any more
    day 52   its secret is erased: what was sealed to it and recorded on the way stays closed for good

A message lives 14 days at most, so 15 days after the last record nothing that waits needs the secret.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from talos.errors import WalletError
from talos.identity.key_record import DAY_MS
from talos.identity.wallet import MAX_ENCRYPTION_KEYS, SECRET_BYTES, EncryptionKey, opened, save

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.identity.home import Home
    from talos.identity.keys import PrivateKey
    from talos.identity.sealed import Secret
    from talos.identity.wallet import Wallet

__all__ = ["HomeKeys", "next_turn_ms", "turned"]

NEW_KEY_DAYS = 30
ERASE_DAYS = 52
KEYS_TRIED = 3
"""The newest encryption key and so many older ones together open what comes."""
RESIGN_MS = 7 * DAY_MS
"""A record of that age is signed anew; until then everybody sees the same bytes."""


def turned(wallet: Wallet, now_ms: int) -> Wallet:
    """The wallet as the calendar wants it now: the same object when nothing is due.

    A clock that was set back erases nothing and makes no key; the newest key is never erased.
    """
    keys = list(wallet.encryption)
    if now_ms - keys[0].not_before_ms >= NEW_KEY_DAYS * DAY_MS:
        keys.insert(0, EncryptionKey(secrets.token_bytes(SECRET_BYTES), now_ms))
    newest, *older = keys
    kept = (newest, *(key for key in older if now_ms - key.not_before_ms < ERASE_DAYS * DAY_MS))
    kept = kept[:MAX_ENCRYPTION_KEYS]
    return wallet if kept == wallet.encryption else replace(wallet, encryption=kept)


def next_turn_ms(wallet: Wallet) -> int:
    """When `turned` next changes something, in Unix milliseconds."""
    newest, *older = wallet.encryption
    ends = [key.not_before_ms + ERASE_DAYS * DAY_MS for key in older]
    return min([newest.not_before_ms + NEW_KEY_DAYS * DAY_MS, *ends])


class HomeKeys:
    """The keyring of a home whose lock the caller holds; `secret` is what its wallet is sealed by.

    Without a secret nothing can be saved, so nothing is ever due.
    """

    def __init__(self, home: Home, wallet: Wallet, secret: Secret | None = None) -> None:
        self._home = home
        self._wallet = wallet
        self._secret = secret
        self._record = (0, b"")

    @property
    def wallet(self) -> Wallet:
        """As it is now."""
        return self._wallet

    @property
    def identity(self) -> PrivateKey:
        return self._wallet.identity

    @property
    def store_key(self) -> bytes:
        return self._wallet.store_key

    @property
    def x25519_public(self) -> bytes:
        """The newest key, that messages to us are sealed with."""
        return self._wallet.encryption[0].public()

    def secrets(self) -> Sequence[bytes]:
        """X25519 secrets that open what comes, newest first."""
        return tuple(key.secret for key in self._wallet.encryption[:KEYS_TRIED])

    def key_record(self, now_ms: int) -> bytes:
        """Our signed record, for those who write to us."""
        signed_ms, record = self._record
        if not record or not 0 <= now_ms - signed_ms <= RESIGN_MS:
            record = self._wallet.key_record(now_ms)
            self._record = (now_ms, record)
        return record

    def due(self, now_ms: int) -> Wallet | None:
        """The wallet that the calendar wants, when it is another one; to be saved, then adopted."""
        wallet = self._wallet if self._secret is None else turned(self._wallet, now_ms)
        return None if wallet is self._wallet else wallet

    def save(self, wallet: Wallet) -> None:
        """Writes it as a whole or not at all; may be called in a thread.

        Blocks on the disk, and for a fifth of a second where a passphrase seals the wallet. OSError; WalletError when
        somebody sealed the wallet anew meanwhile: then it stays as it is.
        """
        assert self._secret is not None, "nothing is due without it"
        save(self._home, wallet, self._secret)

    def adopt(self, wallet: Wallet) -> bool:
        """Uses what was saved from now on; whether there is a new key that others have to learn."""
        new = wallet.encryption[0] != self._wallet.encryption[0]
        self._wallet = wallet
        self._record = (0, b"")
        return new

    def reread(self, secret: Secret) -> None:
        """Takes the wallet as it lies there, which its owner has sealed by `secret`; may be called in a thread.

        WalletError when it is not opened by that, or is another identity's; then nothing changes.
        """
        wallet = opened(self._home, secret)
        if wallet.root != self._wallet.root:
            raise WalletError(f"{self._home.wallet} holds another identity")
        self._secret = secret
        self.adopt(wallet)

    def turn(self, now_ms: int) -> bool:
        """All three, for the start of a program; whether there is a new key."""
        wallet = self.due(now_ms)
        if wallet is None:
            return False
        self.save(wallet)
        return self.adopt(wallet)
