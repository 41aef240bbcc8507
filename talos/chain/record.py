"""The bytes of a log file: header, records, and the head that says how far they reach. No IO.

    header = "TALOSLOG" ‖ u16 version=1 ‖ u64 created_ms ‖ 16 random ‖ link[0]
    record = u32 n ‖ n bytes body ‖ link[i]          body = u8 flags ‖ lp(entry) ‖ box
    head   = "TALOSTIP" ‖ u64 count ‖ u64 end ‖ u64 mark count ‖ u64 mark offset ‖ link[count] ‖ mac

    k_link = HMAC(k_priv, "talos/log-link/v1\n")         k_box = HMAC(k_priv, "talos/log-box/v1\n")
    link[0] = HMAC(k_link, header before it)             link[i] = HMAC(k_link, link[i-1] ‖ u64 i ‖ body)
    box = ChaCha20-Poly1305(k_box, nonce, u32 m ‖ meta ‖ blob, AD = entry)
    nonce = H("talos/log-nonce/v1\n" ‖ leaf ‖ flags)[:12]

Each link covers all records before it, so a changed, missing, added or moved record shows where it stands; the head
shows a log that was cut at its end. Without `k_priv` nobody makes a link. `k_priv` belongs to the 16 random bytes of
the header, so that no two logs share it. A leaf fixes what is in its box, so a nonce never seals two contents.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from talos.chain.entry import Entry, Kind, Meta, leaf_hash, open_meta, sealed_hash
from talos.errors import LocalProtocolError, ProofInvalid

if TYPE_CHECKING:
    from talos.chain.entry import Committed

__all__ = [
    "HEADER_BYTES",
    "HEAD_BYTES",
    "LINK_BYTES",
    "MAX_BODY_BYTES",
    "PREFIX_BYTES",
    "Head",
    "Header",
    "Record",
    "Secrets",
]

LINK_BYTES = 32
PREFIX_BYTES = 4
MAX_BODY_BYTES = 512 * 1024
"""An entry, its meta (at most 197 KiB) and a blob of 100,000 bytes fit."""
MAX_BLOB_BYTES = 100_000
HAS_BLOB = 0x01

_HEADER: Final = struct.Struct(">8sHQ16s")
_HEAD: Final = struct.Struct(">8sQQQQ32s")
HEADER_BYTES = _HEADER.size + LINK_BYTES
HEAD_BYTES = _HEAD.size + LINK_BYTES
_MAGIC = b"TALOSLOG"
_HEAD_MAGIC = b"TALOSTIP"
_VERSION = 1
_TAG_BYTES = 16


@dataclass(frozen=True, slots=True)
class Header:
    created_ms: int
    random: bytes

    def encode(self, secrets: Secrets) -> bytes:
        return self._plain() + self.link(secrets)

    def link(self, secrets: Secrets) -> bytes:
        """The link before the first record."""
        return secrets.mac(self._plain())

    def _plain(self) -> bytes:
        return _HEADER.pack(_MAGIC, _VERSION, self.created_ms, self.random)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Reads what is in the clear; `check` follows once `k_priv` is known."""
        if len(data) != HEADER_BYTES:
            raise ProofInvalid("the log's header is cut short")
        magic, version, created_ms, random = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise ProofInvalid("this is no log of a version that is known")
        return cls(created_ms, random)

    def check(self, data: bytes, secrets: Secrets) -> None:
        if not hmac.compare_digest(data, self.encode(secrets)):
            raise ProofInvalid("the log's header was changed, or the log belongs to another wallet")


