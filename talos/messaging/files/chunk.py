"""Chunks as they travel: sealed under a key of the transfer, each at its own place.

key_f = HKDF-SHA256(key, salt = stream_id, info = "talos/file/v1\\n" ‖ u32 file, 32)
nonce = u32 0 ‖ u64 index
ad    = "talos/chunk/v1\\n" ‖ stream_id ‖ u32 file ‖ u64 index ‖ u8 last
"""

from __future__ import annotations

import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from talos.errors import TransferFailed
from talos.messaging.files.code import FileCode

__all__ = ["TAG_BYTES", "ChunkCipher"]

TAG_BYTES = 16
KEY_BYTES = 32
_FILE_INFO: Final = b"talos/file/v1\n"
_CHUNK_DOMAIN: Final = b"talos/chunk/v1\n"
_PLACE: Final = struct.Struct(">QB")


class ChunkCipher:
    """Seals and opens the chunks of one file of one transfer; safe to use from several threads.

    Two contents must never be sealed at one place: the sender compares a chunk with its leaf first.
    """

    def __init__(self, key: bytes, stream_id: bytes, file: int) -> None:
        number = file.to_bytes(4, "big")
        derived = HKDF(SHA256(), KEY_BYTES, salt=stream_id, info=_FILE_INFO + number).derive(key)
        self._cipher = ChaCha20Poly1305(derived)
        self._front = _CHUNK_DOMAIN + stream_id + number

    def seal(self, index: int, chunk: bytes | memoryview, *, last: bool) -> bytes:
        """The chunk and its tag."""
        return self._cipher.encrypt(_nonce(index), chunk, self._front + _PLACE.pack(index, last))

    def open(self, index: int, sealed: bytes | memoryview, *, last: bool) -> bytes:
        """The chunk; TransferFailed(HASH_MISMATCH) when it is not what was sealed for this place."""
        try:
            return self._cipher.decrypt(_nonce(index), sealed, self._front + _PLACE.pack(index, last))
        except InvalidTag as error:
            raise TransferFailed(f"chunk {index} was altered", code=FileCode.HASH_MISMATCH) from error

    def open_into(self, index: int, sealed: bytes | memoryview, buffer: bytearray, *, last: bool) -> memoryview:
        """As `open`, into the beginning of `buffer`, of which the chunk is a view."""
        view = memoryview(buffer)[: len(sealed) - TAG_BYTES]
        try:
            self._cipher.decrypt_into(_nonce(index), sealed, self._front + _PLACE.pack(index, last), view)
        except InvalidTag as error:
            raise TransferFailed(f"chunk {index} was altered", code=FileCode.HASH_MISMATCH) from error
        return view


def _nonce(index: int) -> bytes:
    return index.to_bytes(12, "big")
