"""The record layer: u16 length, then up to 65,535 bytes of ciphertext with its tag (libp2p noise, "wire format").

Both halves are free of IO. Nonces count from 0; 2^64 - 1 is reserved (section 5.1 of the framework) and ends
the direction before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from talos.errors import LocalProtocolError, RemoteProtocolError
from talos.security.noise.xx import TAG_BYTES, nonce_bytes

if TYPE_CHECKING:
    from talos.security.layer import Bytes

__all__ = ["LENGTH_BYTES", "MAX_PLAINTEXT_BYTES", "RESERVED_NONCE", "NoiseRecords", "RecordReader", "RecordWriter"]

LENGTH_BYTES = 2
MAX_PLAINTEXT_BYTES = 65_535 - TAG_BYTES
RESERVED_NONCE = (1 << 64) - 1
_OVERHEAD = LENGTH_BYTES + TAG_BYTES


class RecordWriter:
    """Seals what we send."""

    __slots__ = ("_encrypt_into", "_nonce")

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        self._encrypt_into = ChaCha20Poly1305(key).encrypt_into
        self._nonce = nonce

    def seal(self, data: Bytes) -> bytearray:
        """All of `data` as full records and a last one, in one buffer; no record for no data.

        LocalProtocolError when the nonces do not suffice; nothing is sealed then.
        """
        size = len(data)
        records = -(-size // MAX_PLAINTEXT_BYTES)
        nonce = self._nonce
        if nonce + records > RESERVED_NONCE:
            raise LocalProtocolError("noise nonces are used up")
        out = bytearray(size + records * _OVERHEAD)
        position = 0
        with memoryview(data) as source, memoryview(out) as target:
            for start in range(0, size, MAX_PLAINTEXT_BYTES):
                plaintext = source[start : start + MAX_PLAINTEXT_BYTES]
                end = position + _OVERHEAD + len(plaintext)
                target[position : position + LENGTH_BYTES] = (len(plaintext) + TAG_BYTES).to_bytes(LENGTH_BYTES, "big")
                self._encrypt_into(nonce_bytes(nonce), plaintext, None, target[position + LENGTH_BYTES : end])
                nonce += 1
                position = end
        self._nonce = nonce
        return out


class RecordReader:
    """Opens what we receive.

    The first forged record ends it: what came intact before it in the same piece is still given out, then
    every call raises the same RemoteProtocolError.
    """

    __slots__ = ("_decrypt_into", "_nonce", "_pending", "failure")

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        self._decrypt_into = ChaCha20Poly1305(key).decrypt_into
        self._nonce = nonce
        self._pending = bytearray()
        """The beginning of a record."""
        self.failure: str | None = None

    def receive_data(self, data: Bytes) -> bytearray:
        """The plaintext of every record that is whole now, in one buffer; often of none."""
        self._raise_failure()
        with memoryview(data) as source:
            position = self._fill_pending(source) if self._pending else 0
            if position == len(source) and self._missing():
                return bytearray()
            out = bytearray(len(self._pending) + len(source) - position)
            with memoryview(out) as target:
                written = self._open_all(source, position, target)
        if not written:
            self._raise_failure()
        del out[written:]
        return out

    def cut_by_end(self) -> bool:
        """Whether the beginning of a record is at hand."""
        return bool(self._pending)

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise RemoteProtocolError(self.failure)

    def _missing(self) -> int:
        """How many bytes the pending record lacks, as far as is known."""
        pending = self._pending
        if len(pending) < LENGTH_BYTES:
            return LENGTH_BYTES - len(pending)
        return LENGTH_BYTES + (pending[0] << 8 | pending[1]) - len(pending)

    def _fill_pending(self, source: memoryview) -> int:
        """Moves what the pending record lacks out of `source`: only records on a seam are copied."""
        position = 0
        while position < len(source) and (missing := self._missing()) > 0:
            self._pending += source[position : position + missing]
            position = min(len(source), position + missing)
        return position

    def _open_all(self, source: memoryview, position: int, target: memoryview) -> int:
        written = 0
        if self._pending:
            with memoryview(self._pending) as pending:
                written = self._open(pending[LENGTH_BYTES:], target)
            self._pending.clear()
        size = len(source)
        while size - position >= LENGTH_BYTES and self.failure is None:
            start = position + LENGTH_BYTES
            end = start + (source[position] << 8 | source[position + 1])
            if end > size:
                break
            written += self._open(source[start:end], target[written:])
            position = end
        self._pending += source[position:]
        return written

    def _open(self, record: memoryview, target: memoryview) -> int:
        size = len(record) - TAG_BYTES
        if size < 0:
            self.failure = "noise record is shorter than its tag"
        elif self._nonce >= RESERVED_NONCE:
            self.failure = "noise nonces are used up"
        else:
            try:
                self._decrypt_into(nonce_bytes(self._nonce), record, None, target[:size])
            except InvalidTag:
                self.failure = "noise record does not decrypt"
            else:
                self._nonce += 1
                return size
        return 0


class NoiseRecords:
    """Both directions: the record layer of a finished handshake."""

    __slots__ = ("cut_by_end", "reader", "receive_data", "seal")

    confirmed = True  # an initiator whose last message is refused sees the end of the stream
    ended = False  # nor has Noise a good-bye: the end of the stream between two records is clean

    def __init__(self, writer: RecordWriter, reader: RecordReader) -> None:
        self.reader = reader
        # The hot path goes straight to the two halves.
        self.seal = writer.seal
        self.receive_data = reader.receive_data
        self.cut_by_end = reader.cut_by_end

    @property
    def failure(self) -> str | None:
        """Why the peer's records are not opened any more."""
        return self.reader.failure

    def farewell(self) -> bytes:
        """Noise has none."""
        return b""
