"""The wallet: one random root from which the identity follows, and the secrets that follow from nothing.

The root is the 24 recovery words. The encryption key is random and its own, never the converted identity key: what
was recorded stays closed when the words leak later. The file is `talos.identity.sealed`'s container in the home.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from talos.errors import ConfigError, RemoteProtocolError, WalletError
from talos.identity import did, private_file, sealed, words
from talos.identity.key_record import DAY_MS, MAX_NAME_BYTES, KeyRecord
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.identity.sealed import Kdf, Passphrase, Secret, UnlockKey
from talos.wire import fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.identity.home import Home

__all__ = [
    "EncryptionKey",
    "PublicIdentity",
    "Wallet",
    "create",
    "decode",
    "encode",
    "kdf",
    "opened",
    "public_identity",
    "reseal",
    "save",
    "unlock",
    "unlock_to_keep",
]

SECRET_BYTES = 32
RANDOM_BYTES = 16
MAX_ENCRYPTION_KEYS = 16
MAX_IDENTITY_BYTES = 4096
RECORD_DAYS = 37
"""How long records name an encryption key; a new one comes after 30 days."""

_ROOT, _STORE_KEY, _CREATED, _ENC, _NAME = 1, 2, 3, 4, 5
_SECRET, _NOT_BEFORE = 1, 2


@dataclass(frozen=True, slots=True, repr=False)
class EncryptionKey:
    """An X25519 key and the Unix milliseconds from which it is used."""

    secret: bytes
    not_before_ms: int

    def public(self) -> bytes:
        """Its public half."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        return X25519PrivateKey.from_private_bytes(self.secret).public_key().public_bytes_raw()


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """The public copy of who the wallet is, for those who do not unlock it."""

    name: str
    key: bytes

    @property
    def peer_text(self) -> str:
        return did.peer_id_text(self.key)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Wallet:
    """An unlocked wallet. Never printed: its text form is the peer id."""

    root: bytes
    store_key: bytes
    created_ms: int
    encryption: tuple[EncryptionKey, ...]
    """Newest first."""
    name: str
    identity: PrivateKey = field(init=False)
    """The Ed25519 key that is the peer id and signs everything."""

    def __post_init__(self) -> None:
        if len(self.root) != SECRET_BYTES or len(self.store_key) != SECRET_BYTES:
            raise WalletError("the wallet holds a secret of another length than 32 bytes")
        if not 1 <= len(self.encryption) <= MAX_ENCRYPTION_KEYS:
            raise WalletError(f"a wallet holds 1 to {MAX_ENCRYPTION_KEYS} encryption keys")
        check_name(self.name)
        object.__setattr__(self, "identity", PrivateKey.from_seed(_hkdf(self.root, b"talos/wallet/ed25519/v1\n")))

    @classmethod
    def new(cls, name: str, *, now_ms: int, root: bytes | None = None) -> Wallet:
        """A wallet of new secrets; with `root` the identity that its words tell, all else new."""
        return cls(
            root=secrets.token_bytes(SECRET_BYTES) if root is None else root,
            store_key=secrets.token_bytes(SECRET_BYTES),
            created_ms=now_ms,
            encryption=(EncryptionKey(secrets.token_bytes(SECRET_BYTES), now_ms),),
            name=name,
        )

    @property
    def peer_id(self) -> PeerId:
        """Who this wallet is to others."""
        return PeerId.from_key(self.identity.public_key)

    @property
    def public(self) -> PublicIdentity:
        """What anybody may know."""
        return PublicIdentity(self.name, self.identity.public_key.data)

    def words(self) -> tuple[str, ...]:
        """The 24 recovery words: a secret."""
        return words.encode(self.root)

    def audit_seed(self, genesis: bytes) -> bytes:
        """The seed of the Ed25519 key that signs the log begun with these 16 random bytes."""
        return _hkdf(self.root, b"talos/wallet/audit/v1\n" + _sixteen(genesis))

    def k_priv(self, genesis: bytes) -> bytes:
        """The key that opens the commitments of the log begun with these 16 random bytes."""
        return _hkdf(self.store_key, b"talos/wallet/k-priv/v1\n" + _sixteen(genesis))

    def key_record(self, now_ms: int) -> bytes:
        """The signed record of the newest encryption key."""
        newest = self.encryption[0]
        record = KeyRecord(
            identity=self.identity.public_key.data,
            x25519=newest.public(),
            seq=now_ms,
            not_before_ms=newest.not_before_ms,
            not_after_ms=newest.not_before_ms + RECORD_DAYS * DAY_MS,
            name=self.name,
        )
        return record.seal(self.identity)

    def __repr__(self) -> str:
        return f"<wallet of {self.peer_id}>"

    def __reduce__(self) -> str:
        raise TypeError("a wallet is not pickled")