@dataclass(frozen=True, slots=True)
class Head:
    """How far the log reaches for certain: written after each commit, so never ahead of what is durable."""

    count: int
    end: int
    link: bytes
    mark_count: int
    mark_offset: int
    """The start of a record not far back: where the next opening begins to read."""

    def encode(self, secrets: Secrets) -> bytes:
        plain = _HEAD.pack(_HEAD_MAGIC, self.count, self.end, self.mark_count, self.mark_offset, self.link)
        return plain + secrets.mac(plain)

    @classmethod
    def decode(cls, data: bytes, secrets: Secrets) -> Self:
        if len(data) != HEAD_BYTES or not hmac.compare_digest(secrets.mac(data[:-LINK_BYTES]), data[-LINK_BYTES:]):
            raise ProofInvalid("the log's head was changed")
        _, count, end, mark_count, mark_offset, link = _HEAD.unpack_from(data)
        return cls(count, end, link, mark_count, mark_offset)


@dataclass(frozen=True, slots=True)
class Record:
    """One record, opened and compared with what its entry commits to."""

    index: int
    """Counts from 1."""
    entry: Entry
    leaf: bytes
    meta: Meta | None
    blob: bytes
    """Empty where none was kept; a RECEIPT_GOT keeps its receipt here, body and signature."""


class Secrets:
    """What a log's `k_priv` gives: links and boxes."""

    __slots__ = ("_box", "_link", "k_priv")

    def __init__(self, k_priv: bytes) -> None:
        self.k_priv = k_priv
        self._link = hmac.digest(k_priv, b"talos/log-link/v1\n", "sha256")
        self._box = ChaCha20Poly1305(hmac.digest(k_priv, b"talos/log-box/v1\n", "sha256"))

    def mac(self, data: bytes) -> bytes:
        return hmac.digest(self._link, data, "sha256")

    def link(self, previous: bytes, index: int, body: bytes) -> bytes:
        """The link behind record `index`."""
        return hmac.digest(self._link, previous + index.to_bytes(8, "big") + body, "sha256")

    def seal(self, committed: Committed, blob: bytes) -> bytes:
        """A record's body. LocalProtocolError when the blob is over the limit of an item."""
        if len(blob) > MAX_BLOB_BYTES:
            raise LocalProtocolError(f"a blob of {len(blob)} bytes is over {MAX_BLOB_BYTES}")
        flags = bytes((HAS_BLOB if blob else 0,))
        plain = len(committed.meta).to_bytes(4, "big") + committed.meta + blob
        box = self._box.encrypt(_nonce(committed.leaf, flags), plain, committed.entry)
        return flags + len(committed.entry).to_bytes(2, "big") + committed.entry + box

    def open(self, index: int, body: bytes) -> Record:
        """ProofInvalid unless everything in the body is what its entry says."""
        data = entry_of(body)
        entry, leaf = Entry.decode(data), leaf_hash(data)
        try:
            plain = self._box.decrypt(_nonce(leaf, body[:1]), body[3 + len(data) :], data)
        except InvalidTag as error:
            raise ProofInvalid("the box does not open with this log's key") from error
        size = int.from_bytes(plain[:4], "big")
        meta, blob = plain[4 : 4 + size], plain[4 + size :]
        opened = open_meta(entry, meta, self.k_priv) if entry.meta_commit is not None else None
        if blob:
            _check_blob(entry, blob)
        return Record(index, entry, leaf, opened, blob)


def entry_of(body: bytes) -> bytes:
    """The entry's bytes within a record's body."""
    size = int.from_bytes(body[1:3], "big")
    if len(body) < 3 + size + 4 + _TAG_BYTES:
        raise ProofInvalid("the record is cut short")
    return body[3 : 3 + size]


def _nonce(leaf: bytes, flags: bytes) -> bytes:
    return sha256(b"talos/log-nonce/v1\n" + leaf + flags).digest()[:12]


def _check_blob(entry: Entry, blob: bytes) -> None:
    named = entry.fields[2] if entry.kind is Kind.RECEIPT_GOT else entry.sealed_hash
    found = sha256(b"talos/receipt-hash/v1\n" + blob).digest() if entry.kind is Kind.RECEIPT_GOT else sealed_hash(blob)
    if named is None or not hmac.compare_digest(found, named):
        raise ProofInvalid("the blob is not the one that the entry names")
