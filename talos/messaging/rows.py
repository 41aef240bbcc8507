"""Rows as they lie on the disk: sealed, and found by keyed hashes, so that the file names nobody and says nothing."""

from __future__ import annotations

import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from talos.errors import StoreCorrupt

__all__ = ["INDEX_BYTES", "RowCipher"]

INDEX_BYTES = 16
KEY_BYTES = 32
NONCE_BYTES = 12


class RowCipher:
    """Seals rows under subkeys of the wallet's store key; safe to use from several threads."""

    def __init__(self, store_key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(_subkey(store_key, b"talos/messages/rows/v1\n"))
        self._index_key = _subkey(store_key, b"talos/messages/index/v1\n")

    def index(self, *parts: bytes) -> bytes:
        """16 bytes by which a row about `parts`, each of fixed length but the last, is found."""
        return hmac.digest(self._index_key, b"".join(parts), "sha256")[:INDEX_BYTES]

    def seal(self, table: str, row: bytes, data: bytes) -> bytes:
        """What is written in `row` of `table`; a random nonce each time."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, _place(table, row))

    def open(self, table: str, row: bytes, box: bytes) -> bytes:
        """What was sealed for that very row; StoreCorrupt when it was altered, moved, or is of another wallet."""
        try:
            return self._cipher.decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], _place(table, row))
        except (InvalidTag, ValueError) as error:
            raise StoreCorrupt(f"a row of {table} in the message store was altered") from error


def _place(table: str, row: bytes) -> bytes:
    return table.encode() + b"\0" + row


def _subkey(store_key: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(store_key)