def check_name(name: str) -> None:
    """ConfigError unless `name` can be the name of an identity: 1 to 64 bytes, all of it visible."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ConfigError("a name is text in UTF-8") from None
    if not 1 <= size <= MAX_NAME_BYTES or not name.isprintable() or name != name.strip():
        raise ConfigError(f"a name has 1 to {MAX_NAME_BYTES} bytes, all visible, without spaces around it")


# -- In the home ----------------------------------------------------------------------------------------


def create(home: Home, wallet: Wallet, passphrase: Passphrase | None) -> None:
    """Writes the wallet into a home that has none; without a passphrase beside a new unlock key.

    To be called with the home's lock held. FileExistsError when there is a wallet.
    """
    if os.path.lexists(home.wallet):
        raise FileExistsError(home.wallet)
    secret: Secret = passphrase or _new_unlock_key(home)
    private_file.write(home.wallet, sealed.seal(encode(wallet), secret))
    _write_public(home, wallet.public)


def kdf(home: Home) -> Kdf:
    """What opens the wallet in `home`; WalletError "missing" when there is none."""
    return sealed.kdf_of(_read(home))


def unlock(home: Home, passphrase: Callable[[], Passphrase]) -> Wallet:
    """The wallet, opened by its unlock key, else by what `passphrase` gives, which is asked only then.

    The public copy is compared with what was opened, and written anew where it is missing.
    """
    return unlock_to_keep(home, passphrase)[0]


def unlock_to_keep(home: Home, passphrase: Callable[[], Passphrase]) -> tuple[Wallet, Secret]:
    """As `unlock`, with what opened it, for those who will save a changed one."""
    data = _read(home)
    secret: Secret
    if sealed.kdf_of(data) is Kdf.UNLOCK_KEY:
        try:
            secret = UnlockKey(private_file.read(home.unlock_key, SECRET_BYTES, "unlock key"))
        except FileNotFoundError:
            raise WalletError(f"the unlock key {home.unlock_key} is missing", reason="locked") from None
    else:
        secret = passphrase()
    wallet = decode(sealed.open_sealed(data, secret))
    try:
        known = public_identity(home)
    except FileNotFoundError:
        _write_public(home, wallet.public)
    else:
        if known.key != wallet.public.key:
            raise WalletError(f"{home.identity} names another identity than the wallet")
    return wallet, secret


def save(home: Home, wallet: Wallet, secret: Secret) -> None:
    """Writes a changed wallet in the place of the one that `secret` opens.

    WalletError when it opens it no more: the passphrase was changed meanwhile, and nobody is locked out for that.
    """
    with private_file.turn(home.wallet):
        if opened(home, secret).root != wallet.root:
            raise WalletError(f"{home.wallet} holds another identity")
        private_file.write(home.wallet, sealed.seal(encode(wallet), secret), replace=True)


def opened(home: Home, secret: Secret) -> Wallet:
    """The wallet as it is now; WalletError when `secret` does not open it."""
    return decode(sealed.open_sealed(_read(home), secret))


def reseal(home: Home, secret: Secret, passphrase: Passphrase) -> None:
    """Seals the wallet that `secret` opens by `passphrase` from now on; the unlock key, if any, is removed.

    An agent may have changed it since it was last read: what is sealed is what lies there.
    """
    with private_file.turn(home.wallet):
        wallet = opened(home, secret)
        private_file.write(home.wallet, sealed.seal(encode(wallet), passphrase), replace=True)
        home.unlock_key.unlink(missing_ok=True)
    private_file.sync_directory(home.path)


def public_identity(home: Home) -> PublicIdentity:
    """The public copy; FileNotFoundError when there is none. Loads no cryptography."""
    data = private_file.read(home.identity, MAX_IDENTITY_BYTES, "file")
    try:
        found = json.loads(data)
        name, key = str(found["name"]), did.key_of_peer_id(str(found["peer_id"]))
        check_name(name)
        return PublicIdentity(name, key)
    except (ValueError, TypeError, KeyError, RecursionError, ConfigError) as error:
        raise WalletError(f"{home.identity} is damaged; remove it, it is written anew") from error


def _read(home: Home) -> bytes:
    home.check()
    try:
        return private_file.read(home.wallet, sealed.MAX_CONTAINER_BYTES, "wallet")
    except FileNotFoundError:
        raise WalletError(f"no identity in {home.path}", reason="missing") from None


def _new_unlock_key(home: Home) -> UnlockKey:
    """A new key in its file; one that a broken-off `create` left behind opens nothing and is replaced."""
    key = UnlockKey(secrets.token_bytes(SECRET_BYTES))
    private_file.write(home.unlock_key, key.data, replace=True)
    return key


def _write_public(home: Home, public: PublicIdentity) -> None:
    text = json.dumps({"v": 1, "name": public.name, "peer_id": public.peer_text})
    private_file.write(home.identity, text.encode() + b"\n", replace=True)


# -- The body -------------------------------------------------------------------------------------------


def encode(wallet: Wallet) -> bytes:
    """All of it, secrets included: to be sealed."""
    keys = (
        fields.bytes_field(_SECRET, key.secret) + fields.uint64_field(_NOT_BEFORE, key.not_before_ms)
        for key in wallet.encryption
    )
    return b"".join(
        (
            fields.bytes_field(_ROOT, wallet.root),
            fields.bytes_field(_STORE_KEY, wallet.store_key),
            fields.uint64_field(_CREATED, wallet.created_ms),
            *(fields.bytes_field(_ENC, key) for key in keys),
            fields.bytes_field(_NAME, wallet.name.encode()),
        )
    )


def decode(body: bytes) -> Wallet:
    """What has been authenticated is our own; a fault in it is one of the program that wrote it."""
    try:
        single: dict[int, int | bytes] = {}
        encryption = []
        for number, value in fields.read(body):
            if number == _ENC and isinstance(value, bytes):
                encryption.append(_decode_key(value))
            elif value is not None:
                single[number] = value
        root, store_key, name = single.get(_ROOT), single.get(_STORE_KEY), single.get(_NAME)
        created = single.get(_CREATED, 0)
        if not (isinstance(root, bytes) and isinstance(store_key, bytes) and isinstance(name, bytes)):
            raise WalletError("the wallet lacks a part")
        if not isinstance(created, int):
            raise WalletError("the wallet does not say when it was made")
        return Wallet(
            root=root, store_key=store_key, created_ms=created, encryption=tuple(encryption), name=name.decode()
        )
    except (RemoteProtocolError, UnicodeDecodeError):
        raise WalletError("the wallet's content is damaged") from None


def _decode_key(data: bytes) -> EncryptionKey:
    found = dict(fields.read(data))
    secret, since = found.get(_SECRET), found.get(_NOT_BEFORE, 0)
    if not (isinstance(secret, bytes) and len(secret) == SECRET_BYTES and isinstance(since, int)):
        raise WalletError("an encryption key of the wallet is damaged")
    return EncryptionKey(secret, since)


def _hkdf(secret: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), SECRET_BYTES, salt=None, info=info).derive(secret)


def _sixteen(genesis: bytes) -> bytes:
    if len(genesis) != RANDOM_BYTES:
        raise ConfigError(f"a log begins with {RANDOM_BYTES} random bytes, not {len(genesis)}")
    return genesis
