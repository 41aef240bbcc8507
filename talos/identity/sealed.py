"""The sealed container of a wallet: a header in the clear, authenticated, and a body under a key.

    "TALOSWAL" | u16 version | u8 kdf | u32 memory_kib | u32 passes | u8 lanes | 16 salt | 12 nonce | AEAD(body)

kdf 1 makes the key of a passphrase by Argon2id, kdf 2 of an unlock key by HKDF. What the header asks for is judged
before any work is done for it: a header made by others can neither weaken the key nor cost more than a second.
"""

from __future__ import annotations

import enum
import secrets
import struct
import unicodedata
from dataclasses import dataclass
from typing import TypeAlias

from talos.errors import WalletError

__all__ = ["MAX_CONTAINER_BYTES", "Kdf", "Passphrase", "Secret", "UnlockKey", "kdf_of", "open_sealed", "seal"]

MAX_CONTAINER_BYTES = 65_536
MAX_PASSPHRASE_BYTES = 1024
UNLOCK_KEY_BYTES = 32

MAGIC = b"TALOSWAL"
VERSION = 1
_HEADER = struct.Struct(">8sHBIIB16s12s")
_TAG_BYTES = 16
_UNLOCK_INFO = b"talos/wallet/unlock/v1\n"

# Written: 64 MiB and 3 passes take a fifth of a second. Read: from what is called enough to four times ours.
_MEMORY_KIB, _PASSES, _LANES = 65_536, 3, 4
_MEMORY_RANGE, _PASSES_RANGE, _LANES_RANGE = range(19 * 1024, 256 * 1024 + 1), range(2, 11), range(1, 9)


class Kdf(enum.IntEnum):
    """What opens the container."""

    PASSPHRASE = 1
    UNLOCK_KEY = 2


@dataclass(frozen=True, slots=True, repr=False)
class Passphrase:
    """A passphrase; spellings that look alike are one (NFKC). ConfigError's child when it cannot be one."""

    data: bytes

    @classmethod
    def of(cls, text: str) -> Passphrase:
        """The passphrase `text`; WalletError when it is empty, too long or not text."""
        try:
            data = unicodedata.normalize("NFKC", text).encode()
        except UnicodeEncodeError:
            raise WalletError("the passphrase is not text in UTF-8", reason="locked") from None
        if not 1 <= len(data) <= MAX_PASSPHRASE_BYTES:
            raise WalletError(f"a passphrase has 1 to {MAX_PASSPHRASE_BYTES} bytes", reason="locked")
        return cls(data)


@dataclass(frozen=True, slots=True, repr=False)
class UnlockKey:
    """32 random bytes, as `wallet.key` holds them."""

    data: bytes

    def __post_init__(self) -> None:
        if len(self.data) != UNLOCK_KEY_BYTES:
            raise WalletError(f"an unlock key has {UNLOCK_KEY_BYTES} bytes, this has {len(self.data)}")


Secret: TypeAlias = Passphrase | UnlockKey


@dataclass(frozen=True, slots=True)
class _Header:
    kdf: Kdf
    memory_kib: int
    passes: int
    lanes: int
    salt: bytes
    nonce: bytes

    def to_bytes(self) -> bytes:
        cost = (self.memory_kib, self.passes, self.lanes)
        return _HEADER.pack(MAGIC, VERSION, self.kdf, *cost, self.salt, self.nonce)


def seal(body: bytes, secret: Secret) -> bytes:
    """The container of `body` under a new salt and nonce."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    kdf, cost = Kdf.UNLOCK_KEY, (0, 0, 0)
    if isinstance(secret, Passphrase):
        kdf, cost = Kdf.PASSPHRASE, (_MEMORY_KIB, _PASSES, _LANES)
    header = _Header(kdf, *cost, secrets.token_bytes(16), secrets.token_bytes(12))
    raw = header.to_bytes()
    return raw + ChaCha20Poly1305(_derive(header, secret)).encrypt(header.nonce, body, raw)


def kdf_of(data: bytes) -> Kdf:
    """What opens the container `data`; WalletError when it is none, or asks for what is not accepted."""
    return _parse(data).kdf


def open_sealed(data: bytes, secret: Secret, *, most: int = MAX_CONTAINER_BYTES) -> bytes:
    """The body. WalletError: "damaged" before any work, "locked" when the secret does not fit these very bytes."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    header = _parse(data, most)
    if (header.kdf is Kdf.PASSPHRASE) != isinstance(secret, Passphrase):
        raise WalletError("the wallet is sealed by another kind of secret", reason="locked")
    key = _derive(header, secret)
    try:
        return ChaCha20Poly1305(key).decrypt(header.nonce, data[_HEADER.size :], data[: _HEADER.size])
    except InvalidTag:
        what = "wrong passphrase" if header.kdf is Kdf.PASSPHRASE else "the unlock key is another one"
        raise WalletError(f"{what}, or the wallet file was altered", reason="locked") from None


def _parse(data: bytes, most: int = MAX_CONTAINER_BYTES) -> _Header:
    if len(data) > most or len(data) < _HEADER.size + _TAG_BYTES or not data.startswith(MAGIC):
        raise WalletError("the wallet file is not a wallet, or cut off")
    _, version, kdf, memory_kib, passes, lanes, salt, nonce = _HEADER.unpack_from(data)
    if version != VERSION:
        raise WalletError(f"the wallet file is of version {version}, this program reads {VERSION}")
    if kdf == Kdf.UNLOCK_KEY:
        fits = memory_kib == passes == lanes == 0
    else:
        cost = zip((_MEMORY_RANGE, _PASSES_RANGE, _LANES_RANGE), (memory_kib, passes, lanes), strict=True)
        fits = kdf == Kdf.PASSPHRASE and all(value in accepted for accepted, value in cost)
    if not fits:
        raise WalletError("the wallet file asks for a key derivation that is not accepted")
    return _Header(Kdf(kdf), memory_kib, passes, lanes, salt, nonce)


def _derive(header: _Header, secret: Secret) -> bytes:
    if isinstance(secret, UnlockKey):
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(SHA256(), 32, salt=header.salt, info=_UNLOCK_INFO).derive(secret.data)
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    argon = Argon2id(
        salt=header.salt, length=32, iterations=header.passes, lanes=header.lanes, memory_cost=header.memory_kib
    )
    return argon.derive(secret.data)
